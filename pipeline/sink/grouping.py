"""Group usage records into meter events. Pure.

For one tenant and outcome, by UTC hour of `occurred_at`:

1. Hours ascending: a sum above zero is a meter event. A sum of zero or less is carried to the
   next hour and reduces what is sent there.
2. What is negative at the end reduces the newest of these meter events instead, as none has been
   sent yet. So nothing is sent that we know to be taken back.
3. What is exactly zero at the end is netted: the records are taken up, with nothing to send. Of
   what is still negative, all that cancels out is netted, so that it does not pile up; the rest
   stays pending.

Billers set these rules: they bill no negative total and limit the calls. `pipeline.sink.stripe` has
Stripe's.
"""

import hashlib
from collections.abc import Callable, Iterable
from itertools import groupby, islice
from typing import NamedTuple

import msgspec
import orjson

from pipeline.ledger.entries import HOUR_MS, MeterEvent, PendingRecord, PlannedEvent


class Group(msgspec.Struct, frozen=True):
    """Records that are sent, or cancel out, together. `value` is their sum; 0 means netted."""

    hour: int  # hours since the epoch
    value: int
    timestamp: int  # seconds; of the newest +1 within the hour
    records: tuple[PendingRecord, ...]


class Grouping(msgspec.Struct, frozen=True):
    """What becomes of pending records: those in `groups` leave, `carried` stay pending."""

    groups: tuple[Group, ...]
    carried: tuple[PendingRecord, ...]  # only -1


class Destination(NamedTuple):
    """Whose usage of what goes to which customer and meter."""

    tenant_id: str
    outcome: str
    customer: str
    event_name: str


def group_records(records: Iterable[PendingRecord]) -> Grouping:
    """Group the pending records of one tenant and outcome, in any order."""
    ordered = sorted(records, key=lambda record: (record.occurred_at, record.id))
    groups: list[Group] = []
    carried: list[PendingRecord] = []
    carried_sum = 0
    for hour, records_of_hour in groupby(ordered, key=lambda record: record.occurred_at // HOUR_MS):
        in_hour = list(records_of_hour)
        total = carried_sum + sum(record.quantity for record in in_hour)
        carried += in_hour
        carried_sum = total
        if total > 0:
            # What was carried is not above zero, so this hour has a +1 of its own.
            newest = max(record.occurred_at for record in in_hour if record.quantity > 0)
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
    netted = _netted(carried)
    if netted:
        newest = netted[-1].occurred_at
        groups.append(Group(newest // HOUR_MS, 0, newest // 1000, tuple(netted)))
        ids = {record.id for record in netted}
        carried = [record for record in carried if record.id not in ids]
    return Grouping(tuple(groups), tuple(carried))


def _netted(carried: list[PendingRecord]) -> list[PendingRecord]:
    """Return the charges among `carried`, and as many reversals: the oldest."""
    charges = sum(record.quantity > 0 for record in carried)
    reversals = islice((record for record in carried if record.quantity < 0), charges)
    taken = {record.id for record in reversals}
    return [record for record in carried if record.quantity > 0 or record.id in taken]


def freeze(
    group: Group, destination: Destination, body_sha256: Callable[[MeterEvent], str]
) -> PlannedEvent:
    """Return the meter event of a group, with the identifier and the digest of every attempt."""
    event = MeterEvent(
        identifier=identifier_of(group, destination.tenant_id, destination.outcome),
        tenant_id=destination.tenant_id,
        customer=destination.customer,
        outcome=destination.outcome,
        event_name=destination.event_name,
        hour=group.hour,
        value=group.value,
        timestamp=group.timestamp,
        body_sha256="",
        state="planned" if group.value else "netted",
    )
    frozen = msgspec.structs.replace(event, body_sha256=body_sha256(event))
    return PlannedEvent(frozen, group.records)


def identifier_of(group: Group, tenant_id: str, outcome: str) -> str:
    """Return the same identifier, of 67 characters, for the same records in any order."""
    ids = sorted(record.id for record in group.records)
    content = orjson.dumps([tenant_id, outcome, group.hour, ids])
    return f"rm_{hashlib.sha256(content).hexdigest()}"
