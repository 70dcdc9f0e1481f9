"""This file builds the worker's Faust app and runs it until it is told to stop."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import faust
import structlog
import uvloop
from faust.types import TP
from prometheus_client import CollectorRegistry

from pipeline.catalog.producers import load_keys
from pipeline.catalog.tenants import Tenants
from pipeline.config import Settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.http import listen, serving, text_of
from pipeline.kafka.options import security_of
from pipeline.kafka.topics import TopicAdmin, lost_states
from pipeline.logs import configure, get_logger
from pipeline.memory import limit_arenas
from pipeline.metrics import WorkerMetrics
from pipeline.stream.outputs import Outputs
from pipeline.stream.runner import Lane, LaneApp, die
from pipeline.supervisor import Seat, run_processes

_GAUGES_SECONDS = 1.0
_REACH_SECONDS = 5.0


def build_app(settings: Settings, tenants: Tenants, metrics: WorkerMetrics, data: Path) -> LaneApp:
    """Build the app: one thin agent for Faust's sake, one table for the changelog's recovery."""
    worker, topics = settings.worker, settings.topics
    app = LaneApp(
        worker.group,
        broker=[f"kafka://{server}" for server in settings.kafka.bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
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
    app.resmeter = settings
    keys = load_keys(tenants.producers)
    app.lane = Lane(app, Outputs(settings), metrics, tenants.timeline_for, keys)
    events = app.topic(topics.events, key_type=bytes, value_type=bytes)
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
        """Exist: Faust does not start a worker, nor subscribe to a topic, without an agent."""
        async for _ in stream:
            raise AssertionError("the lane takes every record")

    return app


def _credentials(settings: Settings) -> Any:
    security = security_of(settings.kafka)
    context = None if security.tls is None else security.tls.context()
    if security.sasl is not None:
        return faust.SASLCredentials(
            username=security.sasl.username,
            password=security.sasl.password,
            mechanism=security.sasl.mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def run_worker(settings: Settings, tenants: Tenants) -> int:
    """Run until SIGTERM or SIGINT; return the exit status.

    Raises:
        ConfigurationError: the topics are not as they must be.
        UnavailableError: no broker answers, or the port is taken.
    """
    configure(settings.log)
    limit_arenas()
    # Cyclic garbage is rare on the hot path and states are not tracked: look for it seldom.
    gc.collect()
    gc.freeze()
    gc.set_threshold(500_000, 20, 100)
    worker = settings.worker

    def check() -> None:
        problems = tenants.problems_in_worker(worker.seal_after_ms)
        problems += TopicAdmin(settings).problems() or lost_states(settings)
        if problems:
            raise ConfigurationError(problems)

    def run(seat: Seat) -> int:
        structlog.contextvars.bind_contextvars(process=seat.number)
        return _run(settings, tenants, seat.listening, seat)

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
        return run_processes(worker, check, run)
    check()
    return _run(settings, tenants, listen(worker.http_host, worker.http_port), None)


def _run(settings: Settings, tenants: Tenants, listening: socket.socket, seat: Seat | None) -> int:
    with tempfile.TemporaryDirectory(prefix="resmeter-worker-") as data:
        return uvloop.run(_Worker(settings, tenants, Path(data)).run(listening, seat))


class _Worker:
    """One run: the app, its metrics, and what says that it is ready."""

    def __init__(self, settings: Settings, tenants: Tenants, data: Path) -> None:
        self._settings = settings
        self._tenants = tenants
        self._data = data
        self._kafka = f"Kafka at {settings.kafka.bootstrap_servers}"
        self._registry = CollectorRegistry()
        self._metrics = WorkerMetrics(self._registry)
        self._log = get_logger("worker")
        self._unready_since = time.monotonic()
        self._unreached = False
        self._app: LaneApp

    async def run(self, listening: socket.socket, seat: Seat | None) -> int:
        """Run until told to stop; return the exit status. With a seat, it is one of several."""
        settings = self._settings
        name = "worker" if seat is None else "process"
        app = self._app = build_app(settings, self._tenants, self._metrics, self._data)
        self._metrics.watch(app.lane)
        app.lane.create_time = settings.topics.events_timestamps == "CreateTime"
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if seat is not None:
            seat.take(stop.set)
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(
                serving(listening, text_of(self._registry), self._answer_ready)
            )
            try:
                await app.lane.outputs.start()
            except Exception as error:
                raise UnavailableError(
                    f"cannot write to Kafka at {settings.kafka.bootstrap_servers}: {error}"
                ) from error
            stack.push_async_callback(app.lane.outputs.stop)
            self._log.info(f"{name}_started", group=settings.worker.group, http_port=port)
            if settings.log.level != "debug":
                _hush_faust()
            app.finalize()
            await app.start()
            gauges = asyncio.ensure_future(self._gauge())
            reaching = asyncio.ensure_future(self._reach())
            stopped = asyncio.ensure_future(stop.wait())
            crashed = asyncio.ensure_future(self._crash(app))
            tasks = (gauges, reaching, stopped, crashed)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    die("worker_failed", task.exception())
                task.cancel()
            if not stop.is_set():
                die("worker_crashed", app.crash_reason)
            await self._stop(app)
        self._log.info(f"{name}_stopped")
        return 0

    async def _stop(self, app: LaneApp) -> None:
        seconds = self._settings.worker.stop_seconds_max
        ending = asyncio.ensure_future(self._drain(app))
        if not (await asyncio.wait([ending], timeout=seconds))[0]:
            # Where no broker answers, clients wait for it, deaf to being cancelled.
            self._log.warning(
                "stopped_without_commit",
                after_seconds=seconds,
                consequence="what was under way is read again; nothing is lost",
            )
            sys.stderr.flush()
            os._exit(1)
        ending.result()

    async def _drain(self, app: LaneApp) -> None:
        # Nothing new is taken; what is under way ends and is committed; then the group is left.
        app.consumer.stop_flow()
        await app.lane.drain()
        await app.consumer.commit()
        await app.stop()

    async def _crash(self, app: LaneApp) -> None:
        while not app.crashed and not app.should_stop:  # noqa: ASYNC110 - Faust has only flags
            await asyncio.sleep(0.2)

    # --- what is seen from outside ------------------------------------------------------------------

    async def _answer_ready(self) -> list[str]:
        return self.problems()

    def problems(self) -> list[str]:
        app = getattr(self, "_app", None)
        if app is None or not app.started:
            return ["starting"]
        found = []
        if app.rebalancing:
            found.append("rebalancing")
        # Faust's own flag is up a moment late.
        if app.in_recovery or not all(p.is_recovered for p in app.lane.partitions.values()):
            found.append("reading states from the changelog")
        if not app.lane.partitions:  # the consumer itself cannot be asked before it runs
            found.append("no partitions are assigned")
        if self._unreached:
            found.append(f"{self._kafka} does not answer")
        return found

    async def _reach(self) -> None:
        while True:
            await asyncio.sleep(_REACH_SECONDS)
            try:
                answered = await asyncio.wait_for(self._app.lane.outputs.reach(), _REACH_SECONDS)
            except TimeoutError:
                answered = False
            self._unreached = not answered

    async def _gauge(self) -> None:
        limit = self._settings.worker.recovery_seconds_max
        while True:
            await asyncio.sleep(_GAUGES_SECONDS)
            now = time.monotonic()
            # With none of these would a process that starts anew be any better off.
            problems = [
                p for p in self.problems() if not p.startswith(("no partitions", self._kafka))
            ]
            if not problems:
                self._unready_since = now
                self._gauge_partitions(now)
            elif now - self._unready_since > limit:
                die("not_ready_for_too_long", TimeoutError(", ".join(problems)), seconds=limit)

    def _gauge_partitions(self, now: float) -> None:
        app, lane, metrics = self._app, self._app.lane, self._metrics
        host = time.time() * 1000
        for number in list(lane.partitions):
            end = app.consumer.highwater(TP(lane.events_topic, number))
            done = lane.done.get(number)
            committed = app.consumer._committed_offset[TP(lane.events_topic, number)]
            position = done if done is not None else committed
            lag = 0 if end is None or position is None else max(0, end - position)
            metrics.lag_records.labels(number).set(lag)
            arrival = lane.arrival.get(number)
            metrics.lag_seconds.labels(number).set(
                max(0.0, (host - arrival) / 1000) if lag and arrival is not None else 0.0
            )
            behind = done is not None and committed is not None and committed < done
            metrics.commit_age.labels(number).set(
                now - lane.done_at[number] if behind and number in lane.done_at else 0.0
            )


def _hush_faust() -> None:
    # Faust tells each step of each rebalance at `info`; what matters is in our own lines.
    for name in ("faust", "mode", "aiokafka", LaneApp.__module__):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It cannot know that its fetcher has nothing to say while the lane reads, nor that a timer waits
    # for the batch that is in hand.
    for name in ("faust.transport.drivers.aiokafka", "mode.timers"):
        logging.getLogger(name).setLevel(logging.ERROR)
