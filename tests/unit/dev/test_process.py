"""The process launcher keeps deadlines, shows logs in errors, and leaves no orphans."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.dev.process import Process, run, run_or_raise, running
from pipeline.errors import UnavailableError

ENV = {**os.environ, "PYTHONUNBUFFERED": "1"}
SERVER = ["0", "--bind", "127.0.0.1"]  # arguments of http.server, which runs until it is stopped


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    process = Process("server", SERVER, ENV, tmp_path / "log", module="http.server")
    process.find(r"port (\d+)", 20)
    yield process
    process.kill()


def test_run_returns_the_status_and_output_of_a_command() -> None:
    good = run(["--version"], ENV)
    bad = run(["no-such-command"], ENV)

    assert (good.returncode, good.stdout.split()[0]) == (0, "resmeter,")
    assert bad.returncode == 2
    assert "no-such-command" in bad.stderr


def test_run_ends_a_command_that_takes_too_long() -> None:
    with pytest.raises(UnavailableError, match=r"http\.server 0 .* did not end within 1 s"):
        run(SERVER, ENV, module="http.server", seconds_max=1)


def test_run_or_raise_returns_what_a_command_printed() -> None:
    assert run_or_raise(["--version"], ENV).startswith("resmeter, version")


def test_run_or_raise_raises_with_the_error_of_the_command() -> None:
    with pytest.raises(UnavailableError, match=r"(?s)no-such-command ended with status 2.*Usage"):
        run_or_raise(["no-such-command"], ENV)


def test_a_command_gets_the_given_environment_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESMETER_SINK__HTTP_PORT", "many")

    result = run(["sink"], {**ENV, "RESMETER_WORKER__HTTP_PORT": "many"})

    assert result.returncode == 2
    assert "RESMETER_WORKER__HTTP_PORT" in result.stderr
    assert "RESMETER_SINK__HTTP_PORT" not in result.stderr


def test_find_returns_a_match_from_the_log(server: Process) -> None:
    assert 0 < int(server.find(r"port (\d+)", 1)) < 65_536


def test_a_wait_fails_at_its_deadline_and_shows_the_end_of_the_log(server: Process) -> None:
    with pytest.raises(UnavailableError, match=r"(?s)it rains; its log ends with:\nServing HTTP"):
        server.wait_until(lambda: False, 0.2, "it rains")


def test_a_wait_fails_at_once_if_the_process_has_ended(tmp_path: Path) -> None:
    process = Process("command", ["no-such-command"], ENV, tmp_path / "log")

    with pytest.raises(UnavailableError, match=r"(?s)the command ended with status 2.*Usage"):
        process.wait_until(lambda: False, 60, "it rains")


def test_wait_returns_the_status_or_fails_at_its_deadline(tmp_path: Path, server: Process) -> None:
    assert Process("command", ["--version"], ENV, tmp_path / "version").wait(60) == 0
    with pytest.raises(UnavailableError, match="the server did not end within 0 s"):
        server.wait(0.1)


def test_a_running_command_ends_with_its_context(tmp_path: Path) -> None:
    with running("emulator", ["emulator", "--port", "0"], ENV, tmp_path / "log") as emulator:
        emulator.find("ready at (http)", 60)
        assert emulator.status is None

    assert emulator.status == 0


def test_a_frozen_process_continues_when_it_is_resumed(server: Process) -> None:
    server.freeze()
    _until(lambda: psutil.Process(server.pid).status() == psutil.STATUS_STOPPED)
    server.resume()
    _until(lambda: psutil.Process(server.pid).status() != psutil.STATUS_STOPPED)
    server.stop()

    assert server.status == -signal.SIGTERM


def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from pipeline.dev.process import Process
process = Process("server", {SERVER!r}, os.environ, Path({str(tmp_path / "log")!r}),
                  module="http.server")
print(process.pid, flush=True)
process.wait(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))

        parent.kill()

    _until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
