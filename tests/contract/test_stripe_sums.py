"""Stripe's sums are read page by page, with an end, and again where a page does not come."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pipeline.errors import UnavailableError
from pipeline.sink.stripe.client import PAGES_MAX, PAUSES_SECONDS
from pipeline.sink.stripe.reconcile import read_sums
from tests.support.bench import stripe_settings

METER = {"id": "mtr_1", "object": "billing.meter", "event_name": "m", "status": "active"}
PAIR = ("cus_1", "m")
Respond = Callable[[web.Request], Awaitable[web.Response]]


def page(parts: list[Any], *, has_more: bool = False, status: int = 200) -> web.Response:
    body = {"object": "list", "url": "/v1/x", "data": parts, "has_more": has_more}
    return web.json_response(body, status=status, headers={"Request-Id": "req_1"})


def part(n: int, units: object = 1) -> dict[str, object]:
    return {"id": f"s{n}", "object": "billing.meter_event_summary", "aggregated_value": units}


def failed(status: int) -> web.Response:
    error = {"error": {"type": "api_error", "message": "later"}}
    return web.json_response(error, status=status, headers={"Request-Id": "req_1"})


@asynccontextmanager
async def stripe(sums: Respond) -> AsyncIterator[str]:
    """Serve one meter, and its sums by a handler."""

    async def meters(_: web.Request) -> web.Response:
        return page([METER])

    app = web.Application()
    app.router.add_get("/v1/billing/meters", meters)
    app.router.add_get("/v1/billing/meters/mtr_1/event_summaries", sums)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Reading:
    """Reads sums; remembers the pauses, which take no time."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def of(self, base_url: str, *pairs: tuple[str, str]) -> dict[tuple[str, str], int]:
        settings = stripe_settings(base_url)
        return await read_sums(settings, pairs or [PAIR], 0, 60, pause=self.pause)


@pytest.mark.parametrize("status", [409, 429, 500, 503, "cut", "page of a proxy"])
async def test_reading_goes_on_at_the_page_that_did_not_come(status: object) -> None:
    asked: list[str | None] = []

    async def sums(request: web.Request) -> web.Response:
        after = request.query.get("starting_after")
        asked.append(after)
        if after is not None and asked.count(after) == 1:
            if status == "cut":
                assert request.transport is not None
                request.transport.abort()
            if not isinstance(status, int):
                return web.Response(text="<html>")
            return failed(status)
        return page([part(2)]) if after else page([part(1, 2.0)], has_more=True)

    reading = Reading()
    async with stripe(sums) as base_url:
        found = await reading.of(base_url)

    assert found == {PAIR: 3}
    assert asked == [None, "s1", "s1"]
    # A connection that was cut, the HTTP client itself opens again.
    assert reading.pauses == ([] if status == "cut" else [PAUSES_SECONDS[0]])


async def test_a_page_that_never_comes_is_told_with_its_customer_and_meter() -> None:
    async def sums(_: web.Request) -> web.Response:
        return failed(503)

    reading = Reading()
    async with stripe(sums) as base_url:
        with pytest.raises(UnavailableError, match="the sums of m of cus_1: later"):
            await reading.of(base_url, PAIR, ("cus_2", "m"))

    assert set(reading.pauses) == set(PAUSES_SECONDS)


async def test_a_request_that_stripe_rejects_is_not_repeated() -> None:
    async def sums(_: web.Request) -> web.Response:
        return failed(400)

    reading = Reading()
    async with stripe(sums) as base_url:
        with pytest.raises(UnavailableError, match="the sums of m of cus_1: later"):
            await reading.of(base_url)

    assert reading.pauses == []


@pytest.mark.parametrize("repeats", [True, False])
async def test_pages_without_an_end_are_told(repeats: bool) -> None:
    asked = 0

    async def sums(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return page([part(1 if repeats else asked)], has_more=True)

    async with stripe(sums) as base_url:
        why = "its list of sums repeats" if repeats else "its list of sums does not end"
        with pytest.raises(UnavailableError, match=f"sums of m of cus_1: not an .*{why}"):
            await Reading().of(base_url)

    assert asked == (2 if repeats else PAGES_MAX)


@pytest.mark.parametrize("units", [1.5, "7", None, True, [1], "NaN", "Infinity"])
async def test_a_sum_that_is_not_a_whole_number_is_told(units: object) -> None:
    async def sums(_: web.Request) -> web.Response:
        body = json.dumps({"object": "list", "has_more": False, "data": [part(1, units)]})
        for name in ("NaN", "Infinity"):
            body = body.replace(f'"{name}"', name)
        return web.Response(text=body, headers={"Request-Id": "req_1"})

    async with stripe(sums) as base_url:
        with pytest.raises(UnavailableError, match="not an answer of Stripe"):
            await Reading().of(base_url)


@pytest.mark.parametrize(
    "body", ['{"object": "list", "data": [], "has_more": true}', '{"object": "list"}', "{}"]
)
async def test_what_is_not_a_page_is_told(body: str) -> None:
    async def sums(_: web.Request) -> web.Response:
        return web.Response(text=body)

    async with stripe(sums) as base_url:
        with pytest.raises(UnavailableError, match="not an answer of Stripe"):
            await Reading().of(base_url)
