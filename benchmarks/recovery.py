"""Measure how long a worker takes to start with many conversations, and how long a failover takes.

    python -m benchmarks.recovery [--conversations 1000000]

The benchmark fills the changelog with the states of the conversations, as the worker writes them,
and produces one new event to each partition. Then it starts a worker, and measures the time until
the worker is ready, and until it has decided and committed the new events. For the failover, a
second worker joins and the first is killed; the benchmark produces one more event to each partition,
and measures the time until all of them are committed. For comparison, a bare consumer reads the same
changelog.
"""

import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import click
import psutil
from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import (
    PARTITIONS,
    Committed,
    Sender,
    broker,
    environment,
    machine,
    metric,
    peak_mib,
    until,
    until_ok,
)
from pipeline.catalog.policies import preset
from pipeline.dev.broker import free_port
from pipeline.dev.load import events
from pipeline.dev.process import Process, run_or_raise, running
from pipeline.resolve.policy import Timeline
from pipeline.stream.partition import Partition
from pipeline.stream.state import decode_state, encode_state

_EVENTS_A_CONVERSATION = 5.4
_CHUNK_EVENTS = 50_000
_console = Console(stderr=True)


class _Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes
    value: bytes
    headers: tuple[()] = ()


class _Measured(NamedTuple):
    """The measurements. `alive`, `ready` and `decided` are seconds since the worker's start."""

    states: int  # number of states in the changelog
    state_bytes: int  # size of all of them
    alive: float
    ready: float
    decided: float
    conversations: float  # number in the worker's memory
    peak_mib: float
    failover_seconds: float
    bare_seconds: float


@click.command()
@click.option("--conversations", default=1_000_000, show_default=True)
def main(conversations: int) -> None:
    """Fill a changelog, start a worker on it, and measure the times."""
    with (
        tempfile.TemporaryDirectory(prefix="resmeter-recovery-") as folder,
        broker(Path(folder)) as bootstrap,
    ):
        _report(_measure(Path(folder), bootstrap, conversations))


def _measure(data: Path, bootstrap: str, conversations: int) -> _Measured:
    port, log = free_port(), data / "log"
    env = environment(
        f"recovery-{uuid.uuid4().hex[:8]}",
        bootstrap,
        {
            "RESMETER_WORKER__HTTP_PORT": str(port),
            "RESMETER_WORKER__COMMIT_INTERVAL_SECONDS": "0.1",
            "RESMETER_WORKER__SETTLE_QUIET_SECONDS": "3600",
        },
    )
    topic, changelog = env["RESMETER_TOPICS__EVENTS"], env["RESMETER_TOPICS__CHANGELOG"]
    run_or_raise(["topics", "create"], env)
    with _console.status(f"filling the changelog with {conversations:,} conversations"):
        states, state_bytes = _fill(bootstrap, changelog, conversations)
    new = _add_one_to_each(bootstrap, topic, 99)
    committed = Committed(bootstrap, env["RESMETER_WORKER__GROUP"], topic)
    began = time.perf_counter()
    with running("worker", ["worker"], env, log) as worker:
        watched = psutil.Process(worker.pid)
        health = f"http://127.0.0.1:{port}/health"
        until_ok(f"{health}/live", worker, probe_seconds=0.02)
        alive = time.perf_counter() - began
        until_ok(f"{health}/ready", worker, probe_seconds=0.02)
        ready = time.perf_counter() - began
        until(
            lambda: committed.total() >= new,
            "the worker has committed the new events",
            worker,
            probe_seconds=0.02,
        )
        decided = time.perf_counter() - began
        in_memory = metric(port, "resmeter_conversations")
        peak = peak_mib(watched)
        failover = _failover(bootstrap, env, log, worker, committed, new)
    committed.close()
    bare = _bare(bootstrap, changelog, states)
    return _Measured(states, state_bytes, alive, ready, decided, in_memory, peak, failover, bare)


def _states(conversations: int) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield partition, key and state of about `conversations` conversations.

    The worker's own `Partition` decides them.
    """
    timeline = Timeline([preset("fin-2026")])
    partitions = [Partition("events", number, lambda _: timeline) for number in range(PARTITIONS)]
    offset = 0
    load = events(int(conversations * _EVENTS_A_CONVERSATION))
    while chunk := list(islice(load, _CHUNK_EVENTS)):
        by_partition: list[list[_Record]] = [[] for _ in partitions]
        for event in chunk:
            number = _partition_of(event.key)
            by_partition[number].append(_Record(offset, *event))
            offset += 1
        for partition, records in zip(partitions, by_partition, strict=True):
            partition.apply(records)
    for partition in partitions:
        for key, stored in partition.states.items():
            # The offset is 0, because the events topic of this run is empty.
            yield partition.number, key, encode_state(0, decode_state(stored))


def _partition_of(key: bytes) -> int:
    return int(murmur2(key) % 2**31 % PARTITIONS)


def _fill(bootstrap: str, topic: str, conversations: int) -> tuple[int, int]:
    """Write states to the changelog; return their number and their size in bytes."""
    sender = Sender(bootstrap, compression="snappy")
    count = size = 0
    for number, key, stored in _states(conversations):
        sender.produce(topic, stored, key, number)
        count, size = count + 1, size + len(stored)
        if count % 2_000 == 0:
            sender.poll()
    sender.flush()
    return count, size


def _add_one_to_each(bootstrap: str, topic: str, seed: int) -> int:
    """Produce one new event to each partition; return the number of partitions."""
    sender = Sender(bootstrap)
    missing = set(range(PARTITIONS))
    for event in events(10_000, seed=seed):
        number = _partition_of(event.key)
        if number in missing:
            sender.send(topic, event)
            missing.discard(number)
        if not missing:
            break
    sender.flush()
    return PARTITIONS


def _bare(bootstrap: str, topic: str, count: int) -> float:
    """Read a topic with a bare consumer; return seconds."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "recovery-bare"})
    began = time.perf_counter()
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    missing = count
    while missing > 0:
        missing -= len(consumer.consume(10_000, timeout=1.0))
    seconds = time.perf_counter() - began
    consumer.close()
    return seconds


def _failover(
    bootstrap: str,
    env: Mapping[str, str],
    log: Path,
    first: Process,
    committed: Committed,
    decided: int,
) -> float:
    """Kill a worker while a second one runs; return seconds until new events are committed."""
    port = free_port()
    second_env = {**env, "RESMETER_WORKER__HTTP_PORT": str(port)}
    with running("second worker", ["worker"], second_env, log) as second:
        until_ok(f"http://127.0.0.1:{port}/health/ready", second)
        until(
            lambda: metric(port, "resmeter_conversations") > 0,
            "the second worker has partitions",
            second,
        )
        began = time.perf_counter()
        first.kill()
        count = decided + _add_one_to_each(bootstrap, env["RESMETER_TOPICS__EVENTS"], 98)
        until(
            lambda: committed.total() >= count,
            "the second worker has committed the new events",
            second,
            probe_seconds=0.02,
        )
        return time.perf_counter() - began


def _report(measured: _Measured) -> None:
    table = Table(title=machine())
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_row("process is up", f"{measured.alive:.1f}")
    table.add_row(
        f"ready, with {measured.conversations:,.0f} conversations", f"{measured.ready:.1f}"
    )
    table.add_row("first new event decided and committed", f"{measured.decided:.1f}")
    table.add_row(
        "failover: after a kill, all partitions commit new events",
        f"{measured.failover_seconds:.1f}",
    )
    table.add_row("a bare consumer reads the changelog", f"{measured.bare_seconds:.1f}")
    out = Console()
    out.print(table)
    out.print(
        f"{measured.states:,} states of {measured.state_bytes / measured.states:.0f} bytes; "
        f"peak memory {measured.peak_mib:.0f} MiB, "
        f"{measured.peak_mib * 2**20 / max(measured.conversations, 1):.0f} bytes per conversation"
    )


if __name__ == "__main__":
    main()
