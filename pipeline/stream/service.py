"""Build the worker's Faust app and run it until SIGTERM or SIGINT."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import structlog
import uvloop

from pipeline.catalog.tenants import Tenants, read_declared
from pipeline.catalog.topic import CatalogTopic, whole_catalog
from pipeline.config import Settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.http import listen, serving, text_of
from pipeline.kafka.fencing import fence_problems
from pipeline.kafka.positions import EventsLog, Positions
from pipeline.kafka.topics import TopicAdmin, lost_states
from pipeline.logs import get_logger, log_uncaught_exceptions
from pipeline.memory import limit_arenas
from pipeline.metrics import CatalogMetrics, RuntimeMetrics, WorkerMetrics, new_registry
from pipeline.stream.crash import crash
from pipeline.stream.credentials import faust_credentials
from pipeline.stream.faust_runtime import FaustApp, FaustHost
from pipeline.stream.following import Following
from pipeline.stream.outputs import Outputs
from pipeline.stream.runner import BatchRunner
from pipeline.stream.transactions import OpenTransactions
from pipeline.supervisor import ChildContext, run_processes
from pipeline.worklog import ReadinessLog, WorkLog

_GAUGES_SECONDS = 1.0
_PROBE_SECONDS = 5.0


def run_worker(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; return the exit status.

    Raises:
        ConfigurationError: the settings, the topics or an installed library's version are wrong.
        UnavailableError: no broker responds, or the port is taken.
    """
    log_uncaught_exceptions()
    limit_arenas()
    # The hot path makes hardly any cyclic garbage, and the collector does not track states.
    gc.collect()
    gc.freeze()
    gc.set_threshold(500_000, 20, 100)
    worker = settings.worker

    def check() -> None:
        problems = TopicAdmin(settings).problems() or [
            *lost_states(settings),
            *fence_problems(settings),
        ]
        if not problems:
            catalog = whole_catalog(settings)
            _, producers = read_declared(settings.config)
            now_ms = int(time.time() * 1000)
            problems = Tenants(catalog, producers).problems_in_worker(worker.seal_after_ms, now_ms)
        if problems:
            raise ConfigurationError(problems)

    def start_process(context: ChildContext) -> int:
        structlog.contextvars.bind_contextvars(process=context.number)
        return _start(settings, context.listening, context)

    if worker.processes > settings.topics.partitions:
        raise ConfigurationError(
            [
                (
                    f"RESMETER_WORKER__PROCESSES is {worker.processes}, but "
                    f"RESMETER_TOPICS__PARTITIONS is {settings.topics.partitions}: a process without "
                    "a partition decides nothing"
                )
            ]
        )
    if worker.processes > 1:
        return run_processes(worker, check, start_process)
    check()
    return _start(settings, listen(worker.http_host, worker.http_port), None)


def _start(settings: Settings, listening: socket.socket, context: ChildContext | None) -> int:
    async def build_and_run() -> None:  # Faust's app must be built in the event loop that runs it
        await _Worker(settings, following, Path(data)).run(listening, context)

    catalog = CatalogTopic(settings)
    following = Following(
        catalog,
        lambda: read_declared(settings.config)[1],
        settings.worker.seal_after_ms,
        end=crash,
    )
    with tempfile.TemporaryDirectory(prefix="resmeter-worker-") as data, closing(catalog):
        following.begin()
        uvloop.run(build_and_run())
    return 0


def _build_app(
    settings: Settings, following: Following, metrics: WorkerMetrics, outputs: Outputs, data: Path
) -> FaustApp:
    worker, topics = settings.worker, settings.topics
    app = FaustApp(
        worker.group,
        broker=[f"kafka://{server}" for server in settings.kafka.bootstrap_servers.split(",")],
        broker_credentials=faust_credentials(settings),
        broker_session_timeout=worker.session_timeout_seconds,
        broker_heartbeat_interval=worker.session_timeout_seconds / 5,
        broker_request_timeout=max(90.0, worker.session_timeout_seconds * 2),
        broker_commit_interval=worker.commit_interval_seconds,
        broker_max_poll_records=worker.batch_events_max,
        broker_check_crcs=True,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=worker.fetch_partition_bytes_max,
        datadir=str(data),
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        stream_wait_empty=False,
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=topics.partitions,
        web_enabled=False,
    )
    host = FaustHost(app, settings)
    positions = Positions(settings.kafka)
    log = EventsLog(positions, worker.group, topics.events, topics.changelog)
    runner = BatchRunner(host, log, outputs, metrics, settings, following, end=crash)
    app.attach(settings, host, runner, positions)
    events = app.topic(topics.events, key_type=bytes, value_type=bytes)
    # Because of this table, Faust recovers from the changelog, and assigns each partition of it to
    # the owner of the same partition of the events topic.
    app.Table(
        "conversations",
        key_type=bytes,
        value_type=bytes,
        partitions=topics.partitions,
        changelog_topic=app.topic(
            topics.changelog, key_type=bytes, value_type=bytes, compacting=True
        ),
    )

    @app.agent(events)  # type: ignore[untyped-decorator]
    async def never_called(stream: Any) -> None:
        """Do nothing: without an agent, Faust neither starts a worker nor subscribes to a topic."""
        async for _ in stream:
            raise AssertionError("the runner takes every record")

    return app


class _Worker:
    """One worker process: its Faust app, metrics and readiness."""

    def __init__(self, settings: Settings, following: Following, data: Path) -> None:
        self._settings = settings
        self._kafka = f"Kafka at {settings.kafka.bootstrap_servers}"
        self._registry = new_registry()
        self._metrics = WorkerMetrics(self._registry, following.catalog.keys)
        RuntimeMetrics(self._registry, "worker").ready.set_function(lambda: not self._problems())
        self._outputs = Outputs(settings)
        self._following = following
        self._catalog_metrics = CatalogMetrics(self._registry)
        self._app = _build_app(settings, following, self._metrics, self._outputs, data)
        self._runner = self._app.runner
        self._log = get_logger("worker")
        self._unready_since = time.monotonic()
        self._is_kafka_silent = False
        watch(self._metrics, self._runner)
        self._readiness_log = ReadinessLog(self._log)
        self._work_log = WorkLog(
            self._log,
            {
                "records": self._metrics.records,
                "rejected": self._metrics.rejected,
                "usage_records": self._metrics.transitions,
            },
            self._facts,
        )

    async def run(self, listening: socket.socket, context: ChildContext | None) -> None:
        """Run until SIGTERM or SIGINT. With a context, this process is one of several."""
        settings = self._settings
        name = "worker" if context is None else "process"
        app = self._app
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if context is not None:
            context.stop_with_parent(stop.set)
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(
                serving(
                    listening, text_of(self._registry), self._readiness, warnings=self._warnings
                )
            )
            try:
                await self._outputs.start()
            except Exception as error:
                raise UnavailableError(
                    f"cannot write to Kafka at {settings.kafka.bootstrap_servers}: {error}"
                ) from error
            stack.push_async_callback(self._outputs.stop)
            self._log.info(f"{name}_started", group=settings.worker.group, http_port=port)
            if settings.log.level != "debug":
                _quiet_libraries()
            app.finalize()
            await app.start()
            await self._wait_for_end(stop)
            await self._stop()
        self._work_log.say()
        self._log.info(f"{name}_stopped")

    async def _wait_for_end(self, stop: asyncio.Event) -> None:
        tasks = [
            asyncio.ensure_future(work)
            for work in (
                self._publish_gauges(),
                self._watch_log(),
                self._probe_broker(),
                stop.wait(),
                self._wait_for_crash(),
            )
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                crash("worker_failed", task.exception())
            task.cancel()
        if not stop.is_set():
            crash("worker_crashed", self._app.crash_reason)

    async def _wait_for_crash(self) -> None:
        app = self._app
        while not app.crashed and not app.should_stop:  # noqa: ASYNC110 - Faust has only flags
            await asyncio.sleep(0.2)

    async def _stop(self) -> None:
        seconds = self._settings.worker.stop_seconds_max
        ending = asyncio.ensure_future(self._drain())
        if not (await asyncio.wait([ending], timeout=seconds))[0]:
            # Clients ignore cancellation while no broker responds.
            self._log.warning(
                "stopped_without_commit",
                after_seconds=seconds,
                consequence="batches in flight are read again; nothing is lost",
            )
            sys.stderr.flush()
            os._exit(1)
        ending.result()

    async def _drain(self) -> None:
        # Stop fetching, wait for the batches in flight, commit, and leave the group.
        self._app.consumer.stop_flow()
        await self._runner.drain()
        await self._app.consumer.commit()
        await self._app.stop()

    # --- health and gauges ------------------------------------------------------------------------

    async def _readiness(self) -> list[str]:
        return self._problems()

    async def _warnings(self) -> list[str]:
        return self._runner.warnings()

    def _problems(self) -> list[str]:
        """Return why the worker is not ready; an empty list means that it is ready."""
        app, partitions = self._app, self._runner.partitions
        if not app.started:
            return ["starting"]
        problems = []
        if app.rebalancing:
            problems.append("rebalancing")
        # `in_recovery` alone is not enough: Faust sets it a moment late.
        if app.in_recovery or not all(p.is_recovered for p in partitions.values()):
            problems.append("reading states from the changelog")
        if not partitions:  # do not ask the consumer: it may not run yet
            problems.append("no partitions are assigned")
        if self._is_kafka_silent:
            problems.append(f"{self._kafka} does not respond")
        return problems + self._following.problems()

    async def _probe_broker(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            try:
                answered = await asyncio.wait_for(self._outputs.is_reachable(), _PROBE_SECONDS)
            except TimeoutError:
                answered = False
            self._is_kafka_silent = not answered

    def _facts(self) -> dict[str, object]:
        """Return what each minute's line says beside the work."""
        numbers = sorted(self._runner.partitions)
        return {
            "partitions": len(numbers),
            "waiting": sum(self._lag(number) for number in numbers),
            "conversations": self._runner.conversations(),
        }

    async def _watch_log(self) -> None:
        runner, transactions = self._runner, OpenTransactions()
        while True:
            await asyncio.sleep(_PROBE_SECONDS)
            bounds = await runner.look()
            now = time.monotonic()
            for report in transactions.update(bounds, now):
                self._log.error(
                    "transaction_open",
                    topic=self._settings.topics.events,
                    partition=report.partition,
                    offset=report.offset,
                    offsets_waiting=report.records,
                    seconds=round(report.seconds),
                    consequence="nothing behind this offset is read, and no silence of the "
                    "partition is settled, until the transaction ends",
                    todo="let its producer end it; if the producer is gone, find it with "
                    "`kafka-transactions.sh find-hanging` and end it with `abort`",
                )
            for number in runner.partitions:
                seconds = transactions.seconds(number, now)
                self._metrics.open_transaction.labels(number).set(seconds)

    async def _publish_gauges(self) -> None:
        limit = self._settings.worker.recovery_seconds_max
        while True:
            await asyncio.sleep(_GAUGES_SECONDS)
            self._work_log.tick()
            following = self._following
            self._catalog_metrics.show(following.catalog.head, following.age_seconds, following.cut)
            self._readiness_log.update(self._problems())
            now = time.monotonic()
            # A restart would not help if there are no partitions or Kafka does not respond.
            problems = [
                p for p in self._problems() if not p.startswith(("no partitions", self._kafka))
            ]
            if not problems:
                self._unready_since = now
                self._publish_partitions(now)
            elif now - self._unready_since > limit:
                crash("not_ready_for_too_long", TimeoutError(", ".join(problems)), seconds=limit)

    def _lag(self, number: int) -> int:
        """Return how many records of a partition are known and not done."""
        end = self._app.host.known_end_offset(number)
        done = self._runner.done.get(number)
        position = done if done is not None else self._app.host.committed(number)
        return 0 if end is None or position is None else max(0, end - position)

    def _publish_partitions(self, now: float) -> None:
        host, runner, metrics = self._app.host, self._runner, self._metrics
        now_ms = time.time() * 1000
        for number in list(runner.partitions):
            done, committed, lag = (
                runner.done.get(number),
                host.committed(number),
                self._lag(number),
            )
            metrics.lag_records.labels(number).set(lag)
            arrived_ms = runner.arrived_ms.get(number)
            metrics.lag_seconds.labels(number).set(
                max(0.0, (now_ms - arrived_ms) / 1000) if lag and arrived_ms is not None else 0.0
            )
            behind = done is not None and committed is not None and committed < done
            metrics.commit_age.labels(number).set(
                now - runner.done_at[number] if behind and number in runner.done_at else 0.0
            )


def watch(metrics: WorkerMetrics, runner: BatchRunner) -> None:
    """Let each scrape read the runner's counts, so that all counts are from the same moment."""
    metrics.conversations.set_function(runner.conversations)
    metrics.open_conversations.set_function(runner.open_conversations)
    metrics.due_unsettled.set_function(runner.due_unsettled)
    metrics.unacknowledged.set_function(runner.unacknowledged)
    metrics.dead_letter_share.set_function(runner.dead_letter_share)
    metrics.damaged_partitions.set_function(lambda: len(runner.damages.texts()))
    metrics.dead_letters_over_limit.set_function(runner.dead_letters_over_limit)


def _quiet_libraries() -> None:
    # Faust logs each step of each rebalance at `info`; our own log has what matters.
    for name in ("faust", "mode", "aiokafka", FaustApp.__module__):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Faust warns if its fetcher is idle while the runner works, and if a timer waits for a batch.
    for name in ("faust.transport.drivers.aiokafka", "mode.timers"):
        logging.getLogger(name).setLevel(logging.ERROR)
