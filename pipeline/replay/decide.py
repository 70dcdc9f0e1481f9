"""This file decides over lines of events without Kafka: section 5 of the specification."""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from pipeline.events.model import EVENTS_IN_CONVERSATION_MAX, Event, Rejected
from pipeline.events.times import format_time
from pipeline.events.wire import read_event
from pipeline.resolve.machine import Transition, decide
from pipeline.resolve.policy import Timeline


class Histories:
    """Conversations collected from lines, one event per identity, the first that comes wins."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str], dict[tuple[str, str], Event]] = {}

    def add(self, line: bytes) -> Rejected | None:
        """Take in one event; return why it is none, where it is none."""
        addressed = read_event(line)
        if isinstance(addressed, Rejected):
            return addressed
        event = addressed.event
        known = self._events.setdefault((addressed.tenant_id, addressed.conversation_id), {})
        identity = (event.source, event.id)
        if identity not in known and len(known) >= EVENTS_IN_CONVERSATION_MAX:
            return Rejected("conversation_too_long", "subject: the conversation has 10,000 events")
        known.setdefault(identity, event)
        return None

    def __iter__(self) -> Iterator[tuple[str, str, Iterable[Event]]]:
        for (tenant_id, conversation), events in sorted(self._events.items()):
            yield tenant_id, conversation, events.values()


def decide_line(
    tenant_id: str, conversation: str, history: Iterable[Event], timeline: Timeline, as_of: int
) -> bytes:
    """Return the decision of one conversation as a line of JSON."""
    decision = decide(history, timeline, as_of)
    meant: dict[str, Any] = {
        "net": decision.net,
        "transitions": [_shown(transition) for transition in decision.transitions],
    }
    nothing: dict[str, Any] = {"net": {}, "transitions": []}
    shown = nothing if decision.excluded else meant
    answer: dict[str, Any] = {
        "tenantid": tenant_id,
        "conversation": conversation,
        "excluded": decision.excluded,
        "net": shown["net"],
        "kind": decision.kind,
        "transitions": shown["transitions"],
    }
    if decision.excluded:
        answer["would_be"] = meant
    return orjson.dumps(answer)


def _shown(transition: Transition) -> dict[str, Any]:
    return {
        "at": format_time(transition.at),
        "outcome": transition.outcome,
        "delta": transition.delta,
        "kind": transition.kind,
        "reason": transition.reason,
        "evidence": transition.evidence,
    }
