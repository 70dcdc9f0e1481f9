"""This file runs a sink: intake in a thread, a flush at each interval, health and metrics."""

import asyncio
import signal
import time
import uuid
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry

from pipeline.catalog.prices import Billing
from pipeline.config import Settings
from pipeline.errors import ConfigurationError
from pipeline.http import listen, serving, text_of
from pipeline.kafka.options import librdkafka_options
from pipeline.ledger import Ledger, deliveries, open_ledger
from pipeline.logs import get_logger
from pipeline.memory import limit_arenas
from pipeline.metrics import SinkMetrics
from pipeline.sink.dispatcher import Dispatcher
from pipeline.sink.intake import Intake
from pipeline.sink.planner import Planned, plan_pending
from pipeline.sink.stripe.meter import NO_KEY, StripeMeter

LEASE_MARGIN_SECONDS = 5.0  # beyond the longest call, for its answer to be written down


async def run_sink(settings: Settings, billing: Billing) -> None:
    """Run until SIGTERM or SIGINT, then drain: store, leave the group, await the calls in flight.

    Raises:
        ConfigurationError: no Stripe key, no topic, or the ledger's schema is another one.
        UnavailableError: Kafka or the ledger cannot be reached.
    """
    limit_arenas()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await _run(settings, billing, stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _run(settings: Settings, billing: Billing, stop: asyncio.Event) -> None:
    log = get_logger(__name__)
    if settings.stripe.api_key is None:
        raise ConfigurationError([NO_KEY])
    ledger = await asyncio.to_thread(open_ledger, settings.ledger.url)
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry)
    meter = StripeMeter(
        settings.stripe.api_key.get_secret_value(),
        base_url=settings.stripe.base_url,
        timeout_seconds=settings.sink.call_timeout_seconds,
    )
    dispatcher = Dispatcher(
        ledger,
        meter,
        metrics,
        owner=uuid.uuid4().hex,
        concurrent_max=settings.sink.deliveries_concurrent_max,
        retry_pause_seconds_max=settings.sink.retry_pause_seconds_max,
        lease_seconds=settings.sink.call_timeout_seconds + LEASE_MARGIN_SECONDS,
    )
    intake = Intake(
        librdkafka_options(settings.kafka),
        settings.topics.records,
        settings.sink.group,
        ledger,
        metrics,
        batch_records_max=settings.sink.batch_records_max,
        session_timeout_seconds=settings.sink.session_timeout_seconds,
    )

    async def problems() -> list[str]:
        halted = [dispatcher.halted] if dispatcher.halted else []
        return intake.problems() + halted

    async def flush_forever() -> None:
        parked: dict[str, int] = {}
        while not stop.is_set():
            planned = await flush(ledger, billing, dispatcher, metrics)
            if planned.parked and planned.parked != parked:
                log.warning("usage_parked", tenants=len(planned.parked), units=planned.parked)
            parked = planned.parked
            if planned.events or planned.netted:
                log.info("meter_events_planned", events=planned.events, netted=planned.netted)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), settings.sink.flush_interval_seconds)

    try:
        listening = listen(settings.sink.http_host, settings.sink.http_port)
        async with serving(listening, text_of(registry), problems) as port:
            log.info("sink_started", ledger=ledger.shown, http_port=port)
            taking = asyncio.create_task(asyncio.to_thread(intake.run))
            flushing = asyncio.create_task(flush_forever())
            stopping = asyncio.create_task(stop.wait())
            waited: list[asyncio.Future[Any]] = [taking, flushing, stopping, dispatcher.failed]
            ended, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            log.info("sink_drains")
            # 1. Nothing new comes in: the last batch is stored, the group is left.
            stop.set()
            intake.stop()
            await asyncio.wait({taking, flushing, stopping})
            # 2. The calls in flight are answered and written down.
            await dispatcher.stop()
            for task in (*ended, taking, flushing):
                task.result()  # raises what ended us
            log.info("sink_stopped")
    finally:
        await meter.close()
        ledger.close()


async def flush(
    ledger: Ledger,
    billing: Billing,
    dispatcher: Dispatcher,
    metrics: SinkMetrics,
    now: float | None = None,
) -> Planned:
    """Plan what is pending, show where it stands, and hand what is due to the dispatcher."""
    now = time.time() if now is None else now
    planned = await asyncio.to_thread(plan_pending, ledger, billing, int(now * 1000))
    metrics.meter_events_planned.inc(planned.events)
    sums = await asyncio.to_thread(deliveries.open_sums, ledger)
    pending = await asyncio.to_thread(deliveries.pending_sums, ledger)
    units: dict[str, int] = {}
    money: dict[tuple[str, str], float] = {}
    for found in sums:
        units[found.tenant_id] = units.get(found.tenant_id, 0) + found.quantity
        price = billing.price_for(
            found.tenant_id, found.outcome, found.policy, found.policy_version
        )
        if price:
            key = (found.tenant_id, price[1])
            money[key] = money.get(key, 0.0) + float(price[0] * found.quantity)
    # A credit that waits for usage may do so for weeks, and nothing is late by that.
    oldest = min((found.stored_at for found in pending if found.quantity > 0), default=None)
    metrics.show_pending(
        units,
        money,
        planned.carried,
        planned.parked,
        0.0 if oldest is None else max(0.0, now - oldest / 1000),
    )
    await dispatcher.dispatch()
    return planned
