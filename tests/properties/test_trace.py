"""A trace is the decision itself, and every decision without a charge has a reason."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.model import Event
from pipeline.events.times import format_time
from pipeline.replay.why_not import Known, why_not
from pipeline.resolve.machine import decide, fold_history
from pipeline.resolve.trace import trace
from tests.oracle import decide as oracle
from tests.oracle.strategies import TIMELINES, as_ofs, histories

HISTORIES = histories()


@given(HISTORIES)
def test_a_trace_ends_in_the_state_of_the_decision(history: list[Event]) -> None:
    for timeline in TIMELINES:
        steps, state = trace(history, timeline)

        assert state == fold_history(history, timeline)
        assert [step.event for step in steps] == sorted(history, key=lambda event: event.order)
        traced = [t for step in steps for t in ((step.silence,) if step.silence else ())]
        traced += [t for step in steps for t in step.transitions]
        assert sorted(traced, key=str) == sorted(state.transitions, key=str)
        for step, following in pairwise(steps):
            if following.silence is None:
                assert step.after == following.before


@given(HISTORIES, as_ofs)
def test_the_reason_agrees_with_the_decision(history: list[Event], as_of: int) -> None:
    ids = {event.id for event in history}
    for timeline in TIMELINES:
        answer = why_not(Known(history, {}), timeline, as_of, waits_grace=False)

        if answer is None:
            assert not history
            continue
        decision = decide(history, timeline, as_of)
        expected = oracle.decide(history, timeline, as_of)
        assert (answer.reason == "excluded") == expected.excluded == decision.excluded
        assert answer.owed == decision.net == oracle.net(expected.steps)
        if not expected.excluded:
            assert (answer.reason == "owed") == bool(answer.owed)
        if answer.reason == "window_open":
            assert answer.until is not None
            assert answer.until > format_time(as_of)
            assert decide(history, timeline, 2**62).net
        elif answer.reason not in {"owed", "excluded"}:
            # No later time bills the conversation, unless its history goes on.
            assert not decide(history, timeline, 2**62).net
        assert answer.event is None or answer.event in ids


@given(HISTORIES, st.integers(0, 3))
def test_the_named_event_changed_the_decision(history: list[Event], start: int) -> None:
    for timeline in TIMELINES[start::4]:
        answer = why_not(Known(history, {}), timeline, 2**40, waits_grace=False)

        if answer is None or answer.reason not in {"taken_back", "answer_cleared"}:
            continue
        (step, *_) = [
            step
            for step in reversed(trace(history, timeline).steps)
            if (step.before.standing, step.before.charge) != (None, None)
            and (step.after.standing, step.after.charge) == (None, None)
        ]
        assert (step.event.id, step.event.type) == (answer.event, answer.type)
