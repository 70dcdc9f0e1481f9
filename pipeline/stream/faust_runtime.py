"""Run whole batches through Faust's consumer. Every private hook of Faust and aiokafka is here.

Faust still handles group membership, co-partitioned assignment and recovery. We bypass its streams,
which take one message at a time. The hooks exist in one version of each library:
`versions.check_versions` rejects other versions, and `tests/unit/stream/test_faust_runtime.py` fails
if a hook moves.

Hooks that we replace or extend. Classes are Faust's unless aiokafka is named::

  hook · class
    what it does in the library → what it does here
    what happens if the hook moves

  _drain_messages · Consumer
    passes single messages to streams → passes whole batches to the runner
    no record is processed
  _new_offset, _filter_tps_with_pending_acks · Consumer
    commits up to the acknowledged messages → commits the runner's done-offset
    no offset is committed
  on_partitions_revoked · Consumer
    drops the partitions → first awaits the effects in flight and commits
    the next owner processes the batches in flight again
  highwaters · Consumer
    asks for the end as the fetches see it, before open transactions → asks for the high watermark
    a recovery ends before the last states are read
  verify_all_partitions_active · Consumer
    looks for idle streams → does nothing
    an error is logged for each partition, twice a second
  _new_consumer_thread · Consumer, _create_worker_consumer · AIOKafkaConsumerThread
    make the thread and aiokafka's consumer → also set the fetch size and the isolation level, and
    add a note to each commit
    records of aborted transactions are billed
  _new_transport · App
    chooses the transport by the broker's URL → returns ours
    none of the hooks above is used
  _on_partitions_assigned · App
    starts the recovery → first drops, adds and fences the runner's partitions
    outdated states stay in memory after another owner changed them
  on_rebalance_end · App
    clears a flag → also schedules the deadlines of the recovered states
    silence is not settled until a record arrives
  PartitionRecords (its _unpack_records, _consumer_record), MemoryRecords · aiokafka.consumer.fetcher
    make one item of each record → make one `RecordBatch` of each batch, and keep its bytes
    `_drain_messages` fails
  _signal_recovery_end · Recovery
    an event, set once and cleared every five seconds → a `_RecoveryEnd`
    a recovery hangs, or ends before it begins

Private attributes that we read, set or call::

  _wait_next_records, _read_offset, _committed_offset, _stopped, _thread · Consumer
  _ensure_consumer · AIOKafkaConsumerThread
  active_offsets, active_tps, need_recovery, signal_recovery_end · Recovery
  next_fetch_offset, _records · aiokafka's PartitionRecords
  _fetch_max_bytes, _isolation_level, _subscription · aiokafka's AIOKafkaConsumer
  _set_producer_state · aiokafka's BatchBuilder (`stream.fence`)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Literal

import aiokafka.consumer.fetcher
import faust
from aiokafka.errors import IllegalStateError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP

from pipeline.config import Settings
from pipeline.errors import DamagedTopicError
from pipeline.kafka.positions import Positions
from pipeline.logs import get_logger
from pipeline.stream.crash import crash
from pipeline.stream.fetched import RecordBatch, in_parts
from pipeline.stream.readback import known_after
from pipeline.stream.record_format import FetchedBatches, FetchedRecords
from pipeline.stream.runner import BatchRunner
from pipeline.stream.timers import Timers

_POLL_SECONDS = 1.0


# --- the app --------------------------------------------------------------------------------------


class FaustApp(faust.App):  # type: ignore[misc]
    """Faust's app with our transport. Call `attach` before it starts."""

    resmeter: Settings
    runner: BatchRunner
    host: "FaustHost"
    _assigned_at = 0.0  # monotonic seconds
    positions: Positions

    def attach(
        self, settings: Settings, host: "FaustHost", runner: BatchRunner, positions: Positions
    ) -> None:
        self.resmeter = settings
        self.host = host
        self.runner = runner
        self.positions = positions

    def _new_transport(self) -> Any:
        aiokafka.consumer.fetcher.MemoryRecords = FetchedBatches
        aiokafka.consumer.fetcher.PartitionRecords = FetchedRecords
        return _Transport(self.conf.broker_consumer, self)

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        runner, topics, recovery = self.runner, self.resmeter.topics, self.tables.recovery
        if not isinstance(recovery._signal_recovery_end, _RecoveryEnd):
            recovery._signal_recovery_end = _RecoveryEnd(recovery)
        owned = {tp.partition for tp in assigned if tp.topic == topics.events}
        for number in set(runner.partitions) ^ owned:
            # A partition that is new to the runner has no states. Faust must forget the offset that
            # it had read before, or it would not read the states again.
            recovery.active_offsets.pop(TP(topics.changelog, number), None)
        runner.drop(set(runner.partitions) - owned)
        # Before the states are read: what an earlier owner wrote after that would not be read.
        await runner.assigned(owned)
        self._assigned_at = time.monotonic()
        get_logger("worker").info("partitions_assigned", partitions=sorted(owned))
        await super()._on_partitions_assigned(assigned, generation_id)

    def on_rebalance_end(self) -> None:
        self.runner.recovered()
        get_logger("worker").info(
            "states_read",
            partitions=len(self.runner.partitions),
            conversations=self.runner.conversations(),
            seconds=round(time.monotonic() - self._assigned_at, 1),
        )
        super().on_rebalance_end()


class FaustHost:
    """Faust as the runner's `Host`, with the offsets that the service publishes."""

    def __init__(self, app: FaustApp, settings: Settings) -> None:
        self._app = app
        self._events = settings.topics.events
        self._changelog = settings.topics.changelog

    @property
    def generation(self) -> int:
        return int(self._app.consumer_generation_id)

    @property
    def is_rebalancing(self) -> bool:
        return bool(self._app.rebalancing)

    @property
    def is_recovering(self) -> bool:
        return bool(self._app.in_recovery)

    @property
    def is_paused(self) -> bool:
        return not self._app.consumer.flow_active

    async def position(self, partition: int) -> int | None:
        try:
            position: int | None = await self._app.consumer.position(TP(self._events, partition))
        except IllegalStateError:  # the partition was revoked meanwhile
            return None
        return position

    def known_end_offset(self, partition: int) -> int | None:
        """Return the end offset of a partition at the last fetch; None if there was no fetch."""
        end: int | None = self._app.consumer.highwater(TP(self._events, partition))
        return end

    def committed(self, partition: int) -> int | None:
        """Return the last committed offset, or the offset that we started from."""
        offset: int | None = self._app.consumer._committed_offset[TP(self._events, partition)]
        return offset

    def states_read(self, tp: TP, batches: Sequence[RecordBatch]) -> None:
        """Restore states from the changelog, in bulk, and report our offset to Faust's recovery."""
        records = chain.from_iterable(batch.records for batch in batches)
        self._app.runner.partition(tp.partition).restore(records)
        recovery = self._app.tables.recovery
        if tp in recovery.active_tps:
            recovery.active_offsets[tp] = batches[-1].next_offset - 1
        recovery.signal_recovery_end.set()

    def states_written(self, partition: int, offsets: range) -> None:
        """Tell Faust's recovery that it need not read our own states back at a rebalance."""
        tp = TP(self._changelog, partition)
        recovery = self._app.tables.recovery
        if tp in recovery.active_tps:
            known = known_after(recovery.active_offsets.get(tp), offsets)
            if known is not None:
                recovery.active_offsets[tp] = known


class _RecoveryEnd(asyncio.Event):
    """Replace Faust's signal for the end of a recovery: `wait` checks the recovery's state.

    Faust clears its own signal every five seconds, whether or not a recovery is under way. If an
    earlier recovery left the signal set, the next one would end before it begins, and conversations
    would be decided without their past. If the signal is cleared too early, nothing sees it, and
    the worker hangs.
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
        """Do nothing: `wait` clears the event when the recovery needs it."""


# --- the consumer ---------------------------------------------------------------------------------


class FaustConsumer(Consumer):  # type: ignore[misc]
    """Faust's consumer; it passes whole batches to the runner and commits its done-offsets."""

    def _new_consumer_thread(self) -> "_FetchThread":
        return _FetchThread(self, loop=self.loop, beacon=self.beacon)

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: Faust would report its streams, which we do not use, as idle."""

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterable[TP]:
        events = self.app.resmeter.topics.events
        for number in list(self.app.runner.done):
            tp = TP(events, number)
            if topics is None or tp in topics or tp.topic in topics:
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        is_event = tp.topic == self.app.resmeter.topics.events
        return self.app.runner.done.get(tp.partition) if is_event else None

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        ends: dict[TP, int] = {}
        for topic in {tp.topic for tp in partitions}:
            numbers = [tp.partition for tp in partitions if tp.topic == topic]
            found = await self.app.positions.ends(topic, numbers)
            ends |= {TP(topic, number): end for number, end in found.items()}
        return ends

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # First stop fetching, and wait for the batches in flight: their offsets are to be
        # committed, and the next owner must find the states of everything before the committed
        # offsets.
        self.stop_flow()
        await self.app.runner.drain()
        await self.commit()
        await super().on_partitions_revoked(revoked)

    async def _drain_messages(self, fetcher: Any) -> None:
        app, worker = self.app, self.app.resmeter.worker
        timers = Timers(app.runner, worker.settle_interval_seconds)
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                if not self.flow_active:
                    # If the poll waited instead, the generation read below would be out of date.
                    await self.wait(self.can_resume_flow)
                generation = app.consumer_generation_id
                records, active = await self._wait_next_records(_POLL_SECONDS)
                await asyncio.sleep(0)
                if records is None or self.should_stop:
                    continue
                unhandled: dict[TP, int] = {}
                for tp, fetched in records.items():
                    damaged = fetched.pop() if fetched and fetched[-1].damage else None
                    for batches in in_parts(fetched, worker.batch_events_max):
                        await app.runner.wait_for_capacity()
                        ready = await self._ready(tp, batches, active, generation)
                        if ready and self._handle(tp, ready):
                            await asyncio.sleep(0)  # let effects, probes and heartbeats run first
                        if len(ready) < len(batches):
                            unhandled[tp] = batches[len(ready)].offset
                            break
                    if damaged is not None and tp not in unhandled:
                        await app.runner.wait_for_capacity()  # what was before it is applied
                        if await self._ready(tp, [damaged], active, generation):
                            await self._meet_damage(tp, damaged)
                        else:
                            unhandled[tp] = damaged.offset
                if unhandled:
                    await self._thread.go_back(unhandled)
                # Between two polls, everything that was fetched has been handled: the position is
                # the offset after the last record applied.
                await timers.run()
        except self.consumer_stopped_errors:
            if not app.should_stop:
                raise
        except asyncio.CancelledError:
            if not app.should_stop:
                raise
        except Exception as error:
            crash("batch_failed", error)
        finally:
            timers.cancel()

    async def _ready(
        self, tp: TP, batches: Sequence[RecordBatch], active: set[TP] | None, generation: int
    ) -> Sequence[RecordBatch]:
        """Return those batches that may be handled now; none if we do not own their partition."""
        app = self.app
        if tp.topic == app.resmeter.topics.events:
            batches = await app.runner.ready(tp.partition, batches)
        is_ours = active is not None and tp in active and self.flow_active
        return batches if is_ours and generation == app.consumer_generation_id else ()

    async def _meet_damage(self, tp: TP, damaged: RecordBatch) -> None:
        """Step over a damaged batch if an operator has said so; otherwise stop its partition."""
        if tp.topic != self.app.resmeter.topics.events:
            raise DamagedTopicError(tp.topic, tp.partition, damaged.offset, damaged.damage)
        to = self.app.runner.meet_damage(tp.partition, damaged)
        if to is None:
            await self._thread.pause(tp)
        else:
            await self._thread.seek_wait({tp: to})
            self._read_offset[tp] = to - 1

    def _handle(self, tp: TP, batches: Sequence[RecordBatch]) -> bool:
        """Pass events to the runner and states to the host; return whether these were events.

        Faust also subscribes to a topic of its own, to which nothing is ever written.
        """
        topics = self.app.resmeter.topics
        if tp.topic == topics.events:
            self.app.runner.handle(tp.partition, batches)
            self._read_offset[tp] = batches[-1].next_offset - 1
            return True
        if tp.topic == topics.changelog:
            self.app.host.states_read(tp, batches)
        return False


class _Transport(Transport):  # type: ignore[misc]
    Consumer = FaustConsumer


class _FetchThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's fetch thread, with two options of aiokafka that Faust does not pass on."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_bytes = self.consumer.app.resmeter.worker.fetch_bytes_max
        # Records of aborted transactions must not be billed. Faust asks for `read_committed` only
        # if it writes in transactions itself.
        consumer._isolation_level = "read_committed"
        consumer.commit = partial(self._commit_with_notes, consumer.commit)
        return consumer

    async def _commit_with_notes(
        self, commit: Callable[[Any], Awaitable[None]], offsets: Mapping[TopicPartition, Any]
    ) -> None:
        """Commit offsets, each with a note: where the changelog ends now."""
        note_of = self.consumer.app.runner.ownership.commit_note
        await commit(
            {
                place: OffsetAndMetadata(committed.offset, note_of(place.partition))
                for place, committed in offsets.items()
            }
        )

    async def go_back(self, offsets: Mapping[TP, int]) -> None:
        """Fetch again from offsets whose records were not handled before a rebalance.

        Only move a position back, never forward: Faust may have set another position meanwhile.
        Reading records twice changes nothing.
        """
        await self.call_thread(self._go_back, offsets)

    async def pause(self, tp: TP) -> None:
        """Fetch no more of a partition, until it is assigned again."""
        await self.call_thread(self._pause, tp)

    async def _pause(self, tp: TP) -> None:
        consumer = self._ensure_consumer()
        if tp in consumer.assignment():
            consumer.pause(TopicPartition(tp.topic, tp.partition))

    async def _go_back(self, offsets: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        assignment = consumer._subscription.subscription.assignment
        for tp, offset in offsets.items():
            if tp not in consumer.assignment():
                continue
            state = assignment.state_value(tp)
            if state.has_valid_position and state.position > offset:
                consumer.seek(tp, offset)
