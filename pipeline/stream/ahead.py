"""Note which partitions wait for the time of a record that is ahead of the broker's clock.

A worker decides nothing that is dated after the time up to which it knows the catalog, a few minutes
from now. A producer that sets the timestamps of its records (CreateTime) may set one that is years
away, if the topic lets it. Then the partition stands still.
"""

from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import Gauge

from pipeline.catalog.value import when
from pipeline.logs import get_logger
from pipeline.stream.fetched import RecordBatch

_TOLD_MS_MIN = 60_000  # a shorter wait is not worth a line


class _Wait(NamedTuple):
    offset: int  # of the first record of the batch
    text: str  # "" if the wait is short


class AheadOfTime:
    """The partitions of a worker that wait.

    Args:
        topic: the events topic.
        gauge: for how many seconds each partition will still wait.
    """

    def __init__(self, topic: str, gauge: Gauge) -> None:
        self._topic = topic
        self._gauge = gauge
        self._waits: dict[int, _Wait] = {}
        self._log = get_logger("worker")

    def has(self, number: int) -> bool:
        """Return whether a partition waits for long."""
        wait = self._waits.get(number)
        return wait is not None and wait.text != ""

    def wait(self, number: int, batch: RecordBatch, wait_ms: int) -> None:
        """Note that a partition waits for a batch; log it once if the wait is long."""
        self._gauge.labels(number).set(wait_ms / 1000)
        known = self._waits.setdefault(number, _Wait(batch.offset, ""))
        if wait_ms < _TOLD_MS_MIN or (known.text and known.offset == batch.offset):
            return
        date = when(batch.timestamp)
        text = (
            f"{self._topic}[{number}] stands still at offset {batch.offset}: the records from there to "
            f"{batch.next_offset - 1} have a timestamp ({date}) that is ahead of the broker's clock, and "
            "are decided then. Stop the producer that sets it, and set the topic's "
            "message.timestamp.after.max.ms to 60000, so that Kafka rejects such records"
        )
        self._waits[number] = _Wait(batch.offset, text)
        self._log.error(
            "record_ahead_of_time",
            partition=number,
            first_offset=batch.offset,
            last_offset=batch.next_offset - 1,
            timestamp=date,
            wait_seconds=wait_ms // 1000,
            detail=text,
            consequence="nothing behind these records is read, and no timer of the partition fires, "
            "until that time; the other partitions continue",
        )

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget partitions that wait no longer, or that another worker owns now."""
        for number in numbers:
            if self._waits.pop(number, None) is not None:
                self._gauge.labels(number).set(0)

    def texts(self) -> list[str]:
        return [wait.text for wait in self._waits.values() if wait.text]
