"""This file measures the speed of worker and sink, as ratios to a bare consumer in the same run.

    python -m benchmarks.bench [--events 2000000] [--stock-events 60000]

One real broker: the one that RESMETER_KAFKA__BOOTSTRAP_SERVERS names, else one out of wheels. All
measured parts are processes of their own, one after the other, over the same topic. The worker is
timed from the moment it is ready to the moment its last offset is committed; the sink likewise to
the last record in the ledger.
"""

import contextlib
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import click
import orjson
import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.load import events
from benchmarks.processes import (
    PARTITIONS,
    Committed,
    answers,
    broker,
    metric,
    peak_mib,
    running,
    until,
)
from pipeline.config import load_settings
from pipeline.dev.broker import free_port

_console = Console(stderr=True)


def _load(bootstrap: str, topic: str, count: int) -> None:
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
            "partitioner": "murmur2_random",
        }
    )
    headers: list[tuple[str, str | bytes | None]] = [
        ("content-type", b"application/cloudevents+json")
    ]
    for number, sent in enumerate(events(count)):
        while True:
            try:
                producer.produce(topic, sent.value, sent.key, timestamp=sent.at, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 2_000 == 0:
            producer.poll(0)
    producer.flush(120)


def _ends(bootstrap: str, topic: str, partitions: int) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench-ends"})
    try:
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic, number))[1]
            for number in range(partitions)
        )
    finally:
        consumer.close()


def _worker(
    env: dict[str, str], bootstrap: str, count: int, port: int, log: Path
) -> dict[str, float]:
    """Measure a worker from when it is ready: all its processes have their partitions."""
    committed = Committed(bootstrap, env["RESMETER_WORKER__GROUP"], env["RESMETER_TOPICS__EVENTS"])
    with running("worker", env=env, log=log) as process:
        until(lambda: answers(f"http://127.0.0.1:{port}/health/ready"), 0.05, process)
        watched = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
        done, began = committed.total(), time.perf_counter()
        cpu, before = _cpu_seconds(watched), _rss(watched)
        until(lambda: committed.total() >= count, 0.05, process)
        seconds, cpu = time.perf_counter() - began, _cpu_seconds(watched) - cpu
        peak, grown = sum(map(peak_mib, watched)), _rss(watched) - before
        conversations = metric(port, "resmeter_conversations")
        committed.close()
        # The windows close once the partitions have stayed at their end: records for the sink.
        until(lambda: metric(port, "resmeter_open_conversations") == 0, 1.0, process)
    return {
        "events": count - done,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": peak,
        "conversations": conversations,
        "grown_bytes": grown,
    }


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _rss(processes: Sequence[psutil.Process]) -> float:
    return float(sum(process.memory_info().rss for process in processes))


def _sink(env: dict[str, str], bootstrap: str, ledger: Path, log: Path) -> dict[str, float]:
    count = _ends(bootstrap, env["RESMETER_TOPICS__RECORDS"], 4)
    subprocess.run(
        [sys.executable, "-m", "pipeline", "ledger", "upgrade"],
        env=env,
        check=True,
        capture_output=True,
    )
    with (
        contextlib.closing(sqlite3.connect(ledger)) as reader,
        running("sink", env=env, log=log) as process,
    ):

        def stored() -> int:
            total: int | None = reader.execute(
                "SELECT sum(next_offset) FROM consumer_offset"
            ).fetchone()[0]
            return total or 0

        watched = psutil.Process(process.pid)
        until(lambda: stored() > 0, 0.01, process)
        first, began, cpu = stored(), time.perf_counter(), sum(watched.cpu_times()[:2])
        until(lambda: stored() >= count, 0.02, process)
        seconds, cpu = time.perf_counter() - began, sum(watched.cpu_times()[:2]) - cpu
        peak = peak_mib(watched)
    return {"events": count - first, "seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}


def _measured(module: str, *arguments: object) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    result: dict[str, float] = orjson.loads(done.stdout.splitlines()[-1])
    return result


@click.command()
@click.option(
    "--events",
    "count",
    type=click.IntRange(min=200_000),  # with less, the sink's first transaction takes all
    default=2_000_000,
    show_default=True,
)
@click.option("--stock-events", default=60_000, show_default=True, help="for the stock agent")
def main(count: int, stock_events: int) -> None:
    """Measure a bare consumer, a worker of one process and of one a core, a stock agent, the sink."""
    with (
        tempfile.TemporaryDirectory(prefix="resmeter-bench-") as folder,
        broker(Path(folder)) as bootstrap,
    ):
        data = Path(folder)
        run = uuid.uuid4().hex[:8]
        port = free_port()
        names = {
            "EVENTS": f"bench-{run}.events",
            "CHANGELOG": f"bench-{run}-changelog",
            "RECORDS": f"bench-{run}.records",
            "DEAD_LETTERS": f"bench-{run}.dlq",
        }
        ledger = data / "ledger.sqlite"
        env = {
            **os.environ,
            **{f"RESMETER_TOPICS__{name}": topic for name, topic in names.items()},
            "RESMETER_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "RESMETER_TOPICS__EVENTS_TIMESTAMPS": "CreateTime",
            "RESMETER_TOPICS__PARTITIONS": str(PARTITIONS),
            "RESMETER_TOPICS__RECORDS_PARTITIONS": "4",
            "RESMETER_WORKER__GROUP": f"bench-{run}",
            "RESMETER_WORKER__HTTP_PORT": str(port),
            "RESMETER_SINK__GROUP": f"bench-{run}-sink",
            "RESMETER_SINK__HTTP_PORT": "0",
            "RESMETER_LEDGER__URL": f"sqlite:///{ledger}",
            "RESMETER_STRIPE__API_KEY": "sk_test_bench",
            "RESMETER_STRIPE__BASE_URL": f"http://127.0.0.1:{free_port()}",
        }
        load_settings()
        log = data / "log"
        stock_env = {**env, "RESMETER_TOPICS__CHANGELOG": f"bench-{run}-stock-changelog"}
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        again = {
            **env,
            "RESMETER_TOPICS__CHANGELOG": f"bench-{run}-cores-changelog",
            "RESMETER_TOPICS__RECORDS": f"bench-{run}-cores.records",
            "RESMETER_WORKER__GROUP": f"bench-{run}-cores",
            "RESMETER_WORKER__PROCESSES": str(min(cores, PARTITIONS)),
        }
        for which in (env, stock_env, again):
            subprocess.run(
                [sys.executable, "-m", "pipeline", "topics", "create"],
                env=which,
                check=True,
                capture_output=True,
            )
        try:
            with _console.status(f"loading {count:,} events"):
                _load(bootstrap, names["EVENTS"], count)
            with _console.status("bare consumer"):
                bare = [_measured("benchmarks.bare", bootstrap, names["EVENTS"], count)]
            with _console.status("worker"):
                worker = _worker(env, bootstrap, count, port, log)
            with _console.status("worker, a process a core"):
                spread = _worker(again, bootstrap, count, port, log)
            with _console.status("bare consumer, again"):
                bare.append(_measured("benchmarks.bare", bootstrap, names["EVENTS"], count))
            with _console.status("sink"):
                sink = _sink(env, bootstrap, ledger, log)
            with _console.status("stock Faust agent"):
                stock = _measured(
                    "benchmarks.stock",
                    bootstrap,
                    names["EVENTS"],
                    stock_env["RESMETER_TOPICS__CHANGELOG"],
                    names["RECORDS"],
                    min(stock_events, count),
                    PARTITIONS,
                    f"bench-{run}-stock",
                )
        except Exception:
            if log.exists():
                _console.print(log.read_text()[-4_000:], markup=False)
            raise
    _report(bare, worker, spread, stock, sink)


def _report(
    bare: list[dict[str, float]],
    worker: dict[str, float],
    spread: dict[str, float],
    stock: dict[str, float],
    sink: dict[str, float],
) -> None:
    def rate(part: dict[str, float]) -> float:
        return part["events"] / part["seconds"]

    ceiling = sum(map(rate, bare)) / len(bare)
    rows = [
        ("bare consumer, before", bare[0]),
        ("worker, one process", worker),
        ("worker, a process a core", spread),
        ("bare consumer, after", bare[1]),
        ("stock Faust agent", stock),
        ("sink (usage records)", sink),
    ]
    table = Table(
        title=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    for column in ("", "events", "events/s", "CPU µs an event", "peak MiB", "to bare"):
        table.add_column(column, justify="left" if not column else "right")
    for name, part in rows:
        table.add_row(
            name,
            f"{part['events']:,.0f}",
            f"{rate(part):,.0f}",
            f"{part['cpu_seconds'] / part['events'] * 1e6:.1f}",
            f"{part['peak_mib']:,.0f}",
            f"{rate(part) / ceiling:.2f}",
        )
    out = Console()
    (out if out.is_terminal else Console(width=100)).print(table)
    click.echo(
        f"worker: {rate(spread) / ceiling:.2f} of the bare consumer on all cores, "
        f"{rate(worker) / ceiling:.2f} on one; {rate(worker) / rate(stock):.1f} times the stock agent, "
        f"{worker['grown_bytes'] / worker['conversations']:,.0f} bytes a conversation "
        f"({worker['conversations']:,.0f} held)"
    )
    click.echo(
        orjson.dumps(
            {"bare": bare, "worker": worker, "spread": spread, "stock": stock, "sink": sink}
        ).decode(),
        err=True,
    )


if __name__ == "__main__":
    main()
