"""Decide over lines of events, without Kafka. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from pipeline.events.model import EVENTS_IN_CONVERSATION_MAX, Event, Rejected
from pipeline.events.times import format_time
from pipeline.events.wire import read_event
from pipeline.resolve.machine import Decision
from pipeline.resolve.values import Transition


class Histories:
    """Conversations collected from lines. Of events with one source and id, the first counts."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str], dict[tuple[str, str], Event]] = {}

    def add(self, line: bytes) -> Rejected | None:
        """Add the event in a line; return why it is rejected, or None."""
        addressed = read_event(line)
        if isinstance(addressed, Rejected):
            return addressed
        event = addressed.event
        events = self._events.setdefault((addressed.tenant_id, addressed.conversation_id), {})
        identity = (event.source, event.id)
        if identity not in events and len(events) >= EVENTS_IN_CONVERSATION_MAX:
            return Rejected("conversation_too_long", "subject: the conversation has 10,000 events")
        events.setdefault(identity, event)
        return None

    def __iter__(self) -> Iterator[tuple[str, str, Iterable[Event]]]:
        for (tenant_id, conversation_id), events in sorted(self._events.items()):
            yield tenant_id, conversation_id, events.values()


class Totals:
    """Conversations by what was decided, and lines that were rejected."""

    def __init__(self) -> None:
        self.conversations = 0
        self.excluded = 0
        self.units: Counter[str] = Counter()  # by outcome
        self.rejected = 0

    def add(self, decision: Decision) -> None:
        """Count a conversation."""
        self.conversations += 1
        self.excluded += decision.excluded
        if not decision.excluded:
            self.units.update(decision.net)


def encode_decision(tenant_id: str, conversation_id: str, decision: Decision) -> bytes:
    """Return the decision of one conversation as a line of JSON.

    An excluded conversation owes nothing; `would_be` says what it would owe.
    """
    decided: dict[str, Any] = {
        "net": decision.net,
        "transitions": [_members(transition) for transition in decision.transitions],
    }
    line: dict[str, Any] = {
        "tenantid": tenant_id,
        "conversation": conversation_id,
        "excluded": decision.excluded,
        "net": {} if decision.excluded else decided["net"],
        "kind": decision.kind,
        "transitions": [] if decision.excluded else decided["transitions"],
    }
    if decision.excluded:
        line["would_be"] = decided
    return orjson.dumps(line)


def _members(transition: Transition) -> dict[str, Any]:
    return {
        "at": format_time(transition.at),
        "outcome": transition.outcome,
        "delta": transition.delta,
        "kind": transition.kind,
        "reason": transition.reason,
        "evidence": transition.evidence,
    }
