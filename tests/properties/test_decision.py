"""Decisions and usage records agree with the scenarios and the oracle, in any order of arrival."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.policies import preset, read_policies
from pipeline.catalog.toml_values import parse_duration
from pipeline.events.model import (
    AI_MESSAGE,
    CLOSED,
    CUSTOMER_MESSAGE,
    OUTCOME_REPORTED,
    Addressed,
    Event,
)
from pipeline.events.times import format_time, parse_time
from pipeline.events.wire import read_event
from pipeline.replay.decide import Histories, encode_decision
from pipeline.resolve.machine import Fold, decide
from pipeline.resolve.policy import Policy, Timeline
from pipeline.stream.state import decode_state, encode_state
from pipeline.usage.conversation import SEAL_AFTER_MS, Conversation
from pipeline.usage.recall import Recall
from pipeline.usage.record import UsageRecord, decode_record, encode_record
from tests.oracle import decide as oracle
from tests.oracle.strategies import (
    END,
    GRACE,
    T0,
    TIMELINES,
    WINDOW,
    Arrival,
    arrivals,
    as_ofs,
    histories,
    policies,
    timelines,
)
from tests.oracle.usage import Oracle, as_record
from tests.support.policy_toml import write_policy

SCENARIOS = [
    orjson.loads(line)
    for line in (Path(__file__).parent.parent / "scenarios.ndjson").read_bytes().splitlines()
]


# --- the scenarios --------------------------------------------------------------------------------


def _history(scenario: dict[str, Any]) -> list[Event]:
    history: dict[tuple[str, str], Event] = {}
    for event in scenario["events"]:
        addressed = read_event(orjson.dumps(event))
        assert isinstance(addressed, Addressed), addressed
        history.setdefault((addressed.event.source, addressed.event.id), addressed.event)
    return list(history.values())


def _timeline(scenario: dict[str, Any]) -> Timeline:
    lines = [f'base = "{scenario["policy"]}"', 'name = "scenario"', "version = 1"]
    lines.append("effective_from = 1970-01-01T00:00:00Z")
    for key, value in scenario["policy_overrides"].items():
        if isinstance(value, dict):
            lines += [f"{key}.{k} = {orjson.dumps(v).decode()}" for k, v in value.items()]
        else:
            lines.append(f"{key} = {orjson.dumps(value).decode()}")
    return Timeline(read_policies({"scenario": "\n".join(lines)}))


def _as_json(steps: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "at": format_time(step.at),
            "outcome": step.outcome,
            "delta": step.delta,
            "kind": step.kind,
            "reason": step.reason,
        }
        for step in steps
    ]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s['scenario']}-{s['title']}")
def test_both_implementations_decide_a_scenario_as_expected(scenario: dict[str, Any]) -> None:
    timeline, as_of = _timeline(scenario), parse_time(scenario["as_of"])
    expected = scenario["expected"]

    decision = decide(_history(scenario), timeline, as_of)
    second = oracle.decide(_history(scenario), timeline, as_of)

    steps = "would_be" if expected["excluded"] else "transitions"
    assert decision.excluded == second.excluded == expected["excluded"]
    assert decision.kind == second.kind == expected["kind"]
    assert _as_json(list(decision.transitions)) == _as_json(second.steps) == expected[steps]
    if not expected["excluded"]:
        assert decision.net == oracle.net(second.steps) == expected["net"]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s['scenario']}-{s['title']}")
def test_the_command_prints_a_scenario_as_one_line(scenario: dict[str, Any]) -> None:
    histories, expected = Histories(), scenario["expected"]
    as_of = parse_time(scenario["as_of"])
    for event in scenario["events"]:
        assert histories.add(orjson.dumps(event)) is None

    ((tenant_id, conversation, history),) = list(histories)
    line = orjson.loads(
        encode_decision(tenant_id, conversation, decide(history, _timeline(scenario), as_of))
    )

    assert (line["tenantid"], line["conversation"]) == (tenant_id, conversation)
    assert (line["excluded"], line["kind"]) == (expected["excluded"], expected["kind"])
    second = oracle.decide(history, _timeline(scenario), as_of)
    steps = [
        {**members, "evidence": list(step.evidence)}
        for members, step in zip(_as_json(second.steps), second.steps, strict=True)
    ]
    if expected["excluded"]:
        assert (line["net"], line["transitions"]) == ({}, [])
        assert line["would_be"] == {"net": oracle.net(second.steps), "transitions": steps}
    else:
        assert (line["net"], line["transitions"]) == (expected["net"], steps)
        assert "would_be" not in line


# --- decide ---------------------------------------------------------------------------------------


@given(histories(), timelines(), as_ofs)
def test_decide_equals_the_second_implementation(
    history: list[Event], drawn: Timeline, as_of: int
) -> None:
    for timeline in (drawn, *TIMELINES):
        decision = decide(history, timeline, as_of)

        second = oracle.decide(history, timeline, as_of)
        assert decision.excluded == second.excluded
        assert decision.kind == second.kind, timeline.versions
        assert [_step(t) for t in decision.transitions] == second.steps, timeline.versions
        assert decision.net == oracle.net(second.steps)


@given(st.data(), histories(), timelines(), as_ofs)
def test_input_order_of_a_history_changes_no_decision(
    data: st.DataObject, history: list[Event], timeline: Timeline, as_of: int
) -> None:
    decision = decide(history, timeline, as_of)

    shuffled = data.draw(st.permutations(history))
    assert decide(shuffled, timeline, as_of) == decision


@given(histories(), timelines(), st.lists(as_ofs, min_size=2, max_size=4))
def test_deciding_later_only_adds_transitions(
    history: list[Event], timeline: Timeline, times: list[int]
) -> None:
    times.sort()

    decided = [decide(history, timeline, as_of).transitions for as_of in times]
    for earlier, later in pairwise(decided):
        assert later[: len(earlier)] == earlier


def _step(t: Any) -> oracle.Step:
    return oracle.Step(
        t.at, t.outcome, t.delta, t.kind, t.reason, t.evidence, (t.policy, t.policy_version)
    )


@given(histories(), timelines(), as_ofs, st.lists(as_ofs))
def test_settling_more_often_changes_nothing(
    history: list[Event], timeline: Timeline, as_of: int, times: list[int]
) -> None:
    fold = Fold()
    for event in sorted(history, key=lambda e: e.order):
        for time in sorted(times):
            if time <= event.at:
                fold.settle(timeline, time)
        fold.settle(timeline, event.at)
        fold.apply(timeline, event)
    fold.settle(timeline, as_of)

    assert tuple(fold.transitions) == decide(history, timeline, as_of).transitions


@given(histories(), timelines(), as_ofs)
def test_the_running_sum_stays_at_zero_or_one_unless_segments_bill(
    history: list[Event], timeline: Timeline, as_of: int
) -> None:
    decision = decide(history, timeline, as_of)

    total = 0
    for transition in decision.transitions:
        total += transition.delta
        assert total >= 0
        if all(policy.unit == "conversation" for policy in timeline.versions):
            assert total <= 1
        assert transition.evidence


# --- usage ----------------------------------------------------------------------------------------


class Played(NamedTuple):
    conversation: Conversation
    out: list[UsageRecord]
    too_late: list[Event]


def _play(
    coming: list[Arrival], timeline: Timeline, size: int = 1
) -> tuple[Conversation, list[UsageRecord]]:
    """Play arrivals in batches of at most `size`; a timer ends a batch."""
    return _play_sealing(coming, timeline, SEAL_AFTER_MS, size)[:2]


def _play_sealing(
    coming: list[Arrival],
    timeline: Timeline,
    seal_after: int,
    size: int = 1,
    *,
    drops: bool = False,
) -> Played:
    """Play arrivals like `_play`; if `drops`, a timer drops the history as soon as it may."""
    conversation = Conversation()
    out: list[UsageRecord] = []
    too_late: list[Event] = []
    batch: list[tuple[int, int, Event]] = []

    def receive() -> None:
        received = conversation.receive("acme", "c1", batch, timeline, seal_after)
        out.extend(received.records)
        too_late.extend(event for _, _, event in received.too_late)
        batch.clear()

    for offset, (at, event) in enumerate(coming):
        if event is not None:
            batch.append((offset, at, event))
        if event is None or len(batch) == size:
            receive()
        if event is None:
            out += conversation.settle("acme", "c1", at, timeline)
            if drops and conversation.events and at >= conversation.arrival_ms + seal_after:
                conversation.seal()
    receive()
    return Played(conversation, out, too_late)


@given(arrivals(), timelines())
def test_usage_records_equal_those_of_the_second_implementation(
    coming: list[Arrival], drawn: Timeline
) -> None:
    for timeline in (drawn, *TIMELINES[:30]):
        _, out = _play(coming, timeline)

        second = Oracle(timeline)
        for at, event in coming:
            if event is None:
                second.tick(at)
            else:
                second.receive(event, at)
        assert [as_record(r) for r in out] == second.records, timeline.versions


@given(arrivals(), timelines(), st.integers(2, 9))
def test_batch_size_changes_neither_records_nor_state(
    coming: list[Arrival], timeline: Timeline, size: int
) -> None:
    assert _play(coming, timeline, size) == _play(coming, timeline)


@given(arrivals(size=30), timelines(), st.integers(1, 5), st.integers(0, 5))
def test_folding_from_checkpoints_changes_neither_records_nor_state(
    coming: list[Arrival], timeline: Timeline, block_events: int, searches_max: int
) -> None:
    batch = [(n, at, event) for n, (at, event) in enumerate(coming) if event is not None]
    recalled, one_by_one = Conversation(), Conversation()
    records, offsets = list[UsageRecord](), list[tuple[int, ...]]()
    recall = Recall(block_events, searches_max)

    for start in range(0, len(batch), 7):
        received = recalled.receive(
            "acme", "c1", batch[start : start + 7], timeline, 3 * WINDOW, recall
        )
        records += received.records
        offsets += received.offsets

    again = [one_by_one.receive("acme", "c1", [arrived], timeline, 3 * WINDOW) for arrived in batch]
    assert recalled == one_by_one
    assert records == [record for received in again for record in received.records]
    assert offsets == [each for received in again for each in received.offsets]


# --- sealing --------------------------------------------------------------------------------------

# Some are shorter than the windows, although nobody should configure that. More events are then too
# late, and the accepted events still yield the same records.
_seal_afters = st.sampled_from(
    [GRACE, WINDOW, WINDOW + 1, WINDOW + GRACE, 2 * WINDOW, 3 * WINDOW + 1, 5 * WINDOW]
)


@given(arrivals(), timelines(), _seal_afters)
def test_a_sealed_conversation_agrees_with_the_second_implementation(
    coming: list[Arrival], drawn: Timeline, seal_after: int
) -> None:
    for timeline in (drawn, *TIMELINES[30:50]):
        played = _play_sealing(coming, timeline, seal_after, drops=True)

        second = Oracle(timeline, seal_after=seal_after)
        for at, event in coming:
            if event is None:
                second.tick(at)
            else:
                second.receive(event, at)
        assert [as_record(r) for r in played.out] == second.records, timeline.versions
        assert played.too_late == second.too_late


@given(arrivals(), timelines(), _seal_afters, st.integers(2, 9))
def test_batch_size_changes_nothing_about_sealing(
    coming: list[Arrival], timeline: Timeline, seal_after: int, size: int
) -> None:
    for drops in (False, True):
        one_by_one = _play_sealing(coming, timeline, seal_after, drops=drops)

        assert _play_sealing(coming, timeline, seal_after, size, drops=drops) == one_by_one


@given(arrivals(), timelines(), _seal_afters, st.data())
def test_when_and_how_often_histories_are_dropped_changes_no_decision(
    coming: list[Arrival], timeline: Timeline, seal_after: int, data: st.DataObject
) -> None:
    records = [arrival for arrival in coming if arrival.event is not None]
    end = Arrival(END, None)
    never = _play_sealing([*records, end], timeline, seal_after)

    more: list[Arrival] = []
    for n, arrival in enumerate(records):
        more.append(arrival)
        # The latest time at which a timer may fire here, so a history that can be dropped is dropped.
        until = min((later.at for later in records[n + 1 :]), default=END)
        more += [Arrival(until, None)] * data.draw(st.integers(0, 2))
    again = _play_sealing([*more, end, end], timeline, seal_after, drops=True)
    assert (again.out, again.too_late) == (never.out, never.too_late)


@given(arrivals(), timelines(), _seal_afters)
def test_a_sealed_conversation_survives_being_stored_after_each_step(
    coming: list[Arrival], timeline: Timeline, seal_after: int
) -> None:
    played = _play_sealing(coming, timeline, seal_after, drops=True)

    stored, out = Conversation(), list[UsageRecord]()
    for offset, (at, event) in enumerate(coming):
        if event is not None:
            out += stored.receive("acme", "c1", [(offset, at, event)], timeline, seal_after).records
        else:
            out += stored.settle("acme", "c1", at, timeline)
            if stored.events and at >= stored.arrival_ms + seal_after:
                stored.seal()
        stored = decode_state(encode_state(offset + 1, stored))
    assert (stored, out) == (played.conversation, played.out)


@given(arrivals(), timelines(), _seal_afters, st.data())
def test_an_event_of_a_sealed_history_is_too_late_when_redelivered(
    coming: list[Arrival], timeline: Timeline, seal_after: int, data: st.DataObject
) -> None:
    conversation, out, _ = _play_sealing(coming, timeline, seal_after)
    if not conversation.events:
        return
    _, again = data.draw(st.sampled_from(conversation.entries()))
    before = encode_state(0, conversation), list(out)

    at = conversation.arrival_ms + seal_after
    received = conversation.receive("acme", "c1", [(99, at, again)], timeline, seal_after)
    out += received.records

    assert [event for _, _, event in received.too_late] == [again]
    assert (encode_state(0, conversation), out) == before


# --- cases that are drawn too seldom --------------------------------------------------------------

_ASKED = Event(T0, CUSTOMER_MESSAGE, "/a", "m0", intent="help_request")
_ANSWERED = Event(T0 + 1, AI_MESSAGE, "/a", "m1", kind="answer")
_SHORT = Timeline(
    [msgspec.structs.replace(preset("fin-2026"), window={"default": WINDOW}, grace=GRACE)]
)
_SEGMENTS = Timeline(
    [
        msgspec.structs.replace(
            preset("fin-2026"),
            unit="segment",
            window={"default": WINDOW},
            grace=GRACE,
            reversal_horizon=0,
        )
    ]
)


def test_a_correction_is_dated_at_the_newest_arrival_not_at_that_of_the_late_event() -> None:
    again = Event(T0 + 2, CUSTOMER_MESSAGE, "/a", "m2", intent="help_request")
    highest = T0 + 3 * WINDOW
    closed = Event(highest, CLOSED, "/a", "m3")
    coming = [
        Arrival(T0, _ASKED),
        Arrival(T0 + 1, _ANSWERED),
        Arrival(highest, closed),
        Arrival(highest - 5, again),
    ]

    _, out = _play(coming, _SHORT)

    assert [(r.quantity, r.reason, r.occurred_at) for r in out] == [
        (1, "silence", T0 + 1 + WINDOW),
        (-1, "late_event", highest),
    ]


def test_ties_within_a_millisecond_are_ordered_by_source_then_id() -> None:
    thanks = Event(T0 + 2, CUSTOMER_MESSAGE, "/b", "m2", intent="confirmation")
    returns = Event(T0 + 2, CUSTOMER_MESSAGE, "/a", "m3", intent="help_request")
    coming = [Arrival(T0 + 2, event) for event in (_ASKED, _ANSWERED, thanks, returns)]

    _, out = _play(coming, _SHORT)

    assert [(r.quantity, r.reason) for r in out] == [(1, "confirmed"), (-1, "late_event")]


def test_corrections_of_one_sign_follow_precedence_not_name() -> None:
    after = T0 + 2 * WINDOW
    events = [
        _ASKED,
        _ANSWERED,
        Event(T0 + 2, CUSTOMER_MESSAGE, "/a", "m2", intent="confirmation"),
        Event(after, CUSTOMER_MESSAGE, "/a", "m3", intent="help_request"),
        Event(after + 1, OUTCOME_REPORTED, "/a", "m4", outcome="disqualification"),
        Event(after + 2, CLOSED, "/a", "m5", is_live=False),
    ]

    _, out = _play([Arrival(after + 2, event) for event in events], _SEGMENTS)

    assert [(r.quantity, r.outcome) for r in out] == [
        (1, "resolution"),
        (1, "disqualification"),
        (-1, "resolution"),
        (-1, "disqualification"),
    ]


def test_silence_waits_for_the_grace_period_of_the_late_answers_policy_version() -> None:
    # The first answer is charged under a version without a grace period. A late answer then replaces
    # it, under a version with a grace period, and its silence is complete in the same millisecond.
    first = msgspec.structs.replace(
        preset("fin-2026"), window={"default": WINDOW + 1}, grace=0, effective_from=0
    )
    second = msgspec.structs.replace(
        first, version=9, effective_from=T0 + 2, window={"default": WINDOW}, grace=WINDOW
    )
    due = T0 + 2 + WINDOW
    closed = Event(T0 + 2, CLOSED, "/a", "m3")
    late = Event(T0 + 2, AI_MESSAGE, "/a", "m4", kind="answer")
    coming = [
        Arrival(T0, _ASKED),
        Arrival(T0 + 1, _ANSWERED),
        Arrival(due, closed),
        Arrival(due, late),
        Arrival(due + WINDOW, None),
    ]

    _, out = _play(coming, Timeline([first, second]))

    assert [(r.quantity, r.reason, r.occurred_at, r.evidence) for r in out] == [
        (1, "silence", due, ("m1",)),
        (-1, "late_event", due, ("m4",)),
        (1, "silence", due, ("m4",)),
    ]


@given(arrivals(), timelines())
def test_any_order_of_arrival_gives_the_net_of_decide(
    coming: list[Arrival], timeline: Timeline
) -> None:
    conversation, out = _play(coming, timeline)
    out += conversation.settle("acme", "c1", END, timeline)

    history = [event for _, event in coming if event is not None]
    first = {(e.source, e.id): e for e in reversed(history)}
    decision = decide(first.values(), timeline, END)
    assert _net(out) == ({} if decision.excluded else decision.net)


def _net(records: list[UsageRecord]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for record in records:
        sums[record.outcome] = sums.get(record.outcome, 0) + record.quantity
    return {outcome: units for outcome, units in sums.items() if units}


@given(arrivals(), timelines())
def test_every_reversal_supersedes_its_own_charge_and_every_record_has_evidence(
    coming: list[Arrival], timeline: Timeline
) -> None:
    _, out = _play(coming, timeline)

    charges = {r.id: r for r in out if r.quantity > 0}
    taken = [r.supersedes for r in out if r.quantity < 0]
    assert len(taken) == len(set(taken))
    for record in out:
        assert record.evidence
        if record.quantity < 0:
            charge = charges[record.supersedes or ""]
            assert (charge.outcome, charge.policy) == (record.outcome, record.policy)
            assert (charge.policy_version) == record.policy_version
    assert [r.id for r in out] == [f"acme:c1:{n}" for n in range(1, len(out) + 1)]
    if all(policy.unit == "conversation" for policy in timeline.versions):
        assert len(charges) - len(taken) in {0, 1}


@given(arrivals(), timelines())
def test_the_net_is_the_standing_charges_after_every_record(
    coming: list[Arrival], timeline: Timeline
) -> None:
    _, out = _play(coming, timeline)

    standing: dict[str, str] = {}  # id of the record → outcome
    for record in out:
        if record.quantity > 0:
            standing[record.id] = record.outcome
        else:
            assert standing.pop(record.supersedes or "") == record.outcome
        billed = _net(out[: out.index(record) + 1])
        assert billed == dict(Counter(standing.values()))
        if all(policy.unit == "conversation" for policy in timeline.versions):
            assert len(standing) <= 1


@given(arrivals(), timelines(), st.data())
def test_a_redelivered_record_changes_nothing(
    coming: list[Arrival], timeline: Timeline, data: st.DataObject
) -> None:
    conversation, out = _play(coming, timeline)

    again: list[Arrival] = []
    for arrival in coming:
        again.append(arrival)
        # Any earlier arrival, with its own timestamp or the newest one.
        for before in data.draw(st.lists(st.sampled_from(again), max_size=2)):
            at = data.draw(st.sampled_from([before.at, arrival.at]))
            again += [] if before.event is None else [before._replace(at=at)]
    repeated, records = _play(again, timeline)
    assert records == out
    assert repeated.fold == conversation.fold


@given(arrivals(), timelines(), st.data())
def test_when_and_how_often_timers_fire_changes_no_record(
    coming: list[Arrival], timeline: Timeline, data: st.DataObject
) -> None:
    records = [arrival for arrival in coming if arrival.event is not None]
    without, out = _play(records, timeline)
    out += without.settle("acme", "c1", END, timeline)

    more: list[Arrival] = []
    for n, arrival in enumerate(records):
        more.append(arrival)
        until = min((later.at for later in records[n + 1 :]), default=END)
        clocks = data.draw(st.lists(as_ofs, max_size=3))
        more += [Arrival(min(clock, until), None) for clock in clocks]
    _, again = _play([*more, Arrival(END, None), Arrival(END, None)], timeline)
    assert again == out


@given(arrivals(), timelines())
def test_a_conversation_survives_being_stored_after_each_step(
    coming: list[Arrival], timeline: Timeline
) -> None:
    conversation, expected = _play(coming, timeline)

    stored, out = Conversation(), list[UsageRecord]()
    for offset, (at, event) in enumerate(coming):
        stored = decode_state(encode_state(offset, stored))
        if event is None:
            out += stored.settle("acme", "c1", at, timeline)
        else:
            out += stored.receive("acme", "c1", [(offset, at, event)], timeline).records
    assert out == expected
    assert stored == conversation


@given(arrivals(), timelines())
def test_usage_records_round_trip_through_their_bytes(
    coming: list[Arrival], timeline: Timeline
) -> None:
    _, out = _play(coming, timeline)

    assert [decode_record(encode_record(record)) for record in out] == out


# --- policies -------------------------------------------------------------------------------------


@given(policies())
def test_a_policy_round_trips_through_toml(policy: Policy) -> None:
    assert read_policies({"drawn": write_policy(policy)}) == [policy]


@st.composite
def _odd_policies(draw: st.DrawFn) -> Policy:
    """Return a policy with names, times and amounts at the edges of what TOML may contain."""
    names = st.lists(st.text(min_size=1, max_size=64), max_size=3, unique=True).map(tuple)
    durations = st.builds(
        lambda number, unit: parse_duration(f"{number}{unit}"),
        st.integers(0, 999_999_999),
        st.sampled_from(["ms", "s", "m", "h", "d"]),
    )
    amounts = st.decimals(0, 1_000_000_000, places=draw(st.integers(0, 12)))
    return msgspec.structs.replace(
        draw(policies()),
        effective_from=draw(st.integers(parse_time("0001-01-01T00:00:00Z"), END)),
        window={"default": draw(durations), "sms": draw(durations)},
        reversal_horizon=draw(st.none() | durations),
        spam_grace=draw(durations),
        outcomes_billed=draw(names),
        precedence=draw(names),
        reversible=draw(names),
        price=draw(st.dictionaries(st.text(min_size=1, max_size=64), amounts, max_size=3))
        # A policy keeps every price of its base, so it always has these.
        | {name: draw(amounts) for name in preset("fin-2026").price},
    )


@given(_odd_policies())
def test_a_policy_with_odd_names_and_amounts_round_trips_through_toml(policy: Policy) -> None:
    assert read_policies({"odd": write_policy(policy)}) == [policy]


@pytest.mark.parametrize(
    "name", ["fin-2026", "zendesk-2026", "gorgias", "hubspot-2026", "confirmed-only"]
)
def test_a_renamed_preset_round_trips_through_toml(name: str) -> None:
    text = write_policy(preset(name)).replace(f'name = "{name}"', 'name = "copy"')

    (copy,) = read_policies({"copy": text})

    assert copy.name == "copy"
    assert write_policy(copy).replace('"copy"', f'"{name}"') == write_policy(preset(name))


FIN = Timeline([preset("fin-2026")])
# Sources that a history leaves out, and sources that resemble their bytes. Times whose bytes are the
# name of the source member and the head of a string.
SOURCES = ["/chat/acme", "/chat/other", "r", "\xe1", "/s", "/chat/\xe1cme", "x" * 31, "x" * 32]
TIMES = [T0, 0xA173A24142, -0x1A173A24142, 0xA173A8, 0xA173AA2F63686174]


@given(
    st.lists(
        st.builds(
            Event,
            st.sampled_from(TIMES),
            st.just(CLOSED),
            st.sampled_from(SOURCES),
            st.text(min_size=1, max_size=6)
            | st.sampled_from(["\xe1s/chat/acme", "s\xaa/chat/acme", "\xe1s"]),
        ),
        max_size=8,
        unique_by=lambda event: (event.source, event.id),
    ),
    st.integers(1, 3),
)
def test_a_history_returns_the_events_it_was_given(events: list[Event], size: int) -> None:
    conversation = Conversation()
    arrivals = [(offset, T0, event) for offset, event in enumerate(events)]

    for start in range(0, len(events), size):
        conversation.receive("acme", "c1", arrivals[start : start + size], FIN)
        conversation = decode_state(encode_state(1, conversation))

    assert [event for _, event in conversation.entries()] == events
    again = conversation.receive("acme", "c1", arrivals, FIN) if arrivals else None
    assert again is None or again.duplicates == len(events)
