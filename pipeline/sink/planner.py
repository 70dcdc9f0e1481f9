"""Plan meter events from the ledger's pending records: by period, tenant, outcome and hour, in chunks.

docs/reference/money.md §6: no record lessens what another period has at Stripe, and only units that the
subscription charges are sent. All others stay pending, and `Planned` says why.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from pipeline.catalog.account_periods import AccountPeriod
from pipeline.catalog.prices import Billing
from pipeline.ledger import Ledger, backlog, deliveries
from pipeline.ledger.entries import MeterEvent, PendingRecord, PendingSum, PlannedEvent
from pipeline.ledger.pending import match_all
from pipeline.sink.chargeable import ON_ITS_WAY, Rule, Why
from pipeline.sink.grouping import GROUP_RECORDS_MAX, Destination, freeze, group_records
from pipeline.sink.metering import Metering

CHUNK_RECORDS = GROUP_RECORDS_MAX
Digest = Callable[[MeterEvent], str]


class Kept(NamedTuple):
    """What the units are that stay pending, and why. The policy is empty where nobody asks the price."""

    why: Why
    tenant_id: str
    outcome: str
    policy: str = ""
    policy_version: int = 0


class Planned(msgspec.Struct):
    """The result of planning. `kept` has signed units."""

    events: int = 0
    netted: int = 0
    kept: Counter[Kept] = msgspec.field(default_factory=Counter)
    until_seq: int = 0  # the records up to this number were planned or kept, if they could be seen
    parked_since_ms: int | None = (
        None  # when the oldest unit was used whose account has no customer
    )

    def units(self, why: Why) -> dict[str, int]:
        """Return the units that stay pending for a reason, by tenant."""
        units: Counter[str] = Counter()
        for kept, number in self.kept.items():
            if kept.why == why:
                units[kept.tenant_id] += number
        return {tenant_id: number for tenant_id, number in units.items() if number}


class Plans(Protocol):
    """Takes meter events with their records: the journal, or the ledger itself."""

    def plan(self, planned: Sequence[PlannedEvent]) -> bool:
        """Take meter events; later or now, their records are no longer pending.

        Returns False if nothing was taken, because another process has planned some of them.
        """


class LedgerPlans:
    """Stores meter events in the ledger, which a sink writes to the journal later."""

    def __init__(self, ledger: Ledger, now_ms: int) -> None:
        self._ledger = ledger
        self._now_ms = now_ms

    def plan(self, planned: Sequence[PlannedEvent]) -> bool:
        return deliveries.store_planned(self._ledger, planned, self._now_ms)


def plan_pending(
    metering: Metering, body_sha256: Digest, plans: Plans, *, chunk_records: int = CHUNK_RECORDS
) -> Planned:
    """Plan the pending records of each open period, and give the meter events to `plans`.

    A chunk has at most `chunk_records` records, unless more of them have the same time.
    """
    ledger = metering.ledger
    match_all(ledger)
    result = Planned(until_seq=backlog.newest_seq(ledger))
    for pending in deliveries.pending_sums(ledger):
        _Usage(metering, body_sha256, plans, chunk_records, pending, result).plan()
    return result


class _Usage:
    """The pending usage of a tenant and outcome."""

    def __init__(
        self,
        metering: Metering,
        body_sha256: Digest,
        plans: Plans,
        chunk_records: int,
        pending: PendingSum,
        result: Planned,
    ) -> None:
        self._metering = metering
        self._ledger = metering.ledger
        self._body_sha256 = body_sha256
        self._plans = plans
        self._chunk_records = chunk_records
        self._pending = pending
        self._of = pending.tenant_id, pending.outcome
        self._result = result

    def plan(self) -> None:
        """Go through the periods that have pending units, in order."""
        pending = self._pending
        if pending.unmatched:
            self._keep_sums("unmatched", backlog.unmatched_sums(self._ledger, *self._of))
        at = pending.first_ms
        while at is not None:
            period = self._metering.period_of(pending.tenant_id, at)
            self._plan_period(period, at)
            is_last = pending.last_ms is None or pending.last_ms < period.to_ms
            at = None if is_last else backlog.first_at(self._ledger, *self._of, period.to_ms)

    def _plan_period(self, period: AccountPeriod, first_ms: int) -> None:
        """Plan the units of one period, or keep all of them; the first is of a time."""
        metering, tenants = self._metering, self._metering.tenants
        if metering.is_closed(period):
            self._keep_all("late", period)
            return
        customer = tenants.customers.get(period.account)
        if customer is None:
            if self._keep_all("parked", period) > 0:
                since = (self._result.parked_since_ms, first_ms)
                self._result.parked_since_ms = min(each for each in since if each is not None)
            return
        if not self._has_charge(period):
            # Only reversals: all of them would be carried, so there is no need to read them.
            self._keep_all("carried", period)
            return
        rule = metering.rule_for(period, *self._of)
        if rule is None:
            self._keep_all("held", period)
            return
        destination = Destination(
            *self._of, customer, tenants.event_name_for(self._pending.outcome)
        )
        self._plan_chunks(period, rule, destination)

    def _plan_chunks(self, period: AccountPeriod, rule: Rule, to: Destination) -> None:
        """Group the units of a period in chunks; what one carries reduces the hours of the next."""
        size, at = self._chunk_records, period.from_ms
        carried: Sequence[PendingRecord] = ()
        kept: Counter[Kept] = Counter()
        while True:
            read = deliveries.pending_records(
                self._ledger, *self._of, size, from_ms=at, to_ms=period.to_ms
            )
            is_last = len(read) < size
            chunk = read if is_last else without_last_time(read)
            if not chunk and not is_last:
                size *= 2  # a charge and its reversal have the same time, and stay together
                continue
            sent: list[PendingRecord] = [*carried]
            kept_here: Counter[Kept] = Counter()
            for record in chunk:
                why = "carried" if record.waits_for_charge else rule.why_not(record)
                if why is None:
                    sent.append(record)
                else:
                    key = Kept(why, *self._of, record.policy, record.policy_version)
                    kept_here[key] += record.quantity
            grouping = group_records(sent)
            planned = [freeze(group, to, self._body_sha256) for group in grouping.groups]
            if not self._plans.plan(planned):
                at, carried, kept = period.from_ms, (), Counter()
                continue  # another process has planned some of them; the rest is still pending
            self._count(planned)
            carried = grouping.carried
            kept.update(kept_here)
            if is_last:
                break
            at, size = chunk[-1].occurred_at + 1, self._chunk_records
        kept[Kept("carried", *self._of)] += sum(record.quantity for record in carried)
        for key, units in kept.items():
            self._keep(key, units)

    def _is_all_in(self, period: AccountPeriod) -> bool:
        first_ms, last_ms = self._pending.first_ms or 0, self._pending.last_ms or 0
        return period.from_ms <= first_ms and last_ms < period.to_ms

    def _has_charge(self, period: AccountPeriod) -> bool:
        if self._is_all_in(period):
            return self._pending.quantity > -self._pending.records
        return backlog.has_charge(self._ledger, *self._of, period.from_ms, period.to_ms)

    def _count(self, planned: Sequence[PlannedEvent]) -> None:
        self._result.events += sum(item.event.value > 0 for item in planned)
        self._result.netted += sum(item.event.value == 0 for item in planned)

    def _keep_all(self, why: Why, period: AccountPeriod) -> int:
        """Keep all units of a period; return their sum."""
        if why in ON_ITS_WAY and self._is_all_in(period):
            self._keep(Kept(why, *self._of), self._pending.quantity)
            return self._pending.quantity
        sums = backlog.unit_sums(self._ledger, *self._of, period.from_ms, period.to_ms)
        self._keep_sums(why, sums)
        return sum(each.quantity for each in sums)

    def _keep_sums(self, why: Why, sums: Sequence[backlog.UnitSum]) -> None:
        for policy, version, quantity in sums:
            self._keep(Kept(why, *self._of, policy, version), quantity)

    def _keep(self, kept: Kept, units: int) -> None:
        if units:
            self._result.kept[kept] += units


def without_last_time(records: Sequence[PendingRecord]) -> Sequence[PendingRecord]:
    """Return records, sorted by time, without those of the last time: there may be more of them."""
    last_ms = records[-1].occurred_at
    return [record for record in records if record.occurred_at < last_ms]


# --- what a lost ledger may have sent -------------------------------------------------------------


def plan_doubted(
    ledger: Ledger,
    billing: Billing,
    body_sha256: Digest,
    plans: LedgerPlans,
    doubted: Mapping[int, int],
) -> Planned:
    """Plan the pending charges before an offset, by partition, as uncertain: an operator decides.

    Their reversals stay pending: whether a charge was sent or not, its reversal reduces later usage.
    That includes tenants without a customer: another sink may have had another tenant file.
    """
    result = Planned()
    for pending in deliveries.pending_sums(ledger):
        tenant_id, outcome = pending.tenant_id, pending.outcome
        event_name = billing.event_name_for(outcome)
        while records := deliveries.pending_records(
            ledger, tenant_id, outcome, CHUNK_RECORDS, before=doubted
        ):
            planned = []
            for group in group_records(records).groups:
                # A doubted meter event needs no customer: a release asks for that of its day.
                customer = billing.customer_for(tenant_id, group.timestamp * 1000) or ""
                to = Destination(tenant_id, outcome, customer, event_name)
                planned.append(_uncertain(freeze(group, to, body_sha256)))
            if plans.plan(planned):
                result.events += len(planned)
    return result


def _uncertain(planned: PlannedEvent) -> PlannedEvent:
    event = msgspec.structs.replace(planned.event, state="uncertain")
    return PlannedEvent(event, planned.records)
