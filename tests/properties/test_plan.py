"""A rebill plan corrects any ledger to match the log, and a second plan is empty."""

from collections import Counter

import msgspec
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from pipeline.events.model import AI_MESSAGE, CUSTOMER_MESSAGE, HANDOFF, Addressed, Event
from pipeline.events.wire import read_record
from pipeline.replay.comparison import compare
from pipeline.replay.corrections import Correctable, basis_of, find_corrections
from pipeline.replay.partition import PartitionReplay
from pipeline.resolve.policy import Timeline
from pipeline.usage.record import UsageRecord
from tests.oracle.decide import decide, net
from tests.oracle.strategies import END, T0, TIMELINES
from tests.oracle.wire import value
from tests.properties.test_audit import LOGS, _written
from tests.properties.test_partition import Log, long_logs
from tests.support.events import Record

MADE_AT = END + 1


def _replay(log: Log, committed: int | None = None) -> PartitionReplay:
    replay = PartitionReplay(
        len(log.records) if committed is None else committed,
        lambda _: log.timeline,
        seal_after_ms=log.seal_after,
    )
    for record in log.records:
        replay.take(record.offset, record.timestamp, record.key, record.value, record.headers)
    return replay


def _plan(log: Log, ledger: list[UsageRecord], written: list[UsageRecord]) -> list[Correctable]:
    ids = {record.id for record in written}
    return find_corrections(_replay(log), ledger, ids, ("events", 0), MADE_AT).conversations


def _records(plan: list[Correctable]) -> list[UsageRecord]:
    return [correction.record for part in plan for correction in part.corrections]


def _net(records: list[UsageRecord]) -> dict[str, dict[str, int]]:
    units: dict[str, Counter[str]] = {}
    for record in records:
        place = f"{record.tenant_id}:{record.conversation}"
        units.setdefault(place, Counter())[record.outcome] += record.quantity
    nets = {place: {o: n for o, n in sums.items() if n} for place, sums in units.items()}
    return {place: net for place, net in nets.items() if net}


def _histories(log: Log) -> dict[str, list[Event]]:
    """Return the events of each conversation, including late ones, one per identity."""
    histories: dict[str, dict[tuple[str, str], Event]] = {}
    for record in log.records:
        addressed = read_record(record.value, record.key, record.timestamp, record.headers)
        if isinstance(addressed, Addressed):
            place = f"{addressed.tenant_id}:{addressed.conversation_id}"
            identity = (addressed.event.source, addressed.event.id)
            histories.setdefault(place, {}).setdefault(identity, addressed.event)
    return {place: list(events.values()) for place, events in histories.items()}


def _decided(log: Log) -> dict[str, dict[str, int]]:
    """Return the net that the oracle decides for all events, including late ones."""
    decided = {}
    for place, events in _histories(log).items():
        outcome = decide(events, log.timeline, MADE_AT)
        units = {} if outcome.excluded else net(outcome.steps)
        if units:
            decided[place] = units
    return decided


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Log, list[UsageRecord], list[UsageRecord]]:
    """Return a log, the records that its worker wrote, and a ledger damaged since."""
    log = draw(LOGS)
    written = _written(log, len(log.records))
    ledger = [record for record in written if draw(st.integers(0, 3))]
    for record in written:
        match draw(st.integers(0, 9)):
            case 0:
                n = draw(st.integers(50, 60))
                whose = f"{record.tenant_id}:{record.conversation}"
                bogus = msgspec.structs.replace(
                    record, id=f"{whose}:{n}", quantity=1, supersedes=None, evidence=()
                )
                if all(r.id != bogus.id for r in ledger):
                    ledger.append(bogus)
            case 1:
                ledger = [
                    msgspec.structs.replace(r, policy_version=99) if r == record else r
                    for r in ledger
                ]
    return log, written, ledger


@given(long_logs())
def test_plan_is_empty_if_the_ledger_is_complete_and_no_event_was_too_late(log: Log) -> None:
    written = _written(log, len(log.records))

    assert _plan(log, written, written) == []


@pytest.mark.parametrize("timeline", TIMELINES)
def test_an_id_that_is_used_again_across_a_seal_leaves_no_plan_that_does_not_come_to_rest(
    timeline: Timeline,
) -> None:
    # The first m0 comes too late, and so the worker does not know it when the second one comes.
    drawn = [
        (0, Event(T0 + 1_000, AI_MESSAGE, "/a", "m1", kind="answer")),
        (10_000, Event(T0, CUSTOMER_MESSAGE, "/a", "m0", intent="help_request")),
        (10_000, Event(T0 + 10_000, CUSTOMER_MESSAGE, "/a", "m0", intent="confirmation")),
        (10_000, Event(T0 + 10_999, CUSTOMER_MESSAGE, "/a", "m2", intent="confirmation")),
        (19_998, Event(T0 + 20_998, CUSTOMER_MESSAGE, "/a", "m3", intent="help_request")),
        (19_998, Event(T0 + 20_998, HANDOFF, "/a", "m4", cause="procedure")),
    ]
    records = [
        Record(n, T0 + 1_000 + arrives, b"acme:c0", value(made, "acme", "c0"))
        for n, (arrives, made) in enumerate(drawn)
    ]
    log = Log(timeline, records, {}, 10_000)
    written = _written(log, len(records))

    for ledger, known in (([], []), (written, written)):
        after = ledger + _records(_plan(log, ledger, known))
        assert _net(after) == _decided(log)
        assert _plan(log, after, known) == []


@given(damaged())
def test_plan_corrects_the_ledger_to_the_decision_and_the_next_plan_is_empty(
    case: tuple[Log, list[UsageRecord], list[UsageRecord]],
) -> None:
    log, written, ledger = case
    plan = _plan(log, ledger, written)
    event(f"{min(len(plan), 2)} conversations corrected")

    after = ledger + _records(plan)
    assert _net(after) == _decided(log)
    assert _plan(log, after, written) == []
    ids = [record.id for record in after]
    assert len(ids) == len(set(ids))


@given(damaged())
def test_audit_finds_no_difference_in_units_after_a_plan_is_applied(
    case: tuple[Log, list[UsageRecord], list[UsageRecord]],
) -> None:
    log, written, ledger = case
    after = ledger + _records(_plan(log, ledger, written))
    assume(len(after) > len(ledger))

    findings = compare(_replay(log), after, frozenset(), MADE_AT).findings

    # A record that differs in something other than units has no correction and stays a finding.
    assert {f.kind for f in findings} <= {
        *("differs", "missing", "unexpected", "not_in_log", "no_evidence")
    }
    corrected = {f"{r.tenant_id}:{r.conversation}" for r in after if r.reason == "rebill"}
    named = {f"{f.tenant_id}:{f.conversation}" for f in findings}
    assert not corrected & named


@given(damaged())
def test_each_reversal_names_a_standing_charge_and_has_its_price(
    case: tuple[Log, list[UsageRecord], list[UsageRecord]],
) -> None:
    log, written, ledger = case
    by_id = {record.id: record for record in ledger}
    gone = {record.supersedes for record in ledger if record.quantity < 0}

    for record in _records(_plan(log, ledger, written)):
        assert record.evidence
        assert record.reason == "rebill"
        if record.quantity < 0:
            assert record.supersedes is not None
            charge = by_id[record.supersedes]
            assert charge.quantity == 1
            assert record.supersedes not in gone
            gone.add(record.supersedes)
            assert (charge.policy, charge.policy_version) == (record.policy, record.policy_version)


@given(damaged())
def test_same_difference_has_the_same_ids_and_a_later_one_has_others(
    case: tuple[Log, list[UsageRecord], list[UsageRecord]],
) -> None:
    log, written, ledger = case
    first = _records(_plan(log, ledger, written))
    assume(first)

    again = _records(_plan(log, ledger, written))
    assert [record.id for record in again] == [record.id for record in first]
    # The ledger has since received another record, so the next correction must have another id.
    other = msgspec.structs.replace(first[0], id=f"{first[0].tenant_id}:x:77", conversation="x")
    later = _records(_plan(log, [*ledger, *first, other], written))
    assert not {record.id for record in later} & {record.id for record in first}


@given(damaged(), st.data())
def test_conversation_with_uncommitted_events_is_left_out(
    case: tuple[Log, list[UsageRecord], list[UsageRecord]], data: st.DataObject
) -> None:
    log, written, ledger = case
    committed = data.draw(st.integers(0, len(log.records)))

    ids = {record.id for record in written}
    plan = find_corrections(_replay(log, committed), ledger, ids, ("events", 0), MADE_AT)

    uncommitted = {
        f"{addressed.tenant_id}:{addressed.conversation_id}"
        for record in log.records[committed:]
        if isinstance(
            addressed := read_record(record.value, record.key, record.timestamp, record.headers),
            Addressed,
        )
    }
    corrected = {f"{part.tenant_id}:{part.conversation}" for part in plan.conversations}
    assert not corrected & uncommitted


@given(damaged())
def test_basis_changes_with_every_record_but_not_with_their_order(
    case: tuple[Log, list[UsageRecord], list[UsageRecord]],
) -> None:
    _, written, _ = case
    ids = [record.id for record in written]

    assert len({basis_of(ids[:n]) for n in range(len(ids) + 1)}) == len(ids) + 1
    assert basis_of(ids) == basis_of(reversed(ids))


@given(damaged(), st.data())
def test_plan_takes_back_no_charge_whose_evidence_the_log_does_not_show(
    case: tuple[Log, list[UsageRecord], list[UsageRecord]], data: st.DataObject
) -> None:
    log, written, ledger = case
    kept = [record for record in log.records if data.draw(st.integers(0, 3))]
    another = log._replace(records=kept)
    shown = {
        (found.tenant_id, found.conversation_id, found.event.id)
        for record in kept
        if isinstance(
            found := read_record(record.value, record.key, record.timestamp, record.headers),
            Addressed,
        )
    }
    charges = {record.id: record for record in ledger}

    for record in _records(_plan(another, ledger, written)):
        if record.supersedes is not None:
            charge = charges[record.supersedes]
            for event_id in charge.evidence:
                assert (charge.tenant_id, charge.conversation, event_id) in shown
