"""Step through the billing periods of a subscription as Stripe does. Pure.

https://docs.stripe.com/billing/subscriptions/billing-cycle: a monthly subscription that is anchored on
31 January bills on 28 February, then on 31 March, 30 April, and so on.
"""

import calendar
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_MONTHS = {"month": 1, "year": 12}
_DAYS = {"day": 1, "week": 7}


class Cycle(NamedTuple):
    """The boundaries of a subscription's periods: an anchor in seconds, and the steps from there.

    `day` is the day of the month of an anchor that a short month has moved, or None.
    """

    anchor: int
    interval: str
    every: int
    day: int | None = None

    def boundary(self, number: int) -> int:
        """Return the boundary that is a number of steps after the anchor, or before it."""
        anchor = datetime.fromtimestamp(self.anchor, UTC)
        if self.interval in _DAYS:
            days = _DAYS[self.interval] * self.every * number
            return int((anchor + timedelta(days=days)).timestamp())
        months = anchor.year * 12 + anchor.month - 1 + _MONTHS[self.interval] * self.every * number
        year, month = divmod(months, 12)
        day = min(self.day or anchor.day, calendar.monthrange(year, month + 1)[1])
        return int(anchor.replace(year=year, month=month + 1, day=day).timestamp())

    def after(self, at: float) -> int:
        """Return the first boundary after a time."""
        days = _DAYS.get(self.interval, 0) or 30.436875 * _MONTHS[self.interval]
        number = int((at - self.anchor) // (days * self.every * 86_400)) - 2
        while self.boundary(number) <= at:
            number += 1
        return self.boundary(number)


def next_day_of_month(after: float, day: int, hour: int, minute: int, second: int) -> int:
    """Return the next time on a day of the month; a short month has it on its last day."""
    at = datetime.fromtimestamp(int(after), UTC)
    months = at.year * 12 + at.month - 1
    for number in range(3):
        year, month = divmod(months + number, 12)
        last = calendar.monthrange(year, month + 1)[1]
        found = datetime(year, month + 1, min(day, last), hour, minute, second, tzinfo=UTC)
        if found.timestamp() > after:
            break
    return int(found.timestamp())
