"""Write records from a command, and wait until every one of them is acknowledged."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException, Producer

from pipeline.errors import UnavailableError
from pipeline.events.model import Headers

_FLUSH_SECONDS = 60.0
_FULL_QUEUE_SECONDS = 0.5
_VALUE_BYTES_MAX = 1_000_000


class TopicWriter:
    """A producer for one topic, as a context that ends once every record is acknowledged.

    Raises:
        UnavailableError: at the end of the context, if a record was not acknowledged.
    """

    def __init__(self, options: Mapping[str, str | int | float | bool], topic: str) -> None:
        self._topic = topic
        self._failures: list[str] = []
        self._producer = Producer(
            {
                **options,
                "acks": "all",
                "enable.idempotence": True,
                # That of every writer of these topics: records of one key stay in one partition.
                "partitioner": "murmur2_random",
                "message.max.bytes": _VALUE_BYTES_MAX,
            }
        )

    def write(self, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        """Queue a record; return False once any record has failed, so that the caller can stop."""
        while not self._failures:
            try:
                self._producer.produce(
                    self._topic, value, key, headers=[*headers], on_delivery=self._on_delivery
                )
                break
            except BufferError:  # the queue is full: wait for acknowledgements
                self._producer.poll(_FULL_QUEUE_SECONDS)
            except KafkaException as error:
                self._failures.append(error.args[0].str())
        self.poll(0)
        return not self._failures

    def poll(self, seconds: float) -> None:
        """Process acknowledgements for this long."""
        self._producer.poll(seconds)

    def _on_delivery(self, error: Any, _: Any) -> None:
        if error is not None:
            self._failures.append(error.str())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        left = self._producer.flush(_FLUSH_SECONDS)
        if error is None and (left or self._failures):
            first = self._failures[0] if self._failures else f"no answer in {_FLUSH_SECONDS:.0f} s"
            raise UnavailableError(
                f"{left + len(self._failures)} records for {self._topic} were not acknowledged "
                f"({first}); run it again: a record that is written twice counts once"
            )
