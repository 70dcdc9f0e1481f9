"""The ledger keeps invoices as the journal has them, and says what Stripe must have counted."""

from typing import Any

import pytest

from pipeline.billing.invoice import InvoiceItem
from pipeline.ledger import Ledger, adoption, months, outbox
from pipeline.ledger.entries import Decided, MeterEvent, State
from pipeline.ledger.invoice_entries import InvoiceConcluded, InvoicePlanned
from pipeline.ledger.invoices import invoices_of, settled_units, units_delivered, units_open
from pipeline.ledger.journal import Decision
from pipeline.ledger.month_entries import Closing
from tests.support.journal import JOURNAL, written
from tests.support.ledger import T0, deliver, planned, record, stored

CLOSING = Closing(
    account="acme",
    period_start=T0,
    period_end=T0 + 1,
    closed_at=T0 + 5,
    topic="usage.records",
    offsets={0: 1},
    grants=0,
    statement="{}",
)
ITEM = InvoiceItem("ri_1", "ri_1_a", -99, -99, "1 of 3", {"resmeter_key": "ri_1"}, "resolution")
PLANNED = InvoicePlanned(
    account="acme",
    period_start=T0,
    customer="cus_1",
    currency="usd",
    items=(ITEM,),
    total=198,
    settled=99,
    invoice="in_1",
)
MISSED = InvoiceConcluded(
    account="acme", period_start=T0, state="missed", at=T0 + 9, invoice="in_1", amount=297
)
OWN = InvoicePlanned(
    account="acme",
    period_start=T0,
    customer="cus_1",
    currency="usd",
    items=(),
    total=5,
    key="ri_own",
)


def test_invoices_are_read_as_the_journal_has_them(ledger: Ledger) -> None:
    verdicts = written(ledger, [CLOSING, PLANNED, PLANNED, MISSED, OWN], "a")

    first, own = invoices_of(ledger, "acme")
    assert [verdict.why is None for verdict in verdicts] == [True, True, False, True, True]
    assert (first.planned, first.state, first.amount, first.is_own) == (
        PLANNED,
        "missed",
        297,
        False,
    )
    assert (own.planned, own.state, own.amount, own.is_own) == (OWN, "planned", None, True)
    assert invoices_of(ledger, "bluejay") == []


def test_a_ledger_writes_its_invoices_to_another_journal(ledger: Ledger) -> None:
    written(ledger, [CLOSING, PLANNED, MISSED, OWN], "a")
    before = invoices_of(ledger, "acme")
    adoption.forget(ledger, JOURNAL, 0)

    items = outbox.unjournalled_items(ledger, 1000)
    written(ledger, items, "b")

    assert items == [CLOSING, PLANNED, MISSED, OWN]
    assert invoices_of(ledger, "acme") == before
    with ledger.reading() as connection:
        assert list(months.unjournalled(connection)) == []


def settled_after(ledger: Ledger, event: MeterEvent, state: State) -> None:
    """Let an operator settle a meter event that was in a state."""
    decided = Decided(
        at=T0 + 7,
        action="settle",
        identifier=event.identifier,
        replaced_by=None,
        state=state,
        who="ada",
        reason="by hand",
        stripe_checked=False,
    )
    written(ledger, [Decision(decided)], "a")


@pytest.mark.parametrize("state", ["delivered", "planned", "uncertain", "rejected"])
def test_what_stripe_must_have_counted_is_what_was_delivered_or_settled_unless_rejected(
    ledger: Ledger, state: Any
) -> None:
    stored(ledger, record("c1"), record("c2"))
    (event,) = planned(ledger)
    if state == "delivered":
        deliver(ledger, event)
    elif state != "planned":
        settled_after(ledger, event, state)
    at, place = event.timestamp, (event.customer, event.event_name)

    assert units_delivered(ledger, *place, at, at + 1) == (
        2 if state in ("delivered", "uncertain") else 0
    )
    assert units_open(ledger, *place, at, at + 1) == (2 if state == "planned" else 0)
    assert units_delivered(ledger, *place, at + 1, at + 9) == 0
    assert units_delivered(ledger, event.customer, "other", at, at + 1) == 0
    by_hand = {"acme:c1:1": "resolution", "acme:c2:1": "resolution"}
    of_event = settled_units(ledger, ["acme"], event.customer)
    assert of_event == (by_hand if state == "rejected" else {})
    elsewhere = settled_units(ledger, ["acme"], "cus_new")
    assert elsewhere == ({} if state == "planned" else by_hand)
    assert settled_units(ledger, ["bluejay"], event.customer) == {}
