"""Group usage records into meter events. Pure.

For one tenant and outcome, by UTC hour of `occurred_at`:

1. The hours are added up in ascending order. An hour with a sum above zero becomes a meter event.
   A sum of zero or less is carried to the next hour and reduces that hour's sum.
2. A negative sum that remains after the last hour reduces the newest of these meter events, which
   are not sent yet. So no charge is sent whose reversal is among the records.
3. Remaining records that cancel out are netted: they leave the pending records, and nothing is sent
   for them. Remaining reversals without a charge stay pending.
4. A group of too many records is split: what cancels out in it is netted, in parts.

The rules exist because billers bill no negative total and limit the number of calls.
`pipeline.sink.stripe` lists Stripe's limits.
"""

import hashlib
from collections.abc import Callable, Iterable
from itertools import groupby, islice
from typing import NamedTuple

import msgspec
import orjson

from pipeline.ledger.entries import HOUR_MS, MeterEvent, PendingRecord, PlannedEvent

# An entry of the journal has at most 16 MB, and the id of a usage record at most 1,250 bytes.
GROUP_RECORDS_MAX = 10_000


class Group(msgspec.Struct, frozen=True):
    """Records that are sent together, or that cancel out. `value` is their sum; 0 means netted."""

    hour: int  # hours since the epoch
    value: int
    timestamp: int  # seconds; of the hour's newest +1, or of the newest netted record
    records: tuple[PendingRecord, ...]


class Grouping(msgspec.Struct, frozen=True):
    """The result of grouping: records in `groups` are no longer pending, `carried` stay pending."""

    groups: tuple[Group, ...]
    carried: tuple[PendingRecord, ...]  # only -1


class Destination(NamedTuple):
    """A tenant and outcome, and the customer and meter that their usage goes to."""

    tenant_id: str
    outcome: str
    customer: str
    event_name: str


def group_records(records: Iterable[PendingRecord]) -> Grouping:
    """Group the pending records of one tenant and outcome, in any order."""
    ordered = sorted(records, key=_order)
    groups: list[Group] = []
    carried: list[PendingRecord] = []
    carried_sum = 0
    for hour, records_of_hour in groupby(ordered, key=lambda record: record.occurred_at // HOUR_MS):
        in_hour = list(records_of_hour)
        total = carried_sum + sum(record.quantity for record in in_hour)
        carried += in_hour
        carried_sum = total
        if total > 0:
            # The carried sum is not above zero, so this hour has a +1 of its own.
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
        groups.append(_netted_group(netted))
        ids = {record.id for record in netted}
        carried = [record for record in carried if record.id not in ids]
    return Grouping(tuple(part for group in groups for part in _parts(group)), tuple(carried))


def _parts(group: Group) -> Iterable[Group]:
    """Split a group that has too many records for an entry of the journal: what cancels out goes apart."""
    if len(group.records) <= GROUP_RECORDS_MAX:
        return [group]
    charges = [record for record in group.records if record.quantity > 0]
    reversals = [record for record in group.records if record.quantity < 0]
    parts: list[Group] = []
    for start in range(0, len(reversals), GROUP_RECORDS_MAX // 2):
        taken_back = reversals[start : start + GROUP_RECORDS_MAX // 2]
        pairs = [*taken_back, *charges[start : start + len(taken_back)]]
        parts.append(_netted_group(sorted(pairs, key=_order)))
    if left := charges[len(reversals) :]:
        parts.append(Group(group.hour, group.value, group.timestamp, tuple(left)))
    return parts


def _netted_group(records: list[PendingRecord]) -> Group:
    newest = records[-1].occurred_at
    return Group(newest // HOUR_MS, 0, newest // 1000, tuple(records))


def _order(record: PendingRecord) -> tuple[int, str]:
    return record.occurred_at, record.id


def _netted(carried: list[PendingRecord]) -> list[PendingRecord]:
    """Return the charges among `carried`, and an equal number of reversals, oldest first."""
    charges = sum(record.quantity > 0 for record in carried)
    reversals = islice((record for record in carried if record.quantity < 0), charges)
    netted = {record.id for record in reversals}
    return [record for record in carried if record.quantity > 0 or record.id in netted]


def freeze(
    group: Group, destination: Destination, body_sha256: Callable[[MeterEvent], str]
) -> PlannedEvent:
    """Return the meter event of a group, with the identifier and digest of every attempt."""
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
    """Return an identifier of 67 characters, the same for the same records in any order.

    A biller never forgets that it cancelled an event, so records that were withdrawn together get another
    identifier: how often they were withdrawn is a part of it, and only grows.
    """
    content: list[object] = [tenant_id, outcome, group.hour]
    content.append(sorted(record.id for record in group.records))
    if withdrawn := sum(record.withdrawn for record in group.records):
        content.append(withdrawn)
    return f"rm_{hashlib.sha256(orjson.dumps(content)).hexdigest()}"
