"""Measure the throughput of worker and sink, and compare it with a bare consumer's.

    python -m benchmarks.bench [--events 2000000] [--stock-events 60000]

The benchmark uses the broker at RESMETER_KAFKA__BOOTSTRAP_SERVERS, or starts one. The measured parts
run one after the other, each in a separate process: bare consumer, workers and stock agent over the
same topic, the sink over the worker's usage records. The worker's time begins when the worker is
ready, and ends when its last offset is committed. The sink's time begins with its first transaction,
and ends when the last usage record is in the ledger.
"""

import contextlib
import os
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter

import click
import orjson
import psutil
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import (
    PARTITIONS,
    Committed,
    Sender,
    broker,
    cpu_seconds,
    environment,
    machine,
    metric,
    peak_mib,
    rss_bytes,
    until,
    until_ok,
)
from pipeline.config import load_settings
from pipeline.dev.broker import free_port
from pipeline.dev.load import events
from pipeline.dev.process import run_or_raise, running

Measured = dict[str, float]

_RECORDS_PARTITIONS = 4
_MODULE_SECONDS_MAX = 1_800.0
_console = Console(stderr=True)


@click.command()
@click.option(
    "--events",
    "count",
    type=click.IntRange(min=200_000),  # fewer would all be in the sink's first transaction
    default=2_000_000,
    show_default=True,
)
@click.option(
    "--stock-events", default=60_000, show_default=True, help="Events for the stock agent."
)
def main(count: int, stock_events: int) -> None:
    """Measure a bare consumer, a worker (one process, then one per core), a stock agent, the sink."""
    with (
        tempfile.TemporaryDirectory(prefix="resmeter-bench-") as folder,
        broker(Path(folder)) as bootstrap,
    ):
        _report(_measure(Path(folder), bootstrap, count, min(stock_events, count)))


def _measure(data: Path, bootstrap: str, count: int, stock_events: int) -> dict[str, Measured]:
    name = f"bench-{uuid.uuid4().hex[:8]}"
    port, ledger, log = free_port(), data / "ledger.sqlite", data / "log"
    env = environment(
        name,
        bootstrap,
        {
            "RESMETER_TOPICS__RECORDS_PARTITIONS": str(_RECORDS_PARTITIONS),
            "RESMETER_WORKER__HTTP_PORT": str(port),
            "RESMETER_SINK__HTTP_PORT": "0",
            "RESMETER_LEDGER__URL": f"sqlite:///{ledger}",
            "RESMETER_STRIPE__API_KEY": "sk_test_bench",
            "RESMETER_STRIPE__BASE_URL": f"http://127.0.0.1:{free_port()}",
        },
    )
    load_settings()
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    all_cores_env = {
        **env,
        "RESMETER_TOPICS__CHANGELOG": f"{name}-cores-changelog",
        "RESMETER_TOPICS__RECORDS": f"{name}-cores.records",
        "RESMETER_WORKER__GROUP": f"{name}-cores",
        "RESMETER_WORKER__PROCESSES": str(min(cores, PARTITIONS)),
    }
    stock_env = {**env, "RESMETER_TOPICS__CHANGELOG": f"{name}-stock-changelog"}
    for each in (env, stock_env, all_cores_env):
        run_or_raise(["topics", "create"], each)
    topic = env["RESMETER_TOPICS__EVENTS"]
    measured: dict[str, Measured] = {}
    with _console.status(f"loading {count:,} events"):
        _load(bootstrap, topic, count)
    with _console.status("bare consumer"):
        measured["bare_before"] = _module("benchmarks.bare", bootstrap, topic, count)
    with _console.status("worker"):
        measured["worker"] = _worker(env, bootstrap, count, port, log)
    with _console.status("worker, one process per core"):
        measured["worker_all_cores"] = _worker(all_cores_env, bootstrap, count, port, log)
    with _console.status("bare consumer, again"):
        measured["bare_after"] = _module("benchmarks.bare", bootstrap, topic, count)
    with _console.status("sink"):
        measured["sink"] = _sink(env, bootstrap, ledger, log)
    with _console.status("stock Faust agent"):
        measured["stock"] = _module(
            "benchmarks.stock",
            bootstrap,
            topic,
            stock_env["RESMETER_TOPICS__CHANGELOG"],
            env["RESMETER_TOPICS__RECORDS"],
            stock_events,
            PARTITIONS,
            f"{name}-stock",
        )
    return measured


def _load(bootstrap: str, topic: str, count: int) -> None:
    sender = Sender(bootstrap)
    headers = [("content-type", b"application/cloudevents+json")]
    for number, record in enumerate(events(count)):
        sender.send(topic, record, headers=headers)
        if number % 2_000 == 0:
            sender.poll()
    sender.flush()


def _module(module: str, *arguments: object) -> Measured:
    """Run a module that prints its measurements as JSON in its last line."""
    printed = run_or_raise(
        list(map(str, arguments)), os.environ, module=module, seconds_max=_MODULE_SECONDS_MAX
    )
    result: Measured = orjson.loads(printed.splitlines()[-1])
    return result


def _worker(env: Mapping[str, str], bootstrap: str, count: int, port: int, log: Path) -> Measured:
    """Measure a worker, from the time when all its processes have their partitions."""
    committed = Committed(bootstrap, env["RESMETER_WORKER__GROUP"], env["RESMETER_TOPICS__EVENTS"])
    with running("worker", ["worker"], env, log) as process:
        until_ok(f"http://127.0.0.1:{port}/health/ready", process)
        watched = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        first, began = committed.total(), perf_counter()
        cpu, rss = cpu_seconds(watched), rss_bytes(watched)
        until(lambda: committed.total() >= count, "it has committed all events", process)
        seconds, cpu = perf_counter() - began, cpu_seconds(watched) - cpu
        peak, grown = sum(map(peak_mib, watched)), rss_bytes(watched) - rss
        conversations = metric(port, "resmeter_conversations")
        committed.close()
        # Wait until the windows are closed, so that the sink gets all usage records.
        until(
            lambda: metric(port, "resmeter_open_conversations") == 0,
            "no conversation is open",
            process,
            probe_seconds=1.0,
        )
    return {
        "events": count - first,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": peak,
        "conversations": conversations,
        "grown_bytes": grown,
    }


def _sink(env: Mapping[str, str], bootstrap: str, ledger: Path, log: Path) -> Measured:
    """Measure a sink, from its first transaction to its last."""
    count = _end(bootstrap, env["RESMETER_TOPICS__RECORDS"], _RECORDS_PARTITIONS)
    run_or_raise(["ledger", "upgrade"], env)
    with (
        contextlib.closing(sqlite3.connect(ledger)) as reader,
        running("sink", ["sink"], env, log) as process,
    ):

        def stored() -> int:
            [(total,)] = reader.execute("SELECT sum(next_offset) FROM consumer_offset").fetchall()
            return total or 0

        watched = [psutil.Process(process.pid)]
        until(lambda: stored() > 0, "the ledger has a record", process, probe_seconds=0.01)
        first, began, cpu = stored(), perf_counter(), cpu_seconds(watched)
        until(lambda: stored() >= count, "the ledger has all", process, probe_seconds=0.02)
        seconds, cpu = perf_counter() - began, cpu_seconds(watched) - cpu
        peak = peak_mib(watched[0])
    return {"events": count - first, "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}


def _end(bootstrap: str, topic: str, partitions: int) -> int:
    """Return how many records a topic has, over all partitions."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench-ends"})
    try:
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic, number))[1]
            for number in range(partitions)
        )
    finally:
        consumer.close()


def _rate(measured: Measured) -> float:
    return measured["events"] / measured["seconds"]


def _report(measured: Mapping[str, Measured]) -> None:
    ceiling = (_rate(measured["bare_before"]) + _rate(measured["bare_after"])) / 2
    rows = {
        "bare_before": "bare consumer, before",
        "worker": "worker, one process",
        "worker_all_cores": "worker, one process per core",
        "bare_after": "bare consumer, after",
        "stock": "stock Faust agent",
        "sink": "sink (usage records)",
    }
    table = Table(title=machine())
    for column in ("", "events", "events/s", "CPU µs per event", "peak MiB", "to bare"):
        table.add_column(column, justify="right" if column else "left")
    for key, name in rows.items():
        part = measured[key]
        table.add_row(
            name,
            f"{part['events']:,.0f}",
            f"{_rate(part):,.0f}",
            f"{part['cpu_seconds'] / part['events'] * 1e6:.1f}",
            f"{part['peak_mib']:,.0f}",
            f"{_rate(part) / ceiling:.2f}",
        )
    out = Console()
    (out if out.is_terminal else Console(width=100)).print(table)
    worker = measured["worker"]
    click.echo(
        f"worker: {_rate(measured['worker_all_cores']) / ceiling:.2f} of the bare consumer on all "
        f"cores, {_rate(worker) / ceiling:.2f} on one; "
        f"{_rate(worker) / _rate(measured['stock']):.1f} times the stock agent, "
        f"{worker['grown_bytes'] / worker['conversations']:,.0f} bytes per conversation "
        f"({worker['conversations']:,.0f} in memory)"
    )
    as_json = {
        "bare": [measured["bare_before"], measured["bare_after"]],
        "worker": worker,
        "spread": measured["worker_all_cores"],
        "stock": measured["stock"],
        "sink": measured["sink"],
    }
    click.echo(orjson.dumps(as_json).decode(), err=True)


if __name__ == "__main__":
    main()
