"""Say why a conversation has no charge, from a trace of its decision. Pure."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from pipeline.events.model import (
    AI_MESSAGE,
    HANDOFF,
    HUMAN_MESSAGE,
    OUTCOME_REPORTED,
    RATING,
    UNDELIVERED,
    Event,
)
from pipeline.events.times import format_time
from pipeline.ledger.receipt import reason_in_words
from pipeline.replay.effects import Effect, effects, in_words, silence_effect
from pipeline.resolve.machine import Fold, net_of
from pipeline.resolve.policy import Policy, Timeline
from pipeline.resolve.trace import Step, Trace, trace
from pipeline.resolve.values import StandingAnswer, Transition

Reason = Literal[
    "owed",  # the events owe units
    "excluded",  # an event is outside the live environment
    "spam",
    "merged",
    "human_requested",
    "window_open",
    "settling",  # the window has ended, and the worker waits the grace period
    "silence_never",  # the policy does not charge silence
    "unverified",  # the policy charges silence only after a verdict
    "taken_back",
    "answer_cleared",
    "no_answer",
    "rejected",  # no event was accepted
]
_ANSWERS = frozenset({"answer", "custom_answer"})


class WhyNot(msgspec.Struct, frozen=True):
    """Why a conversation has no charge. `event`, `type` and `at` are those of the event that decided."""

    reason: Reason
    why: str
    rule: str  # the section of docs/reference/outcomes.md
    event: str | None = None
    type: str | None = None
    at: str | None = None
    until: str | None = None  # when the window, or the grace period, ends
    policy: str | None = None
    policy_version: int | None = None
    owed: dict[str, int] = {}  # the units that the events owe; of an excluded one: would owe
    events: int = 0  # accepted events
    rejected: dict[str, int] = {}  # reason → events that were rejected
    notes: tuple[str, ...] = ()
    history: tuple[Effect, ...] = ()


class Known(NamedTuple):
    """What is known of a conversation: its accepted events, and how many others were rejected."""

    events: list[Event]
    rejected: Mapping[str, int]  # reason → number
    notes: tuple[str, ...] = ()  # what else to know, as sentences


class _Cause(NamedTuple):
    reason: Reason
    why: str
    rule: str
    step: Step | None = None
    until: int | None = None
    policy: Policy | None = None  # if it is not the one of the step


def why_not(known: Known, timeline: Timeline, now: int, *, waits_grace: bool) -> WhyNot | None:
    """Return why a conversation has no charge, or None if nothing is known of it.

    Args:
        known: the conversation.
        timeline: the versions of the tenant's policy.
        now: the time up to which silence counts, ms.
        waits_grace: silence is charged after the grace period only, as a worker does it.
    """
    if not known.events:
        why = "None of its events was accepted: all were rejected"
        return _answer(_Cause("rejected", why, "1.4"), known) if known.rejected else None
    traced = trace(known.events, timeline)
    lines = list(effects(traced))
    state = traced.state
    due = state.due_event_ms(timeline)
    if due is not None and due + (state.grace_ms(timeline) if waits_grace else 0) <= now:
        state.settle(timeline, due)
        lines.append(silence_effect(state.transitions[-1]))
    owed = net_of(state.transitions)
    return _answer(_cause(traced, timeline, now, owed), known, owed, lines)


def _answer(
    cause: _Cause, known: Known, owed: Mapping[str, int] | None = None, lines: Iterable[Effect] = ()
) -> WhyNot:
    event = None if cause.step is None else cause.step.event
    policy = cause.policy or (None if cause.step is None else cause.step.policy)
    return WhyNot(
        reason=cause.reason,
        why=cause.why,
        rule=f"docs/reference/outcomes.md §{cause.rule}",
        event=None if event is None else event.id,
        type=None if event is None else event.type,
        at=None if event is None else format_time(event.at),
        until=None if cause.until is None else format_time(cause.until),
        policy=None if policy is None else policy.name,
        policy_version=None if policy is None else policy.version,
        owed=dict(owed or {}),
        events=len(known.events),
        rejected=dict(sorted(known.rejected.items())),
        notes=known.notes,
        history=tuple(lines),
    )


def _cause(traced: Trace, timeline: Timeline, now: int, owed: Mapping[str, int]) -> _Cause:
    steps, state = traced
    if state.excluded:
        step = next(step for step in steps if not step.event.is_live)
        why = f"{_event(step)} is not live: test, preview and sandbox conversations never bill"
        return _Cause("excluded", why, "3.8", step)
    if owed:
        return _of_owed(state.transitions, owed)
    if state.ended:
        step = next(step for step in steps if step.after.ended)
        why = f"{_event(step)} ended the conversation while nothing was charged"
        if step.transitions:
            why = f"{_event(step)} took the charge back: {reason_in_words(state.ended)}"
        return _Cause(state.ended, why, "3.6", step)
    if state.human_requested:
        return _of_person(steps)
    if state.standing is not None:
        return _of_standing(state, state.standing, steps, timeline, now)
    for step in reversed(steps):
        before, after = step.before, step.after
        if (before.standing or before.charge) and not (after.standing or after.charge):
            return _of_lost(step)
    return _of_nothing(steps)


def _of_owed(transitions: list[Transition], owed: Mapping[str, int]) -> _Cause:
    newest = next(one for one in reversed(transitions) if one.delta > 0 and one.outcome in owed)
    units = ", ".join(f"{count} {outcome}" for outcome, count in owed.items())
    why = f"Its events owe {units} since {format_time(newest.at)}: {reason_in_words(newest.reason)}"
    return _Cause("owed", why, "3.3" if newest.reason == "silence" else "3.6")


def _of_person(steps: list[Step]) -> _Cause:
    step = next(
        step
        for step in reversed(steps)
        if step.after.human_requested and not step.before.human_requested
    )
    did = "asks for a person"
    if step.event.rank == HUMAN_MESSAGE:
        did = "is a teammate's reply, which voids the conversation under its policy"
    why = f"{_event(step)} {did}: nothing can be charged after that"
    if step.transitions:
        why += ", and the charge before it was taken back"
    return _Cause("human_requested", why, "3.6", step)


def _of_standing(
    state: Fold, standing: StandingAnswer, steps: list[Step], timeline: Timeline, now: int
) -> _Cause:
    # The step that made the answer stand; another source may have an event of the same id.
    step = next(
        step
        for step in reversed(steps)
        if step.event.id == standing.event_id and step.event.at == standing.known_at
    )
    answer = f"The answer of {format_time(standing.at)} (event {standing.event_id}) stands"
    policy = timeline.at(standing.at)
    if policy.silence == "never":
        why = f'{answer}, but silence never bills (silence = "never"): the customer must confirm it'
        return _Cause("silence_never", why, "3.3", step, policy=policy)
    due = state.due_event_ms(timeline)
    if due is None:
        why = f'{answer}, but nobody has verified it (silence = "if_verified")'
        return _Cause("unverified", why, "3.3", step, policy=policy)
    if due > now:
        why = f"{answer}, and its window is still open: if the customer stays silent, it bills at "
        return _Cause("window_open", why + format_time(due), "3.3", step, due, policy)
    until = due + policy.grace
    why = (
        f"{answer}. Its window ended in silence at {format_time(due)}; it bills after the grace "
        f"period for late events, at {format_time(until)}"
    )
    return _Cause("settling", why, "4.1", step, until, policy)


def _of_lost(step: Step) -> _Cause:
    """Return the cause of a step after which no answer stands and nothing is charged."""
    if step.transitions:
        reason = step.transitions[-1].reason
        why = f"{_event(step)} took the charge back: {reason_in_words(reason)}"
        return _Cause("taken_back", why, "3.6" if reason == "undelivered" else "3.5", step)
    why = f"{_event(step)} took the answer away: {_clearing(step)}"
    return _Cause("answer_cleared", why, "3.6", step)


def _clearing(step: Step) -> str:
    """Return why an event leaves no answer standing."""
    event, policy = step.event, step.policy
    if event.rank == AI_MESSAGE:
        if event.kind == "clarifying_question":
            return "the AI asked a clarifying question, so it was not done"
        return "the AI gave another answer, which is not billable"
    if event.rank == HUMAN_MESSAGE:
        return 'a teammate replied (human_reply = "clears_answer")'
    if event.rank == UNDELIVERED:
        return reason_in_words("undelivered")
    if event.rank == HANDOFF and event.cause != "customer_request":
        return f"the AI handed over for the cause {event.cause}, which the policy does not bill"
    below = None if policy is None else policy.csat_reverses_below
    if event.rank == RATING and below is not None and event.score < below:
        return reason_in_words("low_rating")
    if event.rank == HANDOFF or event.intent == "human_request":
        return reason_in_words("human_requested")
    if event.intent == "negative_feedback":
        return reason_in_words("negative_feedback")
    if event.intent == "help_request":
        return reason_in_words("customer_returned")
    return "a message that no classifier understood counts as a customer who needs help"


def _of_nothing(steps: list[Step]) -> _Cause:
    """Return the cause where no answer ever stood."""
    answers = [step for step in steps if step.event.kind in _ANSWERS]
    if answers:
        step = answers[-1]
        why = f"{_event(step)} cannot bill: the customer had not asked"
        if step.before.asked:
            why = f"{_event(step)} cannot bill: its answer is marked as not billable"
        return _Cause("no_answer", why, "3.6", step)
    others = [step for step in steps if step.event.rank in {HANDOFF, OUTCOME_REPORTED}]
    if others:
        step = others[-1]
        what = "cause" if step.event.rank == HANDOFF else "outcome"
        why = f"{_event(step)} does not bill: the policy does not bill its {what}"
        return _Cause("no_answer", why, "3.6", step)
    return _Cause("no_answer", "The AI has given no answer", "3.6")


def _event(step: Step) -> str:
    event = step.event
    return f"Event {event.id} of {format_time(event.at)} ({in_words(event)})"
