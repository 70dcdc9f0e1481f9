"""This file serves `/metrics`, `/health/live` and `/health/ready` for a worker or a sink."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from pipeline.errors import UnavailableError

SHUTDOWN_SECONDS_MAX = 1.0


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any that is free.

    Raises:
        UnavailableError: the address cannot be listened on.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # Of a name that has both, such as localhost, the older kind: it is asked for everywhere.
        family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        return socket.create_server(address, family=family)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {host}:{port} for /metrics and /health: {error.strerror}; "
            "set another port with RESMETER_WORKER__HTTP_PORT or RESMETER_SINK__HTTP_PORT"
        ) from error


def text_of(registry: CollectorRegistry) -> Callable[[], Awaitable[bytes]]:
    """Return what gives a registry's metrics in Prometheus' text format."""

    async def text() -> bytes:
        return generate_latest(registry)

    return text


@asynccontextmanager
async def serving(
    listening: socket.socket,
    metrics: Callable[[], Awaitable[bytes]],
    problems: Callable[[], Awaitable[list[str]]],
    is_live: Callable[[], Awaitable[bool]] | None = None,
) -> AsyncIterator[int]:
    """Serve for as long as the context is open; yield the port.

    `problems` says why the process is not ready; an empty list means that it is. Without
    `is_live`, whoever answers is live. They are called in the event loop and must not block.
    """

    async def answer_metrics(_: web.Request) -> web.Response:
        return web.Response(body=await metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def live(_: web.Request) -> web.Response:
        answer = is_live is None or await is_live()
        return web.json_response({"live": answer}, status=200 if answer else 503)

    async def ready(_: web.Request) -> web.Response:
        reasons = await problems()
        return web.json_response(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    app = web.Application()
    app.router.add_get("/metrics", answer_metrics)
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS_MAX
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        yield int(listening.getsockname()[1])
    finally:
        await runner.cleanup()
