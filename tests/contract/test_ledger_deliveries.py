"""Planning, leasing and concluding: the same on SQLite and PostgreSQL."""

import pytest
from sqlalchemy import delete, select, update

from pipeline.ledger import Ledger, deliveries, leases, outbox
from pipeline.ledger.entries import Conclusion, Lease, NotLeased, Result
from pipeline.ledger.journal import Renewal
from pipeline.ledger.tables import (
    attempt,
    meter_event,
    meter_event_record,
    pending_record,
    usage_record,
)
from pipeline.sink.grouping import group_records
from tests.support.journal import taken_over, written
from tests.support.ledger import (
    HOUR_MS,
    LEASE_MS,
    T0,
    conclude,
    count,
    deliver,
    frozen,
    leased,
    planned,
    record,
    state_of,
    stored,
    try_to_lease,
)


def test_planning_moves_each_record_from_pending_to_one_meter_event(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"), record("c3", at=T0 + HOUR_MS))

    events = planned(ledger)

    assert [event.value for event in events] == [2, 1]
    assert count(ledger, pending_record) == 0
    assert count(ledger, meter_event_record) == 3
    assert deliveries.pending_sums(ledger) == []


def test_records_that_another_sink_planned_are_not_planned_again(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))
    pending = deliveries.pending_records(ledger, "acme", "resolution", 1000)
    both, one = (frozen(group_records(records).groups) for records in (pending, pending[:1]))

    assert deliveries.store_planned(ledger, both, T0)
    assert not deliveries.store_planned(ledger, both, T0)
    assert not deliveries.store_planned(ledger, one, T0)

    assert count(ledger, meter_event) == 1
    assert count(ledger, meter_event_record) == 2


def test_no_record_can_be_in_two_meter_events(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    pending = deliveries.pending_records(ledger, "acme", "resolution", 1000)
    planned(ledger)
    with ledger.writing() as connection:
        row = {"tenant_id": "acme", "outcome": "resolution", "occurred_at": T0, "quantity": 1}
        values = {**row, "seq": pending[0].seq, "stored_at": T0}
        connection.execute(pending_record.insert().values(**values))

    with pytest.raises(Exception, match=r"(?i)unique"):
        planned(ledger, outcome="resolution")


def test_a_netted_event_is_never_due(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c1", 2, -1, supersedes=1))

    planned(ledger)

    assert leases.due(ledger, T0, 10) == []
    assert deliveries.pending_sums(ledger) == []


def test_one_sink_leases_an_event_until_its_lease_ends(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)

    leased(ledger, event, "a")
    early = try_to_lease(ledger, event, "b", T0 + 1)
    due_early = leases.due(ledger, T0 + 1, 10)
    late = try_to_lease(ledger, event, "b", T0 + LEASE_MS)

    assert early is NotLeased.TAKEN
    assert due_early == []
    assert isinstance(late, Lease)
    assert late.perhaps_counted
    assert late.idempotency_key == event.identifier


def test_a_delivered_event_is_not_leased_again(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    deliver(ledger, event)

    assert try_to_lease(ledger, event, "a", T0 + 10) is NotLeased.TAKEN
    assert leases.due(ledger, T0 + LEASE_MS * 9, 10) == []


def test_a_late_response_does_not_undo_a_conclusion(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    slow = leased(ledger, event, "a")
    quick = leased(ledger, event, "b", T0 + LEASE_MS)
    conclude(ledger, quick, "delivered")

    conclude(ledger, slow, "rejected")

    assert state_of(ledger, event) == "delivered"


def test_a_failed_call_ends_the_lease_at_once(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)

    conclude(ledger, leased(ledger, event), "failed")

    assert [e.identifier for e in leases.due(ledger, T0 + 5, 10)] == [event.identifier]
    assert state_of(ledger, event) == "sent"


@pytest.mark.parametrize(
    ("result", "perhaps_counted"), [("failed", True), ("refused", False), ("halted", False)]
)
def test_only_a_call_that_may_have_counted_explains_a_duplicate(
    ledger: Ledger, result: Result, *, perhaps_counted: bool
) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event), result)

    assert leased(ledger, event, now_ms=T0 + 10).perhaps_counted is perhaps_counted


def test_an_event_that_the_biller_may_have_forgotten_is_not_leased_again(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event), "failed")

    later = try_to_lease(ledger, event, "a", T0 + 24 * HOUR_MS, T0 + HOUR_MS)

    assert later is NotLeased.UNCERTAIN
    assert count(ledger, attempt) == 1
    assert state_of(ledger, event) == "uncertain"
    assert leases.due(ledger, T0 + 24 * HOUR_MS, 10) == []
    assert try_to_lease(ledger, event, "a", T0 + 24 * HOUR_MS) is NotLeased.TAKEN


def test_the_first_call_that_may_have_counted_decides_and_not_the_last(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    for hours in (0, 12, 22):
        conclude(ledger, leased(ledger, event, now_ms=T0 + hours * HOUR_MS), "failed")

    later = try_to_lease(ledger, event, "a", T0 + 24 * HOUR_MS, T0 + HOUR_MS)

    assert later is NotLeased.UNCERTAIN


def test_a_call_of_a_time_to_come_is_of_unknown_age(ledger: Ledger) -> None:
    """A sink had a clock that was days ahead, and died after the call; somebody corrected the clock."""
    stored(ledger, record("c1"), record("c2", at=T0 - HOUR_MS))
    (first, second) = planned(ledger)
    conclude(ledger, leased(ledger, first, now_ms=T0 + 72 * HOUR_MS), "failed")
    leased(ledger, second, now_ms=T0 + 72 * HOUR_MS)

    due = leases.due(ledger, T0 + 6, 10)
    later = [try_to_lease(ledger, event, "b", T0 + 6) for event in due]

    assert {event.identifier for event in due} == {first.identifier, second.identifier}
    assert later == [NotLeased.UNCERTAIN] * 2


def test_a_call_of_a_time_to_come_that_did_not_count_is_repeated(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event, now_ms=T0 + 72 * HOUR_MS), "refused")

    assert isinstance(try_to_lease(ledger, event, "b", T0 + 6), Lease)


def test_the_clocks_of_two_sinks_may_differ_a_little(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event, now_ms=T0 + HOUR_MS // 3), "failed")

    assert isinstance(try_to_lease(ledger, event, "b", T0 + 6), Lease)


def test_calls_that_did_not_count_never_make_an_event_uncertain(ledger: Ledger) -> None:
    """As long as the run that made them vouches for that."""
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event), "refused")
    at = T0 + 20 * HOUR_MS
    (renewed,) = outbox.renewable(ledger, "a", at, 10)
    written(ledger, [Renewal((renewed,), at)], "a", at)

    later = try_to_lease(ledger, event, "a", T0 + 30 * HOUR_MS, T0 + 7 * HOUR_MS)

    assert isinstance(later, Lease)


def test_an_event_for_which_nobody_vouched_in_23_hours_is_uncertain(ledger: Ledger) -> None:
    """Another ledger may have sent it, and lost its answer."""
    stored(ledger, record("c1"))
    (event,) = planned(ledger)

    later = try_to_lease(ledger, event, "a", T0 + 30 * HOUR_MS, T0 + 7 * HOUR_MS)

    assert later is NotLeased.UNCERTAIN


@pytest.mark.parametrize("result", ["failed", "foreign"])
def test_nobody_vouches_for_an_event_whose_call_may_have_counted(
    ledger: Ledger, result: Result
) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event), result)

    assert outbox.renewable(ledger, "a", T0 + HOUR_MS, 10) == []


def test_an_event_of_another_run_is_called_only_after_it_was_taken_over(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    assert leases.due(ledger, T0, 10, run="b") == []

    taken_over(ledger, event.identifier, "b")

    assert [each.identifier for each in leases.due(ledger, T0, 10, run="b")] == [event.identifier]
    assert outbox.renewable(ledger, "a", T0 + HOUR_MS, 10) == []


def test_a_late_acceptance_concludes_an_uncertain_event(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    slow = leased(ledger, event)
    try_to_lease(ledger, event, "b", T0 + 24 * HOUR_MS, T0 + HOUR_MS)

    conclude(ledger, slow, "failed")
    assert state_of(ledger, event) == "uncertain"
    conclude(ledger, slow, "delivered")

    assert state_of(ledger, event) == "delivered"


def test_what_is_due_is_taken_from_each_customer_in_turn(ledger: Ledger) -> None:
    stored(
        ledger,
        *(record(f"c{n}", at=T0 - n * HOUR_MS) for n in range(50)),
        record("b1", tenant_id="bluejay"),
        record("d1", tenant_id="delta", at=T0 + 1),
    )
    planned(ledger)
    for tenant_id in ("bluejay", "delta"):
        planned(ledger, tenant_id, customer=f"cus_{tenant_id}")

    due = leases.due(ledger, T0 + 9, 10)

    assert [event.tenant_id for event in due[:3]].count("acme") == 1
    assert [event.tenant_id for event in due[3:]] == ["acme"] * 7
    of_acme = [event.hour for event in due if event.tenant_id == "acme"]
    assert of_acme == sorted(of_acme)


def test_an_event_that_was_tried_waits_behind_those_that_were_not(ledger: Ledger) -> None:
    names = [f"t{n}" for n in range(5)]
    stored(ledger, *(record("c", tenant_id=name) for name in names))
    events = [planned(ledger, name, customer=name)[0] for name in names]
    for event in events[:3]:
        conclude(ledger, leased(ledger, event, now_ms=T0 + 1), "failed")

    due = leases.due(ledger, T0 + 10, 2)

    assert {event.tenant_id for event in due} == {"t3", "t4"}


def test_an_altered_event_is_not_due_and_not_leased(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)

    assert leases.mark_altered(ledger, event, T0)
    assert not leases.mark_altered(ledger, event, T0)

    assert leases.due(ledger, T0, 10) == []
    assert try_to_lease(ledger, event, "a", T0) is NotLeased.TAKEN


@pytest.mark.parametrize("result", ["failed", "foreign", "refused"])
def test_after_a_replayed_failure_the_key_is_new_and_the_identifier_the_same(
    ledger: Ledger, result: Result
) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    for replayed in (False, True):
        conclusion = Conclusion(result=result, http_status=500, replayed=replayed)
        leases.conclude(ledger, leased(ledger, event), conclusion, T0)

    assert leased(ledger, event).idempotency_key == f"{event.identifier}.1"


def test_pending_holds_exactly_the_records_without_a_meter_event(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2", at=T0 + HOUR_MS))
    planned(ledger)
    stored(ledger, record("c3"), record("c2", at=T0 + HOUR_MS))
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(state="sent"))
        connection.execute(delete(attempt))

    with ledger.reading() as connection:
        linked = select(meter_event_record.c.record_seq)
        unlinked = select(usage_record.c.seq).where(usage_record.c.seq.not_in(linked))
        expected = set(connection.scalars(unlinked))
        pending = set(connection.scalars(select(pending_record.c.seq)))
    assert pending == expected
    assert len(pending) == 1
