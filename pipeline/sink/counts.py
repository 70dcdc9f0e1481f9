"""Update the sink's metrics: usage records stored, units undelivered."""

from collections.abc import Iterable, Mapping

from pipeline.ledger.ages import Oldest
from pipeline.ledger.entries import Stored
from pipeline.metrics import OTHER_TENANTS, OWED_STATES, SinkMetrics, remove_partition


def count_stored(metrics: SinkMetrics, stored: Stored) -> None:
    """Count the usage records of a batch: stored, duplicate, or quarantined."""
    metrics.records.inc(stored.records)
    metrics.record_duplicates.inc(stored.duplicates)
    for record in stored.quarantined:
        metrics.records_refused.labels(record.reason).inc()


def publish_pending(
    metrics: SinkMetrics,
    units: Mapping[str, int],
    money: Mapping[tuple[str, str], float],
    carried: Mapping[str, int],
    parked: Mapping[str, int],
) -> None:
    """Publish the units and money that Stripe has not accepted yet; all other series become zero."""
    _reset_pending(metrics, [*units, *carried, *parked], {currency for _, currency in money})
    for gauge, values in (
        (metrics.pending_units, units),
        (metrics.carried_units, carried),
        (metrics.parked_units, parked),
    ):
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
        for gauge in (metrics.pending_units, metrics.carried_units, metrics.parked_units):
            gauge.labels(tenant).set(0)
        for currency in metrics.currencies:
            metrics.pending_money.labels(tenant, currency).set(0)


def _label(metrics: SinkMetrics, tenant: str) -> str:
    return tenant if tenant in metrics.tenants else OTHER_TENANTS
