"""Which entries about invoices are valid."""

from typing import Any

from pipeline.ledger.invoice_entries import (
    InvoiceConcluded,
    InvoicePlanned,
    InvoiceStates,
    judge_invoice,
)

OCTOBER, NOVEMBER = 1, 2


def planned(period: int = OCTOBER, **more: Any) -> InvoicePlanned:
    fields = {"customer": "cus_1", "currency": "usd", "items": (), "total": 5, **more}
    return InvoicePlanned(account="acme", period_start=period, **fields)


def concluded(state: Any = "invoiced", period: int = OCTOBER, **more: Any) -> InvoiceConcluded:
    return InvoiceConcluded(account="acme", period_start=period, state=state, at=9, **more)


def judged(*items: InvoicePlanned | InvoiceConcluded) -> list[str | None]:
    states: InvoiceStates = {}
    return [judge_invoice(states, OCTOBER, item) for item in items]


def test_the_first_plan_of_a_period_and_its_first_conclusion_count() -> None:
    assert judged(planned(), planned(), concluded(), concluded("missed")) == [
        None,
        "its invoice is planned already",
        None,
        "its invoice is invoiced",
    ]


def test_a_period_that_is_not_closed_has_no_invoice() -> None:
    assert (
        judged(planned(NOVEMBER), concluded("without", NOVEMBER))
        == ["the period is not closed"] * 2
    )
    assert judge_invoice({}, None, planned()) == "the period is not closed"


def test_nothing_is_concluded_that_was_not_planned_except_that_there_is_nothing() -> None:
    assert judged(concluded(), concluded("without"), planned()) == [
        "its invoice is not planned",
        None,
        "its invoice is without already",
    ]


def test_an_invoice_of_our_own_follows_a_missed_one_or_none() -> None:
    own = planned(key="ri_own")
    assert judged(planned(), own) == [None, "its invoice is planned"]
    assert judged(planned(), concluded("missed"), own, concluded(is_own=True)) == [None] * 4
    assert judged(own, planned()) == [None, "it has an invoice of our own"]
