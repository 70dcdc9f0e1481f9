"""This file runs what a benchmark measures: a broker, a command, and what they say of themselves."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psutil
from confluent_kafka import Consumer, TopicPartition

from pipeline.dev.broker import running_kafka
from pipeline.dev.process import die_with_parent

PARTITIONS = 8
_SECONDS_MAX = 1_800.0


@contextlib.contextmanager
def broker(data: Path) -> Iterator[str]:
    """Yield the address of the broker that is named, or of one out of wheels."""
    named = os.environ.get("RESMETER_KAFKA__BOOTSTRAP_SERVERS")
    if named:
        yield named
        return
    with running_kafka(data / "kafka") as broker:
        yield broker.bootstrap_servers


class Committed:
    """What a group has committed of a topic."""

    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
        self._places = [TopicPartition(topic, number) for number in range(PARTITIONS)]

    def total(self) -> int:
        return sum(max(place.offset, 0) for place in self._consumer.committed(self._places))

    def close(self) -> None:
        self._consumer.close()


def until(condition: Any, pause: float, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS_MAX
    while not condition():
        if process.poll() is not None:
            raise click.ClickException(f"a measured process ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise click.ClickException("a measured process took too long")
        time.sleep(pause)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def metric(port: int, name: str, label: str = "") -> float:
    """Return the sum of a series; of those samples that have a label such as `result="sent"`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith((f"{name} ", f"{name}{{")) and label in line
    )


def peak_mib(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return float(process.memory_info().rss) / 2**20


@contextlib.contextmanager
def running(*command: str, env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *command],
            env=env,
            stdout=out,
            stderr=out,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
