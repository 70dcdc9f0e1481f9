"""Write records to a topic for a command, and wait for every acknowledgement."""

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Producer

from pipeline.errors import UnavailableError
from pipeline.events.model import Headers
from pipeline.kafka.partitioners import Partitioner

# librdkafka's names. A record without a key goes to a random partition.
_PARTITIONERS: dict[Partitioner, str] = {
    "murmur2": "murmur2_random",
    "crc32": "consistent_random",
}
_FLUSH_SECONDS = 120.0
_FULL_SECONDS = 0.5
_VALUE_BYTES_MAX = 1_000_000
_AGAIN = "run the command again: records that were written count once"
# What to do where the same record would fail again.
_TODO = {
    KafkaError.INVALID_TIMESTAMP: "the topic rejects the records' timestamps: use --timestamps now, "
    "or change the topic's message.timestamp.before.max.ms or message.timestamp.after.max.ms",
    KafkaError.MSG_SIZE_TOO_LARGE: "the topic takes no records as large: raise its max.message.bytes",
}


class TopicWriter:
    """A producer for one topic, as a context whose end waits for all acknowledgements.

    Raises:
        UnavailableError: at the end of the context, if a record was not acknowledged.
    """

    def __init__(
        self,
        options: Mapping[str, str | int | float | bool],
        topic: str,
        partitioner: Partitioner = "murmur2",
    ) -> None:
        self.acknowledged = 0
        self._topic = topic
        self._failures: list[KafkaError] = []
        self._producer = Producer(
            {
                "logger": logging.getLogger("librdkafka"),
                **options,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                # The same partitioner as every other writer: a key must stay in one partition.
                "partitioner": _PARTITIONERS[partitioner],
                "message.max.bytes": _VALUE_BYTES_MAX,
            }
        )

    def write(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp: int | None = None,
        partition: int | None = None,
    ) -> bool:
        """Queue a record; return False once any record has failed: stop writing then.

        `timestamp` is in ms; if it is None or before 1970, the record gets the current time. Without
        `partition`, the key chooses the partition.
        """
        arguments: dict[str, Any] = {"headers": list(headers), "on_delivery": self._delivered}
        if timestamp is not None and timestamp >= 0:
            arguments["timestamp"] = timestamp
        if partition is not None:
            arguments["partition"] = partition
        while not self._failures:
            try:
                self._producer.produce(self._topic, value, key, **arguments)
                break
            except BufferError:  # the queue is full until some records are acknowledged
                self._producer.poll(_FULL_SECONDS)
            except KafkaException as error:
                self._failures.append(error.args[0])
        self.poll(0)
        return not self._failures

    def poll(self, seconds: float) -> None:
        """Handle acknowledgements for this long."""
        self._producer.poll(seconds)

    def flush(self) -> int:
        """Wait for all acknowledgements; return how many are missing after two minutes."""
        return self._producer.flush(_FLUSH_SECONDS)

    def _delivered(self, error: Any, _: Any) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self._failures.append(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left = self.flush()
        if error is None and (left or self._failures):
            first, todo = f"no answer in {_FLUSH_SECONDS:.0f} s", _AGAIN
            if self._failures:
                first = self._failures[0].str()
                todo = _TODO.get(self._failures[0].code(), _AGAIN)
            raise UnavailableError(
                f"{left + len(self._failures)} records for {self._topic} were not acknowledged "
                f"({first}); {todo}"
            )
