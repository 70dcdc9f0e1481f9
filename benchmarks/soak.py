"""Run worker and sink under a steady load for an hour, and record their memory and lag.

    python -m benchmarks.soak [--minutes 60] [--rate 28000] [--out docs/internals/soak]

A fixed number of customers returns every fifty hours of log time, each with an episode of a few
events. Conversations are sealed after two days, so each customer returns to a sealed conversation.
In an hour at 28,000 events a second, 400,000 customers return more than fifty times; the log covers
about four months. The clock of the Stripe emulator follows the log. The results are samples
(NDJSON) and a plot (SVG).
"""

import contextlib
import heapq
import random
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import click
import orjson
import psutil
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from rich.console import Console

from benchmarks.measuring import (
    Sender,
    broker,
    cpu_seconds,
    environment,
    machine,
    metric,
    until,
    until_ok,
)
from benchmarks.plot import Panel, draw
from pipeline.dev.broker import free_port
from pipeline.dev.load import EventRecord
from pipeline.dev.process import Process, run_or_raise, running
from pipeline.events.times import format_time

_TENANTS = 40
_SEAL_AFTER_DAYS = 2
_CYCLE_MS = 50 * 3_600_000
_BILLED_SHARE = 0.1  # of episodes
_SAMPLE_SECONDS = 5.0
_TICK_SECONDS = 0.05
_START_MS = 1_760_000_000_000
# Limits the disk space of the run, and leaves enough for a worker that is minutes behind.
_TOPIC_CONFIG = {
    "EVENTS": {"retention.bytes": "400000000", "segment.bytes": "50000000"},
    "CHANGELOG": {"min.compaction.lag.ms": "60000", "segment.bytes": "50000000"},
    "RECORDS": {"retention.bytes": "400000000", "segment.bytes": "50000000"},
}
_LEDGER = "ledger.sqlite"
_console = Console(stderr=True)


class Customers:
    """Generates the events of customers that return again and again, in order of log time."""

    def __init__(self, number: int, seed: int = 1) -> None:
        self._number = number
        self._draw = random.Random(seed)

    def events(self) -> Iterator[EventRecord]:
        waiting: list[tuple[int, int, EventRecord]] = []
        order = count()
        for episode in count():
            start = _START_MS + episode * _CYCLE_MS // self._number
            while waiting and waiting[0][0] <= start:
                yield heapq.heappop(waiting)[2]
            for record in self._episode(episode, start):
                heapq.heappush(waiting, (record.timestamp_ms, next(order), record))

    def _episode(self, episode: int, at: int) -> Iterator[EventRecord]:
        customer = episode % self._number
        tenant = customer % _TENANTS
        key = b"t%d:c%d" % (tenant, customer)
        draw = self._draw.random
        steps = [
            ("customer_message", b'{"intent":"help_request","classifier":"intent-7"}'),
            ("ai_message", b'{"kind":"answer","agent":"support-ai"}'),
        ]
        if draw() < 0.6:
            steps.append(("ai_message", b'{"kind":"answer","agent":"support-ai"}'))
        if draw() >= _BILLED_SHARE:
            steps.append(("handoff", b'{"cause":"default"}'))
            steps.append(("human_message", b'{"visibility":"public"}'))
        elif draw() < 0.5:
            steps.append(("customer_message", b'{"intent":"confirmation"}'))
        for n, (kind, data) in enumerate(steps):
            at += 1 + int(draw() * 60_000)
            yield EventRecord(
                at,
                key,
                b'{"specversion":"1.0","id":"e%d-%d","source":"/chat/soak",'
                b'"type":"conversation.%b","subject":"c%d","time":"%b","tenantid":"t%d","data":%b}'
                % (episode, n, kind.encode(), customer, format_time(at).encode(), tenant, data),
            )


class Load:
    """Produces the customers' events, and counts them. `at` is the time of the last one, in ms."""

    def __init__(self, bootstrap: str, topic: str, customers: Customers) -> None:
        self._sender = Sender(bootstrap)
        self._topic = topic
        self._events = customers.events()
        self.sent = 0
        self.at = _START_MS

    def send(self, number: int) -> None:
        """Produce the next `number` events."""
        for _ in range(number):
            record = next(self._events)
            self._sender.send(self._topic, record)
        self._sender.poll()
        self.sent += number
        self.at = record.timestamp_ms

    def flush(self) -> None:
        self._sender.flush()


class _Running(NamedTuple):
    """The processes of a run, and their ports by the names of the processes."""

    worker: Process
    sink: Process
    emulator: Process
    ports: dict[str, int]


def _configure(bootstrap: str, env: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            env[f"RESMETER_TOPICS__{which}"],
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                for name, value in config.items()
            ],
        )
        for which, config in _TOPIC_CONFIG.items()
    ]
    for future in admin.incremental_alter_configs(resources).values():
        future.result(10)


def _set_clock(port: int, at: int) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/_emulator/clock",
        orjson.dumps({"now": at / 1000}),
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=10):
        pass


def _sample(
    seconds: float,
    load: Load,
    ports: dict[str, int],
    processes: dict[str, psutil.Process],
    ledger: Path,
) -> dict[str, float]:
    worker, sink = ports["worker"], ports["sink"]
    return {
        "seconds": round(seconds, 1),
        "events": load.sent,
        "log_days": round((load.at - _START_MS) / 86_400_000, 2),
        **{f"{name}_mib": round(p.memory_info().rss / 2**20, 1) for name, p in processes.items()},
        "conversations": metric(worker, "resmeter_conversations"),
        "sealed": metric(worker, "resmeter_sealed_total"),
        "lag_records": metric(worker, "resmeter_lag_records"),
        "unacknowledged_batches": metric(worker, "resmeter_unacknowledged_batches"),
        "unaccounted": metric(worker, "resmeter_records_unaccounted"),
        "usage_records": metric(sink, "resmeter_usage_records_total"),
        "sink_lag_records": metric(sink, "resmeter_sink_lag_records"),
        "pending_age_seconds": metric(sink, "resmeter_pending_age_seconds"),
        "delivered": metric(sink, "resmeter_deliveries_total", 'result="delivered"'),
        "ledger_mib": round(ledger.stat().st_size / 2**20, 1),
    }


def _draw(samples: Sequence[Mapping[str, float]]) -> str:
    """Return an SVG of memory, conversations, lag and throughput over the run."""

    def series(name: str, unit: float = 1.0) -> list[float]:
        return [sample[name] / unit for sample in samples]

    panels = [
        Panel("memory (MiB, RSS)", {"worker": series("worker_mib"), "sink": series("sink_mib")}),
        Panel(
            "conversations held, histories dropped (millions)",
            {"held": series("conversations", 1e6), "dropped": series("sealed", 1e6)},
        ),
        Panel(
            "records waiting (thousands)",
            {
                "for the worker": series("lag_records", 1e3),
                "for the sink": series("sink_lag_records", 1e3),
            },
        ),
        Panel(
            "done so far (millions)",
            {"events": series("events", 1e6), "usage records": series("usage_records", 1e6)},
        ),
    ]
    return draw(panels, series("seconds", 60), "minutes")


@click.command()
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--rate", default=28_000, show_default=True, help="Events a second.")
@click.option("--customers", default=400_000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("soak"), show_default=True)
def main(minutes: float, rate: int, customers: int, out: Path) -> None:
    """Run worker and sink under a steady load, and write OUT.ndjson and OUT.svg."""
    with (
        tempfile.TemporaryDirectory(prefix="resmeter-soak-") as folder,
        broker(Path(folder)) as bootstrap,
    ):
        ports = {name: free_port() for name in ("worker", "sink", "emulator")}
        env = _environment(Path(folder), bootstrap, ports)
        run_or_raise(["topics", "create"], env)
        run_or_raise(["ledger", "upgrade"], env)
        _configure(bootstrap, env)
        load = Load(bootstrap, env["RESMETER_TOPICS__EVENTS"], Customers(customers))
        with _running(env, ports, Path(folder) / "log") as processes:
            worker = [psutil.Process(processes.worker.pid)]
            cpu = cpu_seconds(worker)
            samples = []
            with out.with_suffix(".ndjson").open("wb") as file:
                for sample in _samples(processes, load, minutes, rate, Path(folder)):
                    samples.append(sample)
                    file.write(orjson.dumps(sample) + b"\n")
                    file.flush()
                    _console.print(sample, highlight=False)
            cpu = cpu_seconds(worker) - cpu
        out.with_suffix(".svg").write_text(_draw(samples))
    click.echo(
        f"{machine()}: {load.sent:,} events in {minutes:g} minutes, "
        f"{cpu / load.sent * 1e6:.1f} µs of the worker's CPU time per event"
    )


def _environment(data: Path, bootstrap: str, ports: Mapping[str, int]) -> dict[str, str]:
    tenants = data / "resmeter.toml"
    tenants.write_text(
        "".join(f'[tenants.t{n}]\nstripe_customer = "cus_soak{n}"\n' for n in range(_TENANTS))
    )
    return environment(
        "soak",
        bootstrap,
        {
            "RESMETER_CONFIG": str(tenants),
            "RESMETER_WORKER__HTTP_PORT": str(ports["worker"]),
            "RESMETER_WORKER__SEAL_AFTER_DAYS": str(_SEAL_AFTER_DAYS),
            "RESMETER_SINK__HTTP_PORT": str(ports["sink"]),
            "RESMETER_LEDGER__URL": f"sqlite:///{data / _LEDGER}",
            "RESMETER_STRIPE__API_KEY": "sk_test_soak",
            "RESMETER_STRIPE__BASE_URL": f"http://127.0.0.1:{ports['emulator']}",
        },
    )


@contextlib.contextmanager
def _running(env: Mapping[str, str], ports: dict[str, int], log: Path) -> Iterator[_Running]:
    """Run worker, sink and emulator; yield them once they are ready."""
    emulator_options = ["--port", str(ports["emulator"]), "--tenants", env["RESMETER_CONFIG"]]
    with (
        running("emulator", ["emulator", *emulator_options], env, log) as emulator,
        running("worker", ["worker"], env, log) as worker,
        running("sink", ["sink"], env, log) as sink,
    ):
        until_ok(f"http://127.0.0.1:{ports['worker']}/health/ready", worker)
        until_ok(f"http://127.0.0.1:{ports['sink']}/health/ready", sink)
        until_ok(f"http://127.0.0.1:{ports['emulator']}/_emulator/health", emulator)
        yield _Running(worker, sink, emulator, ports)


def _samples(
    processes: _Running, load: Load, minutes: float, rate: int, data: Path
) -> Iterator[dict[str, float]]:
    """Send the load at its rate, and yield a sample every few seconds.

    Yield the last sample when the worker has read all events.
    """
    watched = {
        "worker": psutil.Process(processes.worker.pid),
        "sink": psutil.Process(processes.sink.pid),
    }
    ports, began, next_sample = processes.ports, time.monotonic(), 0.0
    while (now := time.monotonic() - began) < minutes * 60:
        behind = int(now * rate) - load.sent
        if behind < rate * _TICK_SECONDS:
            time.sleep(_TICK_SECONDS / 2)
            continue
        load.send(min(behind, rate))
        if now < next_sample:
            continue
        next_sample = now + _SAMPLE_SECONDS
        _set_clock(ports["emulator"], load.at)
        yield _sample(now, load, ports, watched, data / _LEDGER)
        for process in (processes.worker, processes.sink, processes.emulator):
            process.check()
    load.flush()
    until(
        lambda: metric(ports["worker"], "resmeter_lag_records{") == 0,
        "the worker has read all events",
        processes.worker,
        probe_seconds=0.5,
    )
    yield _sample(time.monotonic() - began, load, ports, watched, data / _LEDGER)


if __name__ == "__main__":
    main()
