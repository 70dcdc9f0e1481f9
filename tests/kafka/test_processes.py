"""On a real broker, a worker of several processes behaves and decides like one process."""

import os
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import orjson
import psutil

from pipeline.dev.process import Process
from tests.kafka.conftest import Load
from tests.kafka.run import PARTITIONS, Run, metric, readiness, wait_until, without_topics

TWO = {"RESMETER_WORKER__PROCESSES": "2"}
_SLOW = {"RESMETER_WORKER__BATCH_EVENTS_MAX": "50", "RESMETER_WORKER__INFLIGHT_BATCHES_MAX": "1"}


def _children(worker: Process) -> list[psutil.Process]:
    return sorted(psutil.Process(worker.pid).children(), key=lambda process: process.pid)


def _live(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _both_decide(run: Run, port: int) -> None:
    wait_until(
        lambda: all(metric(port, "resmeter_events_total", process=str(n)) > 0 for n in range(2)),
        "both processes decide",
    )


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_until_ended(children: list[psutil.Process]) -> None:
    wait_until(lambda: not any(map(_runs, children)), "the processes ended")


def test_two_processes_behind_one_port_decide_what_one_process_does(
    load: Load, loaded_run: Run
) -> None:
    run = loaded_run
    worker = run.start("worker", **TWO, **_SLOW)
    port = run.port(worker)
    _both_decide(run, port)

    run.until_decided(worker, load.size)

    assert run.usage_records() == load.records
    assert readiness(port) == (200, {"ready": True, "reasons": [], "warnings": []})
    assert metric(port, "resmeter_process_up") == 2
    assert len(_children(worker)) == 2


def test_sigterm_stops_all_processes_and_they_commit(load: Load, loaded_run: Run) -> None:
    run = loaded_run
    worker = run.start("worker", **TWO)
    run.until_decided(worker, load.size)
    children = _children(worker)

    worker.stop()

    assert worker.status == 0
    assert not any(map(_runs, children))
    assert run.committed() == load.size
    assert worker.log().count('"process_stopped"') == 2
    assert worker.log().count('"worker_stopped"') == 1


def test_killing_one_process_stops_all_and_loses_nothing(load: Load, loaded_run: Run) -> None:
    run = loaded_run
    worker = run.start("worker", **TWO, **_SLOW)
    _both_decide(run, run.port(worker))
    children = _children(worker)

    children[0].kill()

    assert worker.wait(60) == 1
    assert not any(map(_runs, children))
    assert '"process_ended"' in worker.log()
    again = run.start("worker", **TWO)
    run.until_decided(again, load.size)
    assert run.usage_records() == load.records


def test_sigterm_to_one_process_stops_all_and_is_logged(run: Run) -> None:
    worker = run.start("worker", **TWO)
    port = run.port(worker)
    wait_until(lambda: readiness(port)[0] == 200, "it is ready")
    children = _children(worker)

    children[1].terminate()

    assert worker.wait(60) == 1
    assert not any(map(_runs, children))
    assert '"process_ended"' in worker.log()


def test_a_process_that_hangs_is_reported_and_killed(run: Run) -> None:
    worker = run.start("worker", RESMETER_WORKER__STOP_SECONDS_MAX="1", **TWO)
    port = run.port(worker)
    wait_until(lambda: readiness(port)[0] == 200, "it is ready")
    children = _children(worker)

    children[0].suspend()

    assert readiness(port) == (
        503,
        {"ready": False, "reasons": ["process 0: does not respond"], "warnings": []},
    )
    assert _live(port) == 503
    assert metric(port, "resmeter_process_up") == 1
    assert metric(port, "resmeter_conversations", process="0") == 0  # not reported
    worker.stop()
    assert worker.status == 1
    assert not any(map(_runs, children))
    assert '"process_killed"' in worker.log()


def test_a_process_killed_before_it_starts_stops_all(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, without_topics("", tmp_path) as run:
        # This server accepts the connection and never responds, so the check waits.
        servers = f"127.0.0.1:{silent.getsockname()[1]}"
        worker = run.start("worker", RESMETER_KAFKA__BOOTSTRAP_SERVERS=servers, **TWO)
        wait_until(lambda: len(_children(worker)) == 2, "both processes run")
        children = _children(worker)
        children[1].kill()

        assert worker.wait(60) == 1
        assert not any(map(_runs, children))


def test_a_missing_secret_is_reported_once(run: Run) -> None:
    file = run.folder / "resmeter.toml"
    file.write_text('[producers.chat]\nsecret_env = "NOT_SET"\ntenants = ["acme"]\n')
    run.begin_catalog(file)

    result = run.resmeter("worker", **TWO)

    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "NOT_SET" in line


def test_no_process_outlives_the_supervisor(load: Load, loaded_run: Run) -> None:
    run = loaded_run
    worker = run.start("worker", **TWO, **_SLOW)
    _both_decide(run, run.port(worker))
    children = _children(worker)

    os.kill(worker.pid, signal.SIGKILL)

    _wait_until_ended(children)
    last = run.start("worker", **TWO)
    run.until_decided(last, load.size)
    assert run.usage_records() == load.records


def test_more_processes_than_partitions_is_a_configuration_error(run: Run) -> None:
    result = run.resmeter("worker", RESMETER_WORKER__PROCESSES=str(PARTITIONS + 1))

    assert result.returncode == 2
    line = orjson.loads(result.stderr)
    assert (line["level"], line["event"]) == ("error", "ended")
    assert line["error"].startswith(
        "RESMETER_WORKER__PROCESSES is 5, but RESMETER_TOPICS__PARTITIONS"
    )


def test_a_port_in_use_is_reported_once(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run.resmeter("worker", RESMETER_WORKER__HTTP_PORT=port, **TWO)

    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}" in line
