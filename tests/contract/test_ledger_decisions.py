"""Releasing and settling meter events: the same on SQLite and PostgreSQL."""

from typing import Any

import pytest
from sqlalchemy import select, update

from pipeline.catalog.tenants import Tenants
from pipeline.ledger import Ledger, decisions, deliveries, leases, reports
from pipeline.ledger.entries import STUCK, Decided, Decision, MeterEvent, Result, State
from pipeline.ledger.lineage import lineage, next_identifier
from pipeline.ledger.tables import attempt, delivery_decision, meter_event
from pipeline.sink.stripe.meter import body_sha256
from tests.support.journal import journalled
from tests.support.ledger import (
    HOUR_MS,
    T0,
    conclude,
    count,
    deliver,
    leased,
    planned,
    record,
    state_of,
    stored,
    try_to_lease,
)
from tests.support.tenants import tenants_with

LATER = T0 + HOUR_MS


def billing(customer: str = "cus_1") -> Tenants:
    return tenants_with({"acme": customer}, meters={"resolution": "m"})


def rejected(ledger: Ledger, *results: Result, units: int = 1) -> MeterEvent:
    """Return a meter event after calls with these results; the last one is `rejected` by default."""
    stored(ledger, *(record(f"c{n}") for n in range(units)))
    (event,) = planned(ledger)
    for result in results or ("rejected",):
        conclude(ledger, leased(ledger, event), result)
    return event


def uncertain(ledger: Ledger) -> MeterEvent:
    event = rejected(ledger, "failed")
    try_to_lease(ledger, event, "a", T0 + 24 * HOUR_MS, T0 + HOUR_MS)
    return event


def decide(
    ledger: Ledger,
    event: MeterEvent,
    action: Any,
    *,
    apply: bool = True,
    tenants: Tenants | None = None,
    at: int = LATER,
    **changes: Any,
) -> Decided | str:
    (waiting,) = decisions.waiting(ledger, identifiers=[event.identifier])
    decision = Decision(action=action, at=at, who="ann", reason="because", **changes)
    return decisions.decide(
        ledger, waiting, decision, tenants or billing(), body_sha256, apply=apply
    )


def due(ledger: Ledger) -> list[MeterEvent]:
    """Return what is sent next, once a sink has written the decisions to the journal."""
    journalled(ledger)
    return leases.due(ledger, LATER, 10)


def test_a_released_event_is_sent_again_under_an_identifier_that_names_the_old_one(
    ledger: Ledger,
) -> None:
    event = rejected(ledger, units=3)

    decided = decide(ledger, event, "release")

    assert isinstance(decided, Decided)
    assert (decided.identifier, decided.state, decided.who) == (event.identifier, "rejected", "ann")
    (again,) = due(ledger)
    assert again.identifier == decided.replaced_by == f"{event.identifier}_r1"
    assert (again.value, again.timestamp, again.customer) == (3, event.timestamp, "cus_1")
    assert again.body_sha256 == body_sha256(again)
    assert state_of(ledger, event) == "released"
    deliver(ledger, again)
    assert reports.usage(ledger)[0].delivered == 3


def test_a_receipt_shows_the_calls_and_decisions_of_all_identifiers(ledger: Ledger) -> None:
    event = rejected(ledger)
    decide(ledger, event, "release")
    (again,) = due(ledger)
    conclude(ledger, leased(ledger, again, now_ms=LATER), "rejected")
    decide(ledger, again, "release")

    (receipt,) = reports.receipts(ledger, "acme", "c0")

    assert receipt.meter_event is not None
    assert receipt.meter_event.identifier == f"{event.identifier}_r2"
    assert [call.result for call in receipt.attempts] == ["rejected", "rejected"]
    assert [decision.replaced_by for decision in receipt.decisions] == [
        f"{event.identifier}_r1",
        f"{event.identifier}_r2",
    ]
    assert len(reports.attempts_of(ledger, receipt.meter_event.identifier)) == 2


def test_a_settled_event_counts_as_billed_and_is_not_sent(ledger: Ledger) -> None:
    event = uncertain(ledger)

    decided = decide(ledger, event, "settle")

    assert isinstance(decided, Decided)
    assert decided.replaced_by is None
    assert due(ledger) == []
    assert (state_of(ledger, event), reports.usage(ledger)[0].settled) == ("settled", 1)
    assert deliveries.open_sums(ledger) == []


def test_nothing_changes_without_apply(ledger: Ledger) -> None:
    event = rejected(ledger)

    for action in ("release", "settle"):
        assert isinstance(decide(ledger, event, action, apply=False), Decided)

    assert state_of(ledger, event) == "rejected"
    assert count(ledger, meter_event) == 1
    assert count(ledger, delivery_decision) == 0


@pytest.mark.parametrize("action", ["release", "settle"])
def test_to_decide_again_changes_nothing(ledger: Ledger, action: str) -> None:
    event = rejected(ledger)
    first = decide(ledger, event, action)

    again = decide(ledger, event, action, at=LATER + 9)
    other = decide(ledger, event, "settle" if action == "release" else "release")

    assert again == first
    assert other == f"ann has already decided to {action} it"
    assert count(ledger, delivery_decision) == 1
    assert count(ledger, meter_event) == (2 if action == "release" else 1)


@pytest.mark.parametrize(
    "results",
    [
        ("failed", "rejected"),
        ("foreign", "rejected"),
        ("collision",),
    ],
)
def test_what_may_have_been_counted_is_released_only_after_a_look_at_stripes_sum(
    ledger: Ledger, results: tuple[Result, ...]
) -> None:
    event = rejected(ledger, *results)

    refused = decide(ledger, event, "release")
    assert "Stripe may have counted it" in str(refused)
    assert state_of(ledger, event) == "rejected"

    decided = decide(ledger, event, "release", stripe_checked=True)
    assert isinstance(decided, Decided)
    assert decided.stripe_checked


def test_an_uncertain_event_is_released_only_after_a_look_at_stripes_sum(ledger: Ledger) -> None:
    event = uncertain(ledger)

    assert "Stripe may have counted it" in str(decide(ledger, event, "release"))
    assert isinstance(decide(ledger, event, "release", stripe_checked=True), Decided)


def test_an_earlier_versions_rejection_may_be_a_proxys(ledger: Ledger) -> None:
    """That version took every answer with a status of 400 to 499 for Stripe's."""
    event = rejected(ledger)
    with ledger.writing() as connection:
        connection.execute(update(attempt).values(request_id=None, http_status=408))

    assert "Stripe may have counted it" in str(decide(ledger, event, "release"))


def test_a_call_in_flight_may_have_been_counted(ledger: Ledger) -> None:
    event = rejected(ledger)
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(state="sent"))
    leased(ledger, event, now_ms=LATER)
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(state="rejected"))

    assert "Stripe may have counted it" in str(decide(ledger, event, "release"))


@pytest.mark.parametrize("state", ["planned", "sent", "delivered", "netted", "cancelled"])
def test_what_does_not_wait_is_left(ledger: Ledger, state: State) -> None:
    event = rejected(ledger)
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(state=state))

    for action in ("release", "settle"):
        assert str(decide(ledger, event, action)).startswith(f"it is {state}: only")
    assert count(ledger, meter_event) == 1


def test_a_release_goes_to_the_customer_of_today_with_the_sum_of_the_records(
    ledger: Ledger,
) -> None:
    event = rejected(ledger, units=2)
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(value=500, state="altered"))

    decide(ledger, event, "release", tenants=billing("cus_2"), bill_at=T0 + 5 * HOUR_MS)

    with ledger.reading() as connection:
        query = select(meter_event.c.customer, meter_event.c.value, meter_event.c.timestamp)
        again = connection.execute(query.where(meter_event.c.state == "planned")).one()
    assert tuple(again) == ("cus_2", 2, T0 // 1000 + 5 * 3600)


def test_a_release_without_a_customer_says_so(ledger: Ledger) -> None:
    event = rejected(ledger)
    tenants = tenants_with({})

    assert "run resmeter catalog apply" in str(decide(ledger, event, "release", tenants=tenants))


def test_waiting_events_are_chosen_by_state_tenant_and_time(ledger: Ledger) -> None:
    stored(ledger, record("a1"), record("b1", tenant_id="bluejay"), record("d1", tenant_id="delta"))
    acme, bluejay, delta = (planned(ledger, name)[0] for name in ("acme", "bluejay", "delta"))
    conclude(ledger, leased(ledger, acme), "rejected")  # changes at T0 + 5
    conclude(ledger, leased(ledger, bluejay), "failed")
    try_to_lease(ledger, bluejay, "a", T0 + 24 * HOUR_MS, T0 + HOUR_MS)
    deliver(ledger, delta)

    def tenants(**chosen: Any) -> list[str]:
        return [each.event.tenant_id for each in decisions.waiting(ledger, **chosen)]

    assert tenants() == ["acme", "bluejay"]
    assert tenants(states=["uncertain"]) == ["bluejay"]
    assert tenants(tenant_id="acme") == ["acme"]
    assert tenants(since_ms=T0 + 6) == ["bluejay"]
    assert tenants(identifiers=[delta.identifier]) == ["delta"]
    (first, second) = decisions.waiting(ledger)
    assert (first.calls, first.perhaps_counted, first.detail) == (1, False, "rejected (HTTP 500)")
    assert (second.calls, second.perhaps_counted, second.detail) == (1, True, "failed (HTTP 500)")


def test_identifiers_name_those_that_they_replace() -> None:
    first = f"rm_{'0f' * 32}"

    second = next_identifier(first)
    third = next_identifier(second)

    assert (second, third) == (f"{first}_r1", f"{first}_r2")
    assert lineage(third) == [first, second, third]
    assert lineage(first) == [first]
    assert len(next_identifier(f"{first}_r999999")) <= 100
    assert set(STUCK) == {"rejected", "uncertain", "altered"}
