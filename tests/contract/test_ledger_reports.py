"""Reading the ledger: the same on SQLite and PostgreSQL."""

import pytest
from sqlalchemy import update

from pipeline.ledger import Ledger, deliveries, reports
from pipeline.ledger.entries import STUCK, State
from pipeline.ledger.tables import meter_event
from tests.support.ledger import (
    HOUR_MS,
    LEASE_MS,
    T0,
    conclude,
    deliver,
    leased,
    planned,
    record,
    stored,
)


def test_usage_adds_up_by_tenant_and_outcome(ledger: Ledger) -> None:
    stored(
        ledger,
        record("c1", kind="confirmed"),
        record("c2"),
        record("c3", outcome="qualification", kind="reported"),
        record("c1", tenant_id="zeta"),
    )

    sums = reports.usage(ledger)

    assert [(u.tenant_id, u.outcome, u.quantity, u.confirmed, u.assumed) for u in sums] == [
        ("acme", "qualification", 1, 0, 0),
        ("acme", "resolution", 2, 1, 1),
        ("zeta", "resolution", 1, 0, 1),
    ]
    assert all(type(u.quantity) is int for u in sums)


def test_a_reversal_counts_under_the_kind_and_version_of_its_charge(ledger: Ledger) -> None:
    stored(
        ledger,
        record("c1", kind="assumed", policy_version=1),
        record("c1", 2, -1, kind="confirmed", supersedes=1, policy_version=2),
    )

    (usage,) = reports.usage(ledger)

    assert (usage.policy_version, usage.quantity, usage.confirmed, usage.assumed) == (1, 0, 0, 0)


def test_usage_includes_its_start_and_excludes_its_end(ledger: Ledger) -> None:
    stored(ledger, *(record(f"c{i}", at=T0 + i) for i in range(5)))

    (usage,) = reports.usage(ledger, from_ms=T0 + 1, to_ms=T0 + 3)

    assert usage.quantity == 2
    assert reports.usage(ledger, tenant_id="nobody") == []


def test_usage_separates_delivered_from_pending_units(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))
    (event,) = planned(ledger)
    stored(ledger, record("c3"), record("c4"), record("c4", 2, -1, supersedes=1))

    (before,) = reports.usage(ledger)
    deliver(ledger, event)
    (after,) = reports.usage(ledger)

    assert (before.quantity, before.delivered) == (3, 0)
    assert (after.quantity, after.delivered) == (3, 2)


def test_open_sums_count_units_until_they_are_delivered(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))
    (event,) = planned(ledger)
    stored(ledger, record("c3"))

    before = {(s.tenant_id, s.state): s.quantity for s in deliveries.open_sums(ledger)}
    deliver(ledger, event)
    after = {(s.tenant_id, s.state): s.quantity for s in deliveries.open_sums(ledger)}

    assert before == {("acme", "planned"): 2, ("acme", "pending"): 1}
    assert after == {("acme", "pending"): 1}


@pytest.mark.parametrize("state", ["sent", "rejected", "uncertain", "altered"])
def test_units_of_every_state_that_is_not_final_are_owed(ledger: Ledger, state: State) -> None:
    stored(ledger, record("c1"), record("c2"))
    planned(ledger)
    set_state(ledger, state)

    (owed,) = deliveries.open_sums(ledger)
    (usage,) = reports.usage(ledger)

    assert (owed.state, owed.quantity) == (state, 2)
    in_states = {name: getattr(usage, name) for name in STUCK}
    assert in_states == {name: 2 if name == state else 0 for name in STUCK}
    assert (usage.quantity, usage.delivered) == (2, 0)
    assert deliveries.stuck_counts(ledger) == {name: int(name == state) for name in STUCK}


def test_a_settled_event_is_neither_delivered_nor_pending(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    planned(ledger)
    set_state(ledger, "settled")

    (usage,) = reports.usage(ledger)
    assert (usage.delivered, usage.settled, usage.pending) == (0, 1, 0)
    assert deliveries.open_sums(ledger) == []


def set_state(ledger: Ledger, state: State) -> None:
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(state=state))


def test_delivered_sums_range_from_units_delivered_in_time_to_all_units_sent(
    ledger: Ledger,
) -> None:
    later = T0 + 2 * HOUR_MS
    stored(ledger, record("c1"), record("c2", at=later), record("c3", tenant_id="bluejay"))
    first, second = planned(ledger)
    (other,) = planned(ledger, "bluejay")
    start, end = T0 // 1000 - 3600, T0 // 1000 + 9000
    deliver(ledger, first)  # answered at T0 + 5
    deliver(ledger, other)
    leased(ledger, second)

    (known,) = reports.delivered_sums(ledger, start, end, T0 + 5)
    (too_early,) = reports.delivered_sums(ledger, start, end, T0 + 4)
    (of_an_hour,) = reports.delivered_sums(ledger, start, second.timestamp, T0 + 5)

    assert (known.customer, known.event_name) == ("cus_1", "m")
    assert known.tenant_ids == ("acme", "bluejay")
    assert (known.least, known.most) == (2, 3)
    assert (too_early.least, too_early.most) == (0, 3)
    assert (of_an_hour.least, of_an_hour.most) == (2, 2)
    assert known.rejected == 0
    conclude(ledger, leased(ledger, second, now_ms=T0 + LEASE_MS), "rejected")
    (rejected,) = reports.delivered_sums(ledger, start, end, T0 + 5)
    assert (rejected.least, rejected.most, rejected.rejected) == (2, 2, 1)
    assert reports.delivered_between(ledger) == (first.timestamp, second.timestamp)


def test_a_ledger_that_sent_nothing_has_no_delivered_sums(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    planned(ledger)

    assert reports.delivered_between(ledger) is None
    assert reports.delivered_sums(ledger, 0, 2**40, T0 + 9) == []


def test_a_receipt_lists_every_call(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event), "failed")
    deliver(ledger, event)

    (receipt,) = reports.receipts(ledger, "acme", "c1")

    assert receipt.meter_event is not None
    assert receipt.meter_event.state == "delivered"
    assert [a.result for a in receipt.attempts] == ["failed", "delivered"]
    assert [a.request_id for a in receipt.attempts] == ["req_1", "req_1"]


def test_records_are_found_by_the_place_of_their_evidence_or_as_being_elsewhere(
    ledger: Ledger,
) -> None:
    stored(ledger, record("c1"))  # its evidence is in events[3]

    assert [r.id for r in reports.decided_from(ledger, "events", 3)] == ["acme:c1:1"]
    assert not list(reports.decided_from(ledger, "events", 0))
    assert not list(reports.decided_elsewhere(ledger, "events", [0, 3]))
    assert [r.id for r in reports.decided_elsewhere(ledger, "events", [0, 1])] == ["acme:c1:1"]
    assert [r.id for r in reports.decided_elsewhere(ledger, "copy", [0, 3])] == ["acme:c1:1"]
