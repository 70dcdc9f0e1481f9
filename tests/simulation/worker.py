"""A worker: the production lane over the simulated log, and the loop that feeds it."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from aiokafka.partitioner import murmur2
from faust.types import TP
from prometheus_client import CollectorRegistry

from pipeline.config import Settings
from pipeline.kafka.headers import ORIGIN_HEADER, DeadLetter
from pipeline.metrics import WorkerMetrics
from pipeline.resolve.policy import Timeline
from pipeline.stream.partition import Output
from pipeline.stream.runner import Fetched, Lane
from tests.simulation.world import Process, Record, World


class _Outputs:
    """Writes to the simulated log, one record an effect; others may come between two of them."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def write_results(
        self, outputs: Sequence[Output], dead_letters: Sequence[DeadLetter]
    ) -> None:
        world = self._world
        for output in outputs:
            partition = murmur2(output.key) % 2**31 % len(world.records.partitions)
            headers = [(ORIGIN_HEADER, output.origin)]
            await self._write(world.records, partition, output.key, output.value, headers, "record")
        for letter in dead_letters:
            headers = [(name, content or b"") for name, content in letter.headers]
            await self._write(
                world.dead_letters, 0, letter.key, letter.value, headers, "dead letter"
            )

    async def write_states(self, partition: int, states: Sequence[tuple[bytes, bytes]]) -> range:
        for key, value in states:
            await self._write(self._world.changelog, partition, key, value, [], "state")
        return range(0)

    async def read_clock(self, partition: int) -> tuple[int, range]:
        await self._write(self._world.changelog, partition, b"", b"", [], "clock")
        return self._world.time, range(0)

    async def _write(
        self,
        topic: Any,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        name: str,
    ) -> None:
        world, process = self._world, self._process
        # A write may take much longer than the one after it.
        for _ in range(world.draw.choice([0, 0, 1, 2, 30])):
            await asyncio.sleep(0)
        while process.is_stopped:
            await asyncio.sleep(0)
        world.fault_point.pass_through(
            process, name, lambda: topic.append(partition, world.time, key, value, headers)
        )


class _Recovery:
    def need_recovery(self) -> bool:
        return False


class _Tables:
    recovery = _Recovery()


class _App:
    """What the lane asks of Faust's app, outside of rebalances and recoveries."""

    in_recovery = False
    rebalancing = False
    tables = _Tables()

    def __init__(self, settings: Settings) -> None:
        self.resmeter = settings
        self.consumer_generation_id = 0

    def changelog_written(self, *_: object) -> None:
        """Do nothing: every recovery here reads the whole changelog."""


class Worker:
    """One worker process."""

    flow_active = True

    def __init__(
        self, world: World, name: str, settings: Settings, timeline_for: Callable[[str], Timeline]
    ) -> None:
        self.process = Process(name)
        self.positions: dict[int, int] = {}
        self.generation = -1
        self._world = world
        self._app = _App(settings)
        app: Any = self._app
        outputs: Any = _Outputs(world, self.process)
        self.lane = Lane(
            app,
            outputs,
            WorkerMetrics(CollectorRegistry()),
            timeline_for,
            now=world.seconds,
            end=self.process.end,
        )

    # --- the group --------------------------------------------------------------------------------

    def assign(self, numbers: Iterable[int]) -> None:
        """Take over partitions: read their states back, go to what was committed."""
        world, wanted = self._world, set(numbers)
        self.generation = self._app.consumer_generation_id = world.generation
        self.lane.drop(set(self.lane.partitions) - wanted)
        self.positions = {number: world.committed.get(number, 0) for number in wanted}
        for number in wanted - set(self.lane.partitions):
            partition = self.lane.partition(number)
            partition.restore(world.changelog.partitions[number])
            partition.schedule_all()

    async def revoke(self) -> None:
        """Give all partitions back, as the consumer does before a rebalance."""
        await self.lane.drain()
        if not self.process.is_dead:
            self.commit()

    def commit(self) -> None:
        """Commit what the lane says is done; a stale generation is refused."""
        world = self._world
        if self.generation != world.generation:
            return
        for number, offset in sorted(self.lane.done.items()):
            if world.committed.get(number, 0) < offset:
                world.fault_point.pass_through(
                    self.process, "commit", partial(world.committed.update, {number: offset})
                )

    # --- the loop ---------------------------------------------------------------------------------

    async def turn(self, size: int) -> None:
        """Poll once: a batch of each partition, then what fell due."""
        world = self._world
        for number in sorted(self.positions):
            await self.lane.room()
            records = world.events.partitions[number][self.positions[number] :][:size]
            if records:
                self.lane.handle(number, _fetched(records))
                self.positions[number] = records[-1].offset + 1
        looks = await self.lane.look(self)  # type: ignore[arg-type]
        for _ in range(world.draw.randrange(3)):
            await asyncio.sleep(0)
        await self.lane.settle(self, looks)  # type: ignore[arg-type]

    async def position(self, place: TP) -> int | None:
        return self.positions.get(place.partition)

    async def highwaters(self, *places: TP) -> dict[TP, int]:
        return {place: len(self._world.events.partitions[place.partition]) for place in places}


def _fetched(records: list[Record]) -> list[Fetched]:
    """Return record batches of one or two records."""
    parts = [records[n : n + 2] for n in range(0, len(records), 2)]
    return [
        Fetched(part, part[0].offset, part[-1].offset + 1, part[-1].timestamp, len(part))
        for part in parts
    ]
