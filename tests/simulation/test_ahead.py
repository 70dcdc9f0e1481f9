"""A record that is ahead of the broker's clock holds up its partition alone, and the worker says so."""

import asyncio

from pipeline.catalog.policies import preset
from pipeline.config import Settings, WorkerSettings
from pipeline.stream.fetched import RecordBatch
from tests.simulation.catalog import CatalogReader, only
from tests.simulation.worker import Worker
from tests.simulation.world import FaultPoint, World
from tests.support.events import resolved

T0 = 1_780_000_000_000
DAY_MS = 86_400_000


async def _worker() -> tuple[World, Worker]:
    """Return a worker with the same conversation in two partitions, one of them a day too early."""
    world = World(FaultPoint(), T0, 2)
    for partition, at in ((0, T0 + DAY_MS), (1, T0)):
        for key, value, _ in resolved("c1"):
            world.events.append(partition, at, key, value, [])
    world.catalog = only(preset("fin-2026"), T0).records
    settings = Settings(worker=WorkerSettings())
    worker = Worker(world, "worker", settings, CatalogReader(world.visible_catalog))
    await worker.assign([0, 1])
    return world, worker


async def _may_apply(world: World, worker: Worker, partition: int) -> bool:
    records = world.events.partitions[partition]
    batch = RecordBatch(records, 0, len(records), records[-1].timestamp, len(records))
    return await worker.runner.may_apply(partition, [batch])


def test_a_record_that_is_a_day_ahead_holds_up_its_partition_alone_until_its_time() -> None:
    async def run() -> tuple[list[bool], list[str], list[str]]:
        world, worker = await _worker()
        may = [await _may_apply(world, worker, partition) for partition in (0, 1, 0)]
        said = worker.runner.warnings()
        world.time += DAY_MS
        return [*may, await _may_apply(world, worker, 0)], said, worker.runner.warnings()

    may, said, after = asyncio.run(run())

    assert may == [False, True, False, True]
    (warning,) = said
    assert "[0] stands still at offset 0: the records from there to 2" in warning
    assert "are decided then" in warning
    assert after == []
