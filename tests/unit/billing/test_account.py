"""A statement costs what has changed, not what the account has had."""

from decimal import Decimal

import pytest

from pipeline.billing.account import Account
from pipeline.billing.contract import Contract, Terms
from pipeline.billing.grants import Credit, CreditNote, Pack, Void
from pipeline.billing.periods import Period
from pipeline.billing.run import ClosesAfter
from pipeline.billing.statement import Adjustment
from pipeline.billing.units import Entered

HOUR_MS = 3_600_000


def charge(name: str, occurred_at: int, stored_at: int | None = None) -> Entered:
    return Entered(
        id=name,
        tenant_id="acme",
        outcome="resolution",
        quantity=1,
        occurred_at=occurred_at,
        stored_at=occurred_at if stored_at is None else stored_at,
        price=Decimal("0.99"),
    )


def reversal(of: Entered, stored_at: int) -> Entered:
    return Entered(
        id=f"{of.id}-",
        tenant_id="acme",
        outcome="resolution",
        quantity=-1,
        occurred_at=stored_at,
        stored_at=stored_at,
        supersedes=of.id,
    )


@pytest.mark.parametrize("months", [3, 30, 120])
def test_a_statement_reckons_its_own_period_and_those_that_something_new_touches(
    months: int,
) -> None:
    contract = Contract("usd", [Terms()])
    closes = ClosesAfter(contract.calendar, HOUR_MS)
    account = Account(contract, closes)
    periods = [contract.calendar.named("2020-01")]
    charges = [charge("c0", periods[0].start_ms)]
    for number in range(1, months):
        account.know([charges[-1]], [])
        account.state(periods[-1], closes.close_of(periods[-1]), is_final=True)
        periods.append(contract.calendar.after(periods[-1]))
        charges.append(charge(f"c{number}", periods[-1].start_ms))
    before = account.reckonings

    account.know([charges[-1], reversal(charges[1], periods[-1].start_ms)], [])
    statement = account.state(periods[-1], closes.close_of(periods[-1]), is_final=True)

    assert account.reckonings - before == 2
    assert [(line.kind, line.period, line.amount) for line in statement.lines] == [
        ("metered", None, 99),
        ("adjusted", "2020-02-01", -99),
    ]


def test_a_freed_unit_of_a_pack_moves_on_through_all_later_periods() -> None:
    contract = Contract("usd", [Terms()])
    closes = ClosesAfter(contract.calendar, HOUR_MS)
    account = Account(contract, closes)
    january = contract.calendar.named("2020-01")
    february = contract.calendar.after(january)
    march = contract.calendar.after(february)
    pack = Pack(
        id="p",
        created_at=0,
        outcomes=frozenset({"resolution"}),
        units=2,
        starts_at=january.start_ms,
    )
    charges = [charge(f"c{n}", each.start_ms) for n, each in enumerate((january, february, march))]
    account.know(charges, [pack])
    for period in (january, february):
        account.state(period, closes.close_of(period), is_final=True)
    account.know([reversal(charges[0], march.start_ms)], [])

    statement = account.state(march, closes.close_of(march), is_final=True)

    assert statement.lines == ()
    assert (statement.counts.pack, statement.closing.packs) == (1, {"p": 0})


class WaivesAll(ClosesAfter):
    """A person rejects every adjustment."""

    def waives(self, period: Period, adjustment: Adjustment) -> bool:
        return True


def test_a_rejected_adjustment_is_stated_with_its_opposite_and_never_comes_back() -> None:
    contract = Contract("usd", [Terms(minimum=2_000)])
    closes = WaivesAll(contract.calendar, HOUR_MS)
    account = Account(contract, closes)
    october = contract.calendar.named("2026-10")
    november = contract.calendar.after(october)
    december = contract.calendar.after(november)
    charges = [charge(f"c{n}", october.start_ms) for n in range(50)]
    credit = Credit(id="g", created_at=0, amount=10_000, starts_at=november.start_ms)
    account.know(charges, [credit])
    account.state(october, closes.close_of(october), is_final=True)
    own = [charge(f"d{n}", november.start_ms) for n in range(30)]
    account.know([*own, *(reversal(each, november.start_ms) for each in charges)], [])

    statement = account.state(november, closes.close_of(november), is_final=True)
    after = account.state(december, closes.close_of(december), is_final=True)

    assert [(line.kind, line.period, line.amount) for line in statement.lines] == [
        ("metered", None, 2_970),
        ("adjusted", "2026-10-01", -4_950),
        ("minimum", "2026-10-01", 2_000),
        ("waived", "2026-10-01", 2_950),
        # The minimum that is waived keeps no credit from paying.
        ("credit", None, -2_970),
    ]
    assert (statement.subtotal, statement.total) == (2_970, 0)
    assert [(each.period, each.is_waived) for each in statement.adjustments] == [(october, True)]
    assert [line.kind for line in after.lines] == ["minimum"]


def test_a_credit_note_gives_back_what_is_carried_and_its_void_carries_it_again() -> None:
    contract = Contract("usd", [Terms()])
    closes = ClosesAfter(contract.calendar, HOUR_MS)
    account = Account(contract, closes)
    october = contract.calendar.named("2026-10")
    november, december = (contract.calendar.named(f"2026-{month}") for month in (11, 12))
    unit = charge("c", october.start_ms)
    account.know([unit], [])
    account.state(october, closes.close_of(october), is_final=True)
    account.know([reversal(unit, november.start_ms)], [])
    account.state(november, closes.close_of(november), is_final=True)
    note = CreditNote(
        id="n",
        created_at=december.start_ms,
        amount=99,
        invoice="in_1",
        of_period=november.start_ms,
    )

    account.know([], [note])
    given = account.state(december, closes.close_of(december), is_final=True)
    account.know([], [Void(grant="n", created_at=december.end_ms, takes=99)])
    january = contract.calendar.after(december)
    again = account.state(january, closes.close_of(january), is_final=True)

    assert [(line.kind, line.amount) for line in given.lines] == [
        ("carried", -99),
        ("credit_note", 99),
    ]
    assert (given.total, given.closing.carried) == (0, 0)
    assert [(line.kind, line.amount) for line in again.lines] == [
        ("credit_note", -99),
        ("carried_forward", 99),
    ]
    assert again.closing.carried == -99
