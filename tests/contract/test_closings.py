"""Closings, grants and approvals come from the journal, and every ledger has the same."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from pipeline.billing.approvals import Decisions, Verdict, approvables
from pipeline.errors import BrokenInvariantError, ConfigurationError
from pipeline.ledger import (
    Ledger,
    adoption,
    continuation,
    deliveries,
    months,
    open_ledger,
    records,
    reports,
    upgrade,
)
from pipeline.ledger.entries import ConsumedRecord, StatedOn, Stored
from pipeline.ledger.journal import plan_of
from pipeline.ledger.month_entries import Approval, Closing, Granted
from pipeline.ledger.receipt import explain
from pipeline.ledger.receipt_text import render
from pipeline.ledger.statements import prepare_closing, prepare_grant, state_account
from pipeline.ledger.stating import Stating
from pipeline.metrics import SinkMetrics
from pipeline.sink.grouping import group_records
from pipeline.sink.journal import Journal
from pipeline.usage.record import UsageRecord
from tests.contract.test_ledger_statements import (
    ACME,
    CALENDAR,
    OCTOBER,
    Prices,
    at,
    charge,
    reversal,
)
from tests.support.journal import JOURNAL, MemoryTopic, journal_on, written
from tests.support.ledger import DESTINATION, TOPIC, arrivals, deliver, frozen, planned, record

CLOSED = at("2026-11-01T00:45")
LATER = at("2026-11-20T00:00")
PRICES = Prices("0.99")


APPROVAL = Approval(
    id="p",
    account="acme",
    period_start=OCTOBER.start_ms,
    what="unmatched",
    of_period=OCTOBER.start_ms,
    amount=1,
    verdict="approved",
    who="ann",
    reason="known",
    at=CLOSED,
)


class World:
    """The topics, and ledgers that follow them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.topic = MemoryTopic(lambda: CLOSED)
        self.records: list[ConsumedRecord] = []
        self._opened: list[Ledger] = []

    def ledger(self) -> Ledger:
        """Return a new ledger that has followed the journal, and stored no usage record."""
        url = f"sqlite:///{self._folder}/{len(self._opened)}.sqlite"
        upgrade(url)
        self._opened.append(open_ledger(url))
        journal_on(self._opened[-1], self.topic, "a", lambda: CLOSED / 1000)
        return self._opened[-1]

    def publish(self, *usage_records: UsageRecord) -> None:
        self.records += arrivals(usage_records, len(self.records))

    def close(self) -> None:
        for ledger in self._opened:
            ledger.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def read(ledger: Ledger, consumed: list[ConsumedRecord], stored_at: int) -> None:
    """Store usage records from where the ledger is."""
    start = records.offsets(ledger, TOPIC).get(0)
    batch = [each for each in consumed if each.offset >= (start or 0)]
    if batch:
        assert isinstance(
            records.store(ledger, TOPIC, batch, {0: start}, stored_at, PRICES), Stored
        )


def prepare(ledger: Ledger, period: str = "2026-10", closed_at: int = CLOSED) -> Closing:
    found = prepare_closing(ledger, ACME, PRICES, period, closed_at, lambda _: False)
    assert found.closing is not None, found.missing
    return found.closing


def grant(ledger: Ledger, name: str, created_at: str) -> Granted:
    line = {"kind": "credit", "id": name, "amount": "0.50", "created_at": created_at}
    return prepare_grant(ledger, ACME, PRICES, json.dumps(line).encode())


def lines(ledger: Ledger, period: str, as_of: int = LATER) -> list[tuple[str, str | None, int]]:
    found = state_account(ledger, ACME, PRICES, period, as_of).statement.lines
    return [(line.kind, line.period, line.amount) for line in found]


def test_a_ledger_that_is_built_again_has_the_same_final_statements(world: World) -> None:
    """Its clock is later, and it stores late records together with those that were in time."""
    ledger = world.ledger()
    journal = journal_on(ledger, world.topic, "a", lambda: CLOSED / 1000)
    world.publish(charge("c1", "2026-10-02T00:00"), charge("c2", "2026-10-03T00:00"))
    read(ledger, world.records, at("2026-10-03T00:00"))
    entered = journal.write([grant(ledger, "g", "2026-10-05T00:00:00Z")])
    assert [each.why for each in entered] == [None]
    assert [each.why for each in journal.write([prepare(ledger)])] == [None]
    world.publish(reversal("c1", "2026-10-04T00:00"))
    read(ledger, world.records, at("2026-11-02T00:00"))
    (late,) = journal.write([prepare(ledger, "2026-11", at("2026-12-01T00:45"))])
    assert late.why is None

    again = world.ledger()
    read(again, world.records, at("2027-01-01T00:00"))

    after = at("2027-01-02T00:00")
    for period in ("2026-10", "2026-11"):
        assert lines(again, period, after) == lines(ledger, period, after) != []
    with again.reading() as one, ledger.reading() as other:
        assert months.closings_of(one, "acme") == months.closings_of(other, "acme")


def test_a_ledger_that_has_not_read_what_a_closing_knew_says_so(world: World) -> None:
    ledger = world.ledger()
    world.publish(charge("c1", "2026-10-02T00:00"), charge("c2", "2026-10-03T00:00"))
    read(ledger, world.records, at("2026-10-03T00:00"))
    journal_on(ledger, world.topic, "a", lambda: CLOSED / 1000).write([prepare(ledger)])

    again = world.ledger()
    read(again, world.records[:1], CLOSED)
    (doubt,) = state_account(again, ACME, PRICES, "2026-10", LATER).doubts
    found = prepare_closing(again, ACME, PRICES, "2026-11", at("2026-12-01T00:45"))
    read(again, world.records, CLOSED)

    assert "not read all usage records that the statement of 2026-10-01 knew" in doubt
    assert (found.closing, [each.what for each in found.missing]) == (None, ["unread"])
    assert state_account(again, ACME, PRICES, "2026-10", LATER).doubts == ()
    assert lines(again, "2026-10") == [("metered", None, 198)]


def test_a_ledger_with_other_records_than_a_closing_knew_states_no_period(world: World) -> None:
    ledger = world.ledger()
    world.publish(charge("c1", "2026-10-02T00:00"))
    read(ledger, world.records, at("2026-10-03T00:00"))
    journal_on(ledger, world.topic, "a", lambda: CLOSED / 1000).write([prepare(ledger)])

    again = world.ledger()
    read(again, arrivals([charge("other", "2026-11-02T00:00")]), CLOSED)

    with pytest.raises(BrokenInvariantError, match="the final statement of acme for 2026-10-01"):
        lines(again, "2026-11")


def test_of_two_closings_of_a_period_the_first_counts_in_every_ledger(world: World) -> None:
    ledger, other = world.ledger(), world.ledger()
    world.publish(charge("c1", "2026-10-02T00:00"), charge("c2", "2026-10-03T00:00"))
    read(ledger, world.records, at("2026-10-03T00:00"))
    read(other, world.records[:1], at("2026-10-03T00:00"))
    first, second = prepare(ledger), prepare(other, closed_at=CLOSED + 1)

    assert [
        verdict.why
        for each, closing in ((ledger, first), (other, second))
        for verdict in journal_on(each, world.topic, "b", lambda: CLOSED / 1000).write([closing])
    ] == [None, "the period is closed already"]

    read(other, world.records, CLOSED)
    assert lines(ledger, "2026-10") == lines(other, "2026-10") == [("metered", None, 198)]


def test_a_closing_that_does_not_know_a_grant_is_void(world: World) -> None:
    """Its statement would not be the one that is made again."""
    ledger = world.ledger()
    journal = journal_on(ledger, world.topic, "a", lambda: CLOSED / 1000)
    world.publish(charge("c1", "2026-10-02T00:00"))
    read(ledger, world.records, at("2026-10-03T00:00"))
    closing = prepare(ledger)

    verdicts = journal.write([grant(ledger, "g", "2026-10-05T00:00:00Z"), closing])

    assert [each.why for each in verdicts] == [
        None,
        "a grant has entered meanwhile, which its statement does not know",
    ]
    assert [each.why for each in journal.write([prepare(ledger)])] == [None]
    assert lines(ledger, "2026-10") == [("metered", None, 99), ("credit", None, -50)]


def test_a_writer_learns_its_verdict_although_another_process_has_read_its_entry(
    world: World,
) -> None:
    """A command and a sink share one ledger."""
    ledger = world.ledger()
    world.publish(charge("c1", "2026-10-02T00:00"))
    read(ledger, world.records, at("2026-10-03T00:00"))
    closing = prepare(ledger)
    again = replace(closing, closed_at=CLOSED + 1)

    sink = journal_on(ledger, world.topic, "sink", lambda: CLOSED / 1000)

    class Overtaken(MemoryTopic):
        def append(self, values: list[bytes]) -> None:  # type: ignore[override]
            world.topic.append(values)
            sink.follow()

    topic = Overtaken(lambda: CLOSED)
    topic.records = world.topic.records
    command = journal_on(ledger, topic, "command", lambda: CLOSED / 1000)

    assert [each.why for each in command.write([closing, again])] == [
        None,
        "another entry came before",
    ]


def test_the_first_verdict_of_a_person_counts(ledger: Ledger) -> None:
    first, second = written(ledger, [APPROVAL, replace(APPROVAL, verdict="rejected")], "a")

    assert (first.why, second.why) == (None, "it is decided already")
    with ledger.reading() as connection:
        assert months.approvals_of(connection, "acme") == [APPROVAL]


def decide(
    ledger: Ledger,
    verdict: Verdict,
    period: str = "2026-10",
    at_ms: int = CLOSED,
    journal: Journal | None = None,
) -> None:
    """Say the same about all that waits for a person."""
    stated = state_account(ledger, ACME, PRICES, period, at_ms)
    for each in approvables("acme", stated.statement, Decimal(0), Decisions()):
        approval = replace(
            APPROVAL,
            id=each.id,
            period_start=each.period.start_ms,
            what=each.what,
            of_period=each.of_period.start_ms,
            amount=each.amount,
            verdict=verdict,
        )
        verdicts = journal.write([approval]) if journal else written(ledger, [approval], "a")
        assert verdicts[0].why is None


def test_unmatched_reversals_that_a_person_accepted_do_not_block_the_close(ledger: Ledger) -> None:
    read(ledger, arrivals([reversal("c1", "2026-10-02T00:00")]), at("2026-10-02T00:00"))
    found = prepare_closing(ledger, ACME, PRICES, "2026-10", CLOSED)
    assert [(each.what, each.number) for each in found.missing] == [("unmatched", 1)]

    decide(ledger, "approved")

    assert prepare(ledger).account == "acme"


def test_an_adjustment_that_a_person_rejected_is_waived_on_the_final_statement(
    ledger: Ledger,
) -> None:
    read(ledger, arrivals([charge("c1", "2026-10-02T00:00")]), at("2026-10-02T00:00"))
    written(ledger, [prepare(ledger)], "a")
    more = [charge("c2", "2026-10-02T00:00"), charge("c3", "2026-11-02T00:00")]
    read(ledger, arrivals(more, 1), at("2026-11-02T00:00"))
    december = at("2026-12-01T00:45")
    found = prepare_closing(
        ledger, ACME, PRICES, "2026-11", december, lambda _: False, amount_max=Decimal("0.50")
    )
    (missing,) = found.missing
    assert (missing.what, missing.number) == ("unapproved", 1)
    assert missing.detail.startswith("adjustments of 0.99 USD wait for a person: see `resmeter ")
    decide(ledger, "rejected", "2026-11", december)

    closing = prepare(ledger, "2026-11", december)
    written(ledger, [closing], "a")

    assert closing.waived == (OCTOBER.start_ms,)
    assert lines(ledger, "2026-11", december) == [
        ("metered", None, 99),
        ("adjusted", "2026-10-01", 99),
        ("waived", "2026-10-01", -99),
    ]
    late = replace(APPROVAL, period_start=OCTOBER.start_ms, id="late")
    assert written(ledger, [late], "a")[0].why == "the period is closed already"


@pytest.mark.parametrize("how", ["made again", "cut"])
def test_records_that_come_where_the_topic_began_again_are_late(ledger: Ledger, how: str) -> None:
    """They have offsets that the closing knew, and are other records."""
    assert records.is_known_topic(ledger, TOPIC, "first")
    read(
        ledger,
        arrivals([charge("c1", "2026-10-02T00:00"), charge("c2", "2026-10-03T00:00")]),
        at("2026-10-03T00:00"),
    )
    written(ledger, [prepare(ledger)], "a")
    if how == "cut":
        assert continuation.rewind(ledger, TOPIC, 0, 2, 0)
    else:
        assert not records.is_known_topic(ledger, TOPIC, "second")
    again = arrivals([charge("c1", "2026-10-02T00:00"), charge("c3", "2026-10-03T00:00")])
    stored = records.store(
        ledger, TOPIC, again, {0: 0 if how == "cut" else None}, at("2026-11-03T00:00"), PRICES
    )
    assert isinstance(stored, Stored)

    assert lines(ledger, "2026-10") == [("metered", None, 198)]
    assert lines(ledger, "2026-11") == [("adjusted", "2026-10-01", 99)]
    written(ledger, [prepare(ledger, "2026-11", at("2026-12-01T00:45"))], "a")
    assert lines(ledger, "2026-11", at("2026-12-02T00:00")) == [("adjusted", "2026-10-01", 99)]
    assert lines(ledger, "2026-12", at("2026-12-02T00:00")) == []


def test_a_void_that_takes_more_than_is_left_is_refused_before_it_is_written(
    ledger: Ledger,
) -> None:
    pack = {"kind": "pack", "id": "p", "outcomes": ["resolution"], "units": 1}
    line = json.dumps(pack | {"created_at": "2026-10-01T00:00:00Z"}).encode()
    written(ledger, [prepare_grant(ledger, ACME, PRICES, line)], "a")
    void = {"kind": "void", "grant": "p", "takes": 2, "created_at": "2026-10-02T00:00:00Z"}

    with pytest.raises(ConfigurationError, match="more than was left"):
        prepare_grant(ledger, ACME, PRICES, json.dumps(void).encode())


def test_what_is_under_way_or_waits_for_a_person_blocks_the_close(ledger: Ledger) -> None:
    def missing() -> list[tuple[str, int]]:
        found = prepare_closing(ledger, ACME, PRICES, "2026-10", CLOSED)
        return [(each.what, each.number) for each in found.missing]

    read(ledger, arrivals([charge("c1", "2026-10-02T00:00")]), at("2026-10-02T00:00"))
    assert missing() == [("undelivered", 1)]
    (event,) = planned(ledger)
    assert missing() == [("undelivered", 1)]
    deliver(ledger, event)
    assert missing() == []
    assert adoption.position(ledger, JOURNAL) is not None


def test_a_ledger_that_follows_another_journal_writes_to_it_what_that_lacks(world: World) -> None:
    ledger = world.ledger()
    journal = journal_on(ledger, world.topic, "a", lambda: CLOSED / 1000)
    world.publish(charge("c1", "2026-10-02T00:00"))
    read(ledger, world.records, at("2026-10-03T00:00"))
    journal.write([grant(ledger, "g", "2026-10-05T00:00:00Z"), APPROVAL])
    journal.write([prepare(ledger)])
    journal.write([grant(ledger, "h", "2026-11-05T00:00:00Z")])
    world.topic = MemoryTopic(lambda: CLOSED)
    world.topic.id = "another"
    adoption.forget(ledger, JOURNAL, 0)

    follower = journal_on(ledger, world.topic, "b", lambda: CLOSED / 1000)
    follower.add_unjournalled()
    follower.commit()
    follower.add_unjournalled()

    assert follower.commit() == []  # nothing is lacking any more
    again = world.ledger()
    with ledger.reading() as one, again.reading() as other:
        assert list(months.unjournalled(one)) == []
        assert months.standings(one, ["acme"]) == months.standings(other, ["acme"])
        assert months.closings_of(one, "acme") == months.closings_of(other, "acme") != []
        assert months.grant_lines(one, "acme") == months.grant_lines(other, "acme")
        assert months.approvals_of(one, "acme") == months.approvals_of(other, "acme") == [APPROVAL]


def test_a_ledger_whose_closing_is_void_in_another_journal_stops(ledger: Ledger) -> None:
    read(ledger, arrivals([charge("c1", "2026-10-02T00:00")]), at("2026-10-02T00:00"))
    closing, other = prepare(ledger), grant(ledger, "g", "2026-10-05T00:00:00Z")
    written(ledger, [closing], "a")
    adoption.forget(ledger, JOURNAL, 0)

    with pytest.raises(BrokenInvariantError, match="with the statement"):
        written(ledger, [replace(closing, statement="{}")], "b")
    with pytest.raises(BrokenInvariantError, match="a closing of the account acme that is void"):
        written(ledger, [other, closing], "b")


# --- what is on a final statement is not sent -----------------------------------------------------


def account_of(tenant_id: str, _: int) -> str:
    return tenant_id


def stated(ledger: Ledger) -> dict[str, str]:
    """State what is pending, and return the period by the record that is on its statement."""
    Stating(ledger).step(account_of)
    with ledger.reading() as connection:
        rows = connection.execute(
            text(
                "SELECT id, period_start FROM stated_record JOIN usage_record r ON r.seq = record_seq "
                "JOIN closing ON closing.seq = closing_seq"
            )
        )
        return {row.id: CALENDAR.period_at(row.period_start).name for row in rows}


def pending(ledger: Ledger) -> set[str]:
    with ledger.reading() as connection:
        query = "SELECT id FROM pending_record JOIN usage_record USING (seq)"
        return set(connection.scalars(text(query)))


def test_what_a_closing_knew_of_its_period_is_stated_and_no_longer_pending(world: World) -> None:
    """A unit of the next period, a late one, and a reversal without its charge stay pending."""
    ledger = world.ledger()
    journal = journal_on(ledger, world.topic, "a", lambda: CLOSED / 1000)
    known = [
        charge("c1", "2026-10-02T00:00"),
        reversal("c1", "2026-11-01T00:10"),  # it follows its charge
        charge("c2", "2026-11-01T00:10"),
    ]
    world.publish(*known)
    read(ledger, world.records, at("2026-11-01T00:20"))
    assert stated(ledger) == {}
    journal.write([prepare(ledger)])
    world.publish(
        charge("late", "2026-10-03T00:00"),
        record("c3", 2, -1, at=at("2026-11-03T00:00"), supersedes=1),
    )
    read(ledger, world.records, at("2026-11-03T00:00"))

    of_october = {"acme:c1:1": "2026-10-01", "acme:c1:2": "2026-10-01"}
    assert stated(ledger) == of_october
    assert pending(ledger) == {"acme:c2:1", "acme:late:1", "acme:c3:2"}
    december = at("2026-12-01T00:45")
    decide(ledger, "approved", "2026-11", december, journal)
    journal.write([prepare(ledger, "2026-11", december)])
    both = of_october | {"acme:c2:1": "2026-11-01", "acme:late:1": "2026-11-01"}
    assert stated(ledger) == stated(ledger) == both
    assert pending(ledger) == {"acme:c3:2"}

    again = world.ledger()
    stating = Stating(again)
    stating.step(account_of)
    read(again, world.records[:3], december)
    stating.step(account_of)
    assert pending(again) == set()
    read(again, world.records, december)
    stating.step(account_of)
    assert (stated(again), pending(again)) == (both, {"acme:c3:2"})


def test_nothing_is_planned_for_a_period_that_the_journal_has_closed(world: World) -> None:
    """Another sink had not read the closing when it planned."""
    ledger, other = world.ledger(), world.ledger()
    world.publish(charge("c1", "2026-10-02T00:00"))
    read(ledger, world.records, at("2026-10-02T00:00"))
    read(other, world.records, at("2026-10-02T00:00"))
    closing = replace(prepare(ledger), customer="cus_1")
    journal_on(ledger, world.topic, "a", lambda: CLOSED / 1000).write([closing])
    behind = Journal(other, world.topic, JOURNAL, "b", SinkMetrics(CollectorRegistry()))
    records_ = deliveries.pending_records(other, "acme", "resolution", 10)
    behind.plan(frozen(group_records(records_).groups, DESTINATION))

    closed, planned_ = behind.commit()

    assert (closed.why, planned_.why) == (
        None,
        "its period is closed: nothing more is sent for it",
    )
    assert stated(other) == stated(ledger) == {"acme:c1:1": "2026-10-01"}


def test_a_meter_event_of_a_shared_customer_has_its_records_although_they_were_stated(
    ledger: Ledger,
) -> None:
    read(ledger, arrivals([charge("c1", "2026-10-02T00:00")]), at("2026-10-02T00:00"))
    (event,) = frozen(
        group_records(deliveries.pending_records(ledger, "acme", "resolution", 10)).groups
    )
    written(ledger, [prepare(ledger)], "a")
    assert stated(ledger) != {}

    written(ledger, [plan_of(event.event, ["acme:c1:1"])], "b")

    assert (stated(ledger), pending(ledger)) == ({}, set())
    (receipt,) = reports.receipts(ledger, "acme", "c1")
    assert receipt.meter_event is not None


def test_usage_tells_apart_what_is_stated_what_is_late_and_what_is_pending(world: World) -> None:
    ledger = world.ledger()
    journal = journal_on(ledger, world.topic, "a", lambda: CLOSED / 1000)
    world.publish(charge("c1", "2026-10-02T00:00"), charge("c2", "2026-11-01T00:10"))
    read(ledger, world.records, at("2026-11-01T00:20"))
    journal.write([prepare(ledger)])
    world.publish(charge("c3", "2026-10-03T00:00"), reversal("c1", "2026-11-03T00:00"))
    world.publish(charge("c4", "2026-11-04T00:00"), reversal("none", "2026-11-04T00:00"))
    read(ledger, world.records, at("2026-11-04T00:00"))
    stated(ledger)

    def usage(from_ms: int | None = None, to_ms: int | None = None) -> tuple[int, ...]:
        (found,) = reports.usage(ledger, from_ms=from_ms, to_ms=to_ms, account_of=account_of)
        return found.quantity, found.stated, found.late, found.pending

    # Late are a unit, and the reversal of one that is stated. Pending are two, less the unmatched.
    assert usage() == (2, 1, 0, 1)
    assert usage(to_ms=OCTOBER.end_ms) == (2, 1, 1, 0)
    assert usage(from_ms=OCTOBER.end_ms) == (0, 0, -1, 1)


def test_a_receipt_names_the_statement_of_what_is_not_sent(ledger: Ledger) -> None:
    read(ledger, arrivals([charge("c1", "2026-10-02T00:00")]), at("2026-10-02T00:00"))
    written(ledger, [prepare(ledger)], "a")
    stated(ledger)

    (receipt,) = reports.receipts(ledger, "acme", "c1")

    assert receipt.stated == StatedOn("acme", OCTOBER.start_ms)
    text_ = "\n".join(render(explain([receipt], PRICES)))
    assert (
        "Nothing is sent: it is on the final statement of acme for the period from "
        "2026-10-01T00:00:00.000Z."
    ) in text_
