"""Append to a topic with one partition, and read it from any offset. Calls block."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from pipeline.config import KafkaSettings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.kafka.connect import AuthFailure, list_topics, open_client, silent_options
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.positions import Positions, topic_id_of

RECORD_BYTES_MAX = 16_000_000
_CONNECT_SECONDS = 5.0
_APPEND_SECONDS = 30.0  # then the append counts as failed, although the broker may have it
_READ_SECONDS = 30.0  # without any record, although there are some
_POLL_SECONDS = 0.2
_BATCH_RECORDS = 500
_NO_LEADER = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}


class TopicUnavailableError(UnavailableError):
    """No broker responds, or none takes the records."""


class LogRecord(NamedTuple):
    """A record: its offset, the time of its append in ms, and its value."""

    offset: int
    at: int
    value: bytes | None


class SingleTopic:
    """A topic with one partition. One thread at a time may use it; `close` it at the end.

    Raises:
        ConfigurationError: from each method, if the topic does not exist or the brokers reject us.
        TopicUnavailableError: from each method, if no broker responds.
    """

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._servers = kafka.bootstrap_servers
        self._failure = AuthFailure()
        common: dict[str, Any] = {
            **librdkafka_options(kafka),
            "error_cb": self._failure.on_error,
            **silent_options(),
        }
        self._consumer = open_client(
            Consumer,
            {
                **common,
                "group.id": "resmeter-reads",  # never joined, and nothing is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "isolation.level": "read_uncommitted",
                "check.crcs": True,
                "fetch.wait.max.ms": 50,
                "fetch.message.max.bytes": RECORD_BYTES_MAX,
            },
        )
        self._producer = Producer(
            {
                **common,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "zstd",
                "message.max.bytes": RECORD_BYTES_MAX,
                "delivery.timeout.ms": int(_APPEND_SECONDS * 1000),
                "linger.ms": 0,
            }
        )

    def topic_id(self) -> str:
        """Return the topic's id; "" if the brokers do not give one."""
        return topic_id_of(Positions(self._kafka), self._topic)

    def bounds(self) -> tuple[int, int]:
        """Return the first offset and the end."""
        try:
            metadata = list_topics(
                self._consumer, self._failure, self._servers, self._topic, seconds=_CONNECT_SECONDS
            ).topics[self._topic]
            if metadata.error is not None:
                raise ConfigurationError(
                    [
                        f"Kafka at {self._servers} has no topic {self._topic}: run `resmeter topics create`"
                    ]
                )
            if len(metadata.partitions) != 1:
                raise ConfigurationError(
                    [
                        (
                            f"topic {self._topic} has {len(metadata.partitions)} partitions, and its order "
                            "needs one: delete it if it is empty, and run `resmeter topics create`"
                        )
                    ]
                )
            return self._watermarks()
        except KafkaException as error:
            raise self._unavailable(error.args[0]) from error

    def _watermarks(self) -> tuple[int, int]:
        """Ask for the bounds again while the partition has no leader, as just after its creation."""
        until = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                return self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, 0), timeout=_CONNECT_SECONDS
                )
            except KafkaException as error:
                if not error.args[0].retriable() and error.args[0].code() not in _NO_LEADER:
                    raise
                if time.monotonic() > until:
                    raise
            self._consumer.poll(_POLL_SECONDS)

    def append(self, values: Sequence[bytes]) -> None:
        """Append records in this order, and wait until all replicas have them.

        If it fails, the broker may have stored any of them, or may do so later.
        """
        failures: list[KafkaError] = []

        def on_delivery(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failures.append(error)

        try:
            for value in values:
                self._producer.produce(self._topic, value, partition=0, on_delivery=on_delivery)
                self._producer.poll(0)
            left = self._producer.flush(_APPEND_SECONDS + 5)
        except (KafkaException, BufferError) as error:
            self._producer.purge()
            raise TopicUnavailableError(f"cannot write to {self._topic}: {error}") from error
        if failures or left:
            self._producer.purge()
            why = failures[0].str() if failures else "no broker answered"
            raise TopicUnavailableError(f"cannot write to {self._topic} at {self._servers}: {why}")

    def read(self, start: int, end: int) -> Iterator[list[LogRecord]]:
        """Yield the records from one offset up to another, in batches."""
        self._consumer.assign([TopicPartition(self._topic, 0, start)])
        heard = time.monotonic()
        position = start
        while position < end:
            batch: list[LogRecord] = []
            for message in self._consumer.consume(_BATCH_RECORDS, timeout=_POLL_SECONDS):
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._AUTO_OFFSET_RESET:
                        raise TopicUnavailableError(
                            f"{self._topic} has no record {position} any more: {error.str()}"
                        )
                    if error.code() == KafkaError._PARTITION_EOF:
                        # The last offsets may have no record, such as the marker of a transaction.
                        position = max(position, message.offset() or 0)
                    continue
                offset = message.offset()
                assert offset is not None
                if not position <= offset < end:
                    continue
                kind, at = message.timestamp()
                position = offset + 1
                batch.append(
                    LogRecord(offset, 0 if kind == TIMESTAMP_NOT_AVAILABLE else at, message.value())
                )
            if batch:
                heard = time.monotonic()
                yield batch
            elif position < end and time.monotonic() - heard > _READ_SECONDS:
                raise TopicUnavailableError(
                    f"Kafka at {self._servers} has stopped sending records of {self._topic}"
                )

    def close(self) -> None:
        self._consumer.close()

    def _unavailable(self, error: KafkaError) -> TopicUnavailableError:
        return TopicUnavailableError(
            f"cannot reach Kafka at {self._servers} (RESMETER_KAFKA__BOOTSTRAP_SERVERS): {error.str()}"
        )
