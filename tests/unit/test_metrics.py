"""Every series exists from the start, at zero, and counts correctly."""

from typing import get_args

from prometheus_client import CollectorRegistry, enable_created_metrics, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.catalog.policies import PRESETS, preset
from pipeline.events.model import REASONS, TYPES
from pipeline.kafka.headers import DeadLetter
from pipeline.ledger.ages import Oldest
from pipeline.ledger.entries import Quarantined, Stored
from pipeline.metrics import (
    DELIVERY_RESULTS,
    OTHER_TENANTS,
    OUTCOMES,
    TRANSITION_REASONS,
    WITHDRAWAL_RESULTS,
    SinkMetrics,
    WorkerMetrics,
    new_registry,
)
from pipeline.sink import counts as sink_counts
from pipeline.sink.chargeable import Why
from pipeline.sink.counts import count_stored, publish_ages, publish_pending
from pipeline.sink.meter import NEXT
from pipeline.stream import counts as worker_counts
from pipeline.stream.batch import BatchResult, Output
from pipeline.stream.counts import count_applied, count_emitted
from pipeline.usage.record import UsageRecord

# These metrics have a series for each partition that a process owns.
BY_PARTITION = {
    "resmeter_lag_records",
    "resmeter_lag_seconds",
    "resmeter_commit_age_seconds",
    "resmeter_events_lost",
    "resmeter_open_transaction_seconds",
    "resmeter_clock_behind_seconds",
    "resmeter_ahead_seconds",
    "resmeter_sink_lag_records",
}


def served(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the values that a scrape returns, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def values(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of one metric by label values, in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(labels)): value
        for (series, labels), value in served(registry).items()
        if series == name
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


def test_delivery_results_are_those_of_a_meter() -> None:
    assert set(NEXT) == {*DELIVERY_RESULTS, *WITHDRAWAL_RESULTS}


def test_every_series_exists_from_the_start_at_zero() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    SinkMetrics(registry)

    series = served(registry)

    assert set(series.values()) == {0.0}
    families = {family.name: family for family in registry.collect()}
    without = {name for name, family in families.items() if not family.samples}
    assert without == BY_PARTITION


def test_every_value_of_a_closed_label_exists_from_the_start() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry, ["chat"])
    SinkMetrics(registry)

    assert set(values(registry, "resmeter_events_total")) == {(kind,) for kind in TYPES}
    assert set(values(registry, "resmeter_rejected_total")) == {
        (reason, source) for reason in REASONS for source in ("chat", "other")
    }
    assert set(values(registry, "resmeter_deliveries_total")) == {(r,) for r in DELIVERY_RESULTS}
    assert set(values(registry, "resmeter_withdrawals_total")) == {(r,) for r in WITHDRAWAL_RESULTS}
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


def test_everything_that_presets_bill_has_a_series_from_the_start() -> None:
    policies = [preset(name) for name in PRESETS]

    assert {o for policy in policies for o in policy.precedence} <= set(OUTCOMES)
    assert {o for policy in policies for o in policy.outcomes_billed} <= set(OUTCOMES)
    assert {c for policy in policies for c in policy.handoff_causes_billed} <= set(
        TRANSITION_REASONS
    )


def test_every_metric_has_the_prefix_and_a_help_text() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    SinkMetrics(registry)

    for family in registry.collect():
        assert family.name.startswith("resmeter_")
        assert family.documentation[0].isupper() or family.documentation[0] == "1"
        assert family.documentation.endswith(".")


# --- worker ---------------------------------------------------------------------------------------


def test_a_process_serves_no_series_of_creation_times() -> None:
    enable_created_metrics()  # type: ignore[no-untyped-call]  # the default of the library
    registry = new_registry()
    WorkerMetrics(registry)
    SinkMetrics(registry)

    assert "_created" not in generate_latest(registry).decode()


def test_a_batch_is_counted_by_type_reason_and_transition() -> None:
    registry = CollectorRegistry()
    letter = DeadLetter(None, b"", (), "too_large", 0)
    signed = DeadLetter(None, b"", (), "too_large", 0, "chat")
    result = BatchResult(
        outputs=[
            Output(b"", b"", b"", usage_record("resolution", 1, "silence")),
            Output(b"", b"", b"", usage_record("resolution", -1, "customer_returned")),
            Output(b"", b"", b"", usage_record("resolution", 1, "silence")),
        ],
        dead_letters=[letter, letter, signed],
        duplicates=4,
        redelivered=5,
        histories_sealed=6,
    )
    result.events_by_type[2] = 3

    count_applied(WorkerMetrics(registry), result)

    assert nonzero(registry, "resmeter_events_total") == {("conversation.ai_message",): 3}
    assert nonzero(registry, "resmeter_rejected_total") == {
        ("too_large", "chat"): 1,
        ("too_large", "other"): 2,
    }
    assert nonzero(registry, "resmeter_transitions_total") == {
        ("+1", "resolution", "silence"): 2,
        ("-1", "resolution", "customer_returned"): 1,
    }
    assert nonzero(registry, "resmeter_duplicates_total") == {(): 4}
    assert nonzero(registry, "resmeter_redelivered_total") == {(): 5}
    assert nonzero(registry, "resmeter_sealed_total") == {(): 6}


def test_an_outcome_defined_by_a_policy_gets_a_series_when_it_is_emitted() -> None:
    registry = CollectorRegistry()
    result = BatchResult(outputs=[Output(b"", b"", b"", usage_record("signup", 1, "reported"))])

    count_emitted(WorkerMetrics(registry), result)

    assert nonzero(registry, "resmeter_transitions_total") == {("+1", "signup", "reported"): 1}


def test_series_of_a_partition_owned_by_another_worker_are_removed() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    for gauge in (metrics.lag_records, metrics.lag_seconds, metrics.commit_age):
        gauge.labels(3).set(7)
        gauge.labels(4).set(8)

    worker_counts.drop_partition(metrics, 3)
    worker_counts.drop_partition(metrics, 5)

    for name in ("resmeter_lag_records", "resmeter_lag_seconds", "resmeter_commit_age_seconds"):
        assert values(registry, name) == {("4",): 8}


# --- sink -----------------------------------------------------------------------------------------


def test_stored_usage_records_are_counted_by_result() -> None:
    registry = CollectorRegistry()
    quarantined = (
        Quarantined("conflict", 0, 7, ""),
        Quarantined("unreadable", 0, 8, ""),
        Quarantined("conflict", 0, 9, ""),
    )

    count_stored(SinkMetrics(registry), Stored(5, 2, quarantined, {0: 10}))

    assert values(registry, "resmeter_usage_records_total") == {(): 5}
    assert values(registry, "resmeter_usage_record_duplicates_total") == {(): 2}
    assert values(registry, "resmeter_usage_records_refused_total") == {
        ("conflict",): 2,
        ("unreadable",): 1,
    }


def test_pending_usage_is_published_by_tenant_and_currency() -> None:
    registry = CollectorRegistry()

    publish_pending(
        SinkMetrics(registry),
        {"acme": 3, "globex": 1},
        {("acme", "usd"): 2.97, ("globex", "eur"): 0.8},
        {"carried": {"acme": -2}, "parked": {"globex": 1}},
    )

    assert nonzero(registry, "resmeter_pending_units") == {("acme",): 3, ("globex",): 1}
    assert nonzero(registry, "resmeter_pending_money") == {
        ("usd", "acme"): 2.97,
        ("eur", "globex"): 0.8,
    }
    assert nonzero(registry, "resmeter_carried_units") == {("acme",): -2}
    assert nonzero(registry, "resmeter_parked_units") == {("globex",): 1}


def test_ages_are_published_and_go_back_to_zero() -> None:
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry)
    names = ("pending_age", "pending_usage_age", "unanswered_age")

    publish_ages(metrics, Oldest(10_000, 4_000, 70_000), 100.0)
    before = [values(registry, f"resmeter_{name}_seconds")[()] for name in names]
    publish_ages(metrics, Oldest(None, None, None), 100.0)
    after = [values(registry, f"resmeter_{name}_seconds")[()] for name in names]

    assert before == [90, 96, 30]
    assert after == [0, 0, 0]


def test_a_tenant_without_pending_usage_goes_to_zero() -> None:
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry)
    publish_pending(metrics, {"acme": 3}, {("acme", "eur"): 2.4}, {"late": {"acme": -1}})

    publish_pending(metrics, {}, {}, {})

    for name in ("pending_units", *(f"{why}_units" for why in get_args(Why))):
        assert values(registry, f"resmeter_{name}") == {("acme",): 0, (OTHER_TENANTS,): 0}
    assert values(registry, "resmeter_pending_money") == {
        (currency, tenant): 0 for currency in ("usd", "eur") for tenant in ("acme", OTHER_TENANTS)
    }


def test_tenants_beyond_the_limit_share_one_series() -> None:
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry, tenants_max=2)
    publish_pending(metrics, {"a": 1, "b": 2}, {}, {})

    publish_pending(
        metrics,
        {"a": 1, "b": 2, "c": 3, "d": 4},
        {("c", "usd"): 3.0, ("d", "usd"): 4.0},
        {},
    )

    assert values(registry, "resmeter_pending_units") == {
        ("a",): 1,
        ("b",): 2,
        (OTHER_TENANTS,): 7,
    }
    assert nonzero(registry, "resmeter_pending_money") == {("usd", OTHER_TENANTS): 7}


def test_series_of_a_partition_owned_by_another_sink_are_removed() -> None:
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry)
    metrics.lag_records.labels(1).set(7)
    metrics.lag_records.labels(2).set(8)

    sink_counts.drop_partition(metrics, 1)
    sink_counts.drop_partition(metrics, 3)

    assert values(registry, "resmeter_sink_lag_records") == {("2",): 8}
