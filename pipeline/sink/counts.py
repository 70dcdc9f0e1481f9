"""Update the sink's metrics: usage records stored, units undelivered."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import msgspec

from pipeline.billing.money import digits_of
from pipeline.catalog.prices import Prices
from pipeline.ledger.ages import Oldest
from pipeline.ledger.entries import STUCK, OpenSum, Stored
from pipeline.metrics import (
    INVOICE_STATES,
    OTHER_TENANTS,
    OWED_STATES,
    SinkMetrics,
    remove_partition,
)
from pipeline.sink.chargeable import ON_ITS_WAY, Why
from pipeline.sink.planner import Planned
from pipeline.sink.progress import Progress


def count_stored(metrics: SinkMetrics, stored: Stored) -> None:
    """Count the usage records of a batch: stored, duplicate, or quarantined."""
    metrics.records.inc(stored.records)
    metrics.record_duplicates.inc(stored.duplicates)
    for record in stored.quarantined:
        metrics.records_refused.labels(record.reason).inc()


Units = Mapping[str, int]
Money = Mapping[tuple[str, str], float]  # by a key and currency


def owed(sums: Iterable[OpenSum], prices: Prices) -> tuple[Units, Money]:
    """Add up what Stripe has not confirmed, by state, and its money."""
    units: Counter[str] = Counter()
    money: defaultdict[tuple[str, str], float] = defaultdict(float)
    for total in sums:
        units[total.state] += total.quantity
        usage = (total.tenant_id, total.outcome, total.policy, total.policy_version)
        if price := prices.price_for(*usage):
            money[total.state, price[1]] += float(price[0] * total.quantity)
    return units, money


def waiting(sums: Iterable[OpenSum], planned: Planned, prices: Prices) -> tuple[Units, Money]:
    """Add up what is on its way to Stripe, by tenant, and its money.

    What is kept for the close of its period, or until somebody says what it costs, is not.
    """
    units: Counter[str] = Counter()
    money: defaultdict[tuple[str, str], float] = defaultdict(float)
    on_its_way = [
        (*msgspec.structs.astuple(total)[1:5], total.quantity)
        for total in sums
        if total.state not in STUCK
    ]
    kept = [
        (*key[1:], -number) for key, number in planned.kept.items() if key.why not in ON_ITS_WAY
    ]
    for tenant_id, outcome, policy, version, number in (*on_its_way, *kept):
        units[tenant_id] += number
        if price := prices.price_for(tenant_id, outcome, policy, version):
            money[tenant_id, price[1]] += float(price[0] * number)
    return units, money


def publish_pending(
    metrics: SinkMetrics, units: Units, money: Money, kept: Mapping[Why, Units]
) -> None:
    """Publish the units and money that Stripe has not accepted yet; all other series become zero."""
    tenants = {*units, *(tenant for of_tenant in kept.values() for tenant in of_tenant)}
    _reset_pending(metrics, sorted(tenants), {currency for _, currency in money})
    gauges = [(metrics.pending_units, units)]
    gauges += [(metrics.kept_units[why], of_tenant) for why, of_tenant in kept.items()]
    for gauge, values in gauges:
        for tenant, value in values.items():
            gauge.labels(_label(metrics, tenant)).inc(value)
    for (tenant, currency), amount in money.items():
        metrics.pending_money.labels(_label(metrics, tenant), currency).inc(amount)


def publish_ages(metrics: SinkMetrics, oldest: Oldest, now: float) -> None:
    """Publish how long the oldest usage has waited; 0 if nothing waits."""
    for gauge, since_ms in (
        (metrics.pending_age, oldest.waiting_since_ms),
        (metrics.pending_usage_age, oldest.used_at_ms),
        (metrics.unanswered_age, oldest.unanswered_since_ms),
    ):
        gauge.set(0.0 if since_ms is None else max(0.0, now - since_ms / 1000))


def publish_owed(
    metrics: SinkMetrics,
    units: Mapping[str, int],
    money: Mapping[tuple[str, str], float],
    stuck: Mapping[str, int],
) -> None:
    """Publish what Stripe has not confirmed by state, and how many events wait for an operator."""
    metrics.currencies.update(currency for _, currency in money)
    for state in OWED_STATES:
        metrics.owed_units.labels(state).set(units.get(state, 0))
        for currency in metrics.currencies:
            metrics.owed_money.labels(state, currency).set(money.get((state, currency), 0.0))
    for state, gauge in metrics.stuck.items():
        gauge.set(stuck[state])


_CORRECTIONS = "corrections"  # beside the states of invoices


def publish_invoices(metrics: SinkMetrics, found: Iterable[Progress], now: float) -> None:
    """Publish the periods that have ended and are not invoiced, and what their invoices come to."""
    numbers: Counter[str] = Counter()
    money: Counter[tuple[str, str]] = Counter()
    ends: list[int] = []
    unheld: list[int] = []
    corrections = 0
    for each in found:
        corrections += each.corrections.number
        money[_CORRECTIONS, each.currency] += each.corrections.amount
        has_draft = each.state != "open" or each.invoice is not None
        states: list[str] = [each.state] if each.state in INVOICE_STATES and has_draft else []
        if each.finalises_at is not None:
            states.append("unheld")
            unheld.append(each.finalises_at)
        if states and each.state != "missed":
            ends.append(each.period.end_ms)
        for state in states:
            numbers[state] += 1
            money[state, each.currency] += abs(each.amount or 0)
    metrics.currencies.update(currency for _, currency in money)
    for state in INVOICE_STATES:
        metrics.invoices.labels(state).set(numbers[state])
        for currency in metrics.currencies:
            amount = money[state, currency] / 10 ** digits_of(currency)
            metrics.invoice_money.labels(state, currency).set(amount)
    metrics.corrections_waiting.set(corrections)
    for currency in metrics.currencies:
        amount = money[_CORRECTIONS, currency] / 10 ** digits_of(currency)
        metrics.corrections_waiting_money.labels(currency).set(amount)
    metrics.invoice_age.set(max(0.0, now - min(ends) / 1000) if ends else 0.0)
    metrics.invoice_unheld_until.set(min(unheld, default=0))


def drop_partition(metrics: SinkMetrics, partition: int) -> None:
    """Remove the series of a partition that another sink owns now."""
    remove_partition(metrics.lag_records, partition)


def _reset_pending(metrics: SinkMetrics, tenants: Iterable[str], currencies: Iterable[str]) -> None:
    """Set every pending series to zero, including those of new tenants and currencies."""
    metrics.currencies.update(currencies)
    for tenant in tenants:
        if len(metrics.tenants) < metrics.tenants_max:
            metrics.tenants.add(tenant)
    for tenant in (*metrics.tenants, OTHER_TENANTS):
        for gauge in (metrics.pending_units, *metrics.kept_units.values()):
            gauge.labels(tenant).set(0)
        for currency in metrics.currencies:
            metrics.pending_money.labels(tenant, currency).set(0)


def _label(metrics: SinkMetrics, tenant: str) -> str:
    return tenant if tenant in metrics.tenants else OTHER_TENANTS
