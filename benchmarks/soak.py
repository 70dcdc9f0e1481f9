"""This file runs worker and sink for long under a steady load, and writes down what they hold.

    python -m benchmarks.soak [--minutes 60] [--rate 28000] [--out docs/soak]

A fixed number of customers keeps coming back: every fifty hours of the log's time each begins an
episode of a few events, so that each return finds its conversation sealed. An hour at 28,000 events
a second is some fifty returns of 400,000 customers, or four months of the log's time. Stripe's
stand-in keeps the log's time. Written are samples (NDJSON) and a plot of them (SVG).
"""

import heapq
import os
import platform
import random
import subprocess
import sys
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
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from rich.console import Console

from benchmarks.plot import Panel, draw
from benchmarks.processes import PARTITIONS, answers, broker, metric, running, until
from pipeline.dev.broker import free_port
from pipeline.events.times import format_time

_TENANTS = 40
_SEAL_AFTER_DAYS = 2
_CYCLE_MS = 50 * 3_600_000
_BILLED_SHARE = 0.1  # of episodes
_SAMPLE_SECONDS = 5.0
_TICK_SECONDS = 0.05
_START_MS = 1_760_000_000_000
# Disk is not what is measured: the log keeps enough for a worker that is minutes behind.
_TOPIC_CONFIG = {
    "EVENTS": {"retention.bytes": "400000000", "segment.bytes": "50000000"},
    "CHANGELOG": {"min.compaction.lag.ms": "60000", "segment.bytes": "50000000"},
    "RECORDS": {"retention.bytes": "400000000", "segment.bytes": "50000000"},
}
_console = Console(stderr=True)


class _Sent(NamedTuple):
    at: int
    key: bytes
    value: bytes


class Customers:
    """Customers that come back, one after the other, in the order of the log's time."""

    def __init__(self, number: int, seed: int = 1) -> None:
        self._number = number
        self._draw = random.Random(seed)

    def events(self) -> Iterator[_Sent]:
        waiting: list[tuple[int, int, _Sent]] = []
        order = count()
        for episode in count():
            start = _START_MS + episode * _CYCLE_MS // self._number
            while waiting and waiting[0][0] <= start:
                yield heapq.heappop(waiting)[2]
            for sent in self._episode(episode, start):
                heapq.heappush(waiting, (sent.at, next(order), sent))

    def _episode(self, episode: int, at: int) -> Iterator[_Sent]:
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
            yield _Sent(
                at,
                key,
                b'{"specversion":"1.0","id":"e%d-%d","source":"/chat/soak",'
                b'"type":"conversation.%b","subject":"c%d","time":"%b","tenantid":"t%d","data":%b}'
                % (episode, n, kind.encode(), customer, format_time(at).encode(), tenant, data),
            )


class Load:
    """The producer, held to a rate."""

    def __init__(self, bootstrap: str, topic: str, customers: Customers) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 20,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
                "partitioner": "murmur2_random",
            }
        )
        self._topic = topic
        self._coming = customers.events()
        self.sent = 0
        self.at = _START_MS

    def send(self, number: int) -> None:
        produce, topic = self._producer.produce, self._topic
        for _ in range(number):
            at, key, value = next(self._coming)
            while True:
                try:
                    produce(topic, value, key, timestamp=at)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        self._producer.poll(0)
        self.sent += number
        self.at = at

    def end(self) -> None:
        self._producer.flush(60)


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
        data = Path(folder)
        tenants = data / "resmeter.toml"
        tenants.write_text(
            "".join(f'[tenants.t{n}]\nstripe_customer = "cus_soak{n}"\n' for n in range(_TENANTS))
        )
        ports = {name: free_port() for name in ("worker", "sink", "emulator")}
        ledger = data / "ledger.sqlite"
        env = {
            **os.environ,
            "RESMETER_CONFIG": str(tenants),
            "RESMETER_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "RESMETER_TOPICS__EVENTS": "soak.events",
            "RESMETER_TOPICS__CHANGELOG": "soak-changelog",
            "RESMETER_TOPICS__RECORDS": "soak.records",
            "RESMETER_TOPICS__DEAD_LETTERS": "soak.dlq",
            "RESMETER_TOPICS__EVENTS_TIMESTAMPS": "CreateTime",
            "RESMETER_TOPICS__PARTITIONS": str(PARTITIONS),
            "RESMETER_WORKER__GROUP": "soak",
            "RESMETER_WORKER__HTTP_PORT": str(ports["worker"]),
            "RESMETER_WORKER__SEAL_AFTER_DAYS": str(_SEAL_AFTER_DAYS),
            "RESMETER_SINK__GROUP": "soak-sink",
            "RESMETER_SINK__HTTP_PORT": str(ports["sink"]),
            "RESMETER_LEDGER__URL": f"sqlite:///{ledger}",
            "RESMETER_STRIPE__API_KEY": "sk_test_soak",
            "RESMETER_STRIPE__BASE_URL": f"http://127.0.0.1:{ports['emulator']}",
        }
        for command in (["topics", "create"], ["ledger", "upgrade"]):
            subprocess.run(
                [sys.executable, "-m", "pipeline", *command],
                env=env,
                check=True,
                capture_output=True,
            )
        _configure(bootstrap, env)
        load = Load(bootstrap, "soak.events", Customers(customers))
        log = data / "log"
        stand_in = ["emulator", "--port", str(ports["emulator"]), "--tenants", str(tenants)]
        with (
            running(*stand_in, env=env, log=log) as stripe,
            running("worker", env=env, log=log) as worker,
            running("sink", env=env, log=log) as sink,
        ):
            for name, process in (("worker", worker), ("sink", sink)):
                url = f"http://127.0.0.1:{ports[name]}/health/ready"
                until(lambda url=url: answers(url), 0.1, process)
            until(
                lambda: answers(f"http://127.0.0.1:{ports['emulator']}/_emulator/health"),
                0.1,
                stripe,
            )
            watched = {"worker": psutil.Process(worker.pid), "sink": psutil.Process(sink.pid)}
            cpu = sum(watched["worker"].cpu_times()[:2])
            samples = []
            with out.with_suffix(".ndjson").open("wb") as file:
                began = time.monotonic()
                next_sample = 0.0
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
                    samples.append(_sample(now, load, ports, watched, ledger))
                    file.write(orjson.dumps(samples[-1]) + b"\n")
                    file.flush()
                    _console.print(samples[-1], highlight=False)
                    for process in (worker, sink, stripe):
                        if process.poll() is not None:
                            _console.print(log.read_text()[-4_000:], markup=False)
                            raise click.ClickException("a process ended")
                load.end()
                until(lambda: metric(ports["worker"], "resmeter_lag_records{") == 0, 0.5, worker)
                cpu = sum(watched["worker"].cpu_times()[:2]) - cpu
                samples.append(_sample(time.monotonic() - began, load, ports, watched, ledger))
                file.write(orjson.dumps(samples[-1]) + b"\n")
        out.with_suffix(".svg").write_text(_draw(samples))
    click.echo(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}: "
        f"{load.sent:,} events in {minutes:g} minutes, {cpu / load.sent * 1e6:.1f} µs of the "
        f"worker's CPU an event"
    )


if __name__ == "__main__":
    main()
