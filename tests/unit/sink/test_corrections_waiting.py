"""What waits for a person is counted in money, and is zero again when nothing waits."""

from prometheus_client import CollectorRegistry

from pipeline.billing.approvals import Blocked
from pipeline.billing.periods import Calendar
from pipeline.metrics import SinkMetrics
from pipeline.sink.counts import publish_invoices
from pipeline.sink.progress import Progress

NOVEMBER = Calendar().named("2026-11")
NOW = NOVEMBER.end_ms / 1000


def test_corrections_that_wait_are_counted_in_money_until_nothing_waits() -> None:
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry)
    waiting = Progress("acme", NOVEMBER, "open", "usd", corrections=Blocked(2, 11_880))
    others = Progress("bluejay", NOVEMBER, "open", "jpy", corrections=Blocked(1, 500))

    def read() -> list[float | None]:
        name = "resmeter_corrections_waiting"
        money = (
            registry.get_sample_value(f"{name}_money", {"currency": c}) for c in ("usd", "jpy")
        )
        return [registry.get_sample_value(name), *money]

    publish_invoices(metrics, [waiting, others], NOW)
    assert read() == [3, 118.8, 500]

    publish_invoices(metrics, [], NOW)
    assert read() == [0, 0, 0]
