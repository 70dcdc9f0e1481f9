"""A simulated worker: the production runner, and the loop that feeds it from the simulated log."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import TypeVar

from aiokafka.partitioner import murmur2
from prometheus_client import CollectorRegistry

from pipeline.config import Settings
from pipeline.errors import FencedError
from pipeline.kafka.headers import ORIGIN_HEADER, DeadLetter
from pipeline.kafka.stepover import StepOver, encode_step_over
from pipeline.metrics import WorkerMetrics
from pipeline.stream.batch import Output
from pipeline.stream.fence import FENCE_KEY
from pipeline.stream.fetched import RecordBatch
from pipeline.stream.following import Following, Source
from pipeline.stream.readback import known_after
from pipeline.stream.record_format import FetchedBatches
from pipeline.stream.runner import BatchRunner
from tests.simulation.histories import DAMAGED
from tests.simulation.world import Epoch, Process, Record, Topic, World
from tests.support.batches import Sent, batch

_T = TypeVar("_T")


class _Outputs:
    """Writes to the simulated log. Each record is an effect; others may write between two records."""

    def __init__(
        self, world: World, process: Process, is_outdated: Callable[[], bool], *, is_old: bool
    ) -> None:
        self._world = world
        self._process = process
        self._is_outdated = is_outdated
        self._is_old = is_old  # of a version without the fence
        self._owned: dict[int, Epoch] = {}  # by partition
        self.states_ends: dict[int, int] = {}  # by partition
        self._writing = 0

    async def fence(self, partition: int) -> range:
        if self._is_old:
            return range(0)
        self._owned[partition] = await self._take(partition)
        offset = await self._append(partition, FENCE_KEY, None, "fence record")
        return range(offset, offset + 1)

    async def renew_fence(self, partition: int) -> None:
        if self._is_old:
            return
        if (await self._take(partition)).producer_id != self._owned[partition].producer_id:
            raise FencedError("the coordinator has forgotten the id")

    async def write_late(self, partition: int) -> None:
        """Write a state to a partition, as if a pause had delayed it."""
        await self.write_states(partition, [(b"acme:c1", b"late")])

    async def flush(self) -> None:
        while self._writing:
            await asyncio.sleep(0)

    async def write_results(
        self, outputs: Sequence[Output], dead_letters: Sequence[DeadLetter]
    ) -> None:
        world = self._world
        for output in outputs:
            partition = murmur2(output.key) % 2**31 % len(world.records.partitions)
            headers = ((ORIGIN_HEADER, output.origin),)
            await self._write(world.records, partition, output.key, output.value, headers, "record")
        for letter in dead_letters:
            await self._write(
                world.dead_letters, 0, letter.key, letter.value, letter.headers, "dead letter"
            )

    async def write_states(
        self, partition: int, states: Sequence[tuple[bytes, bytes]]
    ) -> range | None:
        offsets = [await self._append(partition, key, value, "state") for key, value in states]
        written = range(offsets[0], offsets[-1] + 1)
        return written if len(written) == len(offsets) else None

    async def read_clock(self, partition: int, basis: bytes) -> tuple[int, range]:
        world = self._world
        world.meanwhile()
        offset = await self._append(partition, b"", basis, "clock")
        clock_ms = world.changelog.partitions[partition][offset].timestamp
        world.meanwhile()
        return clock_ms, range(offset, offset + 1)

    async def _take(self, partition: int) -> Epoch:
        world = self._world
        return await self._act(lambda: world.epochs.take(partition, world.time), "epoch")

    async def _append(self, partition: int, key: bytes, value: bytes | None, name: str) -> int:
        """Append to the changelog under the epoch that we have now, if its leader lets us."""
        world, epoch = self._world, self._owned.get(partition)

        def append() -> int:
            if epoch is not None:
                world.epochs.check(partition, epoch, world.time)
            # A worker from before the fence fences nobody, and nobody fences it.
            world.unfenced_writes += world.has_old_workers and self._is_outdated()
            at = world.time + world.changelog_clocks.get(partition, 0)
            return world.changelog.append(partition, at, key, value, [])

        offset = await self._act(append, name)
        self.states_ends[partition] = max(offset + 1, self.states_ends.get(partition, 0))
        return offset

    async def _write(
        self,
        topic: Topic,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        name: str,
    ) -> None:
        world = self._world
        await self._act(lambda: topic.append(partition, world.time, key, value, headers), name)

    async def _act(self, effect: Callable[[], _T], name: str) -> _T:
        """Have an effect, after a moment in which others may have theirs."""
        world, process = self._world, self._process
        self._writing += 1
        try:
            for _ in range(world.draw.choice([0, 0, 1, 2, 30])):
                await asyncio.sleep(0)  # a later write may overtake this one
            world.disturb(process)
            while process.is_stopped:
                await asyncio.sleep(0)
            return world.fault_point.pass_through(process, name, effect)
        finally:
            self._writing -= 1


class Worker:
    """One worker process. It is its runner's host, and calls it outside of rebalances only."""

    is_rebalancing = False
    is_paused = False

    def __init__(
        self, world: World, name: str, settings: Settings, source: Source, *, is_old: bool = False
    ) -> None:
        self.process = Process(name)
        self.is_old = is_old  # of a version without the fence
        self.positions: dict[int, int] = {}
        self.generation = -1
        self.is_recovering = False
        self._committed: dict[int, int] = {}
        self._known: dict[int, int] = {}  # partition → the last offset read back or written
        self._world = world
        outputs = _Outputs(world, self.process, self._is_outdated, is_old=is_old)
        self.write_late = outputs.write_late
        partitions = len(world.events.partitions)
        topics = settings.topics.model_copy(update={"partitions": partitions})
        following = Following(
            source, dict, settings.worker.seal_after_ms, end=self._end, stopwatch=world.seconds
        )
        following.begin()
        self.runner = BatchRunner(
            self,
            world,
            outputs,
            WorkerMetrics(CollectorRegistry()),
            settings.model_copy(update={"topics": topics}),
            following,
            end=self._end,
            now=world.seconds,
            stopwatch=count().__next__,  # the event loop runs others after each step of a batch
            retry_seconds=0,
        )

    def _is_outdated(self) -> bool:
        return self.generation != self._world.generation

    def _end(self, event: str, error: BaseException) -> None:
        if event in {"log_is_another", "states_lost"}:
            self._world.refusals.append(str(error))
        self.process.end()

    # --- the group --------------------------------------------------------------------------------

    async def assign(self, numbers: Iterable[int]) -> None:
        """Take over partitions: restore their states, and start from the committed offsets.

        Of a partition that the worker has in memory, it reads back only what it does not know.
        """
        world, assigned = self._world, set(numbers)
        self.generation = world.generation
        world.is_shared |= len(assigned) < len(world.events.partitions)
        self.runner.drop(set(self.runner.partitions) - assigned)
        self.positions = {number: world.committed.get(number, 0) for number in assigned}
        self._committed = {n: at for n, at in world.committed.items() if n in assigned}
        for number in set(self._known) ^ assigned:
            self._known.pop(number, None)
        self.is_recovering = True
        await self.runner.assigned(assigned)
        world.compact()
        for number in sorted(assigned):
            await self._read_back(number, len(world.changelog.partitions[number]))
        if not self.process.is_dead:
            self.is_recovering = False
            self.runner.recovered()

    async def _read_back(self, number: int, end: int) -> None:
        """Read the changelog to an end, in two parts; others may write or compact in between."""
        world = self._world
        start = self._known.get(number, -1) + 1
        middle = world.draw.randint(start, end) if start < end else end
        for first, last in ((start, middle), (middle, end)):
            world.disturb(self.process)
            for _ in range(world.draw.choice([0, 0, 1, 30])):
                await asyncio.sleep(0)
            while self.process.is_stopped:
                await asyncio.sleep(0)
            if self.process.is_dead:
                return
            self.runner.partition(number).restore(world.changelog.read(number, first, last))
        if end:
            self._known[number] = end - 1

    async def revoke(self) -> None:
        """Finish and commit all work in flight, as the consumer does before a rebalance."""
        await self.runner.drain()
        if not self.process.is_dead:
            self.commit()

    def commit(self) -> None:
        """Commit the offsets that are done; the group rejects a commit of an old generation."""
        world = self._world
        if self.generation != world.generation:
            return
        for number, offset in sorted(self.runner.done.items()):
            if world.committed.get(number, 0) < offset:
                commit = partial(
                    world.commit, number, offset, self.runner.ownership.commit_note(number)
                )
                world.fault_point.pass_through(self.process, "commit", commit)
                self._committed[number] = offset

    # --- the loop ---------------------------------------------------------------------------------

    async def turn(self, size: int) -> None:
        """Poll once: handle a batch of each partition, then settle what is due."""
        world = self._world
        if self.is_recovering:
            return
        for number in sorted(self.positions):
            await self.runner.wait_for_capacity()
            self.positions[number], records = world.fetch(number, self.positions[number], size)
            batches = _batches(records) if records else []
            ready = await self.runner.ready(number, batches) if batches else ()
            if ready:
                if self.process.is_dead:
                    return
                await self._handle(number, list(ready))
        await self.runner.look()
        probes = await self.runner.probe()
        for _ in range(world.draw.randrange(3)):
            await asyncio.sleep(0)
        await self.runner.settle(probes)

    def committed(self, partition: int) -> int | None:
        return self._committed.get(partition)

    async def _handle(self, number: int, batches: list[RecordBatch]) -> None:
        damaged = batches.pop() if batches[-1].damage else None
        if batches:
            self.runner.handle(number, batches)
            self._world.clocks_seen |= self.runner.watermarks.is_surprised
            self.positions[number] = batches[-1].next_offset
        if damaged is None:
            return
        await self.runner.wait_for_capacity()
        to = self.runner.meet_damage(number, damaged)
        if to is not None:
            assert to in self._world.given_up, "damage was passed over, and nobody decided that"
            self.positions[number] = to
        elif self._world.draw.random() < 0.3:
            self._give_up(number, damaged)

    def _give_up(self, number: int, damaged: RecordBatch) -> None:
        """Let an operator give damaged records up, and let the worker read that as at its start."""
        world = self._world
        step = StepOver(damaged.offset, damaged.next_offset, "ann", "the disk failed", world.time)
        world.given_up.add(step.end_offset)
        offset = world.changelog.append(number, world.time, *encode_step_over(step), [])
        self.runner.partition(number).restore([world.changelog.partitions[number][offset]])

    async def position(self, partition: int) -> int | None:
        return self.positions.get(partition)

    def states_written(self, partition: int, offsets: range) -> None:
        known = known_after(self._known.get(partition), offsets)
        if known is not None:
            self._known[partition] = known


def _batches(records: list[Record]) -> list[RecordBatch]:
    """Return record batches of one or two records, as a worker reads them from the broker's bytes."""
    parts: list[list[Record]] = []
    for record in records:
        is_full = not parts or len(parts[-1]) == 2
        if is_full or DAMAGED in {record.value, parts[-1][0].value}:
            parts.append([])
        parts[-1].append(record)
    fetched = FetchedBatches(b"".join(_encoded(part) for part in parts))
    batches: list[RecordBatch] = []
    position = records[0].offset
    while (batch := fetched.next_batch()) is not None:
        batches.append(batch.since(position))
        position = batches[-1].next_offset
        if batches[-1].damage:
            break
    return batches


def _encoded(records: list[Record]) -> bytes:
    sent = [
        Sent(
            record.key,
            record.value,
            [(name.encode("utf-8", "surrogateescape"), value) for name, value in record.headers],
            record.timestamp,
        )
        for record in records
    ]
    return batch(sent, records[0].offset).replace(DAMAGED, DAMAGED.upper())
