"""Plan meter events from the ledger's pending records, in chunks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from pipeline.catalog.prices import Billing
from pipeline.ledger import Ledger, deliveries
from pipeline.ledger.entries import MeterEvent, PendingSum, PlannedEvent
from pipeline.sink.grouping import GROUP_RECORDS_MAX, Destination, Group, freeze, group_records

CHUNK_RECORDS = GROUP_RECORDS_MAX


class Planned(msgspec.Struct):
    """The result of planning. `parked` and `carried` are signed units by tenant."""

    events: int = 0
    netted: int = 0
    parked: dict[str, int] = msgspec.field(default_factory=dict)  # the tenant has no customer
    carried: dict[str, int] = msgspec.field(default_factory=dict)  # below zero


class Plans(Protocol):
    """Takes meter events with their records: the journal, or the ledger itself."""

    def plan(self, planned: Sequence[PlannedEvent]) -> bool:
        """Take meter events; later or now, their records are no longer pending.

        Returns False if nothing was taken, because another process has planned some of them.
        """

    def commit(self) -> object:
        """Return when the records of all meter events taken are no longer pending."""


class LedgerPlans:
    """Stores meter events in the ledger, which a sink writes to the journal later."""

    def __init__(self, ledger: Ledger, now_ms: int) -> None:
        self._ledger = ledger
        self._now_ms = now_ms

    def plan(self, planned: Sequence[PlannedEvent]) -> bool:
        return deliveries.store_planned(self._ledger, planned, self._now_ms)

    def commit(self) -> None:
        """Do nothing: `plan` stores at once."""


def plan_pending(
    ledger: Ledger,
    billing: Billing,
    body_sha256: Callable[[MeterEvent], str],
    plans: Plans,
    *,
    chunk_records: int = CHUNK_RECORDS,
    doubted: Mapping[int, int] | None = None,
) -> Planned:
    """Plan the pending records of each tenant with a customer, and give the meter events to `plans`.

    With `doubted`, plan only charges before an offset, by partition, and as uncertain: an operator
    decides about each meter event. Their reversals stay pending: whether a charge was sent or not, its
    reversal reduces later usage. That includes tenants without a customer: another sink may have
    had another tenant file.

    A chunk has at most `chunk_records` records; it grows only while it gives no meter event.
    """
    result = Planned()
    for pending in deliveries.pending_sums(ledger):
        tenant_id, outcome = pending.tenant_id, pending.outcome
        if doubted is None and not billing.is_billed(tenant_id):
            result.parked[tenant_id] = result.parked.get(tenant_id, 0) + pending.quantity
            continue
        if pending.quantity == -pending.records:
            # Only reversals: all of them would be carried, so there is no need to read them.
            result.carried[tenant_id] = result.carried.get(tenant_id, 0) + pending.quantity
            continue
        size = chunk_records
        first: int | None = None
        while True:
            records = deliveries.pending_records(ledger, tenant_id, outcome, size, doubted)
            grouping = group_records(records)
            planned, parked = _frozen(
                grouping.groups, pending, billing, body_sha256, are_doubted=doubted is not None
            )
            if not plans.plan(planned):
                continue  # the rest of them is still pending
            result.events += sum(item.event.value > 0 for item in planned)
            result.netted += sum(item.event.value == 0 for item in planned)
            if len(records) < size:
                left = sum(record.quantity for record in grouping.carried)
                if left:
                    result.carried[tenant_id] = result.carried.get(tenant_id, 0) + left
                if parked:
                    result.parked[tenant_id] = result.parked.get(tenant_id, 0) + parked
                break
            if planned:
                plans.commit()
                if records[0].seq == first:
                    break  # what was planned is pending again: the database has lost commits
                first = records[0].seq
            # If the whole chunk is carried, grouping needs the records after it.
            size = chunk_records if planned else size * 2
    return result


def _frozen(
    groups: Iterable[Group],
    pending: PendingSum,
    billing: Billing,
    body_sha256: Callable[[MeterEvent], str],
    *,
    are_doubted: bool,
) -> tuple[list[PlannedEvent], int]:
    """Return the meter events of the groups, and the units that no customer is billed for.

    A tenant may have moved to another account: each group goes to the customer of its time.
    """
    planned: list[PlannedEvent] = []
    parked = 0
    event_name = billing.event_name_for(pending.outcome)
    for group in groups:
        customer = billing.customer_for(pending.tenant_id, group.timestamp * 1000)
        if customer is None and not are_doubted:
            parked += group.value
            continue
        # A doubted meter event needs no customer: a release asks for that of its day.
        destination = Destination(pending.tenant_id, pending.outcome, customer or "", event_name)
        event = freeze(group, destination, body_sha256)
        planned.append(_uncertain(event) if are_doubted else event)
    return planned, parked


def _uncertain(planned: PlannedEvent) -> PlannedEvent:
    if planned.event.state == "netted":
        return planned  # nothing is sent for it
    event = msgspec.structs.replace(planned.event, state="uncertain")
    return PlannedEvent(event, planned.records)
