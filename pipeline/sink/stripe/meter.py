"""This file speaks to Stripe, through its SDK; all that is special to Stripe is here."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import aiohttp
import stripe

from pipeline.config import StripeSettings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger.entries import MeterEvent
from pipeline.sink.stripe.body import body
from pipeline.sink.stripe.responses import Answer

MESSAGE_CHARACTERS_MAX = 500
CONNECT_SECONDS_MAX = 10.0
LOOK_TIMEOUT_SECONDS = 20.0
LOOKS_CONCURRENT_MAX = 10
NO_KEY = "RESMETER_STRIPE__API_KEY: is not set; the emulator takes sk_test_anything"
# Stripe remembers identifiers "within a rolling period of at least 24 hours". After less than
# that, a call that may have been counted is not made again.
REMEMBERED_SECONDS = 23 * 3600


class Meter(Protocol):
    """What takes meter events: Stripe, or a stand-in within the process."""

    async def send(self, event: MeterEvent, idempotency_key: str) -> Answer: ...


class StripeMeter:
    """Sends meter events. Open it in the event loop that uses it, and close it there."""

    def __init__(self, api_key: str, *, base_url: str | None, timeout_seconds: float) -> None:
        self._api_key = api_key
        self._client, self._http = _client(api_key, base_url, timeout_seconds)

    async def send(self, event: MeterEvent, idempotency_key: str) -> Answer:
        """Make one call; whatever comes back is an answer."""
        content = body(
            event.identifier, event.customer, event.event_name, event.value, event.timestamp
        )
        try:
            made = await self._client.v1.billing.meter_events.create_async(
                {
                    "event_name": content["event_name"],
                    "identifier": content["identifier"],
                    "payload": content["payload"],
                    "timestamp": content["timestamp"],
                },
                options={"idempotency_key": idempotency_key},
            )
        except stripe.StripeError as error:
            return Answer(
                status=error.http_status,
                unreached=_is_unreached(error),
                replayed=_is_replayed(error.headers or {}),
                code=error.code,
                message=_message(error, self._api_key),
                request_id=error.request_id,
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            # The SDK reads an answer's body outside of its own handler.
            return Answer(message=f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS_MAX])
        response = made.last_response
        return Answer(
            accepted=True,
            status=response.code if response else 200,
            replayed=_is_replayed(response.headers if response else {}),
            request_id=response.request_id if response else None,
        )

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]


def _client(
    api_key: str, base_url: str | None, timeout_seconds: float
) -> tuple[stripe.StripeClient, stripe.AIOHTTPClient]:
    timeout = aiohttp.ClientTimeout(
        total=timeout_seconds, sock_connect=min(timeout_seconds, CONNECT_SECONDS_MAX)
    )
    http = stripe.AIOHTTPClient(timeout=timeout)
    # The retries are ours, in one place: the SDK never retries 429, and knows no ledger.
    client = stripe.StripeClient(
        api_key,
        base_addresses={"api": base_url, "meter_events": base_url} if base_url else None,
        http_client=http,
        max_network_retries=0,
    )
    return client, http


async def look(
    settings: StripeSettings,
    customers: Mapping[str, str],
    event_names: Sequence[str],
    tell: Callable[[str], None],
) -> list[str]:
    """Return what at Stripe does not fit: the key, the meters, the customers. Changes nothing.

    Args:
        settings: key and address.
        customers: tenant → Stripe customer.
        event_names: of the meters that must be there.
        tell: takes what was found to be well, or could not be looked at.
    """
    if settings.api_key is None:
        return [NO_KEY]
    api_key = settings.api_key.get_secret_value()
    client, http = _client(api_key, settings.base_url, LOOK_TIMEOUT_SECONDS)
    try:
        problems = await _look_at_meters(client, event_names, tell)
        return problems + await _look_at_customers(client, customers, tell)
    except stripe.AuthenticationError as error:
        return [f"RESMETER_STRIPE__API_KEY: Stripe does not accept it: {_message(error, api_key)}"]
    except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
        where = settings.base_url or "api.stripe.com"
        said = _message(error, api_key) if isinstance(error, stripe.StripeError) else str(error)
        return [f"cannot reach Stripe at {where} (RESMETER_STRIPE__BASE_URL): {said}"]
    finally:
        await http.close_async()  # type: ignore[no-untyped-call]


async def summaries(
    settings: StripeSettings, places: Iterable[tuple[str, str]], start: int, end: int
) -> dict[tuple[str, str], int]:
    """Return what Stripe has counted by customer and meter; a meter that is not there has nothing.

    Args:
        settings: key and address.
        places: customers and event names of meters.
        start: with `end`, which is exclusive, bounds the timestamps, seconds, on whole minutes.
        end: see `start`.

    Raises:
        ConfigurationError: Stripe refuses the key, or it may not read sums.
        UnavailableError: Stripe cannot be reached, or refuses for another reason.
    """
    if settings.api_key is None:
        raise ConfigurationError([NO_KEY])
    api_key = settings.api_key.get_secret_value()
    client, http = _client(api_key, settings.base_url, LOOK_TIMEOUT_SECONDS)
    slots = asyncio.Semaphore(LOOKS_CONCURRENT_MAX)

    async def summary(meter: str, customer: str) -> int:
        async with slots:
            found = await client.v1.billing.meters.event_summaries.list_async(
                meter, {"customer": customer, "start_time": start, "end_time": end, "limit": 100}
            )
            return sum([int(part.aggregated_value) async for part in found.auto_paging_iter()])

    try:
        meters: dict[str, str] = {}
        listed = await client.v1.billing.meters.list_async({"limit": 100})
        async for meter in listed.auto_paging_iter():
            if meter.status == "active" or meter.event_name not in meters:
                meters[meter.event_name] = meter.id
        there = [place for place in places if place[1] in meters]
        sums = await asyncio.gather(*(summary(meters[name], who) for who, name in there))
        return dict(zip(there, sums, strict=True))
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise ConfigurationError(
            [f"RESMETER_STRIPE__API_KEY: {_message(error, api_key)}"]
        ) from error
    except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
        where = settings.base_url or "api.stripe.com"
        said = _message(error, api_key) if isinstance(error, stripe.StripeError) else str(error)
        raise UnavailableError(f"Stripe's sums cannot be read at {where}: {said}") from error
    finally:
        await http.close_async()  # type: ignore[no-untyped-call]


async def _look_at_meters(
    client: stripe.StripeClient, event_names: Sequence[str], tell: Callable[[str], None]
) -> list[str]:
    there: dict[str, stripe.billing.Meter] = {}
    try:
        listed = await client.v1.billing.meters.list_async({"limit": 100, "status": "active"})
        async for meter in listed.auto_paging_iter():
            there[meter.event_name] = meter
    except stripe.PermissionError:
        tell("the key may not read meters: these were not looked at")
        return []
    problems = [
        f"no active meter has the event_name {name!r}: create it (aggregation `sum`), or name "
        "another one under [meters] of the tenant file"
        for name in event_names
        if name not in there
    ]
    problems += [
        f"the meter of {name!r} does not aggregate by `sum`: make one that does"
        for name in event_names
        if name in there and there[name].default_aggregation.formula != "sum"
    ]
    if not problems:
        tell(f"{len(event_names)} meters are there")
    return problems


async def _look_at_customers(
    client: stripe.StripeClient, customers: Mapping[str, str], tell: Callable[[str], None]
) -> list[str]:
    slots = asyncio.Semaphore(LOOKS_CONCURRENT_MAX)

    async def problem(tenant_id: str, customer: str) -> str | None:
        async with slots:
            try:
                found = await client.v1.customers.retrieve_async(customer)
            except stripe.InvalidRequestError:
                return f"tenants.{tenant_id}: there is no customer {customer} in this account"
        deleted = getattr(found, "deleted", False)
        return f"tenants.{tenant_id}: customer {customer} is deleted" if deleted else None

    try:
        found = await asyncio.gather(*(problem(*item) for item in sorted(customers.items())))
    except stripe.PermissionError:
        tell("the key may not read customers: these were not looked at")
        return []
    problems = [text for text in found if text]
    if not problems:
        tell(f"{len(customers)} customers are there")
    return problems


def _is_unreached(error: stripe.StripeError) -> bool:
    return isinstance(
        error.__cause__, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError
    )


def _is_replayed(headers: object) -> bool:
    get = getattr(headers, "get", None)
    if get is None:
        return False
    return "true" in {get("idempotent-replayed"), get("Idempotent-Replayed")}


def _message(error: stripe.StripeError, api_key: str) -> str:
    cause = error.__cause__
    if error.http_status is None and cause is not None:
        said = f"{type(cause).__name__}: {cause}"
    else:
        said = error.user_message or type(error).__name__
    # It goes into logs, the ledger and /health; what answers need not be Stripe.
    return said.replace(api_key, "(the key)")[:MESSAGE_CHARACTERS_MAX]
