"""See how far the brokers' clocks are apart. Pure.

Each broker stamps the records of the partitions that it leads by its own clock. Timers read the clock
of the brokers that lead the changelog; the follow-up of a customer gets the time of the broker that
leads the events. If that one is behind, silence would be settled although a later record counts as
earlier. So timers go by the slowest clock that is known, in two ways:

1. They read a clock in every partition of the changelog that this worker owns.
2. A record beyond an end of the log that was asked for after the clock was read should have a later
   timestamp. If it has an earlier one, its leader's clock is behind by at least the difference, or
   its replicas were slow. That is remembered until a later record shows that it is over.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pipeline.stream.basis import Promise
from pipeline.stream.fetched import NO_TIMESTAMP

_ENDS_MAX = 100  # while a partition is behind, each probe adds an end


class _End(NamedTuple):
    offset: int
    clock_ms: int  # by the slowest clock that was read, before the end was asked for


class Clocks:
    """The clocks of one worker's partitions, in milliseconds."""

    def __init__(self) -> None:
        self._ends: dict[int, deque[_End]] = {}  # by partition, oldest first
        self._behind_ms: dict[int, int] = {}  # partition → how far records were behind all clocks
        self._read_ms = 0  # the slowest clock that was read last

    def slowest(self, readings: Iterable[int], newest_ms: Mapping[int, int]) -> int:
        """Return what the slowest known clock says.

        Args:
            readings: the clocks in the partitions of the changelog; at least one.
            newest_ms: the timestamps of each partition's newest record, from before the readings.
        """
        self._read_ms = min(readings)
        for number, behind_ms in self._behind_ms.items():
            latest_ms = newest_ms.get(number)
            if latest_ms is not None:
                # The record was there before the clock was read, so its clock is not further behind.
                self._behind_ms[number] = max(0, min(behind_ms, self._read_ms - latest_ms))
        return self._read_ms - max(self._behind_ms.values(), default=0)

    def start(self, number: int, promise: Promise) -> None:
        """Begin with what the last owner has settled, if nothing else is known of a partition."""
        if number not in self._ends:
            self._note(number, _End(promise.offset, promise.until_ms))

    def reached(self, number: int, end_offset: int) -> None:
        """Note where a partition ended after the clocks were read."""
        self._note(number, _End(end_offset, self._read_ms))

    def read(self, number: int, offset: int, timestamp: int) -> int:
        """Compare a record with the clocks; return how far it is behind them if that was not known."""
        ends = self._ends.get(number)
        if timestamp == NO_TIMESTAMP or not ends or ends[0].offset > offset:
            return 0
        while len(ends) > 1 and ends[1].offset <= offset:
            ends.popleft()
        behind_ms = ends[0].clock_ms - timestamp
        if behind_ms <= self._behind_ms.get(number, 0):
            return 0
        self._behind_ms[number] = behind_ms
        return behind_ms

    def forget(self, number: int) -> None:
        """Forget a partition that another worker owns now."""
        self._ends.pop(number, None)
        self._behind_ms.pop(number, None)

    def _note(self, number: int, end: _End) -> None:
        ends = self._ends.setdefault(number, deque(maxlen=_ENDS_MAX))
        while ends and ends[-1].offset >= end.offset:
            ends.pop()
        ends.append(end)
