"""Serve the paths under /_emulator, with which tests and people inspect and control the emulator.

| path                | what it does                                                            |
|---------------------|-------------------------------------------------------------------------|
| GET health          | 200 while the emulator serves                                           |
| GET, PUT clock      | `{"now": seconds or RFC 3339}`; null returns to the host's clock. What  |
|                     | falls due up to the new time happens: periods end, drafts become final  |
| GET, PUT settings   | `{"lag_seconds": …, "grace_seconds": …}`: how late summaries are, and   |
|                     | how long a subscription's draft waits until it becomes final            |
| GET sums            | units by customer and meter, and events that failed validation          |
| GET requests        | the last calls: path, status, identifier, key, form, digest of the body |
| POST, DELETE faults | add a `Fault`; remove all faults                                        |

If the emulator has a control token, every path except `health` needs it. Without a control token,
they serve only requests from the same machine.
"""

import hmac
import ipaddress
import re
from datetime import datetime
from typing import Annotated

import msgspec
import orjson
from aiohttp import web

from pipeline.dev.emulator.backend import GRACE_SECONDS_MAX, Backend
from pipeline.dev.emulator.faults import Fault

PREFIX = "/_emulator/"
BEARER = re.compile(r"Bearer (\S+)")


class _Settings(msgspec.Struct, forbid_unknown_fields=True):
    lag_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    grace_seconds: Annotated[int, msgspec.Meta(ge=0, le=GRACE_SECONDS_MAX)] | None = None


class Control:
    """The handlers of /_emulator."""

    def __init__(self, backend: Backend, token: str | None) -> None:
        self._backend = backend
        self._state = backend.state
        self._token = token

    def add_routes(self, routes: web.UrlDispatcher) -> None:
        routes.add_get(PREFIX + "health", self._health)
        routes.add_get(PREFIX + "clock", self._get_clock)
        routes.add_put(PREFIX + "clock", self._set_clock)
        routes.add_get(PREFIX + "settings", self._get_settings)
        routes.add_put(PREFIX + "settings", self._set_settings)
        routes.add_get(PREFIX + "sums", self._sums)
        routes.add_get(PREFIX + "requests", self._requests)
        routes.add_post(PREFIX + "faults", self._add_fault)
        routes.add_delete(PREFIX + "faults", self._clear_faults)

    def why_forbidden(self, request: web.Request) -> str | None:
        """Return why this caller may not use a path of /_emulator, or None if it may."""
        if request.path == PREFIX + "health":
            return None
        if self._token is not None:
            given = BEARER.fullmatch(request.headers.get("Authorization", ""))
            if given and hmac.compare_digest(given[1].encode(), self._token.encode()):
                return None
            return "the header `Authorization: Bearer TOKEN` does not have the control token"
        if not is_this_machine(request.remote):
            return "without a control token, /_emulator serves only requests from its own machine"
        if "Origin" in request.headers:
            # Any web page can make a browser on this machine call the emulator.
            return "without a control token, /_emulator serves no requests from web pages"
        return None

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"ready": True})

    async def _get_clock(self, _: web.Request) -> web.Response:
        return web.json_response({"now": self._backend.clock.now()})

    async def _set_clock(self, request: web.Request) -> web.Response:
        try:
            self._backend.set_clock(_time(orjson.loads(await request.read())["now"]))
        except (ValueError, TypeError, KeyError) as error:
            message = f'expected {{"now": seconds, RFC 3339 or null}}: {error}'
            return web.json_response({"error": message}, status=400)
        return await self._get_clock(request)

    async def _get_settings(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "lag_seconds": self._state.meter_events.lag_seconds,
                "grace_seconds": self._state.invoices.grace_seconds,
            }
        )

    async def _set_settings(self, request: web.Request) -> web.Response:
        try:
            given = msgspec.json.decode(await request.read(), type=_Settings)
        except msgspec.DecodeError as error:
            return web.json_response({"error": str(error)}, status=400)
        self._backend.configure(given.lag_seconds, given.grace_seconds)
        return await self._get_settings(request)

    async def _sums(self, _: web.Request) -> web.Response:
        return web.json_response(self._state.sums())

    async def _requests(self, _: web.Request) -> web.Response:
        return web.json_response(list(self._state.requests))

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            self._state.faults.append(msgspec.json.decode(await request.read(), type=Fault))
        except msgspec.DecodeError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"faults": len(self._state.faults)})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._state.faults.clear()
        return web.json_response({"faults": 0})


def is_this_machine(address: str | None) -> bool:
    """Return whether an address is a loopback address."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def _time(given: object) -> float | None:
    if given is None:
        return None
    if isinstance(given, str):
        at = datetime.fromisoformat(given)
        if at.tzinfo is None:
            raise ValueError(f"{given} has no offset from UTC")
        return at.timestamp()
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"{given!r} is not a time")
    return float(given)
