"""Read usage records from Kafka into the ledger. Its calls block: run it in a thread.

The ledger decides at which offset to read. For each batch:

1. The records and the offsets are stored in one transaction. A crash before it loses nothing: the
   same records are read again. If another sink has moved an offset, nothing is stored, and the
   consumer seeks to the offset in the ledger.
2. The offsets are committed to Kafka as well, without waiting for the result: only tools that show
   the lag read them there.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from pipeline.catalog.prices import FixedPrices
from pipeline.config import SinkSettings
from pipeline.errors import BrokenInvariantError, ConfigurationError, UnavailableError
from pipeline.kafka.connect import AuthFailure, auth_failure_message, list_topics, open_client
from pipeline.kafka.headers import ORIGIN_HEADER
from pipeline.kafka.reader import headers_of
from pipeline.ledger import Ledger, records
from pipeline.ledger.entries import ConsumedRecord, Moved, Stored
from pipeline.logs import get_logger
from pipeline.metrics import SinkMetrics
from pipeline.sink.counts import count_stored, drop_partition
from pipeline.sink.origin import RecordsOrigin
from pipeline.sink.position import LedgerPosition

CONNECT_SECONDS_MAX = 5.0
WAIT_SECONDS_MAX = 0.2  # for a full batch; then a partial batch is stored
LAG_INTERVAL_SECONDS = 2.0  # between measurements of the lag
LAG_TIMEOUT_SECONDS = 2.0
COORDINATOR_SECONDS_MAX = 20.0
_NO_COORDINATOR = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
_IS_CUT = {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION}
_TOPIC_IS_GONE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}


class Intake:
    """Consumes one topic into a ledger, until `stop`."""

    def __init__(
        self,
        client_options: Mapping[str, str | int | float | bool],
        topic: str,
        settings: SinkSettings,
        ledger: Ledger,
        position: LedgerPosition,
        metrics: SinkMetrics,
        now: Callable[[], float] = time.time,
        topic_id: Callable[[], str] = lambda: "",
        monotonic: Callable[[], float] = time.monotonic,
        prices: Callable[[], FixedPrices | None] = lambda: None,
    ) -> None:
        """Prepare an intake; `topic_id` asks for the topic's id, and returns "" if it is unknown.

        `prices` returns what prices a record that is stored now.
        """
        self._servers = str(client_options["bootstrap.servers"])
        self._origin = RecordsOrigin(ledger, topic, self._servers, topic_id, metrics)
        self._options = {
            **client_options,
            "group.id": settings.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # Every assignment names an offset. If Kafka no longer has it, the intake must learn so.
            "auto.offset.reset": "error",
            "session.timeout.ms": int(settings.session_timeout_seconds * 1000),
            "heartbeat.interval.ms": int(settings.session_timeout_seconds * 1000 / 5),
            "fetch.wait.max.ms": 100,
            "error_cb": self._on_kafka_error,
        }
        self._topic = topic
        self._ledger = ledger
        self._position = position
        self._metrics = metrics
        self._batch_records_max = settings.batch_records_max
        self._now = now
        self._monotonic = monotonic
        self._prices = prices
        self._log = get_logger(__name__)
        self._stop = threading.Event()
        self._failure: Exception | None = None  # set by a callback; `step` raises it
        self._joined = False
        self._partitions: list[int] = []  # of the topic
        self._lag_measured_at = 0.0
        self.waiting = 0  # usage records that were not read at the last measurement
        self._unreached: str | None = None
        self._auth_failure = AuthFailure()
        self._stored: dict[int, int | None] = {}  # partition → next offset in the ledger
        self._read: dict[int, int] = {}  # partition → next offset to consume
        self._lows: dict[int, int] = {}  # partition → its first offset when it was assigned

    def stop(self) -> None:
        """Make `run` return; any thread may call it."""
        self._stop.set()

    def problems(self) -> list[str]:
        """Return why records may not be arriving; any thread may call it."""
        joining = None if self._joined else f"not in the group of {self._topic} yet"
        return [
            problem for problem in (joining, self._unreached, self._position.problem()) if problem
        ]

    def run(self) -> None:
        """Consume until `stop`, then leave the group.

        Raises:
            UnavailableError: Kafka or the ledger cannot be reached.
            ConfigurationError: the topic does not exist, or Kafka rejects our credentials.
            BrokenInvariantError: the ledger was filled from another topic or another Kafka.
        """
        consumer = open_client(Consumer, self._options)
        try:
            self.join(consumer)
            while not self._stop.is_set():
                self.step(consumer)
        except KafkaException as error:
            raise UnavailableError(f"Kafka at {self._servers}: {error.args[0].str()}") from error
        finally:
            # This leaves the group, so that another sink takes over at once.
            consumer.close()

    def join(self, consumer: Consumer) -> None:
        """Subscribe to the topic; a later `step` receives the partitions."""
        self._partitions = self._check_topic(consumer)
        self._origin.check_identity()
        # Before any record is stored: an outdated ledger that catches up looks like the newest.
        self._learn_committed_at_start(consumer)
        consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def step(self, consumer: Consumer) -> None:
        """Consume the records that arrive within the wait, and store them."""
        messages = consumer.consume(self._batch_records_max, timeout=WAIT_SECONDS_MAX)
        if self._failure:
            raise self._failure
        consumed = self._consumed(consumer, messages)
        if consumed:
            self._store(consumer, consumed)
        if self._monotonic() - self._lag_measured_at >= LAG_INTERVAL_SECONDS and self._joined:
            self._follow_ledger(consumer)
            self._measure_lag(consumer)
            self._lag_measured_at = self._monotonic()

    def _check_topic(self, consumer: Consumer) -> list[int]:
        """Check that the topic exists, and return its partitions."""
        try:
            metadata = list_topics(
                consumer,
                self._auth_failure,
                self._servers,
                self._topic,
                seconds=CONNECT_SECONDS_MAX,
            )
        except KafkaException as error:
            raise UnavailableError(
                f"cannot reach Kafka at {self._servers} (RESMETER_KAFKA__BOOTSTRAP_SERVERS): "
                f"{error.args[0].str()}"
            ) from error
        if metadata.topics[self._topic].error is not None:
            raise ConfigurationError([self._no_topic()])
        return sorted(metadata.topics[self._topic].partitions)

    def _learn_committed(self, consumer: Consumer, partitions: Iterable[int]) -> None:
        """Ask Kafka how far the group is, and hold the deliveries if the ledger is behind that."""
        asked = [TopicPartition(self._topic, number) for number in partitions]
        committed = consumer.committed(asked, timeout=CONNECT_SECONDS_MAX)
        self._position.learn(
            {p.partition: p.offset for p in committed if p.offset >= 0}, committed=True
        )
        self._position.is_held()

    def _learn_committed_at_start(self, consumer: Consumer) -> None:
        """Learn what is committed; a broker that has just started may not know the group yet."""
        until = time.monotonic() + COORDINATOR_SECONDS_MAX
        while True:
            try:
                return self._learn_committed(consumer, self._partitions)
            except KafkaException as error:
                if error.args[0].code() not in _NO_COORDINATOR or time.monotonic() > until:
                    raise
            self._stop.wait(WAIT_SECONDS_MAX)

    def _no_topic(self) -> str:
        return f"Kafka at {self._servers} has no topic {self._topic}: run `resmeter topics create`"

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # `step` raises the exception once the client has returned from the callback.
        try:
            offsets = records.offsets(self._ledger, self._topic)
            self._stored = {p.partition: offsets.get(p.partition) for p in partitions}
            self._read = {}
            consumer.assign([self._position_of(consumer, number) for number in self._stored])
        except Exception as error:
            self._failure = error
            return
        self._joined = True
        self._log.info("partitions_assigned", partitions=sorted(self._stored))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._log.info("partitions_revoked", partitions=sorted(p.partition for p in partitions))
        for partition in partitions:
            self._stored.pop(partition.partition, None)
            self._read.pop(partition.partition, None)
            drop_partition(self._metrics, partition.partition)

    def _position_of(self, consumer: Consumer, partition: int) -> TopicPartition:
        """Return where to continue: at the ledger's offset, or at Kafka's oldest if that is later."""
        position = TopicPartition(self._topic, partition)
        low, high = consumer.get_watermark_offsets(position, timeout=CONNECT_SECONDS_MAX)
        expected = self._stored[partition]
        self._origin.check_bounds(partition, expected, low, high)
        if expected is None:
            self._read[partition] = 0
            position.offset = OFFSET_BEGINNING
            return position
        self._read[partition] = max(expected, low)
        # From the last record that the ledger has: it must still be there.
        position.offset = max(expected - 1, low)
        self._lows[partition] = low
        return position

    def _consumed(self, consumer: Consumer, messages: list[Message]) -> list[ConsumedRecord]:
        consumed: list[ConsumedRecord] = []
        for message in messages:
            error = message.error()
            if error is not None:
                self._on_message_error(consumer, message, error)
                continue
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            # Skip a record fetched before a rebalance or a seek: the partition is no longer ours, or
            # the ledger has the record.
            if offset >= self._read.get(partition, offset + 1):
                self._read[partition] = offset + 1
                consumed.append(_record_of(message, partition, offset))
            elif offset + 1 == self._stored.get(partition):
                record = _record_of(message, partition, offset)
                self._origin.check_last(record, self._lows[partition])
        return consumed

    def _store(self, consumer: Consumer, consumed: list[ConsumedRecord]) -> None:
        while consumed:
            result = records.store(
                self._ledger,
                self._topic,
                consumed,
                self._stored,
                int(self._now() * 1000),
                self._prices(),
            )
            if isinstance(result, Stored):
                self._stored.update(result.offsets)
                self._position.learn(result.offsets)
                self._report(result)
                self._commit(consumer, result.offsets)
                return
            moved = self._rewind_to_ledger(consumer, result)
            consumed = [record for record in consumed if record.partition not in moved]

    def _rewind_to_ledger(self, consumer: Consumer, result: Moved) -> set[int]:
        """Seek in the partitions whose offset another sink has moved in the ledger; return these."""
        moved = {
            partition
            for partition, offset in result.offsets.items()
            if offset != self._stored[partition]
        }
        if not moved:
            raise BrokenInvariantError(
                f"the ledger did not move its offsets, although they are the expected ones: {result}"
            )
        # Check before reading on: once an outdated ledger has caught up, it looks like the newest.
        self._position.is_held()
        for partition in moved:
            self._stored[partition] = result.offsets[partition]
            self._log.warning(
                "offset_moved_elsewhere", partition=partition, offset=result.offsets[partition]
            )
            self._seek(consumer, partition)
        return moved

    def _follow_ledger(self, consumer: Consumer) -> None:
        """Notice that the database has lost commits, even if no record arrives any more."""
        offsets = records.offsets(self._ledger, self._topic)
        moved = {
            n: offsets.get(n) for n, stored in self._stored.items() if offsets.get(n) != stored
        }
        if moved:
            self._rewind_to_ledger(consumer, Moved(moved))

    def _seek(self, consumer: Consumer, partition: int) -> None:
        position = self._position_of(consumer, partition)
        try:
            consumer.seek(position)
        except KafkaException:
            # The partition was revoked in the meantime; its next assignment sets the position.
            self._read.pop(partition, None)

    def _report(self, stored: Stored) -> None:
        count_stored(self._metrics, stored)
        for record in stored.quarantined:
            self._log.error(
                f"usage_record_{record.reason}",
                topic=self._topic,
                partition=record.partition,
                offset=record.offset,
                detail=record.detail,
            )
        self._log.debug(
            "usage_records_stored", records=stored.records, duplicates=stored.duplicates
        )

    def _commit(self, consumer: Consumer, offsets: Mapping[int, int]) -> None:
        if not self._position.may_commit():
            return
        consumer.commit(
            offsets=[
                TopicPartition(self._topic, partition, offset)
                for partition, offset in offsets.items()
            ],
            asynchronous=True,
        )

    def _measure_lag(self, consumer: Consumer) -> None:
        """Measure the lag of each partition; this also shows whether Kafka can be reached."""
        self._origin.check_identity()
        try:
            # All partitions, not only ours: another sink may have stored them in another ledger.
            self._learn_committed(consumer, self._partitions)
            waiting = 0
            places = [TopicPartition(self._topic, partition) for partition in self._read]
            for place in consumer.position(places):
                partition = place.partition
                # The markers of transactions move the client's position, and nobody reads them.
                next_offset = max(self._read[partition], place.offset)
                _, high = consumer.get_watermark_offsets(place, timeout=LAG_TIMEOUT_SECONDS)
                lag = max(0, high - next_offset)
                self._metrics.lag_records.labels(partition).set(lag)
                waiting += lag
            self.waiting = waiting
        except KafkaException as error:
            if self._auth_failure.reason is None:
                self._unreached = f"Kafka at {self._servers}: {error.args[0].str()}"
            return
        self._unreached = self._auth_failure.reason = None

    def _on_message_error(self, consumer: Consumer, message: Message, error: KafkaError) -> None:
        if error.code() in _IS_CUT:
            partition = message.partition()
            if partition in self._stored:
                assert partition is not None
                self._seek(consumer, partition)
        elif error.code() in _TOPIC_IS_GONE:
            raise ConfigurationError([self._no_topic()])
        else:
            self._on_kafka_error(error)

    def _on_kafka_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = UnavailableError(f"Kafka at {self._servers}: {error.str()}")
        elif self._auth_failure.on_error(error):
            why = auth_failure_message(self._servers, str(self._auth_failure.reason))
            if why != self._unreached:
                self._log.error("kafka_refuses", detail=why)
            self._unreached = why
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and self._auth_failure.reason is None:
            self._unreached = f"Kafka at {self._servers}: {error.str()}"
            self._log.warning("kafka_unreachable", detail=error.str())
        else:
            # The client reconnects by itself.
            self._log.debug("kafka_error", detail=error.str())


def _record_of(message: Message, partition: int, offset: int) -> ConsumedRecord:
    origin = dict(headers_of(message)).get(ORIGIN_HEADER)
    return ConsumedRecord(partition, offset, message.value(), origin)
