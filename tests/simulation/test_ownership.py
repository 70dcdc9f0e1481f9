"""An owner that has nothing to write keeps its partitions, however long it has them."""

import asyncio

import pytest

from pipeline.catalog.policies import preset
from pipeline.config import Settings
from pipeline.errors import FencedError
from tests.simulation.catalog import CatalogReader, only
from tests.simulation.worker import Worker
from tests.simulation.world import FaultPoint, World

T0 = 1_780_000_000_000
HOUR = 3_600_000


def test_an_owner_that_was_quiet_for_days_is_still_fenced_by_the_next_one() -> None:
    async def run() -> World:
        world = World(FaultPoint(), T0, 1)
        world.catalog = only(preset("fin-2026"), T0).records
        reader = CatalogReader(world.visible_catalog)
        quiet, following = (Worker(world, name, Settings(), reader) for name in "ab")
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
