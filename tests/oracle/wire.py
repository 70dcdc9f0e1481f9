"""Write an event as a chat service does: the reverse of `pipeline.events.wire`, for tests."""

from typing import Any

import orjson

from pipeline.events.model import (
    AI_MESSAGE,
    CLOSED,
    CUSTOMER_MESSAGE,
    HANDOFF,
    HUMAN_MESSAGE,
    MERGED,
    OUTCOME_REPORTED,
    RATING,
    REOPENED,
    STARTED,
    UNDELIVERED,
    VERDICT,
    Event,
)
from pipeline.events.times import format_time


def cloudevent(event: Event, tenant_id: str, conversation: str) -> dict[str, Any]:
    """Return an event in CloudEvents' structured mode; members with their default are left out."""
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": conversation,
        "time": format_time(event.at),
        "tenantid": tenant_id,
    }
    if event.channel != "messenger":
        attributes["channel"] = event.channel
    if not event.is_live:
        attributes["environment"] = "test"
    if event.sequence:
        attributes["sequence"] = event.sequence
    return {**attributes, "data": _data(event)}


def value(event: Event, tenant_id: str, conversation: str) -> bytes:
    """Return the value of an event's record."""
    return orjson.dumps(cloudevent(event, tenant_id, conversation))


def _data(event: Event) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if event.rank == STARTED:
        data = {"initiated_by": "customer"}
    elif event.rank == CUSTOMER_MESSAGE:
        data = {} if event.intent == "unknown" else {"intent": event.intent}
    elif event.rank == AI_MESSAGE:
        data = {"kind": event.kind} | ({} if event.billable else {"billable": False})
    elif event.rank == HUMAN_MESSAGE:
        data = {"visibility": "internal"} if event.internal else {}
    elif event.rank == HANDOFF:
        data = {"cause": event.cause}
    elif event.rank == OUTCOME_REPORTED:
        data = {"outcome": event.outcome}
    elif event.rank == RATING:
        data = {"target": "ai" if event.rates_ai else "human", "score": event.score}
        data |= {"intent": event.intent} if event.intent else {}
    elif event.rank == VERDICT:
        data = {"verified": event.verified}
    elif event.rank == UNDELIVERED:
        data = {"message_id": event.message_id}
    elif event.rank in {CLOSED, REOPENED}:
        data = {"actor": "teammate"}
    elif event.rank == MERGED:
        data = {"role": "secondary" if event.secondary else "primary", "other": "c0"}
        if event.last_answer_at is not None:
            data["last_answer_at"] = format_time(event.last_answer_at)
        if event.message_id:
            data["last_answer_id"] = event.message_id
    return data
