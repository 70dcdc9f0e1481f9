"""Plan meter events out of the ledger's pending records, in bounded chunks."""

from collections.abc import Callable

import msgspec

from pipeline.catalog.prices import Billing
from pipeline.ledger import Ledger, deliveries
from pipeline.ledger.entries import MeterEvent
from pipeline.sink.grouping import Destination, freeze, group_records

CHUNK_RECORDS = 20_000


class Planned(msgspec.Struct):
    """What became of the pending records. Units are signed, by tenant."""

    events: int = 0
    netted: int = 0
    parked: dict[str, int] = msgspec.field(default_factory=dict)  # the tenant has no customer
    carried: dict[str, int] = msgspec.field(default_factory=dict)  # below zero


def plan_pending(
    ledger: Ledger,
    billing: Billing,
    body_sha256: Callable[[MeterEvent], str],
    now_ms: int,
    *,
    chunk_records: int = CHUNK_RECORDS,
) -> Planned:
    """Make meter events of all pending records whose tenant has a customer."""
    result = Planned()
    for pending in deliveries.pending_sums(ledger):
        tenant_id, outcome = pending.tenant_id, pending.outcome
        customer = billing.customer_for(tenant_id)
        if customer is None:
            result.parked[tenant_id] = result.parked.get(tenant_id, 0) + pending.quantity
            continue
        if pending.quantity == -pending.records:
            # Only reversals: all of them would be carried, so there is nothing to read.
            result.carried[tenant_id] = result.carried.get(tenant_id, 0) + pending.quantity
            continue
        destination = Destination(tenant_id, outcome, customer, billing.event_name_for(outcome))
        size = chunk_records
        while True:
            records = deliveries.pending_records(ledger, tenant_id, outcome, size)
            grouping = group_records(records)
            planned = [freeze(group, destination, body_sha256) for group in grouping.groups]
            if not deliveries.store_planned(ledger, planned, now_ms):
                break  # another sink planned some of them; the next flush takes the rest
            result.events += sum(item.event.value > 0 for item in planned)
            result.netted += sum(item.event.value == 0 for item in planned)
            if len(records) < size:
                left = sum(record.quantity for record in grouping.carried)
                if left:
                    result.carried[tenant_id] = result.carried.get(tenant_id, 0) + left
                break
            # A chunk that is carried as a whole needs the records after it.
            size = chunk_records if planned else size * 2
    return result
