"""Run whole batches through Faust's consumer. Every private hook of Faust and aiokafka is here.

Faust keeps worker, group membership, co-partitioned assignment, recovery and signals. Its streams,
which take one message at a time, are bypassed. The hooks belong to one version of each library:
`versions.check_versions` rejects any other, and `tests/unit/stream/test_faust_runtime.py` fails when one of
them moves.

Hooks that we replace or extend. Classes are Faust's unless aiokafka is named::

  hook · class
    what it did → what it does now
    what breaks if it moves

  _drain_messages · Consumer
    passed single messages to streams → passes whole batches to the runner
    no record is processed
  _new_offset, _filter_tps_with_pending_acks · Consumer
    chose the offset to commit by acknowledged messages → by the runner's done-offset
    no offset is committed
  on_partitions_revoked · Consumer
    dropped the partitions → first awaits the effects in flight and commits
    the next owner reads and decides the batches in flight again
  verify_all_partitions_active · Consumer
    looked for idle streams → does nothing
    an error is logged for each partition, twice a second
  _new_consumer_thread · Consumer, _create_worker_consumer · AIOKafkaConsumerThread
    made the thread and aiokafka's consumer → also set the fetch size and the isolation level
    records of aborted transactions are billed
  _new_transport · App
    picked the transport by its address → takes ours
    none of the hooks above is used
  _on_partitions_assigned · App
    started the recovery → first drops and adds the runner's partitions
    states that another owner has changed since are kept
  on_rebalance_end · App
    cleared a flag → also schedules the deadlines of the recovered states
    silence is not settled until a record comes
  PartitionRecords · global of aiokafka.consumer.fetcher; its _unpack_records, _consumer_record
    made one item of each record → makes one `RecordBatch` of each batch
    `_drain_messages` fails
  _signal_recovery_end · Recovery
    was set once, and cleared every five seconds → is a `_RecoveryEnd`
    a recovery hangs, or ends before it began

Private attributes that we read, set or call::

  _wait_next_records, _read_offset, _committed_offset, _stopped, _thread · Consumer
  _ensure_consumer · AIOKafkaConsumerThread
  active_offsets, active_tps, need_recovery, signal_recovery_end · Recovery
  next_fetch_offset, _records · aiokafka's PartitionRecords
  _fetch_max_bytes, _isolation_level, _subscription · aiokafka's AIOKafkaConsumer
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import aiokafka.consumer.fetcher
import faust
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import IllegalStateError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP

from pipeline.config import Settings
from pipeline.kafka.options import security_of
from pipeline.stream.crash import crash
from pipeline.stream.fetched import NO_TIMESTAMP, RecordBatch, WholeBatch, WholeBatches, in_parts
from pipeline.stream.runner import BatchRunner, Timers

_POLL_SECONDS = 1.0


def faust_credentials(settings: Settings) -> Any:
    """Return what Faust authenticates with at the brokers; None without TLS and SASL."""
    security = security_of(settings.kafka)
    context = None if security.tls is None else security.tls.context()
    if security.sasl is not None:
        return faust.SASLCredentials(
            username=security.sasl.username,
            password=security.sasl.password,
            mechanism=security.sasl.mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


# --- the app --------------------------------------------------------------------------------------


class FaustApp(faust.App):  # type: ignore[misc]
    """Faust's app on our transport; `attach` gives it the settings and the runner."""

    resmeter: Settings
    runner: BatchRunner
    host: "FaustHost"

    def attach(self, settings: Settings, host: "FaustHost", runner: BatchRunner) -> None:
        self.resmeter = settings
        self.host = host
        self.runner = runner

    def _new_transport(self) -> Any:
        aiokafka.consumer.fetcher.PartitionRecords = _FetchedRecords
        return _Transport(self.conf.broker_consumer, self)

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        runner, topics, recovery = self.runner, self.resmeter.topics, self.tables.recovery
        if not isinstance(recovery._signal_recovery_end, _RecoveryEnd):
            recovery._signal_recovery_end = _RecoveryEnd(recovery)
        owned = {tp.partition for tp in assigned if tp.topic == topics.events}
        for number in set(runner.partitions) ^ owned:
            # A partition that is new to the runner has no states: Faust must forget that it read
            # some, or it would not read them again.
            recovery.active_offsets.pop(TP(topics.changelog, number), None)
        runner.drop(set(runner.partitions) - owned)
        for number in owned:
            runner.partition(number).is_recovered = False
        await super()._on_partitions_assigned(assigned, generation_id)

    def on_rebalance_end(self) -> None:
        for partition in self.runner.partitions.values():
            partition.schedule_all()
        super().on_rebalance_end()


class FaustHost:
    """Faust as the runner's `Host`, and what the service publishes of it."""

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
    def has_unread_states(self) -> bool:
        return bool(self._app.tables.recovery.need_recovery())

    @property
    def is_paused(self) -> bool:
        return not self._app.consumer.flow_active

    async def position(self, partition: int) -> int | None:
        try:
            position: int | None = await self._app.consumer.position(TP(self._events, partition))
        except IllegalStateError:  # the partition was revoked while we asked
            return None
        return position

    async def end_offsets(self, partitions: Sequence[int]) -> Mapping[int, int]:
        ends = await self._app.consumer.highwaters(*(TP(self._events, n) for n in partitions))
        return {tp.partition: end or 0 for tp, end in ends.items()}

    def known_end_offset(self, partition: int) -> int | None:
        """Return the end of a partition as the last fetch found it."""
        end: int | None = self._app.consumer.highwater(TP(self._events, partition))
        return end

    def committed(self, partition: int) -> int | None:
        """Return the offset that was committed last, or that we started from."""
        offset: int | None = self._app.consumer._committed_offset[TP(self._events, partition)]
        return offset

    def states_read(self, place: TP, batches: Sequence[RecordBatch]) -> None:
        """Restore states from the changelog, in bulk, and tell Faust's recovery how far we are."""
        records = chain.from_iterable(batch.records for batch in batches)
        self._app.runner.partition(place.partition).restore(records)
        recovery = self._app.tables.recovery
        if place in recovery.active_tps:
            recovery.active_offsets[place] = batches[-1].next_offset - 1
        recovery.signal_recovery_end.set()

    def states_written(self, partition: int, offsets: range) -> None:
        """Tell Faust's recovery that what we wrote need not be read back at a rebalance.

        Only if the offsets follow the last known one: another owner's states may lie between.
        """
        place = TP(self._changelog, partition)
        recovery = self._app.tables.recovery
        if place in recovery.active_tps and offsets:
            known = recovery.active_offsets.get(place)
            if (-1 if known is None else known) == offsets.start - 1:
                recovery.active_offsets[place] = offsets.stop - 1


class _RecoveryEnd(asyncio.Event):
    """The end of a recovery, as a state to be in rather than a signal to catch.

    Faust clears its own signal every five seconds, whether or not a recovery is under way. A signal
    left set by an earlier recovery ends the next one before it began, and conversations would be
    decided without their past. One that is cleared too early is never seen, and the worker hangs.
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
        """Do nothing: `wait` asks the recovery itself."""


# --- the consumer ---------------------------------------------------------------------------------


class FaustConsumer(Consumer):  # type: ignore[misc]
    """Faust's consumer, with whole batches in and the runner's done-offsets out."""

    def _new_consumer_thread(self) -> "_FetchThread":
        return _FetchThread(self, loop=self.loop, beacon=self.beacon)

    async def verify_all_partitions_active(self) -> None:
        """Do nothing: Faust would report its streams, which we do not use, as idle."""

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterable[TP]:
        events = self.app.resmeter.topics.events
        for number in list(self.app.runner.done):
            place = TP(events, number)
            if topics is None or place in topics or place.topic in topics:
                yield place

    def _new_offset(self, tp: TP) -> int | None:
        is_event = tp.topic == self.app.resmeter.topics.events
        return self.app.runner.done.get(tp.partition) if is_event else None

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        # Fetching stops and the batches in flight end first. Their offsets are the ones to commit,
        # and a new owner must find every state that the committed offsets stand for.
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
                    # Waiting inside the poll would read a generation that is over by then.
                    await self.wait(self.can_resume_flow)
                generation = app.consumer_generation_id
                records, active = await self._wait_next_records(_POLL_SECONDS)
                await asyncio.sleep(0)
                if records is None or self.should_stop:
                    continue
                unhandled: dict[TP, int] = {}
                for place, fetched in records.items():
                    for batches in in_parts(fetched, worker.batch_events_max):
                        await app.runner.wait_for_capacity()
                        if (
                            place not in active
                            or not self.flow_active
                            or generation != app.consumer_generation_id
                        ):
                            unhandled[place] = batches[0].offset
                            break
                        if self._handle(place, batches):
                            await asyncio.sleep(0)  # let effects, probes and heartbeats run
                if unhandled:
                    await self._thread.go_back(unhandled)
                # Between two polls nothing that was fetched waits to be handled: the position is
                # that of what has been applied.
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

    def _handle(self, place: TP, batches: list[RecordBatch]) -> bool:
        """Pass batches to the runner; return whether they were events.

        Beside the events and the changelog only a topic of Faust's own is subscribed to; nothing is
        ever written to it.
        """
        topics = self.app.resmeter.topics
        if place.topic == topics.events:
            self.app.runner.handle(place.partition, batches)
            self._read_offset[place] = batches[-1].next_offset - 1
            return True
        if place.topic == topics.changelog:
            self.app.host.states_read(place, batches)
        return False


class _Transport(Transport):  # type: ignore[misc]
    Consumer = FaustConsumer


class _FetchThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread that fetches, with two options of aiokafka that Faust does not pass on."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_bytes = self.consumer.app.resmeter.worker.fetch_bytes_max
        # Records of an aborted transaction were never sent. Faust asks for committed ones only if
        # it writes in transactions itself.
        consumer._isolation_level = "read_committed"
        return consumer

    async def go_back(self, places: Mapping[TP, int]) -> None:
        """Fetch again from these offsets: a rebalance came before their records were handled.

        Never forward: Faust may have set another position by now. Reading twice changes nothing.
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


class _FetchedRecords(PartitionRecords):  # type: ignore[misc]
    """aiokafka's iteration over what was fetched of a partition, by batches; its checks remain."""

    _records: Any

    def _unpack_records(self) -> Any:
        self._records = WholeBatches(self._records)
        behind = self.next_fetch_offset
        for fetched in super()._unpack_records():
            behind = fetched.next_offset
            yield fetched
        if self.next_fetch_offset > behind:
            # The fetch ended with markers and aborted records of transactions. Nobody reads them,
            # but the position must pass them.
            end = self.next_fetch_offset
            yield RecordBatch((), behind, end, NO_TIMESTAMP, end - behind)

    def _consumer_record(self, _: Any, batch: WholeBatch) -> RecordBatch:
        return batch.since(self.next_fetch_offset)
