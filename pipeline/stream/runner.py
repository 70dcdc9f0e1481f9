"""This file hangs the batch lane into Faust: whole batches in, acknowledged offsets out.

Faust 0.15.3 keeps what it does well: worker, group membership, co-partitioned assignment,
recovery, signals. Its per-message path is passed by: `_drain_messages` takes the batches of each
partition, and an offset is committed only when everything that it caused was acknowledged. These
are private hooks of that one version: all of them are in this module, and
`tests/kafka/test_worker.py` fails when they move.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple, NoReturn

import aiokafka.consumer.fetcher
import faust
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import IllegalStateError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP

from pipeline.errors import BrokenInvariantError, TooManyDeadLettersError
from pipeline.events.signature import Key
from pipeline.logs import get_logger
from pipeline.metrics import WorkerMetrics
from pipeline.stream.batch import BatchResult
from pipeline.stream.deadletter_limit import DeadLetterShare
from pipeline.stream.outputs import Outputs
from pipeline.stream.partition import Partition, TimelineFor

_POLL_SECONDS = 1.0
_NO_TIME = -1
_SETTLED_AT_ONCE_MAX = 10_000  # conversations, so that a large harvest does not hold the loop
_CLOCK_SLACK_MS = 60_000  # how far the host's clock may be behind when it says: look


class _Look(NamedTuple):
    """Where a partition ended, and what time it was just before."""

    place: TP
    clock: int
    end: int
    generation: int


class Lane:
    """What one worker process holds: its partitions, and what is on its way to the broker."""

    def __init__(
        self,
        app: "LaneApp",
        outputs: Outputs,
        metrics: WorkerMetrics,
        timeline_for: TimelineFor,
        keys: Mapping[str, Key] | None = None,
        *,
        now: Callable[[], float] = time.time,
        end: "Callable[[str, BaseException], None] | None" = None,
    ) -> None:
        settings = app.resmeter
        self.app = app
        self.outputs = outputs
        self.metrics = metrics
        self.events_topic = settings.topics.events
        self.changelog_topic = settings.topics.changelog
        self.partitions: dict[int, Partition] = {}
        self.done: dict[int, int] = {}  # partition → the offset after the last one acknowledged
        self.done_at: dict[int, float] = {}
        self.records_at: dict[int, float] = {}  # when a record was last taken
        self.arrival: dict[int, int] = {}  # the timestamp of the last record applied
        self.create_time = False
        self._worker = settings.worker
        self._now = now
        self._end = end or die
        self._timeline_for = timeline_for
        self._keys = keys
        self._share = DeadLetterShare(
            self._worker.dead_letter_window_records, self._worker.dead_letter_share_max
        )
        self._in_flight: dict[int, list[asyncio.Task[None]]] = {}
        self._log = get_logger("worker")

    # --- partitions -------------------------------------------------------------------------------

    def partition(self, number: int) -> Partition:
        """Return a partition that we hold; a new one has no states yet."""
        partition = self.partitions.get(number)
        if partition is None:
            partition = Partition(
                self.events_topic,
                number,
                self._timeline_for,
                self._keys,
                self._worker.seal_after_ms,
            )
            self.partitions[number] = partition
            self.records_at[number] = time.monotonic()
        return partition

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget partitions that are another worker's now."""
        for number in numbers:
            for held in (
                self.partitions,
                self.done,
                self.done_at,
                self.records_at,
                self.arrival,
                self._in_flight,
            ):
                held.pop(number, None)
            self.metrics.forget(number)

    # --- batches ----------------------------------------------------------------------------------

    async def room(self) -> None:
        """Wait while too many batches are under way."""
        while len(under_way := self._under_way()) >= self._worker.inflight_batches_max:
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

    def handle(self, number: int, fetched: "Sequence[Fetched]") -> None:
        """Apply a batch in memory and start its effects.

        At once: between the look whether the partition is ours and this, it must not be revoked.
        """
        partition = self.partition(number)
        if not partition.is_recovered:
            # The first records after a recovery come a moment before Faust says that it is over.
            if self.app.in_recovery or self.app.tables.recovery.need_recovery():
                raise BrokenInvariantError(
                    f"records of partition {number} came before its states were read back"
                )
            partition.schedule_all()
        work = partition.apply(chain.from_iterable(part.records for part in fetched))
        self._share.take(sum(work.events_by_type), [letter.reason for letter in work.dead_letters])
        if self._share.is_over:
            # Before anything of this batch is written: it is read again once somebody has looked.
            self._end("dead_letters_too_many", TooManyDeadLettersError(self._share.told))
            return
        self.records_at[number] = time.monotonic()
        arrival = max(part.timestamp for part in fetched)
        if arrival != _NO_TIME:
            self.arrival[number] = arrival
        self.metrics.applied(work)
        self._start(partition, work, fetched[-1].next_offset)

    def _start(self, partition: Partition, work: BatchResult, done: int | None) -> None:
        in_flight = self._in_flight.setdefault(partition.number, [])
        before = in_flight[-1] if in_flight else None
        task = asyncio.ensure_future(self._effects(partition, work, done, before))
        in_flight.append(task)
        task.add_done_callback(lambda ended: self._ended(partition.number, ended))

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        in_flight = self._in_flight.get(number)
        if in_flight is not None and task in in_flight:
            in_flight.remove(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._end("effects_failed", error)

    async def _effects(
        self,
        partition: Partition,
        work: BatchResult,
        done: int | None,
        before: asyncio.Task[None] | None,
    ) -> None:
        number = partition.number
        # 1. Results first: a state that says "emitted" while the output is lost would lose it for
        #    good, as the record is passed over when it comes again.
        if work.outputs or work.dead_letters:
            await self.outputs.write_results(work.outputs, work.dead_letters)
        # In the order of the batches: compaction keeps the last version of a state.
        if before is not None:
            await asyncio.wait([before])
            if before.cancelled() or before.exception() is not None:
                return
        # 2. States. Lost here, the records come again and yield the same outputs with the same ids.
        if work.states:
            written = await self.outputs.write_states(number, work.states)
            self.app.changelog_written(number, written)
        elif not partition.states:
            # Garbage alone so far. An empty changelog beside a committed offset means that it was
            # lost (`topics.lost_states`): so it must not be empty.
            _, written = await self.outputs.read_clock(number)
            self.app.changelog_written(number, written)
        # 3. Only now may Faust commit, and never further than this. Not where the partition went
        #    and came back meanwhile: its states may have been read back before ours were written.
        if done is not None and self.partitions.get(number) is partition:
            self.done[number] = done
            self.done_at[number] = time.monotonic()

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        while tasks := self._under_way():
            await asyncio.wait(tasks)

    def _under_way(self) -> list[asyncio.Task[None]]:
        return [task for tasks in self._in_flight.values() for task in tasks]

    # --- timers -----------------------------------------------------------------------------------

    async def look(self, consumer: "LaneConsumer") -> "list[_Look]":
        """Ask for clock and end of the partitions in which something may have fallen due.

        It runs beside the batches: its answers wait behind a fetch that waits for records.
        """
        app = self.app
        if app.rebalancing or app.in_recovery or not consumer.flow_active:
            return []
        host = int(self._now() * 1000)
        due = [
            number
            for number, partition in self.partitions.items()
            if partition.is_recovered
            and (earliest := partition.earliest_ms(seals=not self.create_time)) is not None
            and earliest <= host + _CLOCK_SLACK_MS
            and self._quiet(number)
        ]
        if not due:
            return []
        generation = app.consumer_generation_id
        # The clock first, then the end: what arrives after the end was asked for arrives later.
        readings = await asyncio.gather(*map(self.outputs.read_clock, due))
        for number, (_, written) in zip(due, readings, strict=True):
            app.changelog_written(number, written)
        places = [TP(self.events_topic, number) for number in due]
        ends = await consumer.highwaters(*places)
        return [
            _Look(place, clock, ends.get(place) or 0, generation)
            for place, (clock, _) in zip(places, readings, strict=True)
        ]

    async def settle(self, consumer: "LaneConsumer", looks: "list[_Look]") -> bool:
        """Settle what had fallen due when we looked, in partitions that were read to that end.

        To be called between two batches. Returns whether there may be more at once.
        """
        app = self.app
        more = False
        for look in looks:
            try:
                position = await consumer.position(look.place)
            except IllegalStateError:  # it was taken from us while we asked
                continue
            partition = self.partitions.get(look.place.partition)
            if look.generation != app.consumer_generation_id or app.rebalancing:
                return False
            if partition is None or not partition.is_recovered:
                continue
            if position is None or position < look.end or not self._quiet(partition.number):
                continue  # behind: a follow-up may wait in the backlog
            until = look.clock - int(self._worker.settle_margin_seconds * 1000)
            works = [partition.settle(until, _SETTLED_AT_ONCE_MAX)]
            if not self.create_time:
                # Where producers set the timestamps, the broker's clock does not say that no
                # record comes any more that would find its conversation unsealed.
                works.append(partition.seal(until, _SETTLED_AT_ONCE_MAX))
            for work in works:
                if not work.is_empty:
                    self.metrics.settled(work)
                    self._start(partition, work, None)
                    more = True
        return more

    def _quiet(self, number: int) -> bool:
        # Where producers set the timestamps, history may be on its way in: the end of the
        # partition says nothing while records still come.
        if not self.create_time:
            return True
        quiet = time.monotonic() - self.records_at.get(number, 0.0)
        return quiet >= float(self._worker.settle_quiet_seconds)

    # --- counts -----------------------------------------------------------------------------------

    def conversations(self) -> int:
        return sum(len(partition.states) for partition in self.partitions.values())

    def open_conversations(self) -> int:
        return sum(partition.open_conversations for partition in self.partitions.values())

    def due_unsettled(self) -> int:
        """Count conversations whose silence should have been settled by the host's clock."""
        now = int(self._now() * 1000)
        return sum(partition.due_queue.count_until(now) for partition in self.partitions.values())

    def dead_letter_share(self) -> float:
        return self._share.share

    def unacknowledged(self) -> int:
        """Count batches whose usage records and states the broker has not acknowledged."""
        return len(self._under_way())


class LaneConsumer(Consumer):  # type: ignore[misc]
    """Faust's consumer, with whole batches and acknowledged offsets."""

    @property
    def lane(self) -> Lane:
        lane: Lane = self.app.lane
        return lane

    def _new_consumer_thread(self) -> "_LaneThread":
        return _LaneThread(self, loop=self.loop, beacon=self.beacon)

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: after five minutes Faust would miss, twice a second, the streams we pass by."""

    # --- commits ----------------------------------------------------------------------------------

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterable[TP]:
        lane = self.lane
        for number in list(lane.done):
            place = TP(lane.events_topic, number)
            if topics is None or place in topics or place.topic in topics:
                yield place

    def _new_offset(self, tp: TP) -> int | None:
        return self.lane.done.get(tp.partition) if tp.topic == self.lane.events_topic else None

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # Nothing new is taken. What is under way ends first: its offsets are the ones to commit,
        # and a new owner must not find an older state than it was told.
        self.stop_flow()
        await self.lane.drain()
        await self.commit()
        await super().on_partitions_revoked(revoked)

    # --- batches ----------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        lane, app = self.lane, self.app
        next_look = 0.0
        look: asyncio.Task[list[_Look]] | None = None
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                if not self.flow_active:
                    # Here, not in the poll: the generation is another one afterwards.
                    await self.wait(self.can_resume_flow)
                generation = app.consumer_generation_id
                records, active = await self._wait_next_records(_POLL_SECONDS)
                await asyncio.sleep(0)
                if records is None or self.should_stop:
                    continue
                left: dict[TP, int] = {}
                for place, fetched in records.items():
                    # No other topic is subscribed to but Faust's own, which carries nothing.
                    for batch in _batches(fetched, lane._worker.batch_events_max):
                        await lane.room()
                        if (
                            place not in active
                            or not self.flow_active
                            or generation != app.consumer_generation_id
                        ):
                            left[place] = batch[0].offset
                            break
                        if place.topic == lane.events_topic:
                            lane.handle(place.partition, batch)
                            self._read_offset[place] = batch[-1].next_offset - 1
                            await asyncio.sleep(0)  # effects, probes and heartbeats go on
                        elif place.topic == lane.changelog_topic:
                            app.changelog_read(place, batch)
                if left:
                    await self._thread.go_back(left)
                # Between two polls nothing that was fetched waits to be handled, so that the
                # position is that of what has been applied.
                now = time.monotonic()
                if look is not None and look.done():
                    more = await lane.settle(self, look.result())
                    next_look = now if more else now + lane._worker.settle_interval_seconds
                    look = None
                if look is None and now >= next_look:
                    look = asyncio.ensure_future(lane.look(self))
        except self.consumer_stopped_errors:
            if not app.should_stop:
                raise
        except asyncio.CancelledError:
            if not app.should_stop:
                raise
        except Exception as error:
            die("batch_failed", error)
        finally:
            if look is not None:
                look.cancel()


# --- records --------------------------------------------------------------------------------------


class Fetched(NamedTuple):
    """A record batch as a producer made it. Its records are parsed as they are looped over.

    Each is then decoded and dropped while the processor's cache still holds it, which takes a
    fifth less than parsing all of a fetch first.
    """

    records: Iterable[Any]  # to be looped over once
    offset: int  # of the first
    next_offset: int
    timestamp: int  # the highest of the records'
    size: int  # of offsets


class _Whole:
    """A record batch that aiokafka takes for one record, so that it leaves the others to us."""

    __slots__ = ("_batch", "offset")

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self.offset = batch.next_offset - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator["_Whole"]:
        yield self

    def __next__(self) -> Any:  # the marker in a control batch
        return next(self._batch)

    def since(self, offset: int) -> Fetched:
        """Return the batch, without the records before an offset."""
        batch = self._batch
        # This is the consumer's thread: what is compressed is unpacked here, beside the other.
        records = iter(batch)
        if batch.base_offset < offset:
            records = [record for record in batch if record.offset >= offset]
        first, end = max(batch.base_offset, offset), batch.next_offset
        return Fetched(records, first, end, batch.max_timestamp, end - first)


class _WholeBatches:
    """What aiokafka reads the batches of a fetch from."""

    def __init__(self, records: Any) -> None:
        self.has_next = records.has_next
        self._next_batch = records.next_batch

    def next_batch(self) -> _Whole:
        return _Whole(self._next_batch())


class _FetchedRecords(PartitionRecords):  # type: ignore[misc]
    """aiokafka's walk over what was fetched of a partition, by batches: the checks are its own."""

    _records: Any

    def _unpack_records(self) -> Any:
        self._records = _WholeBatches(self._records)
        behind = self.next_fetch_offset
        for fetched in super()._unpack_records():
            behind = fetched.next_offset
            yield fetched
        if self.next_fetch_offset > behind:
            # At the end stood what nobody reads: the marks of transactions, and what was taken
            # back. It is done with, too.
            end = self.next_fetch_offset
            yield Fetched((), behind, end, _NO_TIME, end - behind)

    def _consumer_record(self, _: Any, batch: _Whole) -> Fetched:
        return batch.since(self.next_fetch_offset)


def _batches(fetched: Iterable[Fetched], size: int) -> Iterator[list[Fetched]]:
    """Yield what was fetched in parts of at most about `size` records."""
    batch: list[Fetched] = []
    left = size
    for whole in fetched:
        for part in _cut(whole, size) if whole.size > size else (whole,):
            batch.append(part)
            left -= part.size
            if left <= 0:
                yield batch
                batch, left = [], size
    if batch:
        yield batch


def _cut(whole: Fetched, size: int) -> Iterator[Fetched]:
    """Yield a record batch that is too large in parts."""
    records = list(whole.records)
    for start in range(0, len(records), size):
        part = records[start : start + size]
        end = whole.next_offset if start + size >= len(records) else part[-1].offset + 1
        yield Fetched(part, part[0].offset, end, part[-1].timestamp, len(part))
    if not records:
        yield whole  # compaction may leave nothing of it, and marks never were any


class _LaneThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread that fetches, with two options of aiokafka that Faust has none for."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_bytes = self.consumer.lane._worker.fetch_bytes_max
        # What a producer has taken back was never sent. Faust asks for this only where it writes
        # in transactions itself.
        consumer._isolation_level = "read_committed"
        return consumer

    async def go_back(self, places: Mapping[TP, int]) -> None:
        """Read again from these offsets: what was fetched of them was not handled.

        A rebalance had come in between. Never forward: by now Faust may have set another position,
        and what is read twice changes nothing.
        """
        await self.call_thread(self._go_back, places)

    async def _go_back(self, places: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        assignment = consumer._subscription.subscription.assignment
        for place, offset in places.items():
            if place not in consumer.assignment():
                continue
            state = assignment.state_value(place)
            if state.has_valid_position and state.position > offset:
                consumer.seek(place, offset)


class LaneTransport(Transport):  # type: ignore[misc]
    Consumer = LaneConsumer


class LaneApp(faust.App):  # type: ignore[misc]
    """Faust's app on the lane's transport; `lane` and `resmeter` are set by `stream.app`."""

    lane: Lane
    resmeter: Any

    def _new_transport(self) -> Any:
        aiokafka.consumer.fetcher.PartitionRecords = _FetchedRecords
        return LaneTransport(self.conf.broker_consumer, self)

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        lane, recovery = self.lane, self.tables.recovery
        if not isinstance(recovery._signal_recovery_end, _RecoveryEnd):
            recovery._signal_recovery_end = _RecoveryEnd(recovery)
        held = {tp.partition for tp in assigned if tp.topic == lane.events_topic}
        for number in set(lane.partitions) ^ held:
            # What Faust remembers to have read would be missing from a partition that is new.
            recovery.active_offsets.pop(TP(lane.changelog_topic, number), None)
        lane.drop(set(lane.partitions) - held)
        for number in held:
            lane.partition(number).is_recovered = False
        await super()._on_partitions_assigned(assigned, generation_id)

    def on_rebalance_end(self) -> None:
        for partition in self.lane.partitions.values():
            partition.schedule_all()
        super().on_rebalance_end()

    def changelog_read(self, place: TP, fetched: Sequence[Fetched]) -> None:
        """Take in changelog records, in bulk, and tell Faust's recovery how far we are."""
        records = chain.from_iterable(part.records for part in fetched)
        self.lane.partition(place.partition).restore(records)
        recovery = self.tables.recovery
        if place in recovery.active_tps:
            recovery.active_offsets[place] = fetched[-1].next_offset - 1
        recovery.signal_recovery_end.set()

    def changelog_written(self, number: int, written: range) -> None:
        """Tell Faust's recovery that what we wrote need not be read again at a rebalance.

        Only where it follows on what we know: between the two may lie another owner's states.
        """
        place = TP(self.lane.changelog_topic, number)
        recovery = self.tables.recovery
        if place in recovery.active_tps and written:
            known = recovery.active_offsets.get(place)
            if (-1 if known is None else known) == written.start - 1:
                recovery.active_offsets[place] = written.stop - 1


class _RecoveryEnd(asyncio.Event):
    """The end of a recovery: a state to be in, not a signal to be caught.

    Faust clears its signal every five seconds, whatever is under way: one that was set by an
    earlier recovery ends the next before it began, and one that is cleared too early is never
    seen. In the first case conversations would be decided without their past.
    """

    def __init__(self, recovery: Any) -> None:
        super().__init__()
        self._recovery = recovery

    async def wait(self) -> Literal[True]:
        while self._recovery.need_recovery():
            super().clear()
            await super().wait()
        return True

    def clear(self) -> None:
        """Do nothing: `wait` looks for itself."""


def die(event: str, error: BaseException | None, **facts: Any) -> NoReturn:
    """End the process at once: nothing after this may commit, and a supervisor starts it anew."""
    get_logger("worker").error(
        event,
        error=f"{type(error).__name__}: {error}",
        consequence="the process ends without a commit; nothing is lost; start it again",
        exc_info=error,
        **facts,
    )
    sys.stderr.flush()
    os._exit(1)
