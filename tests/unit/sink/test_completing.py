"""Which step comes next for the invoice of a period."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from pipeline.billing.contract import Tier
from pipeline.billing.invoice import InvoiceItem, StripePrice, settled_amounts
from pipeline.billing.periods import Calendar
from pipeline.billing.reckoning import Placed
from pipeline.billing.statement import Closing, Counts, Line, PlacedUnit, Statement
from pipeline.events.times import parse_time
from pipeline.ledger.invoice_entries import InvoicePlanned
from pipeline.sink.completing import (
    Add,
    Close,
    Conclude,
    Create,
    Facts,
    Finalise,
    Hold,
    Plan,
    Stop,
    Units,
    Wait,
    missed_text,
    next_own_step,
    next_step,
    own_invoice,
)
from pipeline.sink.invoicing import AddedItem, Charge, Invoice

OCTOBER = Calendar().period_at(parse_time("2026-10-10T00:00:00Z"))
START, END = OCTOBER.start_ms // 1000, OCTOBER.end_ms // 1000
PRICE = StripePrice((Tier(None, Decimal("0.99")),))
CHARGE = Charge(
    outcome="resolution",
    meter="mtr_1",
    item="si_1",
    product="prod_1",
    price=PRICE,
    start=START,
    end=END,
    quantity=3,
    amount=297,
)
DRAFT = Invoice(
    id="in_1",
    customer="cus_1",
    currency="usd",
    status="draft",
    subscription="sub_1",
    key=None,
    is_sent=False,
    advances=False,
    is_held=True,
    finalises_at=None,
    charges=(CHARGE,),
    items=(),
    total=297,
)
ITEM = InvoiceItem("ri_1", "ri_1_a", -99, -99, "1 of 3", {"resmeter_key": "ri_1"}, "resolution")


def statement(quantity: int = 3, total: int | None = None) -> Statement:
    amount = 99 * quantity
    line = Line(
        kind="metered",
        outcome="resolution",
        quantity=quantity,
        price=Decimal("0.99"),
        amount=amount,
    )
    return Statement(
        period=OCTOBER,
        is_final=True,
        currency="usd",
        counts=Counts(**dict.fromkeys(Counts.__struct_fields__, 0)),
        lines=(line,) if quantity else (),
        subtotal=amount,
        total=amount if total is None else total,
        closing=Closing(0, {}, {}),
        units=(),
        adjusted=(),
    )


def planned(**changes: Any) -> InvoicePlanned:
    entry = InvoicePlanned(
        account="acme",
        period_start=OCTOBER.start_ms,
        customer="cus_1",
        currency="usd",
        items=(ITEM,),
        total=198,
        invoice="in_1",
    )
    return msgspec.structs.replace(entry, **changes)


def draft(**changes: Any) -> Invoice:
    return msgspec.structs.replace(DRAFT, **changes)


def charging(**changes: Any) -> Invoice:
    return draft(charges=(msgspec.structs.replace(CHARGE, **changes),))


def facts(*invoices: Invoice, **changes: Any) -> Facts:
    known = Facts("acme", "cus_1", OCTOBER, statement(2), invoices, None, {"si_1": Units(3, 3, 3)})
    return known._replace(**changes)


# --- before the items are written ------------------------------------------------------------------


def test_a_draft_is_held_before_its_period_is_closed() -> None:
    advancing = draft(advances=True, is_held=False)

    assert next_step(facts(advancing, statement=None)) == Hold(advancing)
    assert next_step(facts(advancing)) == Hold(advancing)


def test_a_period_is_closed_with_and_without_a_draft() -> None:
    assert next_step(facts(DRAFT, statement=None)) == Close()
    assert next_step(facts(statement=None)) == Close()


@pytest.mark.parametrize(
    "units", [{}, {"si_1": Units(3, 2, 3)}, {"si_1": Units(2, 2, 2)}, {"si_1": Units(3, 3, 3, 1)}]
)
def test_items_wait_until_stripe_has_counted_what_was_delivered(units: Any) -> None:
    assert isinstance(next_step(facts(DRAFT, units=units)), Wait)


def test_items_wait_until_the_draft_charges_what_was_counted() -> None:
    assert isinstance(next_step(facts(charging(amount=198))), Wait)


def test_what_is_counted_and_not_owed_is_an_item() -> None:
    step = next_step(facts(DRAFT))

    assert isinstance(step, Plan)
    assert [(each.amount, each.description) for each in step.planned.items] == [
        (-99, "resolution: 1 of 3 counted are not charged")
    ]
    assert (step.planned.total, step.planned.invoice) == (198, "in_1")


def test_what_is_owed_and_not_counted_is_an_item() -> None:
    step = next_step(facts(DRAFT, statement=statement(5)))

    assert isinstance(step, Plan)
    assert [(each.amount, each.description) for each in step.planned.items] == [
        (198, "resolution: 2 beside 3 counted")
    ]


def test_another_price_at_stripe_does_not_change_the_total() -> None:
    costly = charging(price=StripePrice((Tier(None, Decimal("1.29")),)), amount=387)

    step = next_step(facts(costly))

    assert isinstance(step, Plan)
    assert sorted(each.amount for each in step.planned.items) == [-387, 198]


def test_what_was_settled_by_hand_is_not_charged() -> None:
    step = next_step(facts(DRAFT, statement=statement(4), settled={"resolution": 99}))

    assert isinstance(step, Plan)
    assert (step.planned.items, step.planned.total, step.planned.settled) == ((), 297, 99)


def test_only_metered_units_of_the_statement_count_as_settled_by_hand() -> None:
    def unit(name: str, placed: Placed) -> PlacedUnit:
        return PlacedUnit(name, OCTOBER.name, placed)

    metered = Placed("metered", price=Decimal("0.99"))
    known = msgspec.structs.replace(
        statement(3),
        units=(unit("a", metered), unit("b", Placed("taken_back")), unit("c", metered)),
    )

    assert settled_amounts(known, {"a": "resolution", "b": "resolution"}) == {"resolution": 99}


def test_nothing_owed_and_no_invoice_is_the_end() -> None:
    assert next_step(facts(statement=statement(0))) == Conclude("without", None, 0)


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (facts(), "no invoice for 1.98 USD"),
        (facts(DRAFT, draft(id="in_2", subscription="sub_2")), "2 invoices charge"),
        (facts(charging(start=START - 86_400)), "charges resolution from 2026-09-30"),
        (facts(charging(end=END + 60)), "and the period is from"),
        (facts(draft(currency="eur")), "is in eur"),
        (facts(charging(price=None)), "more than a price for each unit"),
        (
            facts(draft(charges=(CHARGE, msgspec.structs.replace(CHARGE, item="si_2")))),
            "charges resolution 2 times, by si_1, si_2",
        ),
    ],
)
def test_what_nobody_can_invoice_stops(known: Facts, why: str) -> None:
    step = next_step(known)

    assert isinstance(step, Stop)
    assert why in step.why


def test_the_invoices_of_other_periods_and_of_hand_do_not_matter() -> None:
    others = (
        charging(start=START - 86_400, end=START),
        charging(start=END, end=END + 86_400),
        draft(subscription=None),
        draft(charges=()),
    )

    assert isinstance(next_step(facts(*others, DRAFT)), Plan)


def test_the_invoice_of_a_part_of_the_period_is_its_invoice() -> None:
    assert isinstance(next_step(facts(charging(start=START + 86_400))), Plan)


# --- after that -----------------------------------------------------------------------------------


def test_missing_items_are_added_one_by_one_and_then_the_draft_becomes_final() -> None:
    second = msgspec.structs.replace(ITEM, key="ri_2", amount=5)
    entry = planned(items=(ITEM, second), total=203)
    once = draft(items=(AddedItem("ri_1", -99),), total=198)
    twice = draft(items=(*once.items, AddedItem("ri_2", 5)), total=203)

    assert next_step(facts(DRAFT, planned=entry)) == Add(DRAFT, ITEM)
    assert next_step(facts(once, planned=entry)) == Add(once, second)
    assert next_step(facts(twice, planned=entry)) == Finalise(twice)


def test_lines_of_others_are_left_alone() -> None:
    with_fee = draft(items=(AddedItem("ri_1", -99),), total=1_198)

    assert with_fee.others == 1_000
    assert next_step(facts(with_fee, planned=planned())) == Finalise(with_fee)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (draft(items=(AddedItem("ri_1", -98),), total=199), "must come to -0.99 USD"),
        (draft(items=(AddedItem("ri_9", 1),), total=298), "not planned (ri_9)"),
        (draft(items=(AddedItem("ri_1", -99),) * 2, total=99), "has 2 items"),
        (draft(id="in_2"), "no invoice in_1"),
        (
            msgspec.structs.replace(
                charging(quantity=4, amount=396), items=(AddedItem("ri_1", -99),), total=297
            ),
            "comes to 2.97 USD, and must come to 1.98 USD",
        ),
        (draft(items=(AddedItem("ri_1", -99),), total=-1), "credit on the customer's balance"),
    ],
)
def test_a_draft_that_somebody_has_changed_stops(found: Invoice, why: str) -> None:
    step = next_step(facts(found, planned=planned()))

    assert isinstance(step, Stop)
    assert why in step.why


def test_a_final_invoice_with_all_its_items_is_invoiced() -> None:
    final = draft(status="open", items=(AddedItem("ri_1", -99),), total=198)

    assert next_step(facts(final, planned=planned())) == Conclude("invoiced", final, 198)


def test_a_final_invoice_without_its_items_is_missed() -> None:
    final = draft(status="paid")

    assert isinstance(next_step(facts(final)), Plan)
    assert next_step(facts(final, planned=planned())) == Conclude("missed", final, 297)


def test_a_void_invoice_charges_nothing() -> None:
    final = draft(status="void", items=(AddedItem("ri_1", -99),), total=198)

    assert next_step(facts(final, planned=planned())) == Conclude("missed", final, 0)


def test_an_invoice_of_our_own_is_found_by_its_key() -> None:
    entry = planned(invoice="", key="ri_own", items=(msgspec.structs.replace(ITEM, amount=99),))
    own = draft(id="in_9", subscription=None, key="ri_own", charges=(), total=0)

    assert next_own_step(facts(DRAFT), entry) == Create(entry)
    assert next_own_step(facts(DRAFT, own), entry) == Add(own, entry.items[0])


def test_an_invoice_of_our_own_has_the_items_that_are_missing() -> None:
    entry = planned(items=(msgspec.structs.replace(ITEM, amount=101),), total=398)

    own = own_invoice(facts(draft(status="open"), planned=entry), 297)

    assert isinstance(own, InvoicePlanned)
    assert (own.items, own.total, own.invoice) == (entry.items, 101, "")
    assert own.is_own


def test_what_is_lacking_otherwise_is_one_item_of_our_own_invoice() -> None:
    own = own_invoice(facts(draft(status="void"), planned=planned()), 0)

    assert isinstance(own, InvoicePlanned)
    assert [item.amount for item in own.items] == [198]


def test_without_an_invoice_all_lines_are_items_of_our_own() -> None:
    own = own_invoice(facts(), None)

    assert isinstance(own, InvoicePlanned)
    assert ([item.amount for item in own.items], own.total) == ([198], 198)


@pytest.mark.parametrize(
    ("known", "came_to", "why"),
    [
        (facts(statement=None), None, "is not closed"),
        (facts(DRAFT), None, "in_1 is its invoice"),
        (facts(DRAFT, planned=planned()), None, "its invoice is in_1"),
        (facts(DRAFT, planned=planned()), 297, "charges 0.99 USD too much"),
        (facts(DRAFT, planned=planned()), 198, "comes to what it must"),
    ],
)
def test_nothing_is_invoiced_twice(known: Facts, came_to: int | None, why: str) -> None:
    assert why in str(own_invoice(known, came_to))


def test_what_a_final_invoice_lacks_or_charges_too_much_has_a_command() -> None:
    assert "--own-invoice" in missed_text(planned(), 5)
    assert "credit note" in missed_text(planned(), -5)
