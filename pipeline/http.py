"""Serve `/metrics`, `/health/live` and `/health/ready` for a worker or a sink."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from pipeline.errors import UnavailableError

SHUTDOWN_SECONDS_MAX = 1.0


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free port.

    Raises:
        UnavailableError: the address cannot be used, for example because the port is taken.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # A name such as localhost has an IPv4 and an IPv6 address. Prefer IPv4: every client tries
        # it.
        family, _, _, _, address = min(addresses, key=lambda info: info[0] != socket.AF_INET)
        return socket.create_server(address, family=family)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen on {host}:{port} for /metrics and /health: {error.strerror}; "
            "set another port with RESMETER_WORKER__HTTP_PORT or RESMETER_SINK__HTTP_PORT"
        ) from error


def text_of(registry: CollectorRegistry) -> Callable[[], Awaitable[bytes]]:
    """Return a function that renders a registry's metrics in Prometheus' text format."""

    async def text() -> bytes:
        return generate_latest(registry)

    return text


@asynccontextmanager
async def serving(
    listening: socket.socket,
    metrics: Callable[[], Awaitable[bytes]],
    problems: Callable[[], Awaitable[list[str]]],
    is_live: Callable[[], Awaitable[bool]] | None = None,
    warnings: Callable[[], Awaitable[list[str]]] | None = None,
) -> AsyncIterator[int]:
    """Serve while the context is open; yield the port.

    `problems` returns why the process is not ready; an empty list means that it is ready. Without
    `is_live`, a process that responds is live. `warnings` returns what an operator should know
    although the process is ready. All functions run in the event loop and must
    not block.
    """

    async def serve_metrics(_: web.Request) -> web.Response:
        return web.Response(body=await metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def serve_live(_: web.Request) -> web.Response:
        live = is_live is None or await is_live()
        return web.json_response({"live": live}, status=200 if live else 503)

    async def serve_ready(_: web.Request) -> web.Response:
        reasons = await problems()
        told = {"warnings": await warnings()} if warnings is not None else {}
        return web.json_response(
            {"ready": not reasons, "reasons": reasons, **told}, status=503 if reasons else 200
        )

    app = web.Application()
    app.router.add_get("/metrics", serve_metrics)
    app.router.add_get("/health/live", serve_live)
    app.router.add_get("/health/ready", serve_ready)
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS_MAX
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        yield int(listening.getsockname()[1])
    finally:
        await runner.cleanup()
