"""This file measures how long a worker takes from its start to its first decision.

    python -m benchmarks.recovery [--conversations 1000000]

The changelog is filled with the states of that many conversations, as the worker writes them; one
new event waits in each partition. Then a worker is started, and timed from the start of its process
to when it is ready, and to when it has decided and committed the new events. A bare consumer reads the
same changelog, for comparison. Last, a second worker joins, the first is killed, and a new event in each
partition is timed until all are decided: a failover.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import click
import psutil
from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.load import Sent, events
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
from pipeline.catalog.policies import preset
from pipeline.dev.broker import free_port
from pipeline.resolve.policy import Timeline
from pipeline.stream.partition import Partition
from pipeline.stream.state import decode_state, encode_state

_EVENTS_A_CONVERSATION = 5.4
_AT_ONCE = 50_000
_console = Console(stderr=True)


class _Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[()] = ()


def _states(conversations: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield partition, key and state of about so many conversations, decided as a worker does."""
    timeline = Timeline([preset("fin-2026")])
    partitions = [Partition("events", number, lambda _: timeline) for number in range(PARTITIONS)]
    offset = 0
    coming = events(int(conversations * _EVENTS_A_CONVERSATION))
    while part := list(islice(coming, _AT_ONCE)):
        waiting: list[list[_Record]] = [[] for _ in partitions]
        for sent in part:
            place = murmur2(sent.key) % 2**31 % PARTITIONS
            waiting[place].append(_Record(offset, sent.at, sent.key, sent.value))
            offset += 1
        for partition, records in zip(partitions, waiting, strict=True):
            partition.apply(records)
    for partition in partitions:
        for key, stored in partition.states.items():
            # As if nothing had been read: the events topic of this run holds none of those events.
            yield partition.number, key, encode_state(0, decode_state(stored))


def _fill(bootstrap: str, topic: str, conversations: int) -> tuple[int, int]:
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "snappy"}
    )
    count = size = 0
    for number, key, stored in _states(conversations):
        while True:
            try:
                producer.produce(topic, stored, key, number)
                break
            except BufferError:
                producer.poll(0.1)
        count, size = count + 1, size + len(stored)
        if count % 2_000 == 0:
            producer.poll(0)
    producer.flush(120)
    return count, size


def _add_one_to_each(bootstrap: str, topic: str, seed: int) -> int:
    """Produce a new event to each partition."""
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
    left = set(range(PARTITIONS))
    sent: Sent
    for sent in events(10_000, seed=seed):
        place = murmur2(sent.key) % 2**31 % PARTITIONS
        if place in left:
            producer.produce(topic, sent.value, sent.key, timestamp=sent.at)
            left.discard(place)
        if not left:
            break
    producer.flush(30)
    return PARTITIONS


def _bare(bootstrap: str, topic: str, count: int) -> float:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "recovery-bare"})
    began = time.perf_counter()
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    left = count
    while left > 0:
        left -= len(consumer.consume(10_000, timeout=1.0))
    seconds = time.perf_counter() - began
    consumer.close()
    return seconds


def _failover(
    bootstrap: str,
    env: dict[str, str],
    log: Path,
    first: subprocess.Popen[bytes],
    committed: Committed,
    new: int,
) -> float:
    """Kill a worker beside which another one works; return seconds until new events are decided."""
    port = free_port()
    env = {**env, "RESMETER_WORKER__HTTP_PORT": str(port)}
    with running("worker", env=env, log=log) as second:
        until(lambda: answers(f"http://127.0.0.1:{port}/health/ready"), 0.05, second)
        until(lambda: metric(port, "resmeter_conversations") > 0, 0.05, second)
        began = time.perf_counter()
        first.kill()
        new += _add_one_to_each(bootstrap, env["RESMETER_TOPICS__EVENTS"], 98)
        until(lambda: committed.total() >= new, 0.02, second)
        return time.perf_counter() - began


@click.command()
@click.option("--conversations", default=1_000_000, show_default=True)
def main(conversations: int) -> None:
    """Fill a changelog, start a worker on it, and time it."""
    with (
        tempfile.TemporaryDirectory(prefix="resmeter-recovery-") as folder,
        broker(Path(folder)) as bootstrap,
    ):
        run, port = uuid.uuid4().hex[:8], free_port()
        events_topic, changelog = f"recovery-{run}.events", f"recovery-{run}-changelog"
        env = {
            **os.environ,
            "RESMETER_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "RESMETER_TOPICS__EVENTS": events_topic,
            "RESMETER_TOPICS__CHANGELOG": changelog,
            "RESMETER_TOPICS__RECORDS": f"recovery-{run}.records",
            "RESMETER_TOPICS__DEAD_LETTERS": f"recovery-{run}.dlq",
            "RESMETER_TOPICS__EVENTS_TIMESTAMPS": "CreateTime",
            "RESMETER_TOPICS__PARTITIONS": str(PARTITIONS),
            "RESMETER_WORKER__GROUP": f"recovery-{run}",
            "RESMETER_WORKER__HTTP_PORT": str(port),
            "RESMETER_WORKER__COMMIT_INTERVAL_SECONDS": "0.1",
            "RESMETER_WORKER__SETTLE_QUIET_SECONDS": "3600",
        }
        command = [sys.executable, "-m", "pipeline", "topics", "create"]
        subprocess.run(command, env=env, check=True, capture_output=True)
        with _console.status(f"filling the changelog with {conversations:,} conversations"):
            count, size = _fill(bootstrap, changelog, conversations)
        new = _add_one_to_each(bootstrap, events_topic, 99)
        committed = Committed(bootstrap, env["RESMETER_WORKER__GROUP"], events_topic)
        log = Path(folder) / "log"
        began = time.perf_counter()
        with running("worker", env=env, log=log) as process:
            watched = psutil.Process(process.pid)
            url = f"http://127.0.0.1:{port}/health/ready"
            until(lambda: answers(url.replace("ready", "live")), 0.02, process)
            alive = time.perf_counter() - began
            until(lambda: answers(url), 0.02, process)
            ready = time.perf_counter() - began
            until(lambda: committed.total() >= new, 0.02, process)
            decided = time.perf_counter() - began
            held = metric(port, "resmeter_conversations")
            peak = peak_mib(watched)
            failover = _failover(bootstrap, env, log, process, committed, new)
        committed.close()
        bare = _bare(bootstrap, changelog, count)
    table = Table(
        title=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    for column in ("", "seconds"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("process is up", f"{alive:.1f}")
    table.add_row(f"ready: {held:,.0f} conversations held", f"{ready:.1f}")
    table.add_row("first new event decided and committed", f"{decided:.1f}")
    table.add_row("a worker is killed: all partitions decide again", f"{failover:.1f}")
    table.add_row("a bare consumer reads the same changelog", f"{bare:.1f}")
    Console().print(table)
    Console().print(
        f"{count:,} states of {size / count:.0f} bytes; peak memory {peak:.0f} MiB, "
        f"{peak * 2**20 / max(held, 1):.0f} bytes a conversation in all"
    )


if __name__ == "__main__":
    main()
