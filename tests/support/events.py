"""Make events of the tenant acme, as a chat service produces them."""

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from pipeline.events.times import format_time

AT = 1_777_885_200_000  # 2026-05-04T09:00:00Z
KEY = b"acme:c1"

Message = tuple[bytes | None, bytes | None, int]  # key, value, timestamp in ms


class Record(NamedTuple):
    """A Kafka record, as a partition reads it."""

    offset: int
    timestamp: int  # ms
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def event(
    event_id: str,
    type_: str = "customer_message",
    at: int = AT,
    *,
    subject: str = "c1",
    **data: object,
) -> bytes:
    """Return an event's JSON."""
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": "/chat",
            "type": f"conversation.{type_}",
            "subject": subject,
            "time": format_time(at),
            "tenantid": "acme",
            "data": data,
        }
    )


def resolved(subject: str) -> list[Message]:
    """Return the records of a conversation that bills one resolution."""
    key = f"acme:{subject}".encode()
    return [
        (key, event("m1", intent="help_request", subject=subject), AT),
        (key, event("a1", "ai_message", AT + 1, kind="answer", subject=subject), AT + 1),
        (key, event("m2", at=AT + 2, intent="confirmation", subject=subject), AT + 2),
    ]
