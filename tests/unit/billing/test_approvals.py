"""What of a statement a person decides about, and what a decision is about."""

from decimal import Decimal
from typing import NamedTuple

import msgspec
import pytest

from pipeline.billing.account import Account
from pipeline.billing.approvals import (
    Approvable,
    Blocked,
    Decisions,
    Verdict,
    adjustment_id,
    approvables,
    blocked,
)
from pipeline.billing.contract import Contract, Terms
from pipeline.billing.periods import Calendar, Period
from pipeline.billing.run import ClosesAfter
from pipeline.billing.statement import Adjustment, Statement
from pipeline.billing.units import Entered
from tests.unit.billing.test_account import charge, reversal

CALENDAR = Calendar()
OCTOBER, NOVEMBER = CALENDAR.named("2026-10"), CALENDAR.named("2026-11")


class Said(NamedTuple):
    id: str
    verdict: Verdict
    period_start: int = NOVEMBER.start_ms
    of_period: int = OCTOBER.start_ms


def november(
    late: int, *unmatched: Entered, price: str = "0.99", currency: str = "usd"
) -> Statement:
    """State November: it adjusts October by so many late units."""
    account = Account(Contract(currency, [Terms()]), ClosesAfter(CALENDAR, 0))
    account.state(OCTOBER, OCTOBER.end_ms, is_final=True)
    units = [
        msgspec.structs.replace(
            charge(f"c{n}", OCTOBER.start_ms, NOVEMBER.start_ms), price=Decimal(price)
        )
        for n in range(late)
    ]
    account.know([*units, *unmatched], [])
    return account.state(NOVEMBER, NOVEMBER.end_ms, is_final=False)


def found(statement: Statement, *said: Said, amount_max: str = "100") -> list[Approvable]:
    return approvables("acme", statement, Decimal(amount_max), Decisions(said))


@pytest.mark.parametrize(
    "late, amount_max, needs",
    [(101, "100", False), (102, "100", True), (1, "0", True), (1, "0.99", False)],
)
def test_an_adjustment_over_the_limit_needs_approval(
    late: int, amount_max: str, needs: bool
) -> None:
    (adjustment,) = found(november(late), amount_max=amount_max)

    assert (adjustment.what, adjustment.of_period) == ("adjusted", OCTOBER)
    assert adjustment.amount == late * 99
    assert adjustment.blocks is needs


def test_the_limit_counts_in_major_units_of_the_currency() -> None:
    (adjustment,) = found(november(100, price="1", currency="jpy"))
    assert not adjustment.blocks

    (adjustment,) = found(november(101, price="1", currency="jpy"))
    assert adjustment.blocks


def test_an_adjustment_below_zero_counts_without_its_sign() -> None:
    account = Account(Contract("usd", [Terms()]), ClosesAfter(CALENDAR, 0))
    units = [charge(f"c{n}", OCTOBER.start_ms) for n in range(200)]
    account.know(units, [])
    account.state(OCTOBER, OCTOBER.end_ms, is_final=True)
    account.know([reversal(unit, NOVEMBER.start_ms) for unit in units], [])

    adjustments = found(account.state(NOVEMBER, NOVEMBER.end_ms, is_final=False))

    assert [each.amount for each in adjustments] == [-19800]
    assert blocked(adjustments) == Blocked(1, 19800)


@pytest.mark.parametrize("verdict", ["approved", "rejected"])
def test_a_decision_ends_the_wait(verdict: Verdict) -> None:
    (waiting,) = found(november(150))

    (decided,) = found(november(150), Said(waiting.id, verdict))

    assert (decided.verdict, decided.blocks) == (verdict, False)


def test_another_late_unit_makes_another_id() -> None:
    (seen,) = found(november(150))

    (now,) = found(november(151), Said(seen.id, "approved"))

    assert now.id != seen.id
    assert now.blocks


def test_an_adjustment_that_changes_after_a_decision_waits_again_whatever_its_amount() -> None:
    (small,) = found(november(1))
    assert not small.blocks

    (changed,) = found(november(2), Said(small.id, "rejected"))

    assert changed.blocks


def test_a_decision_about_another_statement_counts_for_nothing() -> None:
    (seen,) = found(november(150))
    adjustment = seen.adjustment
    assert adjustment is not None
    december = CALENDAR.after(NOVEMBER)

    ids = {
        adjustment_id("acme", "usd", NOVEMBER, adjustment),
        adjustment_id("acme", "usd", december, adjustment),
        adjustment_id("acme", "eur", NOVEMBER, adjustment),
        adjustment_id("beta", "usd", NOVEMBER, adjustment),
        adjustment_id("acme", "usd", NOVEMBER, Adjustment(december, adjustment.lines)),
    }

    assert len(ids) == 5
    assert seen.id in ids


def test_each_reversal_without_its_charge_needs_approval_once() -> None:
    of_unknown = reversal(charge("c0", OCTOBER.start_ms), NOVEMBER.start_ms)
    of_nothing = msgspec.structs.replace(of_unknown, id="of nothing", supersedes=None)

    waiting = found(november(0, of_unknown, of_nothing))
    assert [(each.what, each.reversal, each.blocks) for each in waiting] == [
        ("unmatched", "c0-", True),
        ("unmatched", "of nothing", True),
    ]

    # The statement of a later period has the same id: nobody decides twice.
    later = found(_stated_in(CALENDAR.after(NOVEMBER), of_unknown), Said(waiting[0].id, "approved"))
    assert [each.blocks for each in later] == [False]


def _stated_in(period: Period, record: Entered) -> Statement:
    account = Account(Contract("usd", [Terms()]), ClosesAfter(CALENDAR, 0))
    account.know([record], [])
    return account.state(period, period.end_ms, is_final=False)
