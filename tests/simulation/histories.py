"""Draw the records that producers send in a run: conversations of a few tenants."""

import random
from typing import Any, NamedTuple

import msgspec

from pipeline.catalog.policies import PRESETS, preset
from pipeline.events.model import (
    AI_MESSAGE,
    CLOSED,
    CUSTOMER_MESSAGE,
    HANDOFF,
    HUMAN_MESSAGE,
    MERGED,
    OUTCOME_REPORTED,
    RATING,
    SPAM_FLAGGED,
    STARTED,
    UNDELIVERED,
    VERDICT,
    Event,
)
from pipeline.kafka.partitioners import partition_of
from pipeline.resolve.policy import Policy
from tests.oracle.wire import value
from tests.simulation.catalog import Log, draw_log

T0 = 1_790_000_000_000
WINDOW = 600_000
GRACE = 60_000
MINUTE = 60_000
DAY = 86_400_000
SEAL_AFTER = DAY
CUSTOMERS = {"acme": "cus_acme", "bluejay": "cus_bluejay"}  # the third tenant has no customer
TENANTS = (*CUSTOMERS, "nobody")


DAMAGED = b"<damaged>"  # the value of a record that the broker's disk will change


class EventRecord(NamedTuple):
    """A record for the events topic, with the time of its arrival and its partition."""

    at: int  # ms
    partition: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes | None], ...] = ()


class History(NamedTuple):
    """All records of a run, in the order in which they arrive, and the log of the catalog."""

    catalog: Log
    sent: list[EventRecord]


_KINDS: list[tuple[int, dict[str, Any]]] = [
    *[(CUSTOMER_MESSAGE, {"intent": "help_request"})] * 4,
    *[(CUSTOMER_MESSAGE, {"intent": "confirmation"})] * 3,
    (CUSTOMER_MESSAGE, {"intent": "negative_feedback"}),
    (CUSTOMER_MESSAGE, {"intent": "human_request"}),
    *[(AI_MESSAGE, {"kind": "answer"})] * 6,
    (AI_MESSAGE, {"kind": "clarifying_question"}),
    (HUMAN_MESSAGE, {}),
    (HANDOFF, {"cause": "procedure"}),
    (HANDOFF, {"cause": "customer_request"}),
    (OUTCOME_REPORTED, {"outcome": "qualification"}),
    (RATING, {"rates_ai": True, "score": 1}),
    (VERDICT, {"verified": True}),
    (UNDELIVERED, {"message_id": "e1"}),
    (MERGED, {"secondary": True}),
    (SPAM_FLAGGED, {}),
    (CLOSED, {}),
    (STARTED, {}),
]
_PAUSES = [0, 1, 5_000, MINUTE, GRACE, WINDOW // 2, WINDOW, WINDOW + GRACE, WINDOW + GRACE + 1]
# From an event's time to its arrival, in ms: within the grace period or beyond. A negative delay
# means that the producer's clock is minutes ahead.
_DELAYS = [0, 0, 0, 0, 1_000, GRACE, GRACE + 1, WINDOW + 2 * GRACE, -2 * MINUTE]


def draw_policy(draw: random.Random) -> Policy:
    """Return a preset with short windows, so that windows end within a run."""
    policy = preset(draw.choice(["fin-2026", "fin-2026", *PRESETS]))
    return msgspec.structs.replace(
        policy, window=dict.fromkeys(policy.window, WINDOW), grace=draw.choice([0, GRACE, GRACE])
    )


def draw_history(
    seed: int, *, conversations: int, partitions: int, slow_clocks: bool = False
) -> History:
    """Return the history of a seed; `slow_clocks` adds follow-ups just after silence is due."""
    draw = random.Random(seed)
    sent: list[EventRecord] = []
    for number in range(conversations):
        tenant_id, name = draw.choice(TENANTS), f"c{number}"
        sent += _conversation(draw, tenant_id, name, partitions)
    home = partition_of(b"acme:c0", partitions)
    for _ in range(draw.randrange(3)):
        garbage = draw.choice([b"", b"{", b'{"specversion":"1.0"}', b"\xff\x00"])
        sent.append(EventRecord(T0 + draw.randrange(2 * WINDOW), home, b"acme:c0", garbage))
    sent += _after_a_long_silence(random.Random(f"quiet {seed}"), sent)
    sent += _with_unreadable_headers(random.Random(f"headers {seed}"), sent)
    sent += _damage(random.Random(f"damage {seed}"), home)
    sent += _burst_of_garbage(random.Random(f"burst {seed}"), home)
    sent += _in_the_last_minute(random.Random(f"minute {seed}"), partitions)
    policy = draw_policy(draw)
    catalog = draw_log(
        random.Random(f"catalog {seed}"), draw_policy, policy, TENANTS, T0, T0 + 5 * WINDOW
    )
    if slow_clocks:
        draws = random.Random(f"slow clocks {seed}")
        pauses = [wait + late for wait in (0, GRACE) for late in (-1, 10_000, 50_000, 110_000)]
        for number in range(draws.randrange(3, 9)):
            sent += _returning(draws, f"s{number}", pauses, partitions)
    return History(catalog, sorted(sent, key=lambda record: record.at))


def _conversation(
    draw: random.Random, tenant_id: str, name: str, partitions: int
) -> list[EventRecord]:
    key = f"{tenant_id}:{name}".encode()
    partition = partition_of(key, partitions)
    at = T0 + draw.randrange(WINDOW)
    kinds: list[tuple[int, dict[str, Any]]] = [
        (CUSTOMER_MESSAGE, {"intent": "help_request"}),
        (AI_MESSAGE, {"kind": "answer"}),
    ]
    kinds += [draw.choice(_KINDS) for _ in range(draw.randrange(7))]
    sent: list[EventRecord] = []
    for n, (rank, members) in enumerate(kinds):
        at += draw.choice(_PAUSES)
        event = Event(at, rank, "/s", f"e{n}", **members)
        content = value(event, tenant_id, name)
        arrives = at + draw.choice(_DELAYS)
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            sent.append(EventRecord(max(arrives, T0), partition, key, content))
            arrives += draw.choice([0, 1, MINUTE, WINDOW])
    return sent


def _with_unreadable_headers(draw: random.Random, sent: list[EventRecord]) -> list[EventRecord]:
    """Return events that would count, with a header whose name is not UTF-8."""
    name = b"bad-\xff".decode("utf-8", "surrogateescape")
    return [
        draw.choice(sent)._replace(headers=(("a", b""), (name, None)))
        for _ in range(draw.choice([0, 0, 1, 2]))
    ]


def _damage(draw: random.Random, partition: int) -> list[EventRecord]:
    """Return a record that nobody can read back."""
    at = T0 + draw.randrange(2 * WINDOW)
    return [EventRecord(at, partition, b"acme:c0", DAMAGED)] * draw.choice([0, 0, 0, 1])


def _burst_of_garbage(draw: random.Random, partition: int) -> list[EventRecord]:
    """Return what a broken producer writes: enough to exceed the limit on dead letters."""
    at = T0 + draw.randrange(2 * WINDOW)
    size = draw.choice([0, 0, 0, 60])
    return [EventRecord(at + n, partition, b"acme:c0", b"{garbage") for n in range(size)]


def _in_the_last_minute(draw: random.Random, partitions: int) -> list[EventRecord]:
    """Return conversations whose follow-up arrives just before their silence would be settled."""
    if draw.random() < 0.7:
        return []
    records: list[EventRecord] = []
    for number in range(draw.randrange(1, 4)):
        records += _returning(draw, f"m{number}", [-20_000, -1, 20_000, GRACE - 1], partitions)
    return records


def _returning(
    draw: random.Random, name: str, pauses: list[int], partitions: int
) -> list[EventRecord]:
    """Return a conversation whose customer comes back; it arrives a window and a pause later."""
    answered = T0 + draw.randrange(3 * WINDOW)
    at = answered + WINDOW + draw.choice(pauses)
    steps: list[tuple[int, int, dict[str, Any]]] = [
        (answered - 1_000, CUSTOMER_MESSAGE, {"intent": "help_request"}),
        (answered, AI_MESSAGE, {"kind": "answer"}),
        (min(at, answered + WINDOW - 1), CUSTOMER_MESSAGE, {"intent": "human_request"}),
    ]
    tenant_id = draw.choice(TENANTS)
    key = f"{tenant_id}:{name}".encode()
    partition = partition_of(key, partitions)
    return [
        EventRecord(
            at if n == 2 else happened,
            partition,
            key,
            value(Event(happened, rank, "/s", f"e{n}", **members), tenant_id, name),
        )
        for n, (happened, rank, members) in enumerate(steps)
    ]


def _after_a_long_silence(draw: random.Random, sent: list[EventRecord]) -> list[EventRecord]:
    """Return records for a conversation that is sealed or about to be: old events and new ones."""
    if draw.random() < 0.8:
        return []
    example = draw.choice(sent)
    tenant_id, _, name = example.key.decode().partition(":")
    known = [record for record in sent if record.key == example.key]
    at = max(record.at for record in known)
    records: list[EventRecord] = []
    for n in range(draw.randrange(1, 6)):
        at += draw.choice([SEAL_AFTER - 1, SEAL_AFTER, SEAL_AFTER + DAY // 40, 2 * DAY, MINUTE, 0])
        if draw.random() < 0.3:
            records.append(draw.choice(known)._replace(at=at))
            continue
        rank, members = draw.choice(_KINDS)
        happened = at - draw.choice([0, 0, 0, 1_000, SEAL_AFTER, 3 * DAY])
        event = Event(happened, rank, "/s", f"late{n}", **members)
        content = value(event, tenant_id, name)
        records.append(EventRecord(at, example.partition, example.key, content))
    return records
