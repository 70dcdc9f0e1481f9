"""This file serves the emulator over HTTP: Stripe's paths, and `/_emulator` for tests and people.

| path under /_emulator | what it does                                                        |
|-----------------------|---------------------------------------------------------------------|
| GET health            | 200 once it serves                                                  |
| GET, PUT clock        | `{"now": seconds or RFC 3339}`; null goes back to the host's clock  |
| GET sums              | units by customer and meter, and what validation set aside          |
| GET requests          | the last calls: path, status, identifier, key, digest of the body   |
| POST, DELETE faults   | add a `Fault`, remove all                                           |

All but health ask for a token where the emulator has one, and answer to this machine alone where
it has none.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import itertools
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import orjson
from aiohttp import web

from pipeline.dev.emulator.state import Answer, Fault, Params, Refusal, State, concurrent
from pipeline.errors import UnavailableError

SHUTDOWN_SECONDS_MAX = 1.0
_START_SECONDS_MAX = 10.0
_BEARER = re.compile(r"Bearer (\S+)")
_TEST_KEY = re.compile(r"(?:sk|rk)_test_\S+")
_NESTED = re.compile(r"\[([^\]]*)\]")


class Clock:
    """The emulator's time: the host's, or one that was set and runs on from there."""

    def __init__(self, now: float | None = None) -> None:
        self._ahead = 0.0
        self.set(now)

    def now(self) -> float:
        return time.time() + self._ahead

    def set(self, now: float | None) -> None:
        """Set the time, in seconds since the epoch; None goes back to the host's."""
        self._ahead = 0.0 if now is None else now - time.time()


class Emulator:
    """One emulator: its state, clock and rules."""

    def __init__(
        self,
        state: State | None = None,
        clock: Clock | None = None,
        *,
        api_key: str | None = None,
        calls_per_second_max: float | None = None,
        control_token: str | None = None,
    ) -> None:
        self.state = state or State()
        self.clock = clock or Clock()
        self._api_key = api_key
        self._control_token = control_token
        self._rate = calls_per_second_max
        # A bucket that holds less than one token never lets a call through.
        self._tokens_max = max(calls_per_second_max or 0.0, 1.0)
        self._tokens = self._tokens_max
        self._filled_at = time.monotonic()
        self._numbers = itertools.count(1)

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._middleware])
        state, now = self.state, self.clock.now
        routes = app.router
        routes.add_post("/v1/customers", self._call(lambda r, p: state.create_customer(p, now())))
        routes.add_get("/v1/customers", self._call(lambda r, p: state.list_customers(p)))
        routes.add_get(
            "/v1/customers/{id}", self._call(lambda r, p: state.retrieve_customer(_id(r)))
        )
        meters = "/v1/billing/meters"
        routes.add_post(meters, self._call(lambda r, p: state.create_meter(p, now())))
        routes.add_get(meters, self._call(lambda r, p: state.list_meters(p)))
        routes.add_get(meters + "/{id}", self._call(lambda r, p: state.retrieve_meter(_id(r))))
        routes.add_get(
            meters + "/{id}/event_summaries",
            self._call(lambda r, p: state.summaries(_id(r), p)),
        )
        routes.add_post("/v1/billing/meter_events", self._meter_event)
        routes.add_get("/_emulator/health", self._health)
        routes.add_get("/_emulator/clock", self._clock)
        routes.add_put("/_emulator/clock", self._set_clock)
        routes.add_get("/_emulator/sums", self._sums)
        routes.add_get("/_emulator/requests", self._requests)
        routes.add_post("/_emulator/faults", self._add_fault)
        routes.add_delete("/_emulator/faults", self._clear_faults)
        return app

    # --- Stripe's side --------------------------------------------------------------------------

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path.startswith("/_emulator/"):
            why = None if request.path == "/_emulator/health" else self._refused_control(request)
            if why is not None:
                return web.json_response({"error": why}, status=403)
            return await handler(request)
        body = await request.read()
        try:
            self._authorize(request)
            self._take_token()
            response = await handler(request)
        except web.HTTPException:  # no such route, or method
            message = f"Unrecognized request URL ({request.method}: {request.path})."
            response = _response(
                Answer(404, {"error": {"type": "invalid_request_error", "message": message}})
            )
        except Refusal as refusal:
            response = _response(Answer(refusal.status, refusal.body, refusal.headers))
        response.headers["Request-Id"] = f"req_emulated{next(self._numbers):08d}"
        self._log(request, body, response.status)
        return response

    def _refused_control(self, request: web.Request) -> str | None:
        """Say why this caller may not look into the emulator or change it."""
        if self._control_token is not None:
            given = _BEARER.fullmatch(request.headers.get("Authorization", ""))
            if given and hmac.compare_digest(given[1].encode(), self._control_token.encode()):
                return None
            return "the header `Authorization: Bearer TOKEN` does not have the control token"
        if not is_this_machine(request.remote):
            return "without a control token, /_emulator answers to its own machine alone"
        if "Origin" in request.headers:
            # A browser on this machine, told to by a page from anywhere.
            return "without a control token, /_emulator answers no page in a browser"
        return None

    def _authorize(self, request: web.Request) -> None:
        header = request.headers.get("Authorization")
        if header is None:
            raise _unauthorized("You did not provide an API key.")
        given = _BEARER.fullmatch(header)
        key = given[1] if given else ""
        if not (_TEST_KEY.fullmatch(key) if self._api_key is None else key == self._api_key):
            raise _unauthorized()

    def _take_token(self) -> None:
        if self._rate is None:
            return
        at = time.monotonic()
        self._tokens = min(self._tokens_max, self._tokens + (at - self._filled_at) * self._rate)
        self._filled_at = at
        if self._tokens < 1:
            raise _too_many()
        self._tokens -= 1

    def _call(
        self, answer: Callable[[web.Request, Params], Answer]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            return self._idempotent(request, await request.read(), lambda p: answer(request, p))

        return handle

    def _idempotent(
        self, request: web.Request, body: bytes, act: Callable[[Params], Answer]
    ) -> web.Response:
        """Answer a call, a second one with the same key as the first."""
        params = nested(_text(body) if request.method == "POST" else request.query_string)
        key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
        # The same form at another path is another request.
        call = request.path.encode() + b"?" + body
        return _response(self.state.once(key, call, lambda: act(params), self.clock.now()))

    async def _meter_event(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        fault = self.state.next_fault()
        kind = fault.kind if fault else None
        if kind == "401":
            raise _unauthorized()
        if kind == "409":
            raise concurrent()
        if kind == "429":
            raise _too_many()
        # Refused at the door: neither counted nor kept for the key.
        lane = self.state.enter(nested(_text(body)))
        try:
            if fault is not None and kind == "slow":
                await asyncio.sleep(fault.seconds)
            if kind == "cut_before":
                return _cut(request)
            if kind == "500_before":
                raise _broken()
            response = self._idempotent(
                request, body, lambda p: self.state.create_meter_event(p, self.clock.now())
            )
            if kind == "cut_after":
                return _cut(request)
            if kind == "500_after":
                raise _broken()
            return response
        finally:
            self.state.leave(lane)

    def _log(self, request: web.Request, body: bytes, status: int) -> None:
        self.state.requests.append(
            {
                "method": request.method,
                "path": request.path,
                "status": status,
                "identifier": nested(_text(body)).get("identifier"),
                "idempotency_key": request.headers.get("Idempotency-Key"),
                "body_sha256": hashlib.sha256(body).hexdigest(),
            }
        )

    # --- our side -------------------------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"ready": True})

    async def _clock(self, _: web.Request) -> web.Response:
        return web.json_response({"now": self.clock.now()})

    async def _set_clock(self, request: web.Request) -> web.Response:
        try:
            self.clock.set(_time(orjson.loads(await request.read())["now"]))
        except (ValueError, TypeError, KeyError) as error:
            message = f'expected {{"now": seconds, RFC 3339 or null}}: {error}'
            return web.json_response({"error": message}, status=400)
        return await self._clock(request)

    async def _sums(self, _: web.Request) -> web.Response:
        return web.json_response(self.state.sums())

    async def _requests(self, _: web.Request) -> web.Response:
        return web.json_response(list(self.state.requests))

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            self.state.faults.append(msgspec.json.decode(await request.read(), type=Fault))
        except msgspec.DecodeError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"faults": len(self.state.faults)})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.state.faults.clear()
        return web.json_response({"faults": 0})


def is_this_machine(address: str | None) -> bool:
    """Return whether a caller's address is one of loopback."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def nested(form: str) -> dict[str, Any]:
    """Read form parameters, nested by their brackets: `payload[value]=1`."""
    found: dict[str, Any] = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        parts = [name.split("[", 1)[0], *_NESTED.findall(name)]
        place = found
        for part in parts[:-1]:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                break
            place = inner
        else:
            place[parts[-1]] = value
    return found


def _text(body: bytes) -> str:
    return body.decode(errors="replace")


def _time(given: object) -> float | None:
    if given is None:
        return None
    if isinstance(given, str):
        at = datetime.fromisoformat(given)
        if at.tzinfo is None:
            raise ValueError(f"{given} has no offset from UTC")
        return at.timestamp()
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"{given!r} is no time")
    return float(given)


def _id(request: web.Request) -> str:
    return request.match_info["id"]


def _response(answer: Answer) -> web.Response:
    return web.json_response(answer.body, status=answer.status, headers=answer.headers)


def _cut(request: web.Request) -> web.Response:
    # The client sees a connection that broke; what we return goes nowhere.
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


def _unauthorized(message: str = "Invalid API Key provided.") -> Refusal:
    return Refusal(401, "invalid_request_error", message)


def _too_many() -> Refusal:
    return Refusal(
        429,
        "invalid_request_error",
        "Request rate limit exceeded. Learn more about rate limits here "
        "https://stripe.com/docs/rate-limits.",
        code="rate_limit",
    )


def _broken() -> Refusal:
    return Refusal(500, "api_error", "An unknown error occurred")


# --- running it -----------------------------------------------------------------------------------


@asynccontextmanager
async def serving(emulator: Emulator, host: str, port: int) -> AsyncIterator[str]:
    """Serve for as long as the context is open; yield the base URL.

    Raises:
        UnavailableError: the address cannot be listened on.
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


async def run(emulator: Emulator, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `ready` is told the base URL."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(emulator, host, port) as base_url:
        ready(base_url)
        await stop.wait()


@contextmanager
def running(emulator: Emulator) -> Iterator[str]:
    """Serve on a free port of loopback, in a thread; yield the base URL."""
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
