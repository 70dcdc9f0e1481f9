"""Generate support conversations from a seed, as events in order of time.

    python -m pipeline.dev.load 10000 > events.ndjson

Tests and benchmarks share this load. A conversation has about 5.4 events: a question, one or more AI
messages, and an end, which is thanks, silence, a request for a person, or a handoff. There are 200
tenants of very unequal size. The customer's pauses are log-normal, with a median of half a minute.
There are about 200 events per second of event time: 2,000,000 events are some 370,000 conversations
in about three hours.
"""

import heapq
import random
import sys
from collections.abc import Iterator
from typing import NamedTuple

import orjson

from pipeline.events.times import format_time

START_MS = 1_777_900_000_000
TENANTS = 200
_BETWEEN_CONVERSATIONS_MS = 27.0
_HOUR_MS = 3_600_000


class EventRecord(NamedTuple):
    """A record for the events topic."""

    timestamp_ms: int
    key: bytes
    value: bytes


# An event that is not yet due: time, conversation, number within it, tenant, channel, type, data.
_Pending = tuple[int, str, int, str, str, str, dict[str, object]]


def events(count: int, seed: int = 1) -> Iterator[EventRecord]:
    """Yield the first `count` events of a seed's load, in order of time."""
    draw = random.Random(seed)
    names = [f"tenant-{number:04d}" for number in range(TENANTS)]
    weights = [1 / (number + 1) for number in range(TENANTS)]
    pending: list[_Pending] = []
    now, number, yielded = float(START_MS), 0, 0
    while True:
        now += draw.expovariate(1 / _BETWEEN_CONVERSATIONS_MS)
        while pending and pending[0][0] <= now:
            yield _record(heapq.heappop(pending))
            yielded += 1
            if yielded == count:
                return
        tenant_id = draw.choices(names, weights)[0]
        channel = draw.choices(["messenger", "email", "voice", "api"], [70, 20, 5, 5])[0]
        conversation_id = f"c{number:010d}"
        number += 1
        for n, (at, kind, data) in enumerate(_conversation(int(now), draw.getrandbits(48))):
            heapq.heappush(pending, (at, conversation_id, n, tenant_id, channel, kind, data))


def _conversation(start_ms: int, seed: int) -> list[tuple[int, str, dict[str, object]]]:
    """Return a conversation's events: time, type, data."""
    draw = random.Random(seed)
    at = start_ms
    events: list[tuple[int, str, dict[str, object]]] = []

    def add(name: str, **data: object) -> None:
        events.append((at, name, data))

    def customer(intent: str) -> None:
        add("customer_message", intent=intent, classifier="intent-7")

    add("started", initiated_by="customer")
    at += draw.randrange(10, 2_000)
    customer("help_request")
    for _ in range(1 + min(int(draw.expovariate(0.7)), 12)):
        at += draw.randrange(800, 6_000)
        kind = "answer" if draw.random() < 0.8 else "clarifying_question"
        add("ai_message", kind=kind, agent="support-ai")
        at += min(int(draw.lognormvariate(10.3, 1.0)), _HOUR_MS)
        ending = draw.random()
        if ending < 0.12:
            customer("confirmation")
            break
        if ending < 0.20:
            customer("human_request")
            at += draw.randrange(500, 2_000)
            add("handoff", cause="customer_request")
            break
        if ending < 0.24:
            add("handoff", cause="procedure")
            break
        if ending < 0.45:
            break
        customer("help_request")
    if draw.random() < 0.2:
        add("rating", target="ai", score=draw.randrange(1, 6))
    if draw.random() < 0.6:
        at += 60_000
        add("closed", actor="workflow")
    return events


def _record(pending: _Pending) -> EventRecord:
    at, conversation_id, n, tenant_id, channel, kind, data = pending
    event = {
        "specversion": "1.0",
        "id": f"{conversation_id}-{n:03d}",
        "source": f"/chat/{tenant_id}",
        "type": f"conversation.{kind}",
        "subject": conversation_id,
        "time": format_time(at),
        "tenantid": tenant_id,
        "channel": channel,
        "datacontenttype": "application/json",
        "data": data,
    }
    return EventRecord(at, f"{tenant_id}:{conversation_id}".encode(), orjson.dumps(event))


if __name__ == "__main__":
    for record in events(int(sys.argv[1])):
        sys.stdout.buffer.write(record.value + b"\n")
