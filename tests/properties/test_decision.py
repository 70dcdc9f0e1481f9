"""The decision, from every side: the scenarios, a second implementation, every order of arrival."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.codec import decode_value
from pipeline.events.model import Addressed, Event
from pipeline.events.times import format_time, parse_time
from pipeline.resolve.machine import Fold, decide
from pipeline.resolve.policy import Policy, Timeline, preset, read_policies, write_policy
from pipeline.stream.state import decode_state, encode_state
from pipeline.usage.conversation import Conversation
from pipeline.usage.record import UsageRecord, decode_record, encode_record
from tests.oracle import decide as oracle
from tests.oracle.strategies import Arrival, arrivals, histories, policies, timelines
from tests.oracle.usage import Oracle, Record

SCENARIOS = [
    orjson.loads(line)
    for line in (Path(__file__).parent.parent / "scenarios.ndjson").read_bytes().splitlines()
]
as_ofs = st.integers(-1, 12).map(lambda n: 1_780_000_000_000 + n * 5_000)


# --- the scenarios --------------------------------------------------------------------------------


def _history(scenario: dict[str, Any]) -> list[Event]:
    found: dict[tuple[str, str], Event] = {}
    for event in scenario["events"]:
        addressed = decode_value(orjson.dumps(event))
        assert isinstance(addressed, Addressed), addressed
        found.setdefault((addressed.event.source, addressed.event.id), addressed.event)
    return list(found.values())


def _timeline(scenario: dict[str, Any]) -> Timeline:
    lines = [f'base = "{scenario["policy"]}"', 'name = "scenario"', "version = 1"]
    lines.append("effective_from = 1970-01-01T00:00:00Z")
    for key, value in scenario["policy_overrides"].items():
        if isinstance(value, dict):
            lines += [f"{key}.{k} = {orjson.dumps(v).decode()}" for k, v in value.items()]
        else:
            lines.append(f"{key} = {orjson.dumps(value).decode()}")
    return Timeline(read_policies({"scenario": "\n".join(lines)}))


def _told(steps: list[Any]) -> list[dict[str, Any]]:
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
def test_scenario(scenario: dict[str, Any]) -> None:
    timeline, as_of = _timeline(scenario), parse_time(scenario["as_of"])
    expected = scenario["expected"]

    decision = decide(_history(scenario), timeline, as_of)
    second = oracle.decide(_history(scenario), timeline, as_of)

    steps = "would_be" if expected["excluded"] else "transitions"
    assert decision.excluded == second.excluded == expected["excluded"]
    assert decision.kind == second.kind == expected["kind"]
    assert _told(list(decision.transitions)) == _told(second.steps) == expected[steps]
    if not expected["excluded"]:
        assert decision.net == oracle.net(second.steps) == expected["net"]


# --- decide ---------------------------------------------------------------------------------------


@given(histories(), timelines(), as_ofs)
def test_decide_equals_the_second_implementation(
    history: list[Event], timeline: Timeline, as_of: int
) -> None:
    decision = decide(history, timeline, as_of)

    second = oracle.decide(history, timeline, as_of)
    assert decision.excluded == second.excluded
    assert decision.kind == second.kind
    assert [_step(t) for t in decision.transitions] == second.steps


def _step(t: Any) -> oracle.Step:
    return oracle.Step(
        t.at, t.outcome, t.delta, t.kind, t.reason, t.evidence, (t.policy, t.policy_version)
    )


@given(histories(), timelines(), as_ofs, st.lists(as_ofs))
def test_settling_more_often_changes_nothing(
    history: list[Event], timeline: Timeline, as_of: int, looks: list[int]
) -> None:
    fold = Fold()
    for event in sorted(history, key=lambda e: e.order):
        for look in sorted(looks):
            if look <= event.at:
                fold.settle(timeline, look)
        fold.settle(timeline, event.at)
        fold.apply(timeline, event)
    fold.settle(timeline, as_of)

    assert tuple(fold.transitions) == decide(history, timeline, as_of).transitions


@given(histories(), timelines(), as_ofs)
def test_the_running_sum_is_never_negative_and_never_above_one_unless_segments_bill(
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


def _play(coming: list[Arrival], timeline: Timeline) -> tuple[Conversation, list[UsageRecord]]:
    conversation = Conversation()
    out: list[UsageRecord] = []
    for offset, (at, event) in enumerate(coming):
        if event is None:
            conversation.settle("acme", "c1", at, timeline, out)
        else:
            conversation.receive("acme", "c1", event, offset, at, timeline, out)
    return conversation, out


def _record(r: UsageRecord) -> Record:
    return (
        r.id,
        r.outcome,
        r.quantity,
        r.kind,
        r.reason,
        r.occurred_at,
        (r.policy, r.policy_version),
        r.evidence,
        r.supersedes,
    )


@given(arrivals(), timelines())
def test_usage_records_are_those_of_the_second_implementation(
    coming: list[Arrival], timeline: Timeline
) -> None:
    _, out = _play(coming, timeline)

    second = Oracle(timeline)
    for at, event in coming:
        if event is None:
            second.tick(at)
        else:
            second.receive(event, at)
    assert [_record(r) for r in out] == second.records


@given(arrivals(), timelines())
def test_any_order_of_arrival_gives_the_net_that_decide_gives(
    coming: list[Arrival], timeline: Timeline
) -> None:
    conversation, out = _play(coming, timeline)
    end = max([a.at for a in coming], default=0) + 10**9
    conversation.settle("acme", "c1", end, timeline, out)

    history = [event for _, event in coming if event is not None]
    first = {(e.source, e.id): e for e in reversed(history)}
    decision = decide(first.values(), timeline, end)
    assert _net(out) == ({} if decision.excluded else decision.net)


def _net(records: list[UsageRecord]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for record in records:
        sums[record.outcome] = sums.get(record.outcome, 0) + record.quantity
    return {outcome: units for outcome, units in sums.items() if units}


@given(arrivals(), timelines())
def test_every_reversal_supersedes_a_charge_of_its_own_and_every_record_has_evidence(
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
    live = len(charges) - len(taken)
    if all(policy.unit == "conversation" for policy in timeline.versions):
        assert live in {0, 1}


@given(arrivals(), timelines(), st.data())
def test_more_timers_and_repeated_records_change_nothing(
    coming: list[Arrival], timeline: Timeline, data: st.DataObject
) -> None:
    _, out = _play(coming, timeline)

    more: list[Arrival] = []
    for arrival in coming:
        more.append(arrival)
        if data.draw(st.booleans()):
            more.append(arrival)
            more.append(Arrival(arrival.at, None))
    _, again = _play(more, timeline)
    assert again == out


@given(arrivals(), timelines(), st.integers(0, 15))
def test_a_conversation_that_was_stored_and_read_back_goes_on_as_before(
    coming: list[Arrival], timeline: Timeline, crash: int
) -> None:
    _, expected = _play(coming, timeline)

    conversation, out = _play(coming[:crash], timeline)
    conversation = decode_state(encode_state(crash, conversation))
    for offset, (at, event) in enumerate(coming[crash:], start=crash):
        if event is None:
            conversation.settle("acme", "c1", at, timeline, out)
        else:
            conversation.receive("acme", "c1", event, offset, at, timeline, out)
    assert out == expected


@given(arrivals(), timelines())
def test_records_come_back_from_their_bytes(coming: list[Arrival], timeline: Timeline) -> None:
    _, out = _play(coming, timeline)

    assert [decode_record(encode_record(record)) for record in out] == out


# --- policies -------------------------------------------------------------------------------------


@given(policies())
def test_a_policy_comes_back_from_its_text(policy: Policy) -> None:
    assert read_policies({"drawn": write_policy(policy)}) == [policy]


@pytest.mark.parametrize(
    "name", ["fin-2026", "zendesk-2026", "gorgias", "hubspot-2026", "confirmed-only"]
)
def test_a_preset_comes_back_from_its_text_under_another_name(name: str) -> None:
    text = write_policy(preset(name)).replace(f'name = "{name}"', 'name = "copy"')

    (copy,) = read_policies({"copy": text})

    assert copy.name == "copy"
    assert write_policy(copy).replace('"copy"', f'"{name}"') == write_policy(preset(name))
