"""A worker refuses a catalog under which its states were not decided, and waits for one it cannot read."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from pipeline.catalog.policies import preset
from pipeline.config import Settings, WorkerSettings
from pipeline.events.model import AI_MESSAGE, CUSTOMER_MESSAGE, Event
from pipeline.resolve.policy import Policy
from tests.oracle.wire import value
from tests.simulation.catalog import CatalogReader, only
from tests.simulation.worker import Worker
from tests.simulation.world import FaultPoint, Loop, World

T0 = 1_790_000_000_000
KEY = b"acme:c1"
FIN = preset("fin-2026")
OTHER = msgspec.structs.replace(FIN, window={"default": 1_000})


def world_with_an_open_window() -> World:
    world = World(FaultPoint(), T0, 1)
    for n, event in enumerate(
        [
            Event(T0, CUSTOMER_MESSAGE, "/s", "m1", intent="help_request"),
            Event(T0 + 1, AI_MESSAGE, "/s", "a1", kind="answer"),
        ]
    ):
        world.events.append(0, T0 + n, KEY, value(event, "acme", "c1"), [])
    return world


async def worker_on(world: World, policy: Policy, *, is_away: bool = False) -> Worker:
    world.catalog = only(policy, T0 - 1_000_000).records
    reader = CatalogReader(world.visible_catalog, lambda: is_away)
    worker = Worker(world, "worker", Settings(worker=WorkerSettings()), reader)
    await worker.assign([0])
    return worker


async def turns(worker: Worker) -> Worker:
    for _ in range(3):
        await worker.turn(10)
        await worker.runner.drain()
        if not worker.process.is_dead:
            worker.commit()
    return worker


def run(steps: Coroutine[Any, Any, Worker]) -> Worker:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(steps)


def decide(world: World, policy: Policy, *, is_away: bool = False) -> Worker:
    async def steps() -> Worker:
        return await turns(await worker_on(world, policy, is_away=is_away))

    return run(steps())


def test_a_catalog_that_lacks_the_entry_of_the_states_is_refused() -> None:
    world = world_with_an_open_window()
    assert not decide(world, FIN).process.is_dead

    second = decide(world, OTHER)

    assert second.process.is_dead
    assert "its conversations were decided under entry 1" in world.refusals[-1]
    assert not world.records.partitions[0]


def test_states_of_an_older_worker_that_do_not_fit_the_catalog_are_refused() -> None:
    world = world_with_an_open_window()
    decide(world, FIN)
    states = world.changelog.partitions[0]
    states[:] = [each._replace(value=b"") if not each.key else each for each in states]

    second = decide(world, OTHER)

    assert second.process.is_dead
    assert not world.refusals
    assert not world.records.partitions[0]


def test_states_of_an_older_worker_that_fit_are_decided_under_the_catalog() -> None:
    world = world_with_an_open_window()
    decide(world, FIN)
    states = world.changelog.partitions[0]
    states[:] = [each._replace(value=b"") if not each.key else each for each in states]

    second = decide(world, FIN)

    assert not second.process.is_dead
    basis = second.runner.partitions[0].basis
    assert basis is not None
    assert basis.catalog == second.runner.following.catalog.head


def test_a_worker_that_cannot_read_the_catalog_waits_and_says_so() -> None:
    world = world_with_an_open_window()

    worker = decide(world, FIN, is_away=True)

    assert not worker.process.is_dead
    assert not worker.runner.conversations()
    assert worker.runner.following.problems() == ["catalog: the catalog's broker is away"]
