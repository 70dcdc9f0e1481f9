"""`resmeter health` asks the HTTP server of worker and sink, and the emulator."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from pipeline.dev.emulator.server import Emulator, running
from pipeline.http import listen, serving
from tests.support.command import resmeter


@contextlib.contextmanager
def served(problems: list[str], *, is_live: bool = True) -> Iterator[str]:
    """Serve /health in a thread; yield the port."""
    listening = listen("127.0.0.1", 0)
    ready, stop = threading.Event(), threading.Event()

    async def metrics() -> bytes:
        return b""

    async def current_problems() -> list[str]:
        return problems

    async def live() -> bool:
        return is_live

    async def serve() -> None:
        async with serving(listening, metrics, current_problems, live):
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield str(listening.getsockname()[1])
    finally:
        stop.set()
        thread.join()


def test_a_ready_process_gives_exit_status_0(resmeter_env: dict[str, str]) -> None:
    with served([]) as port:
        result = resmeter("health", "--port", port, env=resmeter_env)

    assert (result.returncode, result.stdout, result.stderr) == (0, b"ready\n", b"")


def test_a_process_that_is_not_ready_gives_exit_status_1_and_its_reasons(
    resmeter_env: dict[str, str],
) -> None:
    with served(["recovering states", "no Kafka broker responds"]) as port:
        result = resmeter("health", "--port", port, env=resmeter_env)

    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode() == (
        f"error: http://127.0.0.1:{port}/health/ready: recovering states; no Kafka broker responds\n"
    )


@pytest.mark.parametrize(("is_live", "status"), [(True, 0), (False, 1)])
def test_live_does_not_depend_on_ready(
    resmeter_env: dict[str, str], is_live: bool, status: int
) -> None:
    with served(["recovering states"], is_live=is_live) as port:
        result = resmeter("health", "--port", port, "--check", "live", env=resmeter_env)

    assert result.returncode == status
    assert (b"status 503" in result.stderr) is not is_live


def test_the_emulator_has_a_check_of_its_own(resmeter_env: dict[str, str]) -> None:
    with running(Emulator()) as base_url:
        port = base_url.rpartition(":")[2]
        result = resmeter("health", "--port", port, "--check", "emulator", env=resmeter_env)
        other = resmeter("health", "--port", port, env=resmeter_env)

    assert result.returncode == 0
    assert other.returncode == 1
    assert b"status 401" in other.stderr


def test_a_port_without_a_listener_gives_exit_status_1(resmeter_env: dict[str, str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
        result = resmeter("health", "--port", port, env=resmeter_env)

    assert result.returncode == 1
    assert f"127.0.0.1:{port}/health/ready does not respond" in result.stderr.decode()


def test_a_process_that_hangs_gives_exit_status_1_after_the_timeout(
    resmeter_env: dict[str, str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        result = resmeter("health", "--port", port, "--timeout", "0.2", env=resmeter_env)

    assert result.returncode == 1
    assert b"does not respond: timed out" in result.stderr


def test_a_proxy_in_the_environment_is_not_used(resmeter_env: dict[str, str]) -> None:
    env = {**resmeter_env, "http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    with served([]) as port:
        result = resmeter("health", "--port", port, env=env)

    assert result.returncode == 0, result.stderr


def test_the_port_is_required(resmeter_env: dict[str, str]) -> None:
    result = resmeter("health", env=resmeter_env)

    assert result.returncode == 2
    assert b"--port" in result.stderr


@pytest.mark.parametrize("timeout", ["0", "-1", "3601", "1e300", "inf", "nan"])
def test_a_timeout_that_no_socket_accepts_is_bad_usage(
    resmeter_env: dict[str, str], timeout: str
) -> None:
    result = resmeter("health", "--port", "1", "--timeout", timeout, env=resmeter_env)

    assert result.returncode == 2
    assert b"--timeout" in result.stderr
