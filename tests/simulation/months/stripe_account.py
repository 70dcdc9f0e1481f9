"""Stripe in a run of months: the core of the emulator, behind the SDK and an unreliable network."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson
import stripe

from pipeline.catalog.value import Catalog
from pipeline.config import StripeSettings
from pipeline.dev.emulator.response import StripeError, internal, rate_limited
from pipeline.dev.emulator.routes import METER_EVENTS, Call, respond
from pipeline.dev.emulator.state import State
from pipeline.sink.stripe.client import StripeClient
from pipeline.sink.stripe.invoices import StripeInvoices
from pipeline.sink.stripe.setup import Subscribing, set_up_with
from tests.simulation.world import FaultPoint, Process, World

SETTINGS = StripeSettings.model_validate({"api_key": "sk_test_1"})
_TIMEOUT_SECONDS = 30.0


class Network(stripe.HTTPClient):
    """Takes the SDK's requests to the emulator's core, at a time of the world's clock.

    Each request that changes something is an effect: the process may be killed before or after it,
    the request or its response may be lost, and Stripe may be busy or fail after it has acted.
    """

    name = "simulated"

    def __init__(
        self, world: World, process: Process, state: State, faults: "NetworkFaults"
    ) -> None:
        super().__init__()
        self._world = world
        self._process = process
        self._state = state
        self._faults = faults

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Return body, status and headers of the response."""
        await asyncio.sleep(0)
        self._world.during_call()
        parts = urlsplit(url)
        form = parts.query if method == "get" else post_data
        call = Call(method.upper(), parts.path, form or "", headers.get("Idempotency-Key"))
        fault = self._faults.draw()
        if not self._world.stripe_answers and call.path == METER_EVENTS:
            fault = "unreached"
        if fault == "unreached":
            raise _cut("no connection")
        if fault == "busy":
            return _encoded(rate_limited())
        if call.method == "GET":
            response = self._answer(call)
        else:
            name = f"{call.method} {_template(call.path)}"
            response = self._world.fault_point.pass_through(
                self._process, name, lambda: self._answer(call)
            )
        await asyncio.sleep(0)
        if fault == "cut":
            raise _cut("the connection was cut")
        if fault == "failed":
            return _encoded(internal())
        return response

    def _answer(self, call: Call) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            response = respond(self._state, call, self._world.seconds())
        except StripeError as error:
            return _encoded(error)
        headers = {**response.headers, "request-id": "req_simulated"}
        return orjson.dumps(response.body), response.status, headers

    async def sleep_async(self, _: float) -> None:
        await asyncio.sleep(0)

    async def close_async(self) -> None:
        return


class NetworkFaults:
    """Draws whether a request fails, and how; `chance` may change during a run."""

    def __init__(self, chance: float, draw: random.Random) -> None:
        self.chance = chance
        self._draw = draw

    def draw(self) -> str:
        if not self.chance or self._draw.random() >= self.chance:
            return ""
        return self._draw.choice(["unreached", "busy", "cut", "failed"])


def client_of(network: Network) -> StripeClient:
    """Return a client of the production code whose requests take the simulated network."""
    client = StripeClient(SETTINGS, timeout_seconds=_TIMEOUT_SECONDS)
    client.v1 = stripe.StripeClient("sk_test_1", http_client=network, max_network_retries=0).v1
    return client


def invoices_of(client: StripeClient) -> StripeInvoices:
    """Return the invoices of the production code, for a client; its pauses take no time."""
    invoices = StripeInvoices(SETTINGS, lambda _: asyncio.sleep(0))
    invoices._client, invoices._v1 = client, client.v1
    return invoices


async def subscribe_all(state: State, catalog: Catalog, at: int) -> None:
    """Do what `resmeter stripe setup` does, at a time, ms, and without a fault."""
    state.prepare(catalog.customers.values(), (), at / 1000)
    world = World(FaultPoint(), at, 1)
    network = Network(world, Process("setup"), state, NetworkFaults(0, random.Random(0)))
    await set_up_with(client_of(network), catalog, at, Subscribing(), applies=True)


def _cut(message: str) -> stripe.APIConnectionError:
    return stripe.APIConnectionError(message)  # type: ignore[no-untyped-call]


def _encoded(error: StripeError) -> tuple[bytes, int, Mapping[str, str]]:
    response = error.response()
    return orjson.dumps(response.body), response.status, {"request-id": "req_simulated"}


def _template(path: str) -> str:
    """Return a path with `*` in the place of an id."""
    parts = path.split("/")
    return "/".join("*" if "_" in part and part[-1].isdigit() else part for part in parts)
