"""An account over months: a ledger, the sink's parts, and the emulator, under one clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from pipeline.billing.invoice import InvoiceItem
from pipeline.billing.periods import Period
from pipeline.catalog.accounts import account_of
from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.server import Emulator, running
from pipeline.events.times import format_time
from pipeline.ledger import Ledger, open_ledger, records, upgrade
from pipeline.ledger.entries import ConsumedRecord, Stored
from pipeline.ledger.month_entries import MonthItem
from pipeline.ledger.statements import Prepared, state_account
from pipeline.metrics import SinkMetrics
from pipeline.replay.closing import Checks
from pipeline.replay.decided import Decided
from pipeline.sink.closer import Closer
from pipeline.sink.dispatcher import DeliveryLimits, Dispatcher, Timing
from pipeline.sink.invoicing import Charge, Invoice, Invoices
from pipeline.sink.journal import Journal
from pipeline.sink.progress import Progress
from pipeline.sink.service import flush
from pipeline.sink.stripe.invoices import StripeInvoices
from pipeline.sink.stripe.meter import open_meter
from pipeline.sink.stripe.setup import Subscribing, set_up
from pipeline.usage.record import UsageRecord, encode_record
from tests.support.bench import TOPIC, record, stripe_settings
from tests.support.journal import JOURNAL, MemoryTopic
from tests.support.stripe_account import at, client_of

TENANT_FILE = '[accounts.acme]\nstripe_customer = "cus_acme"\n'
AMOUNT_MAX = Decimal(1_000)  # adjustments above it need a person
CLOSE_AFTER_MS = 45 * 60_000


class KilledError(BaseException):
    """The process has ended, at some effect."""


class Mortal:
    """`Invoices`, and a journal's `write`, that end before or after a numbered effect."""

    def __init__(self, inner: Invoices, dies_at: int | None) -> None:
        """Effects are numbered from 0; an odd `dies_at` dies after effect `dies_at // 2`."""
        self._inner = inner
        self._dies_at = dies_at
        self.effects = 0

    async def effect(self, does: Any) -> Any:
        number, self.effects = self.effects, self.effects + 1
        if self._dies_at == 2 * number:
            does.close()
            raise KilledError
        result = await does
        if self._dies_at == 2 * number + 1:
            raise KilledError
        return result

    async def of_customer(
        self, customer: str, outcomes: Mapping[str, str], since: int
    ) -> list[Invoice]:
        return await self._inner.of_customer(customer, outcomes, since)

    async def counted(self, customer: str, charge: Charge) -> int:
        return await self._inner.counted(customer, charge)

    async def hold(self, invoice: Invoice) -> None:
        await self.effect(self._inner.hold(invoice))

    async def add(self, invoice: Invoice, item: InvoiceItem) -> None:
        await self.effect(self._inner.add(invoice, item))

    async def finalise(self, invoice: Invoice) -> None:
        await self.effect(self._inner.finalise(invoice))

    async def create(self, customer: str, currency: str, key: str, description: str) -> None:
        await self.effect(self._inner.create(customer, currency, key, description))

    async def close(self) -> None:
        await self._inner.close()


class Months:
    """One account, `acme`, and whatever else the tenant file names."""

    def __init__(
        self, ledger: Ledger, tenants: Tenants, emulator: Emulator, base_url: str, now: str
    ) -> None:
        self.ledger = ledger
        self.tenants = tenants
        self.emulator = emulator
        self.base_url = base_url
        self.v1: Any = client_of(base_url).v1
        self.registry = CollectorRegistry()
        self.metrics = SinkMetrics(self.registry)
        self.now_ms = at(now) * 1000
        self.topic = MemoryTopic(lambda: self.now_ms)
        self.unstatable = ""  # why no account can be stated, if none can
        self.go(now)

    # --- time and usage ---------------------------------------------------------------------------

    def go(self, text: str) -> None:
        """Move the clock to a time."""
        self.now_ms = at(text) * 1000
        self.emulator.backend.set_clock(self.now_ms / 1000)

    def store(self, *usage_records: UsageRecord) -> None:
        """Store usage records as the next batch of partition 0."""
        first = records.offsets(self.ledger, TOPIC).get(0)
        consumed = [
            ConsumedRecord(0, (first or 0) + number, encode_record(each))
            for number, each in enumerate(usage_records)
        ]
        stored = records.store(
            self.ledger, TOPIC, consumed, {0: first}, self.now_ms, prices=self.tenants
        )
        assert isinstance(stored, Stored)

    def use(self, *conversations: str, when: str, tenant_id: str = "acme", **more: Any) -> None:
        """Store a unit of each conversation."""
        ms = at(when) * 1000
        self.store(*(record(each, at=ms, tenant_id=tenant_id, **more) for each in conversations))

    def take_back(self, *conversations: str, tenant_id: str = "acme", **more: Any) -> None:
        """Store a reversal of the unit of each conversation, now."""
        self.store(
            *(
                record(each, 2, -1, at=self.now_ms, tenant_id=tenant_id, **more)
                for each in conversations
            )
        )

    # --- the sink ---------------------------------------------------------------------------------

    def journal(self, run: str = "a") -> Journal:
        journal = Journal(
            self.ledger, self.topic, JOURNAL, run, self.metrics, lambda: self.now_ms / 1000
        )
        journal.open()
        if not journal.is_followed():
            journal.begin()
        return journal

    async def flush(self) -> None:
        """Plan and deliver what is due, without pauses before retries."""
        meter = open_meter(stripe_settings(self.base_url), timeout_seconds=5)
        limits = DeliveryLimits(concurrent_max=4, retry_pause_seconds_max=60, lease_seconds=30)
        timing = Timing(now=lambda: self.now_ms / 1000, pause=lambda _: asyncio.sleep(0))
        dispatcher = Dispatcher(self.ledger, meter, self.metrics, "a", limits, timing)
        try:
            await flush(
                self.journal(), self.tenants, dispatcher, self.metrics, now=self.now_ms / 1000
            )
            await dispatcher.idle()
        finally:
            await dispatcher.stop()
            await meter.close()

    @asynccontextmanager
    async def closer(
        self, *, by_itself: bool = True, run: str = "a", dies_at: int | None = None
    ) -> AsyncIterator[tuple[Closer, Mortal]]:
        """Return a closer, and what counts its effects."""
        journal = self.journal(run)
        mortal = Mortal(StripeInvoices(stripe_settings(self.base_url), _no_pause), dies_at)

        async def written(items: Sequence[MonthItem]) -> list[str | None]:
            return [verdict.why for verdict in journal.write(items)]

        async def write(items: Sequence[MonthItem]) -> list[str | None]:
            found: list[str | None] = await mortal.effect(written(items))
            return found

        closer = Closer(
            self.ledger,
            lambda: self.tenants,
            mortal,
            self._prepared,
            write,
            lambda: self.now_ms,
            after_ms=CLOSE_AFTER_MS,
            by_itself=by_itself,
        )
        try:
            yield closer, mortal
        finally:
            await mortal.close()

    def _prepared(self, asked: Sequence[tuple[str, Period]]) -> dict[str, Prepared | str]:
        """Prepare closings: the workers have decided all."""
        if self.unstatable:
            return {name: self.unstatable for name, _ in asked}
        decided = [Decided(0, self.now_ms, unread=0, due=0, lost=0)]
        checks = Checks(self.ledger, self.tenants, decided, self.now_ms, AMOUNT_MAX)
        prepared: dict[str, Prepared | str] = {}
        for name, period in asked:
            found = checks.readiness(account_of(self.tenants, name), format_time(period.start_ms))
            prepared[name] = Prepared(found.stated, found.missing, found.closing)
        return prepared

    async def look(self, *names: str, period: str | None = None, **how: Any) -> list[Progress]:
        """Let a closer look once at accounts, or at `acme`."""
        async with self.closer(**how) as (closer, _):
            return await closer.look(names or ["acme"], period)

    async def month(self, text: str) -> Progress:
        """Let a period end, at a date: deliver, hold the draft, close, and invoice."""
        self.go(f"{text}T00:02")
        await self.flush()
        await self.look()
        self.go(f"{text}T00:50")
        await self.flush()
        (progress,) = await self.look()
        return progress

    # --- what is there ----------------------------------------------------------------------------

    def invoices(self, customer: str = "cus_acme") -> list[Any]:
        """Return the customer's invoices, oldest first."""
        listed = self.v1.invoices.list({"customer": customer, "limit": 100}).auto_paging_iter()
        return list(listed)[::-1]

    def lines(self, invoice: Any) -> list[tuple[str | None, int]]:
        """Return the lines of an invoice that are not 0: the kind of an item, and the amount."""
        listed = self.v1.invoices.line_items.list(invoice.id, {"limit": 100}).auto_paging_iter()
        return [
            (getattr(line.metadata, "resmeter_kind", None), line.amount)
            for line in list(listed)[::-1]
            if line.amount
        ]

    def balance(self, customer: str = "cus_acme") -> int:
        balance: int = self.v1.customers.retrieve(customer).balance
        return balance

    def total(self, period: str, name: str = "acme") -> int:
        """Return the total of a period's statement, as it is now."""
        account = account_of(self.tenants, name)
        return state_account(
            self.ledger, account, self.tenants, period, self.now_ms
        ).statement.total


async def _no_pause(_: float) -> None:
    return


@asynccontextmanager
async def open_months(
    folder: Path,
    contract: str | None = None,
    *,
    tenant_file: str = TENANT_FILE,
    now: str = "2026-10-01",
    customers: Sequence[str] = ("cus_acme",),
    subscribes: bool = True,
    before: Callable[[Emulator], None] = lambda emulator: None,
) -> AsyncIterator[Months]:
    """Run it from a time; the customers are subscribed by `resmeter stripe setup`.

    `contract` is the text of the account's contract.
    """
    file = folder / "resmeter.toml"
    text = tenant_file
    if contract is not None:
        first_version = f'version = 1\neffective_from = "{now}T00:00:00Z"\n'
        has_versions = "[[versions]]" in contract
        (folder / "contract.toml").write_text(
            'name = "c"\n' + ("" if has_versions else first_version) + contract
        )
        text = f'contract_files = ["contract.toml"]\n{tenant_file}contract = "c"\n'
    file.write_text(text)
    tenants = load_tenants(file)
    url = f"sqlite:///{folder}/ledger.sqlite"
    upgrade(url)
    ledger = open_ledger(url)
    # A subscription that is made a second before its anchor has whole periods from then on.
    first = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()
    emulator = Emulator(clock=Clock(first - 1))
    emulator.backend.prepare(customers, [])
    before(emulator)
    with running(emulator) as base_url:
        if subscribes:
            settings = stripe_settings(base_url)
            now_ms = int((first - 1) * 1000)
            await set_up(settings, tenants.catalog, now_ms, Subscribing(), applies=True)
        yield Months(ledger, tenants, emulator, base_url, now)
    ledger.close()
