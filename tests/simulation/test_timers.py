"""What a timer may settle, and what it writes before it does."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.config import Settings, WorkerSettings
from pipeline.stream.basis import decode_basis
from tests.simulation.catalog import CatalogReader, only
from tests.simulation.test_catalog import FIN, T0, run, turns, world_with_an_open_window
from tests.simulation.worker import Worker
from tests.simulation.world import World

MINUTE = 60_000
DUE = T0 + 1 + 24 * 60 * MINUTE + 10 * MINUTE  # window and grace period of the open answer


@pytest.fixture
def world() -> World:
    world = world_with_an_open_window()
    world.catalog = only(FIN, T0 - 1_000_000).records
    return world


async def worker_in(world: World, is_away: Callable[[], Any] = lambda: False) -> Worker:
    reader = CatalogReader(world.visible_catalog, is_away)
    worker = Worker(world, "worker", Settings(worker=WorkerSettings()), reader)
    await worker.assign([0])
    return await turns(worker)


def usage_records(world: World) -> int:
    return sum(map(len, world.records.partitions))


def test_a_timer_settles_nothing_that_the_catalog_is_not_known_for(world: World) -> None:
    away: list[bool] = []

    async def steps() -> Worker:
        worker = await worker_in(world, lambda: bool(away))
        away.append(True)
        world.time = DUE + 60 * MINUTE
        await turns(worker)
        assert usage_records(world) == 0

        away.clear()
        return await turns(worker)

    worker = run(steps())

    assert not worker.process.is_dead
    assert usage_records(world) == 1


def test_a_timer_promises_in_the_changelog_what_it_settles_before_it_writes_it(
    world: World,
) -> None:
    async def steps() -> Worker:
        worker = await worker_in(world)
        world.time = DUE + 60 * MINUTE
        return await turns(worker)

    run(steps())

    assert usage_records(world) == 1
    effects = world.fault_point.effects
    before = effects[: effects.index("worker record")]
    clocks = [
        decode_basis(record.value or b"")
        for record in world.changelog.partitions[0]
        if not record.key
    ]
    promises = [basis.promise for basis in clocks[: before.count("worker clock")]]
    assert promises[-1].offset == len(world.events.partitions[0])
    assert promises[-1].until_ms >= DUE
