"""A test bench for the sink: a ledger, the sink's parts, and a Stripe emulator."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry

from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.config import StripeSettings
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.faults import Fault
from pipeline.dev.emulator.server import Emulator, running
from pipeline.ledger import Ledger, open_ledger, records, reports, upgrade
from pipeline.ledger.entries import ConsumedRecord, Receipt, Stored
from pipeline.metrics import SinkMetrics
from pipeline.sink.dispatcher import DeliveryLimits, Dispatcher, Timing
from pipeline.sink.journal import Journal
from pipeline.sink.metering import Metering
from pipeline.sink.planner import LedgerPlans, Planned, plan_pending
from pipeline.sink.service import flush
from pipeline.sink.stripe.meter import body_sha256, open_meter
from pipeline.sink.stripe.wanted import charged_to
from pipeline.usage.record import UsageRecord, encode_record
from tests.support.journal import JOURNAL, MemoryTopic

TOPIC = "usage.records"
T0 = 1_790_000_000_000
HOUR_MS = 3_600_000
TENANT_FILE = """
[tenants.acme]
stripe_customer = "cus_acme"
[tenants.bluejay]
stripe_customer = "cus_bluejay"
"""


class Bench(NamedTuple):
    """A ledger with the sink's parts and a Stripe emulator that is running."""

    ledger: Ledger
    tenants: Tenants
    emulator: Emulator
    base_url: str
    registry: CollectorRegistry
    metrics: SinkMetrics
    folder: Path
    topic: MemoryTopic  # of the journal

    def journal(self, run: str = "a", now: float = T0 / 1000) -> Journal:
        """Return the journal, as a run writes and follows it at a time."""
        self.topic.now_ms = lambda: int(now * 1000)
        journal = Journal(self.ledger, self.topic, JOURNAL, run, self.metrics, lambda: now)
        journal.open()
        return journal

    def plan(self) -> Planned:
        """Plan the pending records in the ledger; the next flush writes them to the journal."""
        metering = Metering(self.ledger, self.tenants, charged_to, T0)
        return plan_pending(metering, body_sha256, LedgerPlans(self.ledger, T0))

    def journalled(self) -> None:
        """Let run `a` write to the journal what the ledger has planned and decided."""
        journal = self.journal()
        if not journal.is_followed():
            journal.begin()
        journal.add_unjournalled()
        journal.commit()

    def store(self, *usage_records: UsageRecord) -> None:
        """Store usage records as the next batch of partition 0."""
        next_offset = records.offsets(self.ledger, TOPIC).get(0)
        consumed = [
            ConsumedRecord(0, (next_offset or 0) + n, encode_record(usage_record))
            for n, usage_record in enumerate(usage_records)
        ]
        assert isinstance(records.store(self.ledger, TOPIC, consumed, {0: next_offset}, T0), Stored)

    async def flush(
        self, now: float = T0 / 1000, owner: str = "a", key: str = "sk_test_1"
    ) -> Dispatcher:
        """Group and deliver all pending records, without pauses before retries."""
        sink = self.sink(now, owner, key)
        try:
            await sink.flush()
        finally:
            await sink.close()
        return sink.dispatcher

    def sink(self, now: float = T0 / 1000, owner: str = "a", key: str = "sk_test_1") -> "BenchSink":
        """Return a sink that is open for several flushes."""
        meter = open_meter(stripe_settings(self.base_url, key), timeout_seconds=5)
        limits = DeliveryLimits(concurrent_max=4, retry_pause_seconds_max=60, lease_seconds=30)
        timing = Timing(now=lambda: now, pause=lambda _: asyncio.sleep(0))
        dispatcher = Dispatcher(self.ledger, meter, self.metrics, owner, limits, timing)
        return BenchSink(self, self.journal(owner, now), dispatcher, now)

    def at_stripe(self) -> dict[str, int]:
        """Return the emulator's sums by customer."""
        return {e["customer"]: e["sum"] for e in self.emulator.state.sums()["sums"]}

    def delivered(self) -> dict[str, int]:
        """Return the delivered units in the ledger, by tenant."""
        units: dict[str, int] = {}
        for usage in reports.usage(self.ledger):
            units[usage.tenant_id] = units.get(usage.tenant_id, 0) + usage.delivered
        return units

    def results(self, conversation: str = "c1", tenant_id: str = "acme") -> list[str]:
        (receipt,) = self.receipts(conversation, tenant_id)
        return [attempt.result for attempt in receipt.attempts]

    def receipts(self, conversation: str = "c1", tenant_id: str = "acme") -> list[Receipt]:
        return reports.receipts(self.ledger, tenant_id, conversation)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def fault(self, kind: Any, **more: Any) -> None:
        self.emulator.state.faults.append(Fault(kind, **more))


class BenchSink(NamedTuple):
    """The parts of one sink that plan and deliver."""

    bench: Bench
    journal: Journal
    dispatcher: Dispatcher
    now: float

    async def flush(self) -> None:
        """Group and deliver all pending records, without pauses before retries."""
        bench = self.bench
        await flush(self.journal, bench.tenants, self.dispatcher, bench.metrics, now=self.now)
        await self.dispatcher.idle()

    async def close(self) -> None:
        await self.dispatcher.stop()
        await self.dispatcher.meter.close()


def open_bench(folder: Path) -> Iterator[Bench]:
    file = folder / "resmeter.toml"
    file.write_text(TENANT_FILE)
    url = f"sqlite:///{folder}/ledger.sqlite"
    upgrade(url)
    ledger = open_ledger(url)
    emulator = Emulator(clock=Clock(T0 / 1000))
    tenants = load_tenants(file)
    emulator.state.prepare(tenants.customers.values(), tenants.event_names, 0)
    registry = CollectorRegistry()
    with running(emulator) as base_url:
        yield Bench(
            ledger,
            tenants,
            emulator,
            base_url,
            registry,
            SinkMetrics(registry),
            folder,
            MemoryTopic(lambda: T0),
        )
    ledger.close()


def record(
    conversation: str = "c1",
    n: int = 1,
    quantity: int = 1,
    *,
    tenant_id: str = "acme",
    outcome: str = "resolution",
    at: int = T0,
) -> UsageRecord:
    fields = {
        "id": f"{tenant_id}:{conversation}:{n}",
        "tenant_id": tenant_id,
        "conversation": conversation,
        "outcome": outcome,
        "quantity": quantity,
        "kind": "assumed",
        "reason": "silence" if quantity > 0 else "customer_returned",
        "occurred_at": at,
        "policy": "fin-2026",
        "policy_version": 1,
        "evidence": (f"{conversation}-m{n}",),
        "supersedes": None if quantity > 0 else f"{tenant_id}:{conversation}:{n - 1}",
    }
    return msgspec.convert(fields, UsageRecord)


def stripe_settings(base_url: str, key: str = "sk_test_1") -> StripeSettings:
    return StripeSettings.model_validate({"api_key": key, "base_url": base_url})
