"""Every line of a worker's or sink's log is JSON, says something new, and says what was done."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from confluent_kafka import Consumer
from prometheus_client import CollectorRegistry, Counter

from pipeline import logs
from pipeline.config import LogSettings
from pipeline.kafka.connect import open_client
from pipeline.lasting import FAULTS_MAX, Faults, LastingFaults
from pipeline.worklog import ReadinessLog, WorkLog


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Lines:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    warning = info


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log of a process with RESMETER_LOG__FORMAT=json."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(LogSettings(format="json"))
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines_of(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


# --- faults that last -----------------------------------------------------------------------------


def test_a_lasting_fault_is_logged_once_and_then_at_growing_intervals_with_a_count() -> None:
    clock = Clock()
    faults = Faults(clock)
    logged = []

    for second in range(4 * 3600):
        clock.seconds = second
        if times := faults.note("broker away"):
            logged.append((second, times))

    assert logged[:6] == [(0, 1), (60, 60), (180, 120), (420, 240), (900, 480), (1860, 960)]
    assert sum(times for _, times in logged) + (4 * 3600 - 1 - logged[-1][0]) == 4 * 3600
    assert len(logged) == 9


def test_a_fault_that_was_absent_for_an_interval_is_new() -> None:
    clock = Clock()
    faults = Faults(clock)
    faults.note("broker away")
    faults.note("broker away")

    clock.seconds = 61

    assert faults.note("broker away") == 1


def test_the_number_of_known_faults_is_bounded() -> None:
    faults = Faults(Clock())

    for n in range(FAULTS_MAX + 1):
        faults.note(f"fault {n}")

    assert faults.note(f"fault {FAULTS_MAX}") is None
    assert faults.note("fault 0") == 1


def test_lines_of_a_library_that_differ_in_numbers_are_one_fault(log: io.StringIO) -> None:
    library = logging.getLogger("aiokafka.conn")
    for n in range(50):
        library.error("Unable connect to node with id %s: [Errno 111] port %s", n, 1000 + n)
    library.error("Something else")

    assert [line["event"] for line in lines_of(log)] == [
        "Unable connect to node with id 0: [Errno 111] port 1000",
        "Something else",
    ]
    assert {line["level"] for line in lines_of(log)} == {"warning"}  # it tries again by itself


def test_errors_of_ours_and_of_asyncio_are_never_held_back(log: io.StringIO) -> None:
    for n in range(3):
        logs.get_logger("pipeline.sink").error("delivery_rejected", identifier=str(n))
        logging.getLogger("asyncio").error("Task exception was never retrieved")

    assert len(lines_of(log)) == 6
    assert {line["level"] for line in lines_of(log)} == {"error"}


def test_our_own_lasting_events_are_held_back_and_counted(log: io.StringIO) -> None:
    clock = Clock()
    # pytest has handlers of its own.
    handler = next(h for h in logging.getLogger().handlers if getattr(h, "stream", None) is log)
    handler.filters[:] = [LastingFaults(Faults(clock))]
    for second in range(0, 90, 10):
        clock.seconds = second
        logs.get_logger("pipeline.sink").warning("kafka_unreachable", detail=str(second))

    assert [(line["detail"], line.get("times")) for line in lines_of(log)] == [
        ("0", None),
        ("60", 6),
    ]


# --- one form -------------------------------------------------------------------------------------


def test_lines_of_librdkafka_are_json(log: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    options = {"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "reconnect.backoff.ms": 1}
    consumer = open_client(Consumer, options)

    for _ in range(200):
        consumer.poll(0.05)
        if log.getvalue():
            break
    consumer.close()

    assert {line["logger"] for line in lines_of(log)} == {"librdkafka"}
    assert "Connection refused" in log.getvalue()
    assert capfd.readouterr().err == ""


def test_exceptions_that_nobody_catches_are_json_from_any_thread() -> None:
    program = (
        "import threading\n"
        "from pipeline import logs\n"
        "from pipeline.config import LogSettings\n"
        "logs.configure(LogSettings(format='json'))\n"
        "logs.log_uncaught_exceptions()\n"
        "def fail(): raise ValueError('in a thread')\n"
        "thread = threading.Thread(target=fail)\n"
        "thread.start()\n"
        "thread.join()\n"
        "raise RuntimeError('at the end')\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 1
    assert [(line["event"], line["error"]) for line in lines] == [
        ("uncaught_exception", "ValueError: in a thread"),
        ("uncaught_exception", "RuntimeError: at the end"),
    ]
    assert all("Traceback" in line["exception"] for line in lines)


# --- work -----------------------------------------------------------------------------------------


def test_a_line_a_minute_says_what_was_done_in_it() -> None:
    clock, log = Clock(), Lines()
    records = Counter("records", "Records.", ["kind"], registry=CollectorRegistry())
    work = WorkLog(log, {"records": records}, lambda: {"waiting": 7}, clock)

    for second in range(0, 181, 10):
        clock.seconds = second
        records.labels(str(second % 3)).inc(5)
        work.tick()

    assert log.lines == [
        ("worked", {"seconds": 60, "records": 35, "waiting": 7}),
        ("worked", {"seconds": 60, "records": 30, "waiting": 7}),
        ("worked", {"seconds": 60, "records": 30, "waiting": 7}),
    ]


def test_readiness_is_logged_when_it_changes() -> None:
    clock, log = Clock(), Lines()
    readiness = ReadinessLog(log, clock)

    for second, problems in enumerate([["starting"], ["starting"], [], [], ["b", "a"], ["a"], []]):
        clock.seconds = second
        readiness.update(problems)

    assert log.lines == [
        ("ready", {"after_seconds": 2.0}),
        ("not_ready", {"reasons": ["a", "b"]}),
        ("ready", {"after_seconds": 2.0}),
    ]
