"""Read a topic up to its current end without a consumer group; read a group's offsets."""

import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline.config import KafkaSettings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.events.model import UNREADABLE_HEADER, Headers
from pipeline.kafka.connect import AuthFailure, list_topics, open_client, silent_options
from pipeline.kafka.options import librdkafka_options

_TIMEOUT_SECONDS = 10.0
_BATCH_RECORDS = 1_000
_WAIT_SECONDS = 1.0
_EMPTY_WAITS_MAX = 30  # after so many, the broker counts as unreachable
_RETRY_SECONDS = 0.05
_NO_COORDINATOR = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD,
}


_DAMAGED = {KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION}
_call_headers = operator.methodcaller("headers")


def headers_of(message: Message) -> Headers:
    """Return a record's headers; `UNREADABLE_HEADER` alone if the client cannot read their names.

    Never call `Message.headers` directly. If a name is not UTF-8, confluent-kafka returns a broken
    list together with an exception. Python's interpreter does not look for the exception once a
    call has run often, and the process dies of the list (SIGSEGV). `methodcaller` always looks.
    """
    try:
        headers: list[tuple[str, bytes | None]] | None = _call_headers(message)
    except (SystemError, UnicodeDecodeError):
        return [UNREADABLE_HEADER]
    return headers or []


class TopicReader:
    """Read a topic within the bounds that it has when the reader is made. Close it after use.

    `bounds` is partition → (first offset, end offset); the end is exclusive.

    Raises:
        ConfigurationError: the topic does not exist, or the broker rejects us.
        UnavailableError: no broker responds.
    """

    def __init__(self, options: Mapping[str, str | int | float | bool], topic: str) -> None:
        self.topic = topic
        # Where to continue after damage at (partition, offset); None: not at all.
        self.on_damage: Callable[[int, int], int | None] = lambda *_: None
        self.damages: dict[tuple[int, int], str] = {}  # what `records` has passed over
        self._servers = str(options["bootstrap.servers"])
        failure = AuthFailure()
        self._consumer = open_client(
            Consumer,
            {
                **options,
                "group.id": "resmeter-reads",  # never joined, and nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": False,
                "auto.offset.reset": "earliest",
                "check.crcs": True,
                "error_cb": failure.on_error,
                **silent_options(),
            },
        )
        try:
            self.bounds = self._read_bounds(failure)
        except KafkaException as error:
            self.close()
            raise _unavailable(self._servers, error) from error
        except ConfigurationError:
            self.close()
            raise

    def _read_bounds(self, failure: AuthFailure) -> dict[int, tuple[int, int]]:
        metadata = list_topics(
            self._consumer, failure, self._servers, self.topic, seconds=_TIMEOUT_SECONDS
        ).topics[self.topic]
        if metadata.error is not None:
            raise ConfigurationError(
                [
                    f"Kafka at {self._servers} has no topic {self.topic}: run `resmeter topics create`"
                ]
            )
        return {
            partition: self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=_TIMEOUT_SECONDS
            )
            for partition in metadata.partitions
        }

    @property
    def size(self) -> int:
        """The number of offsets within the bounds; records may be fewer."""
        return sum(end - first for first, end in self.bounds.values())

    def offsets_at(self, times: Mapping[int, int]) -> dict[int, int]:
        """Return the first offset whose record is not older than a time, for some partitions.

        Args:
            times: partition → time, ms.

        Raises:
            UnavailableError: no broker responds.
        """
        if not times:
            return {}
        asked = [TopicPartition(self.topic, n, max(0, ms)) for n, ms in times.items()]
        try:
            found = self._consumer.offsets_for_times(asked, timeout=_TIMEOUT_SECONDS)
        except KafkaException as error:
            raise _unavailable(self._servers, error) from error
        # -1: every record is older.
        return {
            each.partition: self.bounds[each.partition][1] if each.offset < 0 else each.offset
            for each in found
        }

    def records(self, offsets: Mapping[int, int] | None = None) -> Iterator[Message]:
        """Yield the records up to the end bounds, in order within each partition.

        Args:
            offsets: partition → offset to begin at; None: all partitions from their first offset.

        Raises:
            UnavailableError: the broker has stopped sending records.
        """
        begin = {n: first for n, (first, _) in self.bounds.items()} if offsets is None else offsets
        ends = {n: self.bounds[n][1] for n, at in begin.items() if at < self.bounds[n][1]}
        self._consumer.assign([TopicPartition(self.topic, n, begin[n]) for n in ends])
        empty_waits = 0
        while ends:
            try:
                messages = self._consumer.consume(_BATCH_RECORDS, timeout=_WAIT_SECONDS)
            except KafkaException as error:
                raise _unavailable(self._servers, error) from error
            empty_waits = 0 if messages else empty_waits + 1
            if empty_waits >= _EMPTY_WAITS_MAX:
                raise UnavailableError(
                    f"Kafka at {self._servers} has stopped sending records of {self.topic}"
                )
            for message in messages:
                partition, offset = message.partition(), message.offset()
                failure = message.error()
                if failure is not None:
                    if failure.code() in _DAMAGED and partition in ends and offset is not None:
                        self._pass_damage(partition, offset, failure.str())
                    continue
                if partition is None or offset is None:
                    continue
                if partition in ends and offset < ends[partition]:
                    yield message
            self._drop_finished(ends)

    def has_from(self, partition: int, offset: int) -> bool:
        """Return whether a partition has a record from an offset on, and not markers of transactions alone.

        Raises:
            UnavailableError: the broker has stopped sending records.
        """
        return any(True for _ in self.records({partition: offset}))

    def _pass_damage(self, partition: int, offset: int, what: str) -> None:
        """Go on behind a damaged batch, where an operator has decided to step over it.

        Never let the client continue by itself: it takes whatever bytes follow for a batch.
        """
        if (partition, offset) in self.damages:
            return  # the client has reported it a second time before it moved
        end = self.on_damage(partition, offset)
        if end is None:
            raise UnavailableError(
                f"{self.topic}[{partition}] is damaged at offset {offset}: {what}; restore "
                "the partition from a replica, or see `resmeter topics step-over --help`"
            )
        self.damages[partition, offset] = (
            f"{self.topic}[{partition}] offsets {offset} to {end - 1}: {what}"
        )
        self._consumer.seek(TopicPartition(self.topic, partition, end))

    def _drop_finished(self, ends: dict[int, int]) -> None:
        # Use the position, not the last record: a partition may end with the markers of
        # transactions.
        partitions = [TopicPartition(self.topic, partition) for partition in ends]
        for position in self._consumer.position(partitions):
            if position.offset >= ends[position.partition]:
                del ends[position.partition]

    def close(self) -> None:
        self._consumer.close()


def committed_offsets(
    kafka: KafkaSettings, group: str, topic: str, partitions: Iterable[int]
) -> dict[int, int]:
    """Return the offset that a group has committed in each partition; 0 if there is none.

    Raises:
        UnavailableError: no broker responds.
    """
    consumer = open_client(
        Consumer, {**librdkafka_options(kafka), "group.id": group, "log_level": 0}
    )
    asked = [TopicPartition(topic, partition) for partition in partitions]
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    try:
        while True:
            try:
                committed = consumer.committed(asked, timeout=_TIMEOUT_SECONDS)
            except KafkaException as error:
                # Just after a broker starts, the group has no coordinator for a moment.
                if error.args[0].code() not in _NO_COORDINATOR or time.monotonic() > deadline:
                    raise _unavailable(kafka.bootstrap_servers, error) from error
                time.sleep(_RETRY_SECONDS)
            else:
                return {each.partition: max(0, each.offset) for each in committed}
    finally:
        consumer.close()


def _unavailable(servers: str, error: KafkaException) -> UnavailableError:
    return UnavailableError(
        f"Kafka at {servers}: {error.args[0].str()}; check RESMETER_KAFKA__BOOTSTRAP_SERVERS"
    )
