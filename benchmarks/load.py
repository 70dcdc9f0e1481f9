"""This file draws realistic support conversations from a seed, as events in the order of time.

    python -m benchmarks.load 10000 > events.ndjson

About 5.4 events a conversation: two hundred tenants of very unequal size, a question, one to a
few answers, and an end: thanks, silence, a request for a person, a hand-off. Pauses between
messages are log-normal with a median of half a minute. At about 200 events a second of log time,
2,000,000 events are some 370,000 conversations over three hours.
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


class Sent(NamedTuple):
    """One event on its way: time in milliseconds, Kafka key and value."""

    at: int
    key: bytes
    value: bytes


def _conversation(
    number: int, tenant: str, start: int, seed: int
) -> list[tuple[int, str, dict[str, object]]]:
    draw = random.Random(seed)
    at = start
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
        fate = draw.random()
        if fate < 0.12:
            customer("confirmation")
            break
        if fate < 0.20:
            customer("human_request")
            at += draw.randrange(500, 2_000)
            add("handoff", cause="customer_request")
            break
        if fate < 0.24:
            add("handoff", cause="procedure")
            break
        if fate < 0.45:
            break
        customer("help_request")
    if draw.random() < 0.2:
        add("rating", target="ai", score=draw.randrange(1, 6))
    if draw.random() < 0.6:
        at += 60_000
        add("closed", actor="workflow")
    return events


def events(count: int, seed: int = 1) -> Iterator[Sent]:
    """Yield the first `count` events of the load, in the order of their times."""
    draw = random.Random(seed)
    names = [f"tenant-{number:04d}" for number in range(TENANTS)]
    weights = [1 / (number + 1) for number in range(TENANTS)]
    waiting: list[tuple[int, str, int, str, str, str, dict[str, object]]] = []
    now, number, sent = float(START_MS), 0, 0
    while True:
        now += draw.expovariate(1 / _BETWEEN_CONVERSATIONS_MS)
        while waiting and waiting[0][0] <= now:
            yield _sent(heapq.heappop(waiting))
            sent += 1
            if sent == count:
                return
        tenant = draw.choices(names, weights)[0]
        channel = draw.choices(["messenger", "email", "voice", "api"], [70, 20, 5, 5])[0]
        subject = f"c{number:010d}"
        number += 1
        for n, (at, kind, data) in enumerate(
            _conversation(number, tenant, int(now), draw.getrandbits(48))
        ):
            heapq.heappush(waiting, (at, subject, n, tenant, channel, kind, data))


def _sent(entry: tuple[int, str, int, str, str, str, dict[str, object]]) -> Sent:
    at, subject, n, tenant, channel, kind, data = entry
    event = {
        "specversion": "1.0",
        "id": f"{subject}-{n:03d}",
        "source": f"/chat/{tenant}",
        "type": f"conversation.{kind}",
        "subject": subject,
        "time": format_time(at),
        "tenantid": tenant,
        "channel": channel,
        "datacontenttype": "application/json",
        "data": data,
    }
    return Sent(at, f"{tenant}:{subject}".encode(), orjson.dumps(event))


if __name__ == "__main__":
    for sent in events(int(sys.argv[1])):
        sys.stdout.buffer.write(sent.value + b"\n")
