"""This file writes records from a command: each acknowledgement is awaited, none is taken for granted."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaException, Producer

from pipeline.errors import UnavailableError

_FLUSH_SECONDS = 60.0
_ROOM_SECONDS = 0.5
_VALUE_BYTES_MAX = 1_000_000

Headers = Sequence[tuple[str, str | bytes | None]]


class Writer:
    """A producer for one topic, as a context: it ends once everything is acknowledged.

    Raises:
        UnavailableError: something was not acknowledged, at the end of the context.
    """

    def __init__(self, options: Mapping[str, str | int | float | bool], topic: str) -> None:
        self._topic = topic
        self._failures: list[str] = []
        self._producer = Producer(
            {
                **options,
                "acks": "all",
                "enable.idempotence": True,
                # As all others that write here: what has one key stays in one partition.
                "partitioner": "murmur2_random",
                "message.max.bytes": _VALUE_BYTES_MAX,
            }
        )

    def write(self, key: bytes | None, value: bytes | None, headers: Headers) -> bool:
        """Hand over a record; return False where one has failed, so that it is of no use to go on."""
        while not self._failures:
            try:
                self._producer.produce(
                    self._topic, value, key, headers=list(headers), on_delivery=self._delivered
                )
                break
            except BufferError:  # full: some must be acknowledged first
                self._producer.poll(_ROOM_SECONDS)
            except KafkaException as error:
                self._failures.append(error.args[0].str())
        self.wait(0)
        return not self._failures

    def wait(self, seconds: float) -> None:
        """Take in acknowledgements for so long."""
        self._producer.poll(seconds)

    def _delivered(self, error: Any, _: Any) -> None:
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
                f"({first}); run it again: what is there already counts once"
            )
