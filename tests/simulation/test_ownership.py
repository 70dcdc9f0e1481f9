"""The states of a partition are read after its fence, and an owner keeps it however long it lasts."""

import asyncio
import random
from collections.abc import Sequence
from typing import TypeVar

import pytest

from pipeline.catalog.policies import preset
from pipeline.config import Settings
from pipeline.errors import FencedError
from tests.simulation.catalog import CatalogReader, only
from tests.simulation.worker import Worker
from tests.simulation.world import FaultPoint, World
from tests.support.events import resolved

T0 = 1_780_000_000_000
HOUR = 3_600_000

_T = TypeVar("_T")


class _SlowWrites(random.Random):
    """Draws the longest delay for each write, and none for reads."""

    def choice(self, seq: Sequence[_T]) -> _T:  # type: ignore[override]
        return seq[-1] if len(seq) == 5 else seq[0]


def _workers(world: World) -> tuple[Worker, Worker]:
    world.catalog = only(preset("fin-2026"), T0).records
    reader = CatalogReader(world.visible_catalog)
    first, second = (Worker(world, name, Settings(), reader) for name in "ab")
    return first, second


def test_nothing_is_written_by_an_earlier_owner_once_the_states_were_read() -> None:
    async def run() -> None:
        world = World(FaultPoint(), T0, 1)
        world.draw = _SlowWrites()
        paused, following = _workers(world)
        await paused.assign([0])
        world.generation += 1
        await following.assign([0])

        with pytest.raises(FencedError):
            await paused.write_late(0)

    asyncio.run(run())


def test_an_owner_that_was_quiet_for_days_is_still_fenced_by_the_next_one() -> None:
    async def run() -> World:
        world = World(FaultPoint(), T0, 1)
        quiet, following = _workers(world)
        await quiet.assign([0])
        for _ in range(24 * 3):
            world.time += HOUR
            await quiet.turn(1)
            world.epochs.forget(0, world.time)
        world.generation += 1
        await following.assign([0])

        with pytest.raises(FencedError):
            await quiet.write_late(0)
        return world

    world = asyncio.run(run())

    written = [record.key for record in world.changelog.partitions[0]]
    assert written.count(b"") >= 24 * 3 - 1


def test_a_changelog_that_has_lost_its_end_is_refused_and_nothing_hides_the_loss() -> None:
    """Each record that a worker wrote before the check would bring the end closer to where it was."""

    async def run() -> World:
        world = World(FaultPoint(), T0, 1)
        first, second, third = (*_workers(world), _workers(world)[0])
        await first.assign([0])
        for key, value, at in resolved("c1"):
            world.events.append(0, at, key, value, [])
        await first.turn(10)
        await first.revoke()
        states = world.changelog.partitions[0]
        whole = list(states)
        del states[-1]

        for worker in (second, second):
            world.generation += 1
            await worker.assign([0])

        assert second.process.is_dead
        assert len(states) == len(whole) - 1
        assert "states of its conversations are lost" in world.refusals[0]
        states[:] = whole
        world.generation += 1
        await third.assign([0])
        assert not third.process.is_dead
        return world

    assert asyncio.run(run()).committed == {0: 3}
