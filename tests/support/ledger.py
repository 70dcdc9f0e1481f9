"""Make usage records and deliveries for tests of the ledger."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import func, select

from pipeline.ledger import Ledger, deliveries, leases, records
from pipeline.ledger.entries import (
    Conclusion,
    ConsumedRecord,
    Lease,
    MeterEvent,
    NotLeased,
    PlannedEvent,
    Result,
    Stored,
)
from pipeline.ledger.tables import meter_event
from pipeline.sink.grouping import Destination, Group, freeze, group_records
from pipeline.sink.stripe.meter import body_sha256
from pipeline.usage.record import Origin, UsageRecord, encode_origin, encode_record
from tests.support.journal import journalled, taken_over

TOPIC = "usage.records"
T0 = 1_790_000_000_000
HOUR_MS = 3_600_000
LEASE_MS = 30_000
DESTINATION = Destination("acme", "resolution", "cus_1", "m")


def record(
    conversation: str,
    n: int = 1,
    quantity: int = 1,
    *,
    tenant_id: str = "acme",
    outcome: str = "resolution",
    at: int = T0,
    kind: str = "assumed",
    supersedes: int | None = None,
    policy_version: int = 1,
) -> UsageRecord:
    fields = {
        "id": f"{tenant_id}:{conversation}:{n}",
        "tenant_id": tenant_id,
        "conversation": conversation,
        "outcome": outcome,
        "quantity": quantity,
        "kind": kind,
        "reason": "silence" if quantity > 0 else "customer_returned",
        "occurred_at": at,
        "policy": "fin-2026",
        "policy_version": policy_version,
        "evidence": (f"{conversation}-m{n}",),
        "supersedes": None if supersedes is None else f"{tenant_id}:{conversation}:{supersedes}",
    }
    return msgspec.convert(fields, UsageRecord)


def arrivals(
    usage_records: Sequence[UsageRecord], start: int = 0, partition: int = 0
) -> list[ConsumedRecord]:
    """Return usage records as consumed, with offsets from `start`."""
    origin = encode_origin(Origin("events", 3, (7,)))
    return [
        ConsumedRecord(partition, start + n, encode_record(usage_record), origin)
        for n, usage_record in enumerate(usage_records)
    ]


def stored(ledger: Ledger, *usage_records: UsageRecord) -> Stored:
    """Store usage records as the next batch of partition 0."""
    next_offset = records.offsets(ledger, TOPIC).get(0)
    consumed = arrivals(usage_records, next_offset or 0)
    result = records.store(ledger, TOPIC, consumed, {0: next_offset}, T0)
    assert isinstance(result, Stored)
    return result


def planned(
    ledger: Ledger,
    tenant_id: str = "acme",
    outcome: str = "resolution",
    customer: str = "cus_1",
) -> list[MeterEvent]:
    """Group the pending records of a tenant and outcome, and store the meter events, as run `a`."""
    grouping = group_records(deliveries.pending_records(ledger, tenant_id, outcome, 1000))
    events = frozen(grouping.groups, Destination(tenant_id, outcome, customer, "m"))
    assert deliveries.store_planned(ledger, events, T0)
    journalled(ledger)
    return [item.event for item in events]


def frozen(
    groups: Sequence[Group],
    destination: Destination = DESTINATION,
) -> list[PlannedEvent]:
    return [freeze(group, destination, body_sha256) for group in groups]


def try_to_lease(
    ledger: Ledger, event: MeterEvent, owner: str, now_ms: int, remembered_from_ms: int = 0
) -> Lease | NotLeased:
    taken_over(ledger, event.identifier, owner)
    return leases.lease(
        ledger,
        event,
        owner,
        now_ms,
        until_ms=now_ms + LEASE_MS,
        remembered_from_ms=remembered_from_ms,
    )


def leased(ledger: Ledger, event: MeterEvent, owner: str = "a", now_ms: int = T0) -> Lease:
    lease = try_to_lease(ledger, event, owner, now_ms)
    assert isinstance(lease, Lease)
    return lease


def conclude(ledger: Ledger, lease: Lease, result: Result) -> None:
    status = 200 if result == "delivered" else 500
    conclusion = Conclusion(result=result, http_status=status, request_id="req_1")
    leases.conclude(ledger, lease, conclusion, T0 + 5)


def deliver(ledger: Ledger, event: MeterEvent) -> None:
    conclude(ledger, leased(ledger, event), "delivered")


def state_of(ledger: Ledger, event: MeterEvent) -> str:
    with ledger.reading() as connection:
        query = select(meter_event.c.state).where(meter_event.c.identifier == event.identifier)
        return str(connection.scalar(query))


def count(ledger: Ledger, table: object) -> int:
    with ledger.reading() as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)  # type: ignore[arg-type]
