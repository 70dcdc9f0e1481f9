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
    """Return a worker of two partitions; in the first, the second record is a day ahead."""
    world = World(FaultPoint(), T0, 2)
    for partition in (0, 1):
        for n, (key, value, _) in enumerate(resolved("c1")):
            is_ahead = partition == 0 and n == 1
            world.events.append(partition, T0 + is_ahead * DAY_MS, key, value, [])
    world.catalog = only(preset("fin-2026"), T0).records
    settings = Settings(worker=WorkerSettings())
    worker = Worker(world, "worker", settings, CatalogReader(world.visible_catalog))
    await worker.assign([0, 1])
    return world, worker


async def _ready(world: World, worker: Worker, partition: int) -> list[int]:
    """Return the offsets that may be applied; each record is a batch of its own."""
    records = world.events.partitions[partition]
    batches = [RecordBatch((r,), n, n + 1, r.timestamp, 1) for n, r in enumerate(records)]
    return [batch.offset for batch in await worker.runner.ready(partition, batches)]


def test_a_record_that_is_a_day_ahead_holds_up_what_follows_in_its_partition_alone() -> None:
    async def run() -> tuple[list[list[int]], list[str], list[str]]:
        world, worker = await _worker()
        ready = [await _ready(world, worker, partition) for partition in (0, 1, 0)]
        said = worker.runner.warnings()
        world.time += DAY_MS
        return [*ready, await _ready(world, worker, 0)], said, worker.runner.warnings()

    ready, said, after = asyncio.run(run())

    assert ready == [[0], [0, 1, 2], [0], [0, 1, 2]]
    (warning,) = said
    assert "[0] stands still at offset 1: the records from there to 1" in warning
    assert "are decided then" in warning
    assert after == []
