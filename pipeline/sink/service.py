"""Run a sink: the intake in a thread, a flush at each interval, health and metrics."""

import asyncio
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, get_args

from prometheus_client import CollectorRegistry

from pipeline.billing.periods import Period
from pipeline.catalog.prices import Prices
from pipeline.catalog.tenants import Tenants
from pipeline.catalog.topic import CatalogTopic, no_catalog
from pipeline.config import Settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.http import listen, serving, text_of
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.positions import Positions, topic_id_of
from pipeline.kafka.single import SingleTopic, TopicUnavailableError
from pipeline.ledger import (
    Ledger,
    deliveries,
    open_ledger,
    priced_under,
    problems_of_rights,
    sslmode_missing,
)
from pipeline.ledger.ages import oldest_open
from pipeline.ledger.month_entries import MonthItem
from pipeline.ledger.statements import Prepared
from pipeline.logs import get_logger, log_uncaught_exceptions
from pipeline.memory import limit_arenas
from pipeline.metrics import CatalogMetrics, RuntimeMetrics, SinkMetrics, new_registry
from pipeline.sink.chargeable import Why
from pipeline.sink.closer import Closer
from pipeline.sink.counts import owed, publish_ages, publish_owed, publish_pending, waiting
from pipeline.sink.dispatcher import DeliveryLimits, Dispatcher
from pipeline.sink.following import BillingCatalog
from pipeline.sink.intake import Intake
from pipeline.sink.invoicing import Invoices
from pipeline.sink.journal import Journal
from pipeline.sink.metering import Metering, Reckonings
from pipeline.sink.month_end import MonthEnd
from pipeline.sink.planner import Planned, plan_pending
from pipeline.sink.position import LedgerPosition
from pipeline.sink.stripe.invoices import StripeInvoices
from pipeline.sink.stripe.meter import open_meter
from pipeline.sink.stripe.wanted import charged_to
from pipeline.sink.withdrawing import WITHDRAW_AFTER_MS, to_withdraw
from pipeline.worklog import ReadinessLog, WorkLog

_LOG_SECONDS = 1.0
# Returns the closing of each account's period, or what is missing for it.
Preparing = Callable[
    [Settings, Ledger, Tenants, Sequence[tuple[str, Period]]], dict[str, Prepared | str]
]
LEASE_MARGIN_SECONDS = 5.0  # beyond the longest call, to store its conclusion


async def run_sink(settings: Settings, preparing: Preparing) -> None:
    """Run until SIGTERM or SIGINT. Then store the last batch and wait for the calls in flight.

    Args:
        settings: all of them.
        preparing: says what is missing to close periods, by what the workers have decided.

    Raises:
        ConfigurationError: no Stripe key, no topic, the ledger has another schema or is read-only.
        UnavailableError: Kafka or the ledger cannot be reached.
    """
    log_uncaught_exceptions()
    limit_arenas()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with AsyncExitStack() as stack:
            meter = open_meter(settings.stripe, timeout_seconds=settings.sink.call_timeout_seconds)
            stack.push_async_callback(meter.close)
            ledger = await asyncio.to_thread(open_ledger, settings.ledger.url)
            stack.callback(ledger.close)
            if missing := sslmode_missing(settings.ledger.url):
                get_logger(__name__).warning("sslmode_missing", detail=missing)
            if problems := await asyncio.to_thread(problems_of_rights, ledger):
                raise ConfigurationError(problems)
            catalog_topic = CatalogTopic(settings)
            stack.callback(catalog_topic.close)
            missing = no_catalog(settings.topics.catalog)
            catalog = await asyncio.to_thread(BillingCatalog, catalog_topic, missing)
            await asyncio.to_thread(priced_under.check, ledger, catalog.tenants.catalog)
            await asyncio.to_thread(priced_under.remember, ledger, catalog.tenants.catalog)
            registry = new_registry()
            metrics = SinkMetrics(registry)
            run = uuid.uuid4().hex
            topic = SingleTopic(settings.kafka, settings.topics.journal)
            stack.callback(topic.close)
            journal = Journal(ledger, topic, settings.topics.journal, run, metrics)
            # What was sent is known before anything is read, planned or called.
            await asyncio.to_thread(journal.open)
            dispatcher = Dispatcher(
                ledger,
                meter,
                metrics,
                owner=run,
                limits=DeliveryLimits(
                    concurrent_max=settings.sink.deliveries_concurrent_max,
                    retry_pause_seconds_max=settings.sink.retry_pause_seconds_max,
                    lease_seconds=settings.sink.call_timeout_seconds + LEASE_MARGIN_SECONDS,
                    rejections_in_a_row_max=settings.sink.rejections_in_a_row_max,
                ),
            )
            position = LedgerPosition(
                ledger,
                settings.topics.records,
                settings.sink.group,
                metrics,
                journal_topic=settings.topics.journal,
            )
            intake = Intake(
                librdkafka_options(settings.kafka),
                settings.topics.records,
                settings.sink,
                ledger,
                position,
                metrics,
                topic_id=partial(topic_id_of, Positions(settings.kafka), settings.topics.records),
                prices=lambda: catalog.tenants,
            )
            invoices = StripeInvoices(settings.stripe)
            stack.push_async_callback(invoices.close)
            sink = _Sink(settings, catalog, journal, metrics, dispatcher, intake, position)
            if settings.close.automatic:
                sink.close_periods(settings, invoices, preparing)
            await sink.run(registry, stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class _Sink:
    """The parts of a running sink."""

    def __init__(
        self,
        settings: Settings,
        catalog: BillingCatalog,
        journal: Journal,
        metrics: SinkMetrics,
        dispatcher: Dispatcher,
        intake: Intake,
        position: LedgerPosition,
    ) -> None:
        self._settings = settings.sink
        self._withdraw_after_ms = int(settings.corrections.withdraw_after_minutes * 60_000)
        self._catalog = catalog
        self._journal = journal
        self._metrics = metrics
        self._dispatcher = dispatcher
        self._intake = intake
        self._position = position
        self._month_end: MonthEnd | None = None
        self._journal_turn = asyncio.Lock()  # one thread at a time uses the journal
        self._log = get_logger(__name__)

    def close_periods(self, settings: Settings, invoices: Invoices, preparing: Preparing) -> None:
        """Let the sink close periods and complete their invoices too."""
        journal, catalog = self._journal, self._catalog
        closer = Closer(
            journal.ledger,
            lambda: catalog.tenants,
            invoices,
            lambda asked: preparing(settings, journal.ledger, catalog.tenants, asked),
            self._write,
            lambda: int(time.time() * 1000),
            after_ms=int(settings.close.after_minutes * 60_000),
            by_itself=True,
        )
        self._month_end = MonthEnd(
            closer,
            self._metrics,
            self._may_close,
            settings.close.every_seconds,
        )

    async def _may_close(self) -> bool:
        """Return whether the ledger says what was sent: it follows the journal, by a right clock."""
        journal = self._journal
        is_known = journal.problem is None and journal.clock_problem is None
        return is_known and await asyncio.to_thread(journal.is_followed)

    async def _write(self, items: Sequence[MonthItem]) -> list[str | None]:
        # Its thread goes on if the close is cancelled, and has its turn until it ends.
        return await asyncio.shield(self._written(items))

    async def _written(self, items: Sequence[MonthItem]) -> list[str | None]:
        async with self._journal_turn:
            verdicts = await asyncio.to_thread(self._journal.write, items)
        return [verdict.why for verdict in verdicts]

    async def run(self, registry: CollectorRegistry, stop: asyncio.Event) -> None:
        """Serve, consume and flush until `stop` or the first failure, which is raised."""
        listening = listen(self._settings.http_host, self._settings.http_port)
        self._catalog_metrics = CatalogMetrics(registry)
        RuntimeMetrics(registry, "sink").ready.set_function(lambda: not self._problems())
        async with serving(listening, text_of(registry), self._readiness) as port:
            self._log.info("sink_started", ledger=self._journal.ledger.redacted_url, http_port=port)
            consuming = asyncio.create_task(asyncio.to_thread(self._intake.run))
            flushing = asyncio.create_task(self._flush_until(stop))
            logging = asyncio.create_task(self._log_until(stop))
            closing = asyncio.create_task(self._close_until(stop))
            stopping = asyncio.create_task(stop.wait())
            waited: list[asyncio.Future[Any]] = [
                consuming,
                flushing,
                logging,
                closing,
                stopping,
                self._dispatcher.failed,
            ]
            ended, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            self._log.info("sink_drains")
            # 1. No new records: the last batch is stored, and the sink leaves the group.
            stop.set()
            closing.cancel()  # as if it had died: every step can be repeated
            self._intake.stop()
            await asyncio.wait({consuming, flushing, logging, closing, stopping})
            # 2. The calls in flight are concluded.
            await self._dispatcher.stop()
            # 3. The journal learns the last conclusions, and that this run makes no further call.
            await self._hand_over()
            for task in (*ended, consuming, flushing, logging, closing):
                if task is closing and closing.cancelled():
                    continue
                task.result()  # raises the exception that ended the sink
            self._log.info("sink_stopped")

    async def _hand_over(self) -> None:
        """Do what the next run would do with less certainty; a failure changes nothing."""
        try:
            async with self._journal_turn:
                await asyncio.to_thread(self._journal.hand_over, self._dispatcher.doubtful)
        except UnavailableError as error:
            self._log.warning("journal_not_handed_over", detail=str(error))

    async def _readiness(self) -> list[str]:
        return self._problems()

    def _problems(self) -> list[str]:
        journal = [p for p in (self._journal.problem, self._journal.clock_problem) if p]
        return self._intake.problems() + journal + self._dispatcher.problems()

    async def _log_until(self, stop: asyncio.Event) -> None:
        metrics = self._metrics
        work = WorkLog(
            self._log,
            {
                "usage_records": metrics.records,
                "quarantined": metrics.records_refused,
                "planned": metrics.meter_events_planned,
                "calls": metrics.deliveries,
            },
            lambda: {"waiting": self._intake.waiting},
        )
        readiness = ReadinessLog(self._log)
        while not stop.is_set():
            catalog = self._catalog
            head = catalog.tenants.catalog.head
            self._catalog_metrics.show(head, catalog.age_seconds, catalog.cut)
            readiness.update(self._problems())
            work.tick()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOG_SECONDS)
        work.say()

    async def _close_until(self, stop: asyncio.Event) -> None:
        if self._month_end is not None:
            await self._month_end.run(stop)
        await stop.wait()

    async def _flush_until(self, stop: asyncio.Event) -> None:
        parked: dict[str, int] = {}
        memory = Memory()
        while not stop.is_set():
            if await self._catalog.refresh():
                known = self._catalog.tenants.catalog
                await asyncio.to_thread(priced_under.remember, self._journal.ledger, known)
            async with self._journal_turn:
                planned = await flush(
                    self._journal,
                    self._catalog.tenants,
                    self._dispatcher,
                    self._metrics,
                    position=self._position,
                    memory=memory,
                    withdraw_after_ms=self._withdraw_after_ms,
                )
            before, parked = parked, planned.units("parked")
            if parked and parked != before:
                self._log.warning("usage_parked", tenants=len(parked), units=parked)
            if planned.events or planned.netted:
                self._log.info("meter_events_planned", events=planned.events, netted=planned.netted)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._settings.flush_interval_seconds)


class Memory:
    """What a sink keeps from flush to flush."""

    def __init__(self) -> None:
        self.reckonings = Reckonings()
        self.planned = Planned()  # by the last flush that planned


async def flush(
    journal: Journal,
    tenants: Tenants,
    dispatcher: Dispatcher,
    metrics: SinkMetrics,
    now: float | None = None,
    position: LedgerPosition | None = None,
    memory: Memory | None = None,
    withdraw_after_ms: int = WITHDRAW_AFTER_MS,
) -> Planned:
    """Plan the pending records, publish the undelivered units, and queue the calls that are due.

    While deliveries are held, the units are published and nothing else happens. While the journal
    cannot be reached, nothing is planned; what was read back is delivered.
    """
    now = time.time() if now is None else now
    memory = memory or Memory()
    is_held = False
    planned = Planned()
    try:
        is_held = not await asyncio.to_thread(_may_plan, journal, position)
        if not is_held:
            metering = Metering(
                journal.ledger, tenants, charged_to, int(now * 1000), memory.reckonings
            )
            planned = await asyncio.to_thread(_plan, journal, metering, dispatcher)
            memory.planned = planned
            if journal.clock_problem is None and not dispatcher.halted:
                chosen = await asyncio.to_thread(to_withdraw, metering, withdraw_after_ms)
                await asyncio.to_thread(journal.withdraw, chosen)
        journal.problem = None
    except TopicUnavailableError as error:
        journal.discard()
        journal.problem = str(error)
    metrics.meter_events_planned.inc(planned.events)
    metrics.journal_unreached.set(1 if journal.problem else 0)
    metrics.accounts_unreckoned.set(len(memory.reckonings.failed))
    await _publish_pending(journal.ledger, tenants, metrics, memory.planned, now)
    if not is_held and journal.clock_problem is None:
        await dispatcher.dispatch()
    return planned


def _may_plan(journal: Journal, position: LedgerPosition | None) -> bool:
    """Return whether the ledger follows the journal; let it begin, unless its deliveries are held."""
    if journal.is_followed():
        return True
    journal.open()
    if not journal.is_followed():
        if position is not None and position.is_held():
            return False
        journal.begin()
    return True


def _plan(journal: Journal, metering: Metering, dispatcher: Dispatcher) -> Planned:
    """Write to the journal what it lacks, and read it back."""
    journal.follow()
    journal.add_unjournalled()
    journal.add_takeovers()
    journal.add_renewals(dispatcher.doubtful)
    journal.state_pending(metering.tenants.account_of)
    planned = plan_pending(metering, dispatcher.meter.body_sha256, journal)
    journal.commit()
    dispatcher.doubtful.difference_update(journal.take_concluded())
    return planned


async def _publish_pending(
    ledger: Ledger, prices: Prices, metrics: SinkMetrics, planned: Planned, now: float
) -> None:
    """Set the gauges of the undelivered units, and of how long the oldest of them has waited."""
    open_sums = await asyncio.to_thread(deliveries.open_sums, ledger)
    oldest = await asyncio.to_thread(
        oldest_open, ledger, planned.until_seq, planned.parked_since_ms
    )
    stuck = await asyncio.to_thread(deliveries.stuck_counts, ledger)
    kept = {why: planned.units(why) for why in get_args(Why)}
    publish_pending(metrics, *waiting(open_sums, planned, prices), kept)
    publish_owed(metrics, *owed(open_sums, prices), stuck)
    publish_ages(metrics, oldest, now)
