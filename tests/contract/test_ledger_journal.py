"""Applying the journal to the ledger: the same on SQLite and PostgreSQL, and as the pure rules say."""

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import delete, select, update

from pipeline.errors import BrokenInvariantError
from pipeline.ledger import (
    Ledger,
    adoption,
    decisions,
    deliveries,
    journal,
    leases,
    months,
    outbox,
    records,
)
from pipeline.ledger.entries import Decision, Stored
from pipeline.ledger.journal import (
    Conclusion,
    Entry,
    Placed,
    Plan,
    View,
    apply,
    plan_of,
)
from pipeline.ledger.standing import Standing
from pipeline.ledger.tables import (
    account_approval,
    account_grant,
    awaited_record,
    closing,
    consumed_topic,
    consumer_offset,
    delivery_decision,
    delivery_takeover,
    meter_event,
    meter_event_record,
    pending_record,
    usage_record,
)
from pipeline.sink.grouping import group_records
from pipeline.sink.stripe.meter import body_sha256
from tests.contract.test_ledger_decisions import billing, decide, rejected
from tests.properties.test_journal import journals
from tests.support.journal import JOURNAL, journalled, written
from tests.support.ledger import (
    T0,
    TOPIC,
    arrivals,
    conclude,
    count,
    frozen,
    leased,
    planned,
    record,
    state_of,
    stored,
)

_ALL = (
    account_approval,
    account_grant,
    closing,
    delivery_takeover,
    delivery_decision,
    awaited_record,
    meter_event_record,
    pending_record,
    meter_event,
    usage_record,
    consumer_offset,
    consumed_topic,
)


def plan(*ids: str, identifier: str = "rm_other", value: int = 1) -> Plan:
    return Plan(
        identifier=identifier,
        tenant_id="acme",
        customer="cus_1",
        outcome="resolution",
        event_name="m",
        hour=T0 // 3_600_000,
        value=value,
        timestamp=T0 // 1000,
        body_sha256="x",
        records=ids,
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(journals)
def test_a_ledger_is_what_the_rules_make_of_the_journal(
    ledger: Ledger, entries: list[Entry]
) -> None:
    with ledger.writing() as connection:
        for table in _ALL:
            connection.execute(delete(table))
    view = View({}, {})
    for at, entry in enumerate(entries):
        verdicts = apply(view, entry, at)

        applied = adoption.apply(ledger, JOURNAL, [Placed(at, at, entry)], at or None, T0)

        assert applied is not None
        # Of a record that was released, a ledger names the meter event that has it now.
        assert [(each.item, each.why is None) for each in applied.verdicts] == [
            (each.item, each.why is None) for each in verdicts
        ]
    m = meter_event.c
    with ledger.reading() as connection:
        rows = connection.execute(select(m.identifier, m.journal_state, m.vouched_at, m.voucher))
        standings = {name: Standing(*standing) for name, *standing in rows}
        held = set(connection.scalars(select(awaited_record.c.id)))
        accounts = months.standings(connection, [x for x in view.accounts if "\0" not in x])
    assert standings == view.standings
    assert held == view.holders.keys()
    assert accounts == {k: v for k, v in view.accounts.items() if "\0" not in k}


def test_entries_that_another_sink_has_applied_change_nothing(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    planned(ledger)

    placed = [Placed(0, T0, Entry(run="b", items=(plan("acme:c2:1"),)))]

    assert adoption.apply(ledger, JOURNAL, placed, None, T0) is None
    assert count(ledger, meter_event) == 1


def test_the_records_of_an_adopted_meter_event_are_not_pending(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))

    written(ledger, [plan("acme:c1:1")], "b")

    assert [sums.records for sums in deliveries.pending_sums(ledger)] == [1]
    assert count(ledger, meter_event_record) == 1


def test_records_that_arrive_after_the_journal_belong_to_their_meter_event(ledger: Ledger) -> None:
    written(ledger, [plan("acme:c1:1", "acme:c2:1", value=2)], "b")

    stored(ledger, record("c1"), record("c3"))
    stored(ledger, record("c2"))

    assert [sums.records for sums in deliveries.pending_sums(ledger)] == [1]
    assert count(ledger, meter_event_record) == 2
    assert count(ledger, awaited_record) == 0


def test_a_record_that_is_written_again_elsewhere_is_known_by_its_id(ledger: Ledger) -> None:
    """The topic of usage records was made again, or copied: its offsets are others."""
    written(ledger, [plan("acme:c1:1")], "b")

    again = records.store(ledger, TOPIC, arrivals([record("c1")], 7, 3), {3: None}, T0)

    assert isinstance(again, Stored)
    assert deliveries.pending_sums(ledger) == []


def test_a_plan_of_a_record_that_an_operator_has_just_released_is_void(ledger: Ledger) -> None:
    """The release is not in the journal yet, but its meter event is."""
    event = rejected(ledger)
    decide(ledger, event, "release")

    (verdict,) = written(ledger, [plan("acme:c0:1")], "b")

    assert event.identifier in str(verdict.why)


@pytest.mark.parametrize("ours", ["release", "settle"])
@pytest.mark.parametrize("theirs", ["release", "settle"])
def test_of_two_decisions_of_two_ledgers_the_first_in_the_journal_holds(
    ledger: Ledger, ours: str, theirs: str
) -> None:
    event = rejected(ledger)
    journalled(ledger)
    (waiting,) = decisions.waiting(ledger)
    decision = Decision(action=theirs, at=T0, who="bob", reason="x", bill_at=T0 + 1000)  # type: ignore[arg-type]
    made = decisions.decide(ledger, waiting, decision, billing(), body_sha256, apply=False)
    assert not isinstance(made, str)
    again = None
    if made.replaced_by:
        again = plan(identifier=made.replaced_by)
    decide(ledger, event, ours)
    written(ledger, [journal.Decision(made, again)], "b")
    journalled(ledger)

    (decided,) = decisions.decided(ledger, [event.identifier])
    assert decided.who == "bob"
    assert state_of(ledger, event) == ("released" if theirs == "release" else "settled")
    assert len(leases.due(ledger, T0 + 9_000, 10)) == (theirs == "release")
    assert outbox.unjournalled_items(ledger, 10) == []


def test_a_decision_is_void_where_another_ledger_knows_that_the_event_counts(
    ledger: Ledger,
) -> None:
    event = rejected(ledger)
    journalled(ledger)
    decide(ledger, event, "release")

    written(ledger, [Conclusion(event.identifier, "delivered")], "b")
    journalled(ledger)

    assert state_of(ledger, event) == "delivered"
    assert leases.due(ledger, T0 + 9_000, 10) == []
    assert decisions.decided(ledger, [event.identifier]) == []


def test_a_conclusion_of_another_ledger_concludes_the_event_here(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)

    written(ledger, [Conclusion(event.identifier, "delivered")], "b")

    assert state_of(ledger, event) == "delivered"
    assert outbox.unjournalled_items(ledger, 10) == []


def test_a_ledger_with_other_meter_events_than_the_journal_is_refused(ledger: Ledger) -> None:
    """An older version ran beside this one, or the ledger belongs to another deployment."""
    stored(ledger, record("c1"), record("c2"))
    pending = deliveries.pending_records(ledger, "acme", "resolution", 10)
    deliveries.store_planned(ledger, frozen(group_records(pending).groups), T0)

    with pytest.raises(BrokenInvariantError, match="an older version of the sink"):
        written(ledger, [plan("acme:c1:1")], "b")


def test_what_a_ledger_knew_before_it_had_a_journal_is_written_to_it(ledger: Ledger) -> None:
    event = rejected(ledger, "failed", "rejected", units=2)
    decide(ledger, event, "release", stripe_checked=True)
    with ledger.writing() as connection:
        connection.execute(delete(consumer_offset).where(consumer_offset.c.topic == JOURNAL))
        connection.execute(
            update(meter_event).values(journal_state=None, vouched_at=None, voucher=None)
        )

    journalled(ledger)

    m = meter_event.c
    query = select(m.journal_state, m.vouched_at, m.voucher).order_by(m.identifier)
    with ledger.reading() as connection:
        first, again = (Standing(*row) for row in connection.execute(query))
    assert first == Standing("released", 0, None)
    assert (again.state, again.voucher) == ("planned", "a")


def test_an_uncertain_event_stays_uncertain_in_every_ledger(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    conclude(ledger, leased(ledger, event), "failed")
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(state="uncertain", journal_state=None))

    (item,) = outbox.unjournalled_items(ledger, 10)

    assert item == plan_of(event, ["acme:c1:1"], called_since=0)


def test_a_ledger_without_some_usage_records_can_follow_another_journal(ledger: Ledger) -> None:
    """Kafka may have deleted them before the ledger was rebuilt."""
    written(ledger, [plan("acme:c1:1")], "b")
    adoption.forget(ledger, JOURNAL, T0)

    (verdict,) = written(ledger, [plan("acme:c1:1")], "b")

    assert verdict.why is None
    assert count(ledger, awaited_record) == 1


@pytest.mark.parametrize("state", ["rejected", "uncertain"])
def test_a_release_keeps_the_units_of_usage_records_that_the_ledger_does_not_have(
    ledger: Ledger, state: str
) -> None:
    adopted = plan("acme:c1:1", "acme:c2:1", "acme:c3:1", value=3)
    stored(ledger, record("c1"))
    written(ledger, [adopted], "b")
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(state=state))

    decide(ledger, adopted.event, "release", stripe_checked=True)
    journalled(ledger)

    (event,) = leases.due(ledger, T0 + 3_600_000, 10)
    assert event.value == 3
    stored(ledger, record("c2"), record("c3"))
    assert count(ledger, awaited_record) == count(ledger, pending_record) == 0


def test_an_altered_meter_event_without_all_its_usage_records_is_not_released(
    ledger: Ledger,
) -> None:
    adopted = plan("acme:c1:1", "acme:c2:1", value=2)
    stored(ledger, record("c1"))
    written(ledger, [adopted], "b")
    with ledger.writing() as connection:
        connection.execute(update(meter_event).values(state="altered", value=9))

    refused = decide(ledger, adopted.event, "release", stripe_checked=True)

    assert isinstance(refused, str)
    assert "1 of its usage records are not in this ledger" in refused
