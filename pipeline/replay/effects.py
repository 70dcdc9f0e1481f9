"""Say in words what each event of a conversation did to its decision. Pure."""

from collections.abc import Iterator

import msgspec

from pipeline.events.model import (
    AI_MESSAGE,
    CUSTOMER_MESSAGE,
    HANDOFF,
    HUMAN_MESSAGE,
    MERGED,
    OUTCOME_REPORTED,
    RATING,
    VERDICT,
    Event,
)
from pipeline.events.times import format_time
from pipeline.resolve.trace import Step, Trace
from pipeline.resolve.values import Transition

# An event of these types is expected to do something: if it does not, its line says why.
_EXPECTED = frozenset({CUSTOMER_MESSAGE, AI_MESSAGE, HANDOFF, OUTCOME_REPORTED, VERDICT})
_WITHOUT_EFFECT = frozenset({"greeting", "check_in", "holding"})


class Effect(msgspec.Struct, frozen=True):
    """One line of a conversation's history. Silence has no event."""

    at: str
    what: str  # the event in words: "customer: help_request"
    event: str | None  # its id
    effect: str


def effects(trace: Trace) -> Iterator[Effect]:
    """Yield what happened, in order, without the events that cannot affect a decision."""
    for step in trace.steps:
        if step.silence is not None:
            yield silence_effect(step.silence)
        effect = _effect(step)
        if effect:
            event = step.event
            yield Effect(format_time(event.at), in_words(event), event.id, effect)


def silence_effect(silence: Transition) -> Effect:
    """Return the line of a window that ended in silence."""
    return Effect(format_time(silence.at), "silence", None, _transition(silence))


def in_words(event: Event) -> str:
    """Return an event as the guide writes it: `customer: help_request`."""
    rank = event.rank
    if rank == CUSTOMER_MESSAGE:
        return f"customer: {event.intent or 'unknown'}"
    if rank == AI_MESSAGE:
        return f"AI: {event.kind}"
    if rank == HUMAN_MESSAGE:
        return f"teammate: {'internal' if event.internal else 'public'} message"
    if rank == HANDOFF:
        return f"handoff: {event.cause}"
    if rank == OUTCOME_REPORTED:
        return f"outcome reported: {event.outcome}"
    if rank == RATING:
        intent = f", {event.intent}" if event.intent else ""
        return f"rating of {'the AI' if event.rates_ai else 'a person'}: {event.score}{intent}"
    if rank == VERDICT:
        return f"verdict: {'verified' if event.verified else 'not verified'}"
    if rank == MERGED:
        return f"merged: {'secondary' if event.secondary else 'primary'}"
    return event.type.removeprefix("conversation.").replace("_", " ")


def _effect(step: Step) -> str:
    parts = [*map(_transition, step.transitions), *_changes(step)]
    if not step.event.is_live:
        parts.append("not in the live environment: the whole conversation never bills")
    if not parts and step.event.rank in _EXPECTED:
        return _why_nothing(step)
    return "; ".join(parts)


def _transition(transition: Transition) -> str:
    return f"{transition.delta:+d} {transition.outcome} ({transition.reason})"


def _changes(step: Step) -> Iterator[str]:
    before, after = step.before, step.after
    if after.asked and not before.asked:
        yield "the customer has asked"
    old, new = before.standing, after.standing
    if old is not None and new is None:
        yield "no answer stands"
    elif new is not None and (old is None or (old.id, old.known_at) != (new.id, new.known_at)):
        yield f"the answer stands{_due(step)}"
    elif new is not None and old is not None and new.verified != old.verified:
        yield f"the answer is {'verified' if new.verified else 'not verified'}{_due(step)}"
    if before.charge is not None and after.charge is None and not step.transitions:
        yield "too late to take the charge back: a new segment begins"
    was = None if before.charge is None else before.charge.kind
    if was == "assumed" and after.charge is not None and after.charge.kind == "confirmed":
        yield "the charge becomes confirmed"
    if after.human_requested and not before.human_requested:
        yield "a person is requested: nothing can be charged"
    if after.ended and not before.ended:
        yield f"the conversation ends ({after.ended})"


def _due(step: Step) -> str:
    return "" if step.due_event_ms is None else f", due {format_time(step.due_event_ms)}"


def _why_nothing(step: Step) -> str:
    """Return why an event has no effect; nothing if it is of a kind that never has one."""
    event, state = step.event, step.before
    if state.ended:
        return "nothing: the conversation has ended"
    if event.kind in _WITHOUT_EFFECT or event.intent in _WITHOUT_EFFECT:
        return ""
    if state.human_requested and event.rank != CUSTOMER_MESSAGE:
        return "nothing: a person was requested"
    if event.rank == AI_MESSAGE and state.charge is None:
        return _why_not_standing(event, asked=state.asked)
    if event.rank in {AI_MESSAGE, OUTCOME_REPORTED} and state.charge is not None:
        return "nothing: the conversation has its unit"
    if event.rank == OUTCOME_REPORTED:
        return "nothing: the policy does not bill this outcome"
    if event.rank == HANDOFF:
        return "nothing: the policy does not bill this cause"
    if event.intent == "confirmation" and state.standing is None and state.charge is None:
        return "nothing: no answer stands"
    return "nothing: no answer stands" if event.rank == VERDICT else ""


def _why_not_standing(event: Event, *, asked: bool) -> str:
    """Return why an AI message is not a standing answer, where no person was requested."""
    if event.kind == "clarifying_question":
        return "nothing: a clarifying question is not an answer"
    if not asked:
        return "nothing: the customer had not asked"
    return "nothing: the answer is not billable"
