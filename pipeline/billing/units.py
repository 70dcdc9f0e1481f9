"""Join usage records into units: a +1 with the -1 that takes it back. Pure.

docs/reference/money.md §1.4. A unit belongs for ever to the period of its +1.
"""

from bisect import insort
from decimal import Decimal

import msgspec

from pipeline.billing.periods import Calendar, Period


class Entered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A usage record as a bill sees it, with when it was stored."""

    id: str
    tenant_id: str
    outcome: str
    quantity: int
    occurred_at: int
    stored_at: int
    supersedes: str | None = None
    price: Decimal | None = None  # of the policy that decided it; None: there is no price
    policy: str | None = None
    policy_version: int | None = None


class Unit(msgspec.Struct, gc=False):
    """A known +1, and whether a known -1 takes it back."""

    record: Entered
    period: Period
    taken_back: bool = False

    @property
    def order(self) -> tuple[int, str, str]:
        """The key that sorts units as they are reckoned."""
        return self.record.occurred_at, self.record.tenant_id, self.record.id


class Units:
    """The known units of an account, by period, and the -1 whose +1 is not known yet."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        self._by_id: dict[str, Unit] = {}
        self._unmatched: dict[str, Entered] = {}  # by the id of the +1
        self._without_charge: list[str] = []  # ids of -1 that name no +1 at all
        self.periods: list[Period] = []  # that have a unit, in order
        self.by_period: dict[int, list[Unit]] = {}  # by the period's start

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The ids of the -1 whose +1 is not known, in order."""
        waiting = (reversal.id for reversal in self._unmatched.values())
        return tuple(sorted([*waiting, *self._without_charge]))

    def know(self, record: Entered) -> list[tuple[Period, Entered]]:
        """Add a record; return each record that has a period now and had none, with the period.

        A -1 whose +1 is not known has no period. It gets one when the +1 is known.
        """
        if record.quantity > 0:
            period = self._calendar.period_at(record.occurred_at)
            reversal = self._unmatched.pop(record.id, None)
            unit = Unit(record, period, reversal is not None)
            self._by_id[record.id] = unit
            if period.start_ms not in self.by_period:
                insort(self.periods, period)
            self.by_period.setdefault(period.start_ms, []).append(unit)
            return [(period, each) for each in (record, reversal) if each is not None]
        if record.supersedes is None:
            self._without_charge.append(record.id)
            return []
        taken = self._by_id.get(record.supersedes)
        if taken is None:
            self._unmatched[record.supersedes] = record
            return []
        taken.taken_back = True
        return [(taken.period, record)]
