"""Step through an account's monthly periods. Pure.

docs/reference/money.md §1.2. Periods step as Stripe steps a `billing_cycle_anchor`: an anchor day
that a month lacks becomes the month's last day, and later months return to the anchor's day.
"""

import re
from bisect import bisect_right
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pipeline.events.times import parse_time

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
DEFAULT_ANCHOR_MS = parse_time("2026-01-01T00:00:00Z")
ALWAYS_MS = -(2**62)  # before all times
NEVER_MS = 2**62
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MONTH = re.compile(r"\d{4}-\d\d", re.ASCII)


class Period(NamedTuple):
    """The times `start_ms <= time < end_ms`; `whole_ms` is the length that the anchor gives it."""

    start_ms: int
    end_ms: int
    whole_ms: int

    @property
    def name(self) -> str:
        """The date on which it begins."""
        return _date_of(self.start_ms)


class Calendar:
    """The periods of an account. The anchor may change: see docs/reference/money.md §1.3."""

    def __init__(
        self,
        anchors: Sequence[tuple[int, int]] = ((ALWAYS_MS, DEFAULT_ANCHOR_MS),),
        cuts: Collection[int] = (),
    ) -> None:
        """Start with anchors and cuts.

        Args:
            anchors: (from when an anchor holds, the anchor), by time; the first holds from ever.
            cuts: times at which a period ends and the next begins, whatever the anchor.
        """
        self._cuts = sorted(cuts)
        self._anchors = [anchors[0][1]]
        self._from_ms = [ALWAYS_MS]  # where each anchor's first period begins
        for from_ms, anchor_ms in anchors[1:]:
            if anchor_ms == self._anchors[-1]:
                continue
            first = _boundary_before(anchor_ms, from_ms - 1)
            begins_ms = _boundary(anchor_ms, _month_of(first) + 1)
            while self._from_ms[-1] >= begins_ms:
                self._anchors.pop()
                self._from_ms.pop()
            self._anchors.append(anchor_ms)
            self._from_ms.append(begins_ms)

    def period_at(self, ms: int) -> Period:
        """Return the period that contains a time."""
        number = bisect_right(self._from_ms, ms) - 1
        anchor_ms = self._anchors[number]
        start_ms = _boundary_before(anchor_ms, ms)
        end_ms = _boundary(anchor_ms, _month_of(start_ms) + 1)
        last_ms = self._from_ms[number + 1] if number + 1 < len(self._from_ms) else NEVER_MS
        next_cut = bisect_right(self._cuts, ms)
        cut_start_ms = self._cuts[next_cut - 1] if next_cut else ALWAYS_MS
        cut_end_ms = self._cuts[next_cut] if next_cut < len(self._cuts) else NEVER_MS
        return Period(
            max(start_ms, cut_start_ms), min(end_ms, last_ms, cut_end_ms), end_ms - start_ms
        )

    def after(self, period: Period) -> Period:
        return self.period_at(period.end_ms)

    def named(self, name: str) -> Period:
        """Return the period of a name: a date, a month in which one period begins, or its start.

        Raises:
            ValueError: no period begins then, or several do; the message names those around.
        """
        if _MONTH.fullmatch(name):
            first_ms = parse_time(f"{name}-01T00:00:00Z")
            last_ms = _start_of_month(_month_of(first_ms) + 1)
        elif _DATE.fullmatch(name):
            first_ms = parse_time(f"{name}T00:00:00Z")
            last_ms = first_ms + DAY_MS
        else:
            try:
                first_ms = parse_time(name)
            except ValueError:
                raise ValueError(
                    "write a date such as 2026-11-01, or a month such as 2026-11"
                ) from None
            last_ms = first_ms + 1
        around = [self.period_at(first_ms)]
        while around[-1].end_ms < last_ms:
            around.append(self.after(around[-1]))
        begun = [period for period in around if first_ms <= period.start_ms]
        if len(begun) == 1:
            return begun[0]
        if not begun:
            near = f"{around[0].name} and {self.after(around[0]).name}"
            raise ValueError(f"no period begins then; the nearest begin on {near}")
        starts = ", ".join(_time_of(period.start_ms) for period in begun)
        raise ValueError(f"several periods begin then; write the start of one: {starts}")


def _boundary_before(anchor_ms: int, ms: int) -> int:
    """Return the last boundary at or before a time."""
    month = _month_of(ms)
    boundary = _boundary(anchor_ms, month)
    return boundary if boundary <= ms else _boundary(anchor_ms, month - 1)


def _boundary(anchor_ms: int, month: int) -> int:
    """Return the boundary in a month, which is counted from the year 0."""
    first_ms = _start_of_month(month)
    days = (_start_of_month(month + 1) - first_ms) // DAY_MS
    _, _, day = _civil(anchor_ms // DAY_MS)
    return first_ms + (min(day, days) - 1) * DAY_MS + anchor_ms % DAY_MS


def _month_of(ms: int) -> int:
    year, month, _ = _civil(ms // DAY_MS)
    return year * 12 + month - 1


def _start_of_month(month: int) -> int:
    """Return the first instant of a month, in every year: `datetime` ends with 9999."""
    year, number = divmod(month, 12)
    # The year begins in March, so that the day that leap years add is its last.
    year, number = (year - 1, number + 10) if number < 2 else (year, number - 2)
    days = year * 365 + year // 4 - year // 100 + year // 400 + (153 * number + 2) // 5
    return (days - _DAYS_TO_EPOCH) * DAY_MS


_DAYS_TO_EPOCH = 719_468  # from 1 March of the year 0
_DAYS_PER_400_YEARS = 146_097


def _civil(day: int) -> tuple[int, int, int]:
    """Return year, month and day of a number of days since the epoch."""
    era, of_era = divmod(day + _DAYS_TO_EPOCH, _DAYS_PER_400_YEARS)
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    number = (5 * of_year + 2) // 153
    month = number + 3 if number < 10 else number - 9
    return era * 400 + year + (month <= 2), month, of_year - (153 * number + 2) // 5 + 1


def _date_of(ms: int) -> str:
    year, month, day = _civil(ms // DAY_MS)
    return f"{year:04d}-{month:02d}-{day:02d}"


def _time_of(ms: int) -> str:
    hour, rest = divmod(ms % DAY_MS, HOUR_MS)
    return f"{_date_of(ms)}T{hour:02d}:{rest // 60_000:02d}:00Z"
