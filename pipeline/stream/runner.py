"""Run the batch cycle: apply records, write the results, release offsets, run timers."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError, TooManyDeadLettersError
from pipeline.kafka.bounds import Bounds
from pipeline.kafka.partitioners import KeyCheck
from pipeline.logs import get_logger
from pipeline.metrics import WorkerMetrics
from pipeline.stream.ahead import AheadOfTime
from pipeline.stream.batch import BatchResult
from pipeline.stream.continuity import Continuity
from pipeline.stream.counts import count_applied, count_emitted, count_overdue, drop_partition
from pipeline.stream.damage import Damages
from pipeline.stream.deadletter_limit import DeadLetterLimit
from pipeline.stream.effects import Effects
from pipeline.stream.fetched import NO_TIMESTAMP, RecordBatch
from pipeline.stream.follower import Follower
from pipeline.stream.following import Following
from pipeline.stream.host import Host, Log, Probe, Writer
from pipeline.stream.mistakes import MistakeLog
from pipeline.stream.ownership import Ownership
from pipeline.stream.partition import Partition
from pipeline.stream.slices import Slices
from pipeline.stream.watermarks import Watermarks

_log = get_logger("worker")
_SETTLED_AT_ONCE_MAX = 10_000  # conversations; more would block the event loop for too long
_CLOCK_SLACK_MS = 60_000  # how far the host's clock may lag the broker's


class BatchRunner:
    """The partitions of one worker process, and the batches whose effects are in flight."""

    def __init__(
        self,
        host: Host,
        log: Log,
        outputs: Writer,
        metrics: WorkerMetrics,
        settings: Settings,
        following: Following,
        *,
        end: Callable[[str, BaseException], object],
        now: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.monotonic,
        retry_seconds: float = 1.0,
    ) -> None:
        """Start with no partitions.

        Args:
            host: runs the runner and knows the consumer group.
            log: answers questions about the events topic.
            outputs: writes results and states, and reads the broker's clock.
            metrics: the worker's series.
            settings: the sections `worker` and `topics` are used.
            following: the catalog, which was read once.
            end: called with a log event and the error, to end the process without a commit.
            now: the host's clock, in seconds.
            stopwatch: monotonic seconds: how long a batch has kept the event loop busy.
            retry_seconds: the pause before the broker is asked again.
        """
        self.partitions: dict[int, Partition] = {}
        self.damages = Damages(settings.topics.events)
        self.arrived_ms: dict[int, int] = {}  # the latest timestamp in the last batch applied
        self._taken_at: dict[int, float] = {}  # when a batch was last applied, monotonic seconds
        self._effects = Effects(host, outputs, end, self.partitions)
        self.done = self._effects.done  # partition → the offset after the last acknowledged record
        self.done_at = self._effects.done_at  # when `done` last moved, monotonic seconds
        self._host, self._log = host, log
        self.continuity = Continuity(
            host,
            log,
            outputs,
            metrics,
            settings.topics.events,
            self.done,
            end,
            following,
            retry_seconds=retry_seconds,
        )
        self.ownership = Ownership(
            host, log, outputs, self.continuity, end, now, settings.topics, retry_seconds
        )
        self._outputs, self._metrics = outputs, metrics
        self._topics = settings.topics
        self._worker = settings.worker
        self.following = following
        self._retry_seconds = retry_seconds
        self._margin_ms = int(self._worker.settle_margin_seconds * 1000)
        self.watermarks = Watermarks(host, outputs, self._effects, metrics, self._margin_ms)
        self._end, self._now = end, now
        self._applying = Slices(stopwatch, lambda error: end("batch_failed", error))
        self._mistakes = MistakeLog(metrics, get_logger("worker"), settings.topics.events)
        self._producers_set_time = settings.topics.events_timestamps == "CreateTime"
        self._dead_letter_limit = DeadLetterLimit(
            self._worker.dead_letter_window_records,
            self._worker.dead_letter_share_max,
            signed_only=following.keys.requires_signatures,
        )
        self._was_over_limit = False
        self._follower = Follower(
            following,
            host,
            outputs,
            self.partitions,
            self.continuity,
            self._applying,
            AheadOfTime(settings.topics.events, metrics.ahead),
            self._dead_letter_limit.follow,
        )

    # --- partitions -------------------------------------------------------------------------------

    def partition(self, number: int) -> Partition:
        """Return a partition that we own; if it is new, add it without states."""
        partition = self.partitions.get(number)
        if partition is None:
            partition = Partition(
                self._topics.events,
                number,
                self.following.tenants.timeline_for,
                self.following.keys,
                self._worker.seal_after_ms,
                KeyCheck(self._topics.partitioner, number, self._topics.partitions),
            )
            self.partitions[number] = partition
            self._taken_at[number] = time.monotonic()
        return partition

    def recovered(self) -> None:
        """Schedule the deadlines of all partitions, once their states are read back."""
        for partition in self.partitions.values():
            partition.schedule_all()
            behind = partition.take_behind()
            if behind.states:
                # Compaction keeps the last version of a state, and here that is not the newest one.
                self._metrics.states_rewritten.inc(len(behind.states))
                self._effects.start(partition, behind, None)

    async def assigned(self, numbers: Iterable[int]) -> None:
        """Take partitions, also those that we owned before; read their states only after this.

        From then on, nobody else can write to their changelog, though a paused worker may try to.
        """
        numbers = list(numbers)
        for number in numbers:
            self.partition(number).is_recovered = False
            self.continuity.forget([number])
        await self.ownership.take(numbers)

    def drop(self, numbers: Iterable[int]) -> None:
        """Drop partitions that another worker owns now."""
        numbers = list(numbers)
        self.damages.drop(numbers)
        self._follower.ahead.drop(numbers)
        for number in numbers:
            self.continuity.forget([number])
            for by_partition in (self.partitions, self.arrived_ms, self._taken_at):
                by_partition.pop(number, None)
            self._effects.forget(number)
            self.watermarks.forget(number)
            self.ownership.forget(number)
            drop_partition(self._metrics, number)

    # --- batches ----------------------------------------------------------------------------------

    async def wait_for_capacity(self) -> None:
        """Wait while a batch is applied or too many are in flight (back-pressure: no more is fetched)."""
        await self._applying.wait()
        await self._effects.wait_for_capacity(self._worker.inflight_batches_max)

    async def admit(self, number: int, found: int | None) -> bool:
        """Check, if necessary, that the log continues where a partition's states end.

        `found` is the offset of its next record; None if none came yet. Return whether its records
        may be applied, and its silence settled.
        """
        if found is not None and self.continuity.is_next(number, found):
            return True
        partition = self.partitions.get(number)
        if partition is not None and partition.is_recovered:
            await self.continuity.admit(partition, found)
        return self.continuity.is_admitted(number)

    async def ready(self, number: int, batches: Sequence[RecordBatch]) -> Sequence[RecordBatch]:
        """Return those batches of a partition, from the first on, for which log and catalog are known.

        If there are none, wait a moment. The caller fetches the others again.
        """
        if not await self.admit(number, batches[0].offset):
            return ()
        ready = await self._follower.decidable(number, batches, self._retry_seconds)
        return ready if await self.admit(number, batches[0].offset) else ()

    async def look(self) -> Mapping[int, Bounds]:
        """Compare the log with the states of all partitions, and read the catalog again.

        Return where the partitions end.
        """
        host = self._host
        await self.ownership.keep(self.partitions)
        for number in list(self.partitions):
            if not (host.is_rebalancing or host.is_recovering or host.is_paused):
                await self._may_settle(number)
        await self._follower.refresh(if_older=True)
        return await self.continuity.look(self.partitions)

    def handle(self, number: int, batches: Sequence[RecordBatch]) -> None:
        """Apply records of a partition in memory, in order, and start their effects.

        A long batch continues after this call, one slice at a time; `wait_for_capacity`,
        `settle` and `drain` wait for it. The caller checks that we own the partition and must await
        nothing between that check and this call: the partition could be revoked meanwhile.

        Raises:
            BrokenInvariantError: the partition's states are not read back yet, or the batch before
                is still applied.
        """
        if self._applying.is_running:
            raise BrokenInvariantError(f"records of partition {number} came before their turn")
        partition = self.partition(number)
        if not partition.is_recovered:
            raise BrokenInvariantError(
                f"records of partition {number} came before its states were read back"
            )
        if not self._producers_set_time:
            self.watermarks.compare(partition, batches)
        steps = partition.applying(chain.from_iterable(batch.records for batch in batches))
        self._applying.start(steps, lambda result: self._take(partition, result, batches))

    def _take(
        self, partition: Partition, result: BatchResult, batches: Sequence[RecordBatch]
    ) -> None:
        number = partition.number
        limit = self._dead_letter_limit
        letters = [(letter.source, letter.reason) for letter in result.dead_letters]
        limit.count(sum(result.events_by_type), letters)
        if limit.is_exceeded and self._worker.dead_letters_end_worker:
            # This batch is not written, so it will be read again once the cause is fixed.
            self._end("dead_letters_too_many", TooManyDeadLettersError(limit.message_at_end))
            return
        if limit.is_exceeded and not self._was_over_limit:
            _log.error("dead_letters_too_many", detail=limit.message)
        self._was_over_limit = limit.is_exceeded
        self._taken_at[number] = time.monotonic()
        arrived_ms = max(batch.timestamp for batch in batches)
        if arrived_ms != NO_TIMESTAMP:
            self.arrived_ms[number] = arrived_ms
        if self.partitions.get(number) is partition:
            self.continuity.read(number, batches[-1].next_offset)
        count_applied(self._metrics, result)
        self._mistakes.note(number, result)
        self._effects.start(partition, result, batches[-1].next_offset)

    def meet_damage(self, number: int, batch: RecordBatch) -> int | None:
        """Return the offset to go on from, if an operator has decided to step over a damaged batch.

        Otherwise return None: the caller stops the partition, and no timer of it fires.
        """
        partition = self.partition(number)
        to = partition.step_overs.end_after(batch.offset)
        if to is None:
            self.damages.stop(number, batch)
            return None
        if not self.damages.step_over(number, batch, to):
            return to
        self._metrics.stepped_over.inc(to - batch.offset)
        self.continuity.read(number, to)
        self._effects.start(partition, BatchResult(), to)
        return to

    async def drain(self) -> None:
        """Wait until no batch is applied or in flight, and nothing else is being written."""
        await self._applying.wait()
        await self._effects.drain()
        await self._outputs.flush()

    # --- timers -----------------------------------------------------------------------------------

    async def probe(self) -> list[Probe]:
        """Read the brokers' clocks, and the end of each partition in which something may be due.

        This runs concurrently with the batches, because the broker may not respond until a pending
        fetch has ended.
        """
        host = self._host
        if host.is_rebalancing or host.is_recovering or host.is_paused:
            return []
        latest_ms = int(self._now() * 1000) + _CLOCK_SLACK_MS
        due = [
            number
            for number, partition in self.partitions.items()
            if partition.is_recovered
            and (earliest := partition.earliest_ms(seals=not self._producers_set_time)) is not None
            and earliest <= latest_ms
            and self._is_quiet(number)
        ]
        if not due:
            return []
        await self._follower.refresh(if_older=True)
        generation = host.generation
        # The leader of the events may have another clock than the changelog's. Read all that we can.
        owned = [n for n in list(self.partitions) if await self._may_settle(n)]
        due = [number for number in due if number in owned]
        is_away = generation != host.generation or host.is_paused
        if is_away or not due or not set(owned) <= self.partitions.keys():
            return []
        # Read the clocks first, then the ends: a record beyond an end then has a later timestamp.
        partitions = [self.partitions[number] for number in owned]
        clock_ms = await self.watermarks.read_clocks(partitions, self.arrived_ms)
        bounds = await self._log.bounds(due)
        if generation != host.generation:
            return []
        self.watermarks.reached(bounds)
        # The end is the high watermark. Records behind an open transaction are before it: they
        # cannot be read yet, but their timestamps are fixed.
        return [Probe(n, clock_ms, bounds[n].high, generation) for n in due if n in bounds]

    async def _may_settle(self, number: int) -> bool:
        return self.continuity.is_admitted(number) or await self.admit(number, None)

    async def settle(self, probes: Iterable[Probe]) -> bool:
        """Settle and seal what was due at each probe, if its partition was read to the probed end.

        Call this between two batches. Return whether to probe again at once, as more may be due.
        """
        await self._applying.wait()  # until then, the position is ahead of the states
        host = self._host
        more = False
        for probe in probes:
            number = probe.partition
            position = await host.position(number)
            partition = self.partitions.get(number)
            if probe.generation != host.generation or host.is_rebalancing:
                return False
            if partition is None or not partition.is_recovered:
                continue
            if not (self._is_read(position, probe) and self._is_quiet(number)):
                continue  # behind: a message of the customer may wait in the backlog
            until_ms = min(probe.clock_ms - self._margin_ms, self.following.limit_ms - 1)
            if not await self.watermarks.promise(partition, position or 0, until_ms):
                return False
            results = [partition.settle(until_ms, _SETTLED_AT_ONCE_MAX)]
            if not self._producers_set_time:
                # If producers set the timestamps, a record may still arrive with a timestamp from
                # before its conversation was due to be sealed.
                results.append(partition.seal(until_ms, _SETTLED_AT_ONCE_MAX))
            for result in results:
                if not result.is_empty:
                    count_emitted(self._metrics, result)
                    self._effects.start(partition, result, None)
                    more = True
        return more

    def _is_read(self, position: int | None, probe: Probe) -> bool:
        # The consumer goes past records that Kafka has deleted, so its position alone does not count.
        end = probe.end_offset
        return (
            position is not None
            and position >= end
            and self.continuity.has_read(probe.partition, end)
        )

    def _is_quiet(self, number: int) -> bool:
        # If producers set the timestamps, history may be loading: while records still arrive, the
        # end of the partition does not prove that all earlier timestamps were read.
        if not self._producers_set_time:
            return True
        quiet_seconds = time.monotonic() - self._taken_at.get(number, 0.0)
        return quiet_seconds >= float(self._worker.settle_quiet_seconds)

    # --- counts -----------------------------------------------------------------------------------

    def conversations(self) -> int:
        return sum(len(partition.states) for partition in self.partitions.values())

    def open_conversations(self) -> int:
        return sum(partition.open_conversations for partition in self.partitions.values())

    def due_unsettled(self) -> int:
        return count_overdue(self.partitions.values(), int(self._now() * 1000))

    def dead_letter_share(self) -> float:
        return self._dead_letter_limit.share

    def dead_letters_over_limit(self) -> int:
        return int(self._dead_letter_limit.is_exceeded)

    def warnings(self) -> list[str]:
        """Return what an operator should know although the worker is ready."""
        ahead, limit = self._follower.ahead, self._dead_letter_limit
        return [*self.damages.texts(), *ahead.texts(), *limit.warnings]

    def unacknowledged(self) -> int:
        """Return how many batches have results or states that are not acknowledged."""
        return self._effects.in_flight + self._applying.is_running
