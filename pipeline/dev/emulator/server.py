"""Serve the emulator over HTTP, at Stripe's paths; `control` serves the paths under /_emulator."""

import asyncio
import base64
import hashlib
import itertools
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from pipeline.dev.emulator.backend import Backend
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.control import BEARER, PREFIX, Control
from pipeline.dev.emulator.faults import Fault, next_fault
from pipeline.dev.emulator.history import History
from pipeline.dev.emulator.params import nested
from pipeline.dev.emulator.response import (
    Response,
    StripeError,
    concurrent,
    forbidden,
    internal,
    rate_limited,
    unauthorized,
)
from pipeline.dev.emulator.routes import METER_EVENTS, Call
from pipeline.dev.emulator.state import State
from pipeline.errors import UnavailableError

SHUTDOWN_SECONDS_MAX = 1.0
_START_SECONDS_MAX = 10.0
_TEST_KEY = re.compile(r"(?:sk|rk)_test_\S+")


class Emulator:
    """One emulator: its accounts and clock, its API key and its rate limit."""

    def __init__(
        self,
        state: State | None = None,
        clock: Clock | None = None,
        *,
        api_key: str | None = None,
        calls_per_second_max: float | None = None,
        control_token: str | None = None,
        accounts: Iterable[str] = (),
        history: History | None = None,
    ) -> None:
        self.backend = Backend(state or State(), clock or Clock(), accounts, history)
        self.state = self.backend.state
        self.clock = self.backend.clock
        self._control = Control(self.backend, control_token)
        self._api_key = api_key
        self._rate = calls_per_second_max
        # A bucket that holds less than one token would never allow a call.
        self._tokens_max = max(calls_per_second_max or 0.0, 1.0)
        self._tokens = self._tokens_max
        self._filled_at = time.monotonic()
        self._request_numbers = itertools.count(1)

    def application(self) -> web.Application:
        """Return the web application; `serving` serves it."""
        app = web.Application(middlewares=[self._middleware])
        self._control.add_routes(app.router)
        app.router.add_route("*", "/{path:.*}", self._call)
        return app

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.startswith(PREFIX):
            why = self._control.why_forbidden(request)
            if why is not None:
                return web.json_response({"error": why}, status=403)
            return await handler(request)
        body = await request.read()
        try:
            self._authorize(request)
            self._take_token()
            response = await handler(request)
        except StripeError as error:
            response = _as_http(error.response())
        request_id = f"req_emulated{next(self._request_numbers):08d}"
        if not isinstance(response, _Foreign):
            response.headers["Request-Id"] = request_id
        self._log(request, body, response.status)
        return response

    def _authorize(self, request: web.Request) -> None:
        header = request.headers.get("Authorization")
        if header is None:
            raise unauthorized("You did not provide an API key.")
        key = _key_of(header)
        if not (_TEST_KEY.fullmatch(key) if self._api_key is None else key == self._api_key):
            raise unauthorized()

    def _take_token(self) -> None:
        if self._rate is None:
            return
        at = time.monotonic()
        self._tokens = min(self._tokens_max, self._tokens + (at - self._filled_at) * self._rate)
        self._filled_at = at
        if self._tokens < 1:
            raise rate_limited()
        self._tokens -= 1

    async def _call(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = Call(
            request.method,
            request.path,
            _text(body) if request.method == "POST" else request.query_string,
            request.headers.get("Idempotency-Key"),
            request.headers.get("Stripe-Account"),
        )
        fault = next_fault(self.state.faults, call.method, call.path)
        kind = fault.kind if fault else None
        # 1. Fail before the call begins: it has no effect, and no response is kept for its key.
        if kind == "401":
            raise unauthorized()
        if kind == "403":
            raise forbidden()
        if kind == "409":
            raise concurrent()
        if kind == "429":
            raise rate_limited()
        with self._in_flight(call):
            # 2. Wait, or fail before the call has its effect.
            if fault is not None and kind == "slow":
                await asyncio.sleep(fault.seconds)
            if kind == "cut_before":
                return _cut(request)
            if kind == "500_before":
                raise internal()
            if fault is not None and kind == "foreign_before":
                return _Foreign(fault)
            # 3. The effect.
            response = _as_http(self.backend.answer(call))
            # 4. Fail after the effect.
            if kind == "cut_after":
                return _cut(request)
            if kind == "500_after":
                raise internal()
            if fault is not None and kind == "foreign_after":
                return _Foreign(fault)
            return response

    @contextmanager
    def _in_flight(self, call: Call) -> Iterator[None]:
        """Let one call at a time through for a customer and meter.

        Raises:
            StripeError: another call is in flight.
        """
        if (call.method, call.path) != ("POST", METER_EVENTS):
            yield
            return
        meter_events = self.backend.state_of(call.account).meter_events
        entered = meter_events.enter(nested(call.form))
        try:
            yield
        finally:
            meter_events.leave(entered)

    def _log(self, request: web.Request, body: bytes, status: int) -> None:
        self.state.requests.append(
            {
                "method": request.method,
                "path": request.path,
                "status": status,
                "identifier": nested(_text(body)).get("identifier"),
                "idempotency_key": request.headers.get("Idempotency-Key"),
                "account": request.headers.get("Stripe-Account"),
                "form": _text(body) if request.method == "POST" else request.query_string,
                "body_sha256": hashlib.sha256(body).hexdigest(),
            }
        )


class _Foreign(web.Response):
    """A response of something that is not Stripe: it has no request id."""

    def __init__(self, fault: Fault) -> None:
        headers = {"Content-Type": "text/html", **fault.headers}
        super().__init__(status=fault.status, headers=headers, body=fault.body.encode())


def _key_of(header: str) -> str:
    """Return the key, as a bearer token or as the user of basic authentication, as `curl -u` sends it.

    https://docs.stripe.com/api/authentication
    """
    if bearer := BEARER.fullmatch(header):
        return bearer[1]
    scheme, _, encoded = header.partition(" ")
    try:
        user = base64.b64decode(encoded, validate=True).decode() if scheme == "Basic" else ""
    except ValueError:
        return ""
    return user.partition(":")[0]


def _text(body: bytes) -> str:
    return body.decode(errors="replace")


def _as_http(response: Response) -> web.Response:
    return web.json_response(response.body, status=response.status, headers=response.headers)


def _cut(request: web.Request) -> web.Response:
    # The client sees a broken connection; nobody receives the response.
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


# --- running it -----------------------------------------------------------------------------------


@asynccontextmanager
async def serving(emulator: Emulator, host: str, port: int) -> AsyncIterator[str]:
    """Serve for as long as the context is open; yield the base URL.

    Raises:
        UnavailableError: the emulator cannot listen on this address.
    """
    runner = web.AppRunner(
        emulator.application(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_SECONDS_MAX,
    )
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UnavailableError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port"
            ) from error
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        await asyncio.sleep(0)  # a connection that was cut ends in the loop's next turn


async def run(emulator: Emulator, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; call `ready` with the base URL once it serves."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(emulator, host, port) as base_url:
        ready(base_url)
        await stop.wait()


@contextmanager
def running(emulator: Emulator) -> Iterator[str]:
    """Serve on a free loopback port, in a thread; yield the base URL."""
    urls: list[str] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with serving(emulator, "127.0.0.1", 0) as base_url:
            urls.append(base_url)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="emulator")
    thread.start()
    try:
        assert ready.wait(_START_SECONDS_MAX), "the emulator did not start"
        yield urls[0]
    finally:
        stop.set()
        thread.join()
