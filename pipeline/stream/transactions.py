"""Find transactions that stay open, and hold up their partition. Pure.

A consumer that reads only committed records stops at the first record of an open transaction. So
does everything behind it, and no timer runs: a follow-up may be among what cannot be read yet.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.kafka.bounds import Bounds

LONG_SECONDS = 60.0  # a producer's default transaction timeout
_REPEAT_FACTOR = 4


class Held(NamedTuple):
    """A partition that is held up, and since when its readable end stands still."""

    stable: int
    since: float
    next_report: float  # age in seconds


class Report(NamedTuple):
    """A transaction that has been open for long."""

    partition: int
    offset: int  # its first record
    records: int  # offsets that wait, at least one of them a record
    seconds: float


class OpenTransactions:
    """The partitions whose readable end is before their last record."""

    def __init__(self) -> None:
        self._held: dict[int, Held] = {}

    def update(self, bounds: Mapping[int, Bounds], now: float) -> list[Report]:
        """Take the bounds that partitions have now; return what to report, at growing intervals.

        Args:
            bounds: of all partitions that we own. One that is missing is no longer held up.
            now: monotonic seconds.
        """
        held: dict[int, Held] = {}
        reports: list[Report] = []
        for number, (_, stable, high) in bounds.items():
            if stable >= high:
                continue
            before = self._held.get(number)
            if before is None or before.stable != stable:
                before = Held(stable, now, LONG_SECONDS)
            seconds = now - before.since
            if seconds >= before.next_report:
                reports.append(Report(number, stable, high - stable, seconds))
                before = before._replace(next_report=before.next_report * _REPEAT_FACTOR)
            held[number] = before
        self._held = held
        return reports

    def seconds(self, number: int, now: float) -> float:
        """Return for how long a partition has been held up; 0 if it is not."""
        held = self._held.get(number)
        return 0.0 if held is None else now - held.since
