"""This file plans what is pending in the ledger: reads, adds up, stores, in bounded chunks."""

import msgspec

from pipeline.catalog.prices import Billing
from pipeline.ledger import Ledger, deliveries
from pipeline.sink.grouping import fix, plan

CHUNK_RECORDS = 20_000


class Planned(msgspec.Struct):
    """What a look at the pending records came to; units are signed."""

    events: int = 0
    netted: int = 0
    parked: dict[str, int] = msgspec.field(default_factory=dict)  # tenant → units, no customer
    carried: dict[str, int] = msgspec.field(default_factory=dict)  # tenant → units below zero


def plan_pending(
    ledger: Ledger, billing: Billing, now: int, *, chunk_records: int = CHUNK_RECORDS
) -> Planned:
    """Make meter events of all that is pending and has a customer. `now` is in milliseconds."""
    result = Planned()
    for found in deliveries.pending_sums(ledger):
        tenant_id, outcome = found.tenant_id, found.outcome
        customer = billing.customer_for(tenant_id)
        if customer is None:
            result.parked[tenant_id] = result.parked.get(tenant_id, 0) + found.quantity
            continue
        if found.quantity == -found.records:
            # All of it would be carried: nothing to read.
            result.carried[tenant_id] = result.carried.get(tenant_id, 0) + found.quantity
            continue
        size = chunk_records
        while True:
            records = deliveries.pending_records(ledger, tenant_id, outcome, size)
            made = plan(records)
            fixed = [
                fix(group, tenant_id, outcome, customer, billing.event_name_for(outcome))
                for group in made.groups
            ]
            if not deliveries.store_plan(ledger, fixed, now):
                break  # another sink plans the same; the next flush sees what is left
            result.events += sum(item.event.value > 0 for item in fixed)
            result.netted += sum(item.event.value == 0 for item in fixed)
            if len(records) < size:
                left = sum(record.quantity for record in made.carried)
                if left:
                    result.carried[tenant_id] = result.carried.get(tenant_id, 0) + left
                break
            # A chunk that is carried as a whole needs those after it.
            size = chunk_records if fixed else size * 2
    return result
