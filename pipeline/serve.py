"""This file serves `/metrics`, `/health/live` and `/health/ready` for a worker or a sink."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from pipeline.errors import UnavailableError

SHUTDOWN_SECONDS_MAX = 1.0


@asynccontextmanager
async def serving(
    registry: CollectorRegistry, host: str, port: int, problems: Callable[[], list[str]]
) -> AsyncIterator[int]:
    """Serve for as long as the context is open; yield the port (it differs where `port` is 0).

    `problems` says why the process is not ready; an empty list means that it is. It is called in
    the event loop and must not block.

    Raises:
        UnavailableError: the address cannot be listened on.
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(_: web.Request) -> web.Response:
        reasons = problems()
        return web.json_response(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS_MAX
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise UnavailableError(
                f"cannot listen on {host}:{port} for /metrics and /health: {error.strerror}; "
                "set another port with RESMETER_WORKER__HTTP_PORT or RESMETER_SINK__HTTP_PORT"
            ) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
