"""A batch that takes long blocks neither the event loop nor a revocation, and loses nothing."""

import asyncio
from itertools import count

import orjson
import pytest

from pipeline.catalog.policies import preset
from pipeline.config import Settings, WorkerSettings
from pipeline.errors import BrokenInvariantError
from pipeline.events.times import format_time
from pipeline.stream.fence import FENCE_KEY
from pipeline.stream.fetched import RecordBatch
from tests.simulation.catalog import CatalogReader, only
from tests.simulation.worker import Worker
from tests.simulation.world import FaultPoint, World

T0 = 1_780_000_000_000
EVENTS = 4_000
KEY = b"acme:c1"


def _event(n: int) -> bytes:
    kind, data = (
        ("customer_message", {"intent": "help_request"}),
        ("ai_message", {"kind": "answer"}),
        ("customer_message", {"intent": "confirmation"}),
    )[n % 3]
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": f"e{n}",
            "source": "/chat",
            "type": f"conversation.{kind}",
            "subject": "c1",
            "time": format_time(T0 + n),
            "tenantid": "acme",
            "data": data,
        }
    )


async def _worker() -> tuple[World, Worker]:
    world = World(FaultPoint(), T0 + EVENTS, 1)
    for n in reversed(range(EVENTS)):
        world.events.append(0, world.time, KEY, _event(n), [])
    world.catalog = only(preset("fin-2026"), T0).records
    settings = Settings(worker=WorkerSettings())
    worker = Worker(world, "worker", settings, CatalogReader(world.visible_catalog))
    await worker.assign([0])
    return world, worker


def _batch(world: World) -> list[RecordBatch]:
    records = world.events.partitions[0]
    return [RecordBatch(records, 0, len(records), records[-1].timestamp, len(records))]


async def _beat(beats: "count[int]") -> None:
    while True:
        next(beats)
        await asyncio.sleep(0)


def test_heartbeats_go_on_while_thousands_of_events_in_reverse_order_are_applied() -> None:
    async def run() -> tuple[int, int, World]:
        world, worker = await _worker()
        beats: count[int] = count()
        heart = asyncio.ensure_future(_beat(beats))
        worker.runner.handle(0, _batch(world))
        written_at_once = worker.runner.unacknowledged()
        await worker.runner.drain()
        heart.cancel()
        return written_at_once, next(beats), world

    unacknowledged, beats, world = asyncio.run(run())

    assert unacknowledged == 1
    assert beats > 100
    assert [record.key for record in world.changelog.partitions[0]] == [FENCE_KEY, KEY]


def test_a_revocation_waits_for_the_batch_that_is_applied_and_commits_it() -> None:
    async def run() -> World:
        world, worker = await _worker()
        worker.runner.handle(0, _batch(world))
        await worker.revoke()
        return world

    assert asyncio.run(run()).committed == {0: EVENTS}


def test_timers_wait_for_the_batch_that_is_applied() -> None:
    async def run() -> tuple[list[bytes], list[bytes]]:
        world, worker = await _worker()
        probes = await worker.runner.probe()
        worker.runner.handle(0, _batch(world))
        partition = worker.runner.partitions[0]
        before = list(partition.states)
        await worker.runner.settle(probes)
        return before, list(partition.states)

    assert asyncio.run(run()) == ([], [KEY])


def test_no_batch_is_taken_while_another_one_is_applied() -> None:
    async def run() -> None:
        world, worker = await _worker()
        worker.runner.handle(0, _batch(world))
        with pytest.raises(BrokenInvariantError, match="before their turn"):
            worker.runner.handle(0, _batch(world))
        await worker.runner.drain()

    asyncio.run(run())
