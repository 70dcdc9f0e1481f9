"""Common parts of the benchmarks: a broker, settings, a producer, and readings of processes."""

import contextlib
import os
import platform
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition

from pipeline.dev.broker import running_kafka
from pipeline.dev.load import EventRecord
from pipeline.dev.process import Process

PARTITIONS = 8
_SECONDS_MAX = 1_800.0


@contextlib.contextmanager
def broker(data: Path) -> Iterator[str]:
    """Yield RESMETER_KAFKA__BOOTSTRAP_SERVERS, or the address of a broker that is started here."""
    named = os.environ.get("RESMETER_KAFKA__BOOTSTRAP_SERVERS")
    if named:
        yield named
        return
    with running_kafka(data / "kafka") as kafka:
        yield kafka.bootstrap_servers


def environment(name: str, bootstrap: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a run whose topics and groups begin with `name`."""
    return {
        **os.environ,
        "RESMETER_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "RESMETER_TOPICS__EVENTS": f"{name}.events",
        "RESMETER_TOPICS__CHANGELOG": f"{name}-changelog",
        "RESMETER_TOPICS__RECORDS": f"{name}.records",
        "RESMETER_TOPICS__DEAD_LETTERS": f"{name}.dlq",
        "RESMETER_TOPICS__CATALOG": f"{name}.catalog",
        "RESMETER_TOPICS__JOURNAL": f"{name}.journal",
        "RESMETER_TOPICS__EVENTS_TIMESTAMPS": "CreateTime",
        "RESMETER_TOPICS__PARTITIONS": str(PARTITIONS),
        "RESMETER_WORKER__GROUP": name,
        "RESMETER_SINK__GROUP": f"{name}-sink",
        **settings,
    }


def machine() -> str:
    """Return a description of the machine."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


class Sender:
    """A producer that waits while its buffer is full."""

    def __init__(self, bootstrap: str, *, compression: str = "lz4") -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 20,
                "compression.type": compression,
                "queue.buffering.max.messages": 1_000_000,
                "partitioner": "murmur2_random",
            }
        )

    def send(self, topic: str, record: EventRecord, **options: object) -> None:
        self.produce(topic, record.value, record.key, timestamp=record.timestamp_ms, **options)

    def produce(self, *arguments: object, **options: object) -> None:
        """Call confluent-kafka's `produce`, and repeat the call while the buffer is full."""
        while True:
            try:
                self._producer.produce(*arguments, **options)  # type: ignore[arg-type]
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def poll(self) -> None:
        self._producer.poll(0)

    def flush(self) -> None:
        self._producer.flush(120)


class Committed:
    """Reads the offsets that a group has committed for a topic."""

    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
        self._partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]

    def total(self) -> int:
        """Return the sum of the committed offsets, that is, the number of records."""
        committed = self._consumer.committed(self._partitions)
        return sum(max(partition.offset, 0) for partition in committed)

    def close(self) -> None:
        self._consumer.close()


def until(
    is_true: Callable[[], bool], what: str, process: Process, *, probe_seconds: float = 0.05
) -> None:
    """Wait until a condition of a measured process is true.

    Raises:
        UnavailableError: the process ended, or the condition was false for half an hour.
    """
    process.wait_until(is_true, _SECONDS_MAX, what, probe_seconds=probe_seconds)


def until_ok(url: str, process: Process, *, probe_seconds: float = 0.05) -> None:
    """Wait until a process answers a URL with 200.

    Raises:
        UnavailableError: as for `until`.
    """
    until(lambda: _is_ok(url), f"{url} answers 200", process, probe_seconds=probe_seconds)


def _is_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def metric(port: int, name: str, label: str = "") -> float:
    """Return the sum of a series, or of its samples with a label such as `result="sent"`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith((f"{name} ", f"{name}{{")) and label in line
    )


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def rss_bytes(processes: Sequence[psutil.Process]) -> float:
    return float(sum(process.memory_info().rss for process in processes))


def peak_mib(process: psutil.Process) -> float:
    """Return the peak resident memory, or the current one if the system does not record the peak."""
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return float(process.memory_info().rss) / 2**20
