"""Audit a row with a bare consumer, the pure rules, and SQL.

The auditor uses the project's event reader and its rules (`decide`), but no code of worker, sink or
ledger. It reads each conversation's events from the log, drops repetitions of a source and id, and
decides each conversation as of a time after all windows. It compares the result with the ledger's
units by conversation and outcome, and the ledger's sums by tenant with the Stripe emulator's.
"""

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import sqlalchemy
from confluent_kafka import Consumer, TopicPartition

from pipeline.catalog.policies import preset
from pipeline.events.model import Event, Rejected
from pipeline.events.wire import read_record
from pipeline.kafka.reader import headers_of
from pipeline.resolve.machine import decide
from pipeline.resolve.policy import Timeline

_FAR = 2**62
_TIMELINE = Timeline([preset("fin-2026")])

Units = Counter[tuple[str, str, str]]  # tenant, conversation, outcome


class Verdict(NamedTuple):
    """The errors that the auditor found at the end of a row."""

    lost: int  # units
    doubled: int  # units
    wrong: int  # usage records that differ from those of the undisturbed run
    problems: list[str]  # a sentence each

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong or self.problems)


class Truth(NamedTuple):
    """The units and the dead letters that follow from the log."""

    units: Units
    records: int
    rejected: set[tuple[int, int]]  # partition, offset


def read_truth(servers: str, topic: str) -> Truth:
    """Decide every conversation of a topic from offset 0."""
    histories: dict[tuple[str, str], dict[tuple[str, str], Event]] = {}
    rejected: set[tuple[int, int]] = set()
    count = 0
    for message in _messages(servers, topic):
        count += 1
        result = read_record(
            message.value(), message.key(), message.timestamp()[1], headers_of(message)
        )
        if isinstance(result, Rejected):
            rejected.add((message.partition(), message.offset()))
            continue
        history = histories.setdefault((result.tenant_id, result.conversation_id), {})
        history.setdefault((result.event.source, result.event.id), result.event)
    units: Units = Counter()
    for (tenant_id, conversation), history in histories.items():
        decision = decide(history.values(), _TIMELINE, _FAR)
        if not decision.excluded:
            for outcome, quantity in decision.net.items():
                units[tenant_id, conversation, outcome] = quantity
    return Truth(units, count, rejected)


def judge(
    truth: Truth,
    ledger_url: str,
    undisturbed: dict[str, bytes],
    written: list[tuple[str, bytes]],
    dead_letters: set[tuple[int, int]],
    at_stripe: dict[str, int],
) -> Verdict:
    """Compare the end of a row with the log, with an undisturbed run, and with Stripe.

    Args:
        truth: the units and the dead letters that follow from the log.
        ledger_url: the SQLAlchemy URL.
        undisturbed: the usage records of the undisturbed run, by id.
        written: id and content of every record in the row's topic of usage records.
        dead_letters: partition and offset of the records that were rejected.
        at_stripe: the emulator's units by tenant.
    """
    problems: list[str] = []
    with connected(ledger_url) as execute:
        units: Units = Counter()
        owed: Counter[str] = Counter()
        stored = []
        for record_id, tenant_id, conversation, outcome, quantity in execute(
            "SELECT id, tenantid, conversation, outcome, quantity FROM usage_record"
        ):
            units[tenant_id, conversation, outcome] += quantity
            owed[tenant_id] += quantity
            stored.append(record_id)
        delivered: Counter[str] = Counter()
        for tenant_id, value in execute(
            "SELECT tenantid, value FROM meter_event WHERE state IN ('delivered', 'netted')"
        ):
            delivered[tenant_id] += value
        for tenant_id, quantity in execute("SELECT tenantid, quantity FROM pending_record"):
            owed[tenant_id] -= quantity
        for state, count in execute(
            "SELECT state, count(*) FROM meter_event GROUP BY state ORDER BY state"
        ):
            if state not in {"delivered", "netted"}:
                problems.append(f"{count} meter events are {state}")
    lost = sum((truth.units - units).values())
    doubled = sum((units - truth.units).values())
    wrong = 0
    for record_id, content in written:
        if undisturbed.get(record_id) != content:
            wrong += 1
            problems.append(f"differs from the undisturbed run: {record_id}")
    wrong += len(undisturbed.keys() ^ set(stored))
    if len(stored) != len(set(stored)):
        problems.append("the ledger has an id twice")
    for tenant_id in sorted({*delivered, *owed, *at_stripe}):
        sums = (owed[tenant_id], delivered[tenant_id], at_stripe.get(tenant_id, 0))
        if len(set(sums)) > 1:
            problems.append(
                f"{tenant_id}: owed and not pending {sums[0]}, delivered {sums[1]}, "
                f"at Stripe {sums[2]}"
            )
            lost += max(0, sums[0] - sums[2])
            doubled += max(0, sums[2] - sums[0])
    if dead_letters != truth.rejected:
        differing = len(dead_letters ^ truth.rejected)
        problems.append(f"{differing} dead letters are missing, or are of valid records")
    return Verdict(lost, doubled, wrong, problems[:20])


def _messages(servers: str, topic: str) -> Iterator[Any]:
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "proof-auditor", "enable.auto.commit": False}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ends = {}
        for number in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            if high > low:
                ends[number] = high
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        while ends:
            for message in consumer.consume(10_000, timeout=1.0):
                assert message.error() is None, message.error()
                yield message
                number, offset = message.partition(), message.offset()
                if number in ends and offset is not None and offset + 1 >= ends[number]:
                    del ends[number]
    finally:
        consumer.close()


@contextlib.contextmanager
def connected(url: str) -> Iterator[Any]:
    """Connect to a ledger; yield a function that runs a query and returns all rows."""
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with contextlib.closing(sqlite3.connect(str(parsed.database))) as sqlite:
            yield lambda query: sqlite.execute(query).fetchall()
    else:
        options = {"host": parsed.query["host"], "dbname": parsed.database, "user": parsed.username}
        with psycopg.connect(**options) as postgres:  # type: ignore[arg-type]
            yield lambda query: postgres.execute(query).fetchall()
