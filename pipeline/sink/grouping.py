"""This file adds up usage records to meter events: what is in which, and when. Pure.

For one tenant and outcome, by UTC hour of `occurred_at`:

1. Hours ascending: a sum above zero is a meter event. A sum of zero or less is carried to the
   next hour, so that it lessens what is sent there.
2. What is negative in the end lessens the newest of these meter events instead, none of which has
   been sent. So nothing is sent that we know to be taken back.
3. What is exactly zero in the end is netted: taken up, with nothing to send. Of what is still
   negative, all that cancels out is netted, so that it does not pile up; the rest stays pending:
   Stripe bills a negative total as nothing, and the rest would be lost.
"""

import hashlib
from collections.abc import Iterable
from itertools import groupby, islice

import msgspec
import orjson

from pipeline.ledger.entries import MeterEvent, PendingRecord, PlannedEvent
from pipeline.sink.stripe.body import body, body_sha256

HOUR_MS = 3_600_000


class Group(msgspec.Struct, frozen=True):
    """Records that go out, or cancel out, as one. `value` is their sum, 0 where they are netted."""

    hour: int  # hours since the epoch
    value: int
    timestamp: int  # seconds; of the newest +1 within the hour
    records: tuple[PendingRecord, ...]


class Plan(msgspec.Struct, frozen=True):
    groups: tuple[Group, ...]
    carried: tuple[PendingRecord, ...]  # each of them takes back


def plan(records: Iterable[PendingRecord]) -> Plan:
    """Plan the pending records of one tenant and outcome, in whatever order they come."""
    ordered = sorted(records, key=lambda record: (record.occurred_at, record.id))
    groups: list[Group] = []
    carried: list[PendingRecord] = []
    carried_sum = 0
    for hour, of_hour in groupby(ordered, key=lambda record: record.occurred_at // HOUR_MS):
        found = list(of_hour)
        total = carried_sum + sum(record.quantity for record in found)
        carried += found
        carried_sum = total
        if total > 0:
            # What was carried is not above zero, so this hour has a +1 of its own.
            newest = max(record.occurred_at for record in found if record.quantity > 0)
            groups.append(Group(hour, total, newest // 1000, tuple(carried)))
            carried, carried_sum = [], 0
    while carried_sum < 0 and groups:
        last = groups.pop()
        total = last.value + carried_sum
        carried = [*last.records, *carried]
        carried_sum = total
        if total > 0:
            groups.append(Group(last.hour, total, last.timestamp, tuple(carried)))
            carried, carried_sum = [], 0
    charges = sum(record.quantity > 0 for record in carried)
    if charges:
        # The oldest that take back, as many as there are charges.
        taken = islice((record for record in carried if record.quantity < 0), charges)
        gone = {record.id for record in taken}
        netted = [record for record in carried if record.quantity > 0 or record.id in gone]
        newest = netted[-1].occurred_at
        groups.append(Group(newest // HOUR_MS, 0, newest // 1000, tuple(netted)))
        carried = [record for record in carried if record.quantity < 0 and record.id not in gone]
    return Plan(tuple(groups), tuple(carried))


def fix(group: Group, tenant_id: str, outcome: str, customer: str, event_name: str) -> PlannedEvent:
    """Return the meter event of a group, with the identifier and body of every attempt."""
    identifier = identifier_of(group, tenant_id, outcome)
    content = body(identifier, customer, event_name, group.value, group.timestamp)
    event = MeterEvent(
        identifier=identifier,
        tenant_id=tenant_id,
        customer=customer,
        outcome=outcome,
        event_name=event_name,
        hour=group.hour,
        value=group.value,
        timestamp=group.timestamp,
        body_sha256=body_sha256(content),
        state="planned" if group.value else "netted",
    )
    return PlannedEvent(event, group.records)


def identifier_of(group: Group, tenant_id: str, outcome: str) -> str:
    """Return the same identifier for the same records, however they were planned.

    67 characters; Stripe takes 100.
    """
    ids = sorted(record.id for record in group.records)
    content = orjson.dumps([tenant_id, outcome, group.hour, ids])
    return f"rm_{hashlib.sha256(content).hexdigest()}"
