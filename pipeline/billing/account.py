"""State an account's periods one after the other. Pure.

docs/reference/money.md §4. A statement reckons its own period and the earlier ones that something new
touches, so it costs what has changed, not what the account has had.
"""

from bisect import bisect_left
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import NamedTuple, Protocol

import msgspec

from pipeline.billing.contract import Contract
from pipeline.billing.grants import (
    CreditNote,
    Draw,
    Grant,
    OpenCredit,
    OpenPack,
    Pack,
    Void,
    packs_for,
)
from pipeline.billing.periods import ALWAYS_MS, NEVER_MS, Period
from pipeline.billing.reckoning import Metered, Placed, PriceKey, Reckoned, differences, reckon
from pipeline.billing.statement import (
    Adjustment,
    Closing,
    Counts,
    Line,
    PlacedUnit,
    Statement,
)
from pipeline.billing.units import Entered, Units


class Closes(Protocol):
    """When the periods of an account were, or will be, closed, and what is waived on statements."""

    def close_of(self, period: Period, /) -> int:
        """Return when the period is closed, ms; what is stored then or later is late."""

    def oldest_open_at(self, ms: int, /) -> int:
        """Return the start of the oldest period that is not closed at a time."""

    def waives(self, period: Period, adjustment: Adjustment, /) -> bool:
        """Return whether a person rejected an adjustment on the statement of a period."""


class Stated(NamedTuple):
    """What statements have said about a period so far."""

    lines: dict[PriceKey, Metered]
    minimum: int


_NOTHING = Stated({}, 0)


class Account:
    """What is known of an account, and what its statements have said so far.

    `know` adds what is stored, `state` makes the next statement of it. `reckonings` counts the
    periods that were reckoned.
    """

    def __init__(self, contract: Contract, closes: Closes) -> None:
        self._contract = contract
        self._closes = closes
        self._units = Units(contract.calendar)
        self._packs: dict[str, OpenPack] = {}
        self._credits: dict[str, OpenCredit] = {}
        self._reckoned: dict[int, Reckoned] = {}  # by the period's start
        self._stated: dict[int, Stated] = {}
        self._draws: list[Draw] = []
        self._carried = 0  # below zero, or 0
        self._notes: dict[str, CreditNote] = {}
        self._credited = 0  # by credit notes, since the last statement
        self._touched: dict[int, Period] = {}
        self._late = 0
        self.reckonings = 0

    # --- what is known ----------------------------------------------------------------------------

    def know(self, records: Iterable[Entered], grants: Iterable[Grant]) -> None:
        """Add records and grants that were stored; both in the order in which they were."""
        for record in records:
            for period, placed in self._units.know(record):
                self._touched[period.start_ms] = period
                self._late += placed.stored_at >= self._closes.close_of(period)
        for grant in grants:
            self._enter(grant)

    def _enter(self, grant: Grant) -> None:
        if isinstance(grant, Void):
            if (voided := self._packs.get(grant.grant)) is not None:
                voided.void_ms = grant.created_at
                voided.taken = grant.takes
                self._touch(voided)
            elif grant.grant in self._notes:
                self._credited -= grant.takes
            else:
                credit = self._credits[grant.grant]
                credit.is_void = True
                credit.left -= grant.takes
            return
        if isinstance(grant, CreditNote):
            self._notes[grant.id] = grant
            self._credited += grant.amount
            return
        # A grant never changes a final statement.
        from_ms = max(grant.starts_at, self._closes.oldest_open_at(grant.created_at))
        if isinstance(grant, Pack):
            self._packs[grant.id] = pack = OpenPack(grant, from_ms)
            self._touch(pack)
        else:
            self._credits[grant.id] = OpenCredit(grant, from_ms, grant.amount)

    def _touch(self, pack: OpenPack, after_ms: int = ALWAYS_MS) -> list[int]:
        """Touch the periods that may draw from a pack and start after a time; return their starts."""
        periods = self._units.periods
        starts: list[int] = []
        # The one before the pack's start may contain it.
        first = bisect_left(periods, (max(pack.from_ms, after_ms),)) - 1
        for period in islice(periods, max(first, 0), None):
            if period.start_ms >= pack.pack.ends_at:
                break
            if period.start_ms > after_ms and pack.overlaps(period.start_ms, period.end_ms):
                self._touched[period.start_ms] = period
                starts.append(period.start_ms)
        return starts

    # --- statements -------------------------------------------------------------------------------

    def state(self, period: Period, cut_ms: int, *, is_final: bool) -> Statement:
        """Make the statement of the next period from all that is known.

        Args:
            period: the one after that of the last statement.
            cut_ms: when it is closed; where it is open, the time of which it speaks.
            is_final: the period is closed.
        """
        self._touched[period.start_ms] = period
        adjusted: list[PlacedUnit] = []
        lines = [Line(kind="carried", amount=self._carried)] if self._carried else []
        if self._credited:
            lines.append(Line(kind="credit_note", amount=self._credited))
            self._credited = 0
        adjustments: list[Adjustment] = []
        for each in self._reckon_until(period, cut_ms, adjusted):
            if each.start_ms == period.start_ms:
                lines += self._lines_of(each, None)
            elif changed := tuple(self._lines_of(each, each.name)):
                adjustments.append(self._adjustment(period, Adjustment(each, changed)))
        lines += [line for adjustment in adjustments for line in adjustment.stated]
        if self._carried and len(lines) == 1:
            lines = []  # it stays carried
            subtotal = 0
        else:
            subtotal = sum(line.amount for line in lines)
            minimum = sum(line.amount for line in lines if line.kind == "minimum")
            # An adjusted minimum that is waived is not owed: it keeps no credit from paying.
            minimum -= sum(each.minimum for each in adjustments if each.is_waived)
            settled = self._settle(period, cut_ms, subtotal, minimum)
            self._carried = -sum(line.amount for line in settled if line.kind == "carried_forward")
            lines += settled
        reckoned = self._reckoned[period.start_ms]
        statement = Statement(
            period=period,
            is_final=is_final,
            currency=self._contract.currency,
            counts=self._counts(reckoned),
            lines=tuple(lines),
            subtotal=subtotal,
            total=sum(line.amount for line in lines),
            closing=self._closing(period),
            units=tuple(
                PlacedUnit(record_id, period.name, placed)
                for record_id, placed in reckoned.placed.items()
            ),
            adjusted=tuple(adjusted),
            adjustments=tuple(adjustments),
            unmatched=self._units.unmatched,
        )
        self._late = 0
        return statement

    def _reckon_until(
        self, until: Period, cut_ms: int, adjusted: list[PlacedUnit]
    ) -> Iterable[Period]:
        """Reckon the touched periods up to one, in order; return those that changed, and it."""
        ahead = [start_ms for start_ms in self._touched if start_ms <= until.start_ms]
        heapify(ahead)
        reckoned: list[Period] = []
        while ahead:
            start_ms = heappop(ahead)
            period = self._touched.pop(start_ms, None)
            if period is None:
                continue  # it was touched twice
            before = self._reckoned.get(start_ms)
            now = self._reckon(period, cut_ms)
            reckoned.append(period)
            if period.start_ms != until.start_ms:
                adjusted += _changes(period.name, until.name, before, now)
            for grant, pack in self._packs.items():
                used = now.pack_use.get(grant, 0)
                if used != pack.use.get(start_ms, 0):
                    pack.use[start_ms] = used
                    for later_ms in self._touch(pack, start_ms):
                        if later_ms <= until.start_ms:
                            heappush(ahead, later_ms)
        return reckoned

    def _reckon(self, period: Period, cut_ms: int) -> Reckoned:
        self.reckonings += 1
        now = reckon(
            self._units.by_period.get(period.start_ms, ()),
            self._contract.terms_for(period),
            packs_for(self._packs, period.start_ms, period.end_ms),
            self._contract.currency,
            ended=period.end_ms <= cut_ms,
        )
        self._reckoned[period.start_ms] = now
        return now

    def _lines_of(self, period: Period, earlier: str | None) -> Iterable[Line]:
        """Return what a period is reckoned at now less what was stated, and count it as stated."""
        now = self._reckoned[period.start_ms]
        stated = self._stated.get(period.start_ms, _NOTHING)
        self._stated[period.start_ms] = Stated(now.lines, now.minimum)
        lines = [
            Line(
                kind="metered" if earlier is None else "adjusted",
                period=earlier,
                outcome=outcome,
                quantity=change.quantity,
                price=price,
                amount=change.amount,
            )
            for (outcome, price), change in differences(now.lines, stated.lines)
        ]
        if now.minimum != stated.minimum:
            amount = now.minimum - stated.minimum
            lines.append(Line(kind="minimum", period=earlier, amount=amount))
        return lines

    def _adjustment(self, period: Period, adjustment: Adjustment) -> Adjustment:
        is_waived = self._closes.waives(period, adjustment)
        return msgspec.structs.replace(adjustment, is_waived=is_waived)

    def _settle(self, period: Period, cut_ms: int, subtotal: int, minimum: int) -> list[Line]:
        """Return the lines after the subtotal: credits, or what is carried forward."""
        if subtotal < 0:
            given = self._give_back(cut_ms, -subtotal)
            rest = -subtotal - sum(line.amount for line in given)
            return [*given, Line(kind="carried_forward", amount=rest)] if rest else given
        # An adjusted minimum can be below zero. Credits never pay more than there is to pay.
        return self._pay(period, min(subtotal, subtotal - minimum))

    def _give_back(self, cut_ms: int, amount: int) -> list[Line]:
        """Return an amount to the credits that paid, the latest draw first."""
        lines: list[Line] = []
        while amount and self._draws:
            draw = self._draws[-1]
            back = min(draw.paid, amount)
            draw.paid -= back
            amount -= back
            credit = self._credits[draw.grant]
            if not credit.is_void and credit.credit.ends_at > cut_ms:
                credit.left += back  # otherwise it is lost
            lines.append(Line(kind="credit", grant=draw.grant, amount=back))
            if not draw.paid:
                self._draws.pop()
        return lines

    def _pay(self, period: Period, amount: int) -> list[Line]:
        lines: list[Line] = []
        for credit in sorted(self._credits.values(), key=_credit_order):
            is_working = credit.from_ms < period.end_ms and period.start_ms < credit.credit.ends_at
            paid = min(credit.left, amount)
            if is_working and not credit.is_void and paid > 0:
                credit.left -= paid
                amount -= paid
                self._draws.append(Draw(credit.credit.id, paid))
                lines.append(Line(kind="credit", grant=credit.credit.id, amount=-paid))
        return lines

    def _counts(self, reckoned: Reckoned) -> Counts:
        return Counts(
            known=len(reckoned.placed),
            taken_back=reckoned.count("taken_back"),
            included=reckoned.count("included"),
            pack=reckoned.count("pack"),
            metered=reckoned.count("metered"),
            over_cap=reckoned.count("over_cap"),
            late=self._late,
            unmatched=len(self._units.unmatched),
            unpriced=reckoned.count("unpriced"),
        )

    def _closing(self, period: Period) -> Closing:
        return Closing(
            carried=self._carried,
            packs={
                grant: pack.left_at(period.end_ms)
                for grant, pack in sorted(self._packs.items())
                if not pack.is_void
            },
            credits={
                grant: credit.left
                for grant, credit in sorted(self._credits.items())
                if not credit.is_void
            },
        )

    def left_of(self, grant: str) -> int:
        """Return the units or the money that is left of a grant, or what a credit note gave back."""
        if (note := self._notes.get(grant)) is not None:
            return note.amount
        pack = self._packs.get(grant)
        return self._credits[grant].left if pack is None else pack.left_at(NEVER_MS)


def _credit_order(credit: OpenCredit) -> tuple[int, str]:
    return credit.credit.ends_at, credit.credit.id


def _changes(
    period: str, statement: str, before: Reckoned | None, now: Reckoned
) -> Iterable[PlacedUnit]:
    """Return the units whose charge changed, with what covers them now."""
    old: dict[str, Placed] = {} if before is None else before.placed
    for record_id, placed in now.placed.items():
        known = old.get(record_id)
        if placed.charged != (None if known is None else known.charged):
            yield PlacedUnit(record_id, period, placed, statement)
