"""State every period of an account up to one, from records and grants with their times. Pure.

docs/reference/money.md §4.1 and §5.1: what each statement knows.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import dropwhile
from typing import NamedTuple

import msgspec

from pipeline.billing.account import Account, Closes
from pipeline.billing.contract import Contract
from pipeline.billing.grants import CreditNote, Grant, Pack, Void, entered_order
from pipeline.billing.money import amount_text
from pipeline.billing.periods import ALWAYS_MS, Calendar, Period
from pipeline.billing.statement import Adjustment, PlacedUnit, Statement
from pipeline.billing.units import Entered


class ClosesAfter:
    """Every period is closed a fixed time after its end, and nothing is waived."""

    def __init__(self, calendar: Calendar, after_ms: int) -> None:
        self._calendar = calendar
        self._after_ms = after_ms

    def close_of(self, period: Period) -> int:
        return period.end_ms + self._after_ms

    def oldest_open_at(self, ms: int) -> int:
        return self._calendar.period_at(ms - self._after_ms).start_ms

    def waives(self, period: Period, adjustment: Adjustment) -> bool:
        return False


def statements(
    contract: Contract,
    records: Sequence[Entered],
    grants: Sequence[Grant],
    closes: Closes,
    through: Period,
    as_of: int,
    since: Period | None = None,
) -> Iterator[Statement]:
    """Yield the statements of an account in order, the last of them that of `through`.

    The first is that of `since`, or of an earlier period if there is something to state. A period
    that is closed at `as_of` knows what was stored before its close, and an open one what was
    stored until `as_of`.
    """
    stated = _stated(contract, records, grants, closes, since or through, through, as_of)
    return (statement for _, statement in stated)


def problems_of_voids(
    contract: Contract,
    records: Sequence[Entered],
    grants: Sequence[Grant],
    closes: Closes,
) -> list[str]:
    """Return a problem for each void that takes more than was left when it entered."""
    problems: list[str] = []
    entered = sorted(grants, key=entered_order)
    for number, void in enumerate(entered):
        if not isinstance(void, Void):
            continue
        left = left_at(contract, records, entered[:number], closes, void.grant, void.created_at)
        if void.takes > left:
            is_pack = any(isinstance(each, Pack) and each.id == void.grant for each in entered)
            takes, rest = (
                number if is_pack else amount_text(number, contract.currency)
                for number in (void.takes, left)
            )
            problems.append(
                f"void of {void.grant!r}: takes {takes}, more than was left when it entered: {rest}"
            )
    return problems


def problems_of_credit_notes(
    contract: Contract, records: Sequence[Entered], grants: Sequence[Grant], closes: Closes
) -> list[str]:
    """Return a problem for each credit note over what was carried when it entered."""
    problems: list[str] = []
    entered = sorted(grants, key=entered_order)
    for number, note in enumerate(entered):
        if not isinstance(note, CreditNote):
            continue
        carried = carried_at(contract, records, entered[:number], closes, note.created_at)
        if note.amount > -carried:
            amount, rest = (
                amount_text(each, contract.currency) for each in (note.amount, -carried)
            )
            problems.append(
                f"credit note {note.id!r}: gives back {amount}, and final statements carry {rest}"
            )
    return problems


def carried_at(
    contract: Contract,
    records: Sequence[Entered],
    grants: Sequence[Grant],
    closes: Closes,
    at: int,
) -> int:
    """Return what the last final statement leaves below zero, less what credit notes gave back since.

    Args:
        contract: of the account.
        records: its usage records.
        grants: those that entered until the time.
        closes: when its periods were closed.
        at: the time, ms.
    """
    through = contract.calendar.period_at(at)
    stated = _stated(contract, records, grants, closes, through, through, at)
    final = [statement for _, statement in stated if statement.is_final]
    if not final:
        return 0
    close_ms = closes.close_of(final[-1].period)
    notes = {each.id: each.amount for each in grants if isinstance(each, CreditNote)}
    given = sum(
        notes[each.id] if isinstance(each, CreditNote) else -each.takes
        for each in grants
        if each.created_at >= close_ms
        and (isinstance(each, CreditNote) or (isinstance(each, Void) and each.grant in notes))
    )
    return final[-1].closing.carried + given


def left_at(
    contract: Contract,
    records: Sequence[Entered],
    grants: Sequence[Grant],
    closes: Closes,
    grant: str,
    at: int,
) -> int:
    """Return the units or the money left of a grant by all that is known at a time.

    Open periods count as stated then, through the last that has begun or has a unit.
    """
    last_ms = max([at, *(record.occurred_at for record in records if record.stored_at <= at)])
    through = contract.calendar.period_at(last_ms)
    *_, (account, _) = _stated(contract, records, grants, closes, through, through, at)
    return account.left_of(grant)


def _stated(
    contract: Contract,
    records: Sequence[Entered],
    grants: Sequence[Grant],
    closes: Closes,
    since: Period,
    through: Period,
    as_of: int,
) -> Iterator[tuple[Account, Statement]]:
    account = Account(contract, closes)
    by_time = sorted(records, key=lambda record: record.stored_at)
    stored = [record.stored_at for record in by_time]
    entered = sorted(grants, key=entered_order)
    created = [grant.created_at for grant in entered]
    records_known = grants_known = 0
    period = first_period(contract, by_time[: bisect_right(stored, as_of)], since)
    while period.start_ms <= through.start_ms:
        close_ms = closes.close_of(period)
        is_final = close_ms <= as_of
        cut_ms = close_ms if is_final else as_of
        # At its close a statement knows what was stored before, while it is open also that instant.
        known_until = bisect_left if is_final else bisect_right
        records_until, grants_until = known_until(stored, cut_ms), known_until(created, cut_ms)
        account.know(by_time[records_known:records_until], entered[grants_known:grants_until])
        records_known = max(records_known, records_until)
        grants_known = max(grants_known, grants_until)
        yield account, account.state(period, cut_ms, is_final=is_final)
        period = contract.calendar.after(period)


def first_period(contract: Contract, known: Sequence[Entered], since: Period) -> Period:
    """Return the first of three periods: of the first unit, of the contract's start, and `since`."""
    starts = [record.occurred_at for record in known if record.quantity > 0]
    if contract.begins_ms > ALWAYS_MS:
        starts.append(contract.begins_ms)
    return contract.calendar.period_at(min([since.start_ms, *starts]))


# --- one of them ----------------------------------------------------------------------------------


class Stated(NamedTuple):
    """The statement of an account, its units, and a sentence for each missing price and each doubt."""

    account: str
    statement: Statement
    units: tuple[PlacedUnit, ...]
    missing: tuple[str, ...]
    doubts: tuple[str, ...] = ()


def take(period: Period, stated: Iterable[Statement]) -> tuple[Statement, tuple[PlacedUnit, ...]]:
    """Take a period's statement with its units, and from later ones what they adjust of these."""
    until = dropwhile(lambda statement: statement.period != period, stated)
    statement = next(until)
    adjusted = {unit.id: unit.adjusted for later in until for unit in later.adjusted}
    own = (
        msgspec.structs.replace(unit, adjusted=adjusted.get(unit.id)) for unit in statement.units
    )
    return statement, (*own, *statement.adjusted)


def missing_prices(statement: Statement, records: Iterable[Entered]) -> tuple[str, ...]:
    """Return a sentence for each outcome and policy version whose units have no price."""
    unpriced = {unit.id for unit in statement.units if unit.placed.state == "unpriced"}
    counts = Counter(
        (record.outcome, record.policy, record.policy_version)
        for record in records
        if record.id in unpriced
    )
    return tuple(
        f"{count} units of outcome {outcome!r} have no price in {statement.currency} (policy "
        f"{policy!r}, version {version}) and are not billed: write price.{outcome} in the contract, "
        "or set RESMETER_CONFIG to the tenant file with that policy"
        for (outcome, policy, version), count in sorted(counts.items(), key=str)
    )
