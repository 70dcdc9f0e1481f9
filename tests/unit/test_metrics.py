"""Every series is there from the start, at zero, and counts what its name says."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.catalog.policies import PRESETS, preset
from pipeline.events.model import REASONS, TYPES
from pipeline.kafka.headers import DeadLetter
from pipeline.ledger.entries import Quarantined, Stored
from pipeline.metrics import (
    DELIVERY_RESULTS,
    OTHER_TENANTS,
    OUTCOMES,
    TRANSITION_REASONS,
    SinkMetrics,
    WorkerMetrics,
)
from pipeline.sink.meter import NEXT
from pipeline.stream.batch import BatchResult, Output
from pipeline.usage.record import UsageRecord

# Of these a process has one for each of its partitions.
BY_PARTITION = {
    "resmeter_lag_records",
    "resmeter_lag_seconds",
    "resmeter_commit_age_seconds",
    "resmeter_sink_lag_records",
}


def served(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What a scrape gets: values by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def values(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """The values of one series by its labels' values, in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(labels)): value
        for (found, labels), value in served(registry).items()
        if found == name
    }


def nonzero(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    return {labels: value for labels, value in values(registry, name).items() if value}


def usage_record(outcome: str, quantity: int, reason: str) -> UsageRecord:
    return UsageRecord(
        id="acme:c-1:1",
        tenant_id="acme",
        conversation="c-1",
        outcome=outcome,
        quantity=quantity,
        kind="assumed",
        reason=reason,
        occurred_at=0,
        policy="fin-2026",
        policy_version=1,
        evidence=("m1",),
    )


# --- from the start -------------------------------------------------------------------------------


def test_the_results_of_deliveries_are_those_that_answers_are_read_as() -> None:
    assert tuple(NEXT) == DELIVERY_RESULTS


def test_every_series_is_there_from_the_start_at_zero() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    SinkMetrics(registry)

    found = served(registry)

    assert set(found.values()) == {0.0}
    families = {family.name: family for family in registry.collect()}
    without = {name for name, family in families.items() if not family.samples}
    assert without == BY_PARTITION


def test_every_value_of_a_closed_label_is_there_from_the_start() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    SinkMetrics(registry)

    assert set(values(registry, "resmeter_events_total")) == {(kind,) for kind in TYPES}
    assert set(values(registry, "resmeter_rejected_total")) == {(reason,) for reason in REASONS}
    assert set(values(registry, "resmeter_deliveries_total")) == {(r,) for r in NEXT}
    assert set(values(registry, "resmeter_usage_records_refused_total")) == {
        ("unreadable",),
        ("conflict",),
    }
    assert set(values(registry, "resmeter_transitions_total")) == {
        (delta, outcome, reason)
        for delta in ("+1", "-1")
        for outcome in OUTCOMES
        for reason in TRANSITION_REASONS
    }


def test_what_the_presets_bill_is_there_from_the_start() -> None:
    policies = [preset(name) for name in PRESETS]

    assert {o for policy in policies for o in policy.precedence} <= set(OUTCOMES)
    assert {o for policy in policies for o in policy.outcomes_billed} <= set(OUTCOMES)
    assert {c for policy in policies for c in policy.handoff_causes_billed} <= set(
        TRANSITION_REASONS
    )


def test_every_name_has_the_prefix_and_every_series_says_what_it_means() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    SinkMetrics(registry)

    for family in registry.collect():
        assert family.name.startswith("resmeter_")
        assert family.documentation.endswith(".")


# --- worker ---------------------------------------------------------------------------------------


def test_a_batch_is_counted_by_type_reason_and_transition() -> None:
    registry = CollectorRegistry()
    letter = DeadLetter(None, b"", (), "too_large", 0)
    work = BatchResult(
        outputs=[
            Output(b"", b"", b"", usage_record("resolution", 1, "silence")),
            Output(b"", b"", b"", usage_record("resolution", -1, "customer_returned")),
            Output(b"", b"", b"", usage_record("resolution", 1, "silence")),
        ],
        dead_letters=[letter, letter],
        duplicates=4,
        redelivered=5,
        histories_sealed=6,
    )
    work.events_by_type[2] = 3

    WorkerMetrics(registry).applied(work)

    assert nonzero(registry, "resmeter_events_total") == {("conversation.ai_message",): 3}
    assert nonzero(registry, "resmeter_rejected_total") == {("too_large",): 2}
    assert nonzero(registry, "resmeter_transitions_total") == {
        ("+1", "resolution", "silence"): 2,
        ("-1", "resolution", "customer_returned"): 1,
    }
    assert nonzero(registry, "resmeter_duplicates_total") == {(): 4}
    assert nonzero(registry, "resmeter_redelivered_total") == {(): 5}
    assert nonzero(registry, "resmeter_sealed_total") == {(): 6}


def test_an_outcome_that_only_a_policy_knows_gets_a_series_when_it_comes() -> None:
    registry = CollectorRegistry()
    work = BatchResult(outputs=[Output(b"", b"", b"", usage_record("signup", 1, "reported"))])

    WorkerMetrics(registry).settled(work)

    assert nonzero(registry, "resmeter_transitions_total") == {("+1", "signup", "reported"): 1}


def test_a_partition_that_is_another_workers_is_forgotten() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    for gauge in (metrics.lag_records, metrics.lag_seconds, metrics.commit_age):
        gauge.labels(3).set(7)
        gauge.labels(4).set(8)

    metrics.forget(3)
    metrics.forget(5)

    for name in ("resmeter_lag_records", "resmeter_lag_seconds", "resmeter_commit_age_seconds"):
        assert values(registry, name) == {("4",): 8}


# --- sink -----------------------------------------------------------------------------------------


def test_a_batch_of_usage_records_is_counted_by_what_became_of_them() -> None:
    registry = CollectorRegistry()
    quarantined = (
        Quarantined("conflict", 0, 7, ""),
        Quarantined("unreadable", 0, 8, ""),
        Quarantined("conflict", 0, 9, ""),
    )

    SinkMetrics(registry).stored(Stored(5, 2, quarantined, {0: 10}))

    assert values(registry, "resmeter_usage_records_total") == {(): 5}
    assert values(registry, "resmeter_usage_record_duplicates_total") == {(): 2}
    assert values(registry, "resmeter_usage_records_refused_total") == {
        ("conflict",): 2,
        ("unreadable",): 1,
    }


def test_pending_usage_is_shown_by_tenant_and_currency() -> None:
    registry = CollectorRegistry()

    SinkMetrics(registry).show_pending(
        {"acme": 3, "globex": 1},
        {("acme", "usd"): 2.97, ("globex", "eur"): 0.8},
        {"acme": -2},
        {"globex": 1},
        90.0,
    )

    assert nonzero(registry, "resmeter_pending_units") == {("acme",): 3, ("globex",): 1}
    assert nonzero(registry, "resmeter_pending_money") == {
        ("usd", "acme"): 2.97,
        ("eur", "globex"): 0.8,
    }
    assert nonzero(registry, "resmeter_carried_units") == {("acme",): -2}
    assert nonzero(registry, "resmeter_parked_units") == {("globex",): 1}
    assert values(registry, "resmeter_pending_age_seconds") == {(): 90}


def test_a_tenant_with_nothing_pending_any_more_is_shown_at_zero() -> None:
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry)
    metrics.show_pending({"acme": 3}, {("acme", "eur"): 2.4}, {"acme": -1}, {"acme": 1}, 90.0)

    metrics.show_pending({}, {}, {}, {}, 0.0)

    for name in ("pending_units", "carried_units", "parked_units"):
        assert values(registry, f"resmeter_{name}") == {("acme",): 0, (OTHER_TENANTS,): 0}
    assert values(registry, "resmeter_pending_money") == {
        (currency, tenant): 0 for currency in ("usd", "eur") for tenant in ("acme", OTHER_TENANTS)
    }
    assert values(registry, "resmeter_pending_age_seconds") == {(): 0}


def test_tenants_beyond_the_limit_are_shown_together() -> None:
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry, tenants_max=2)
    metrics.show_pending({"a": 1, "b": 2}, {}, {}, {}, 0.0)

    metrics.show_pending(
        {"a": 1, "b": 2, "c": 3, "d": 4}, {("c", "usd"): 3.0, ("d", "usd"): 4.0}, {}, {}, 0.0
    )

    assert values(registry, "resmeter_pending_units") == {
        ("a",): 1,
        ("b",): 2,
        (OTHER_TENANTS,): 7,
    }
    assert nonzero(registry, "resmeter_pending_money") == {("usd", OTHER_TENANTS): 7}


def test_a_partition_that_is_another_sinks_is_forgotten() -> None:
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry)
    metrics.lag_records.labels(1).set(7)
    metrics.lag_records.labels(2).set(8)

    metrics.forget_lag(1)
    metrics.forget_lag(3)

    assert values(registry, "resmeter_sink_lag_records") == {("2",): 8}
