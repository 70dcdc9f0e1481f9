"""`resmeter demo`, as a new user runs it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from tests.kafka.run import wait_until
from tests.support.environment import clean_environment

BILL = {
    "aurora": ("32", "$31.68"),
    "bluejay": ("33", "$32.67"),
    "contoso-travel": ("30", "$29.70"),
    "fly-kite": ("18", "$17.82"),
    "northwind-air": ("30", "$29.70"),
    "all": ("143", "$141.57"),
}


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with its own temporary folder. The test fails if a process of it is left."""
    yield {**clean_environment(), "TMPDIR": str(tmp_path)}
    orphans = [process for process in _processes() if str(tmp_path) in " ".join(_cmdline(process))]
    assert orphans == []


def _processes() -> list[psutil.Process]:
    return list(psutil.process_iter())


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _demo(env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "demo"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _rows(out: str) -> dict[str, tuple[str, str]]:
    rows = {}
    for line in out.splitlines():
        cells = line.split()
        if len(cells) == 7 and cells[1].isdigit():
            rows[cells[0]] = (cells[2], cells[5])
            assert cells[6] == cells[2]  # at Stripe
    return rows


def test_the_demo_bills_the_recorded_conversations_on_its_own_broker(
    env: dict[str, str], tmp_path: Path
) -> None:
    process = _demo(env)

    out, err = process.communicate(timeout=150)

    assert process.returncode == 0, err
    assert _rows(out) == BILL
    assert "started from Python packages" in err
    assert "The ledger and Stripe's own sums agree." in out
    assert "2026-05 is closed." in out
    invoiced = {tenant: amount for tenant, (_, amount) in BILL.items() if tenant != "all"}
    invoiced |= {"fly-kite": "$16.83"}  # a late message takes a unit back
    assert re.findall(r"^  (\S+) +(\$\S+) +(\$\S+)$", out, re.MULTILINE) == [
        (tenant, amount, amount) for tenant, amount in invoiced.items()
    ]
    assert re.search(r"statement +17 resolution at 0.99 +\$16.83$", out, re.MULTILINE)
    assert re.search(r"1 of 18 counted are not charged +-\$0.99$", out, re.MULTILINE)
    assert "The AI's answer stood" in out
    assert not list(tmp_path.glob("resmeter-*"))


def test_the_demo_uses_the_broker_in_the_settings_and_deletes_its_topics(
    env: dict[str, str], broker: str
) -> None:
    process = _demo({**env, "RESMETER_KAFKA__BOOTSTRAP_SERVERS": broker})

    out, err = process.communicate(timeout=150)

    assert process.returncode == 0, err
    assert _rows(out) == BILL
    assert f"Kafka at {broker}" in out
    client = AdminClient({"bootstrap.servers": broker})
    wait_until(
        lambda: not [name for name in client.list_topics().topics if name.startswith("demo-")],
        "the demo's topics are gone",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_everything_that_it_started(
    env: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    process = _demo(env)
    wait_until(lambda: len(psutil.Process(process.pid).children()) >= 4, "all is up")
    children = psutil.Process(process.pid).children(recursive=True)

    process.send_signal(number)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "interrupted" in err
    # A process that was just being started ends a moment after its parent.
    wait_until(lambda: not any(child.is_running() for child in children), "all have ended")
    assert not list(tmp_path.glob("resmeter-*"))


def test_the_processes_of_a_killed_demo_end(env: dict[str, str]) -> None:
    process = _demo(env)
    wait_until(lambda: len(psutil.Process(process.pid).children()) >= 4, "all is up")
    children = psutil.Process(process.pid).children(recursive=True)

    process.kill()
    process.communicate(timeout=60)

    wait_until(lambda: not any(child.is_running() for child in children), "all have ended")
