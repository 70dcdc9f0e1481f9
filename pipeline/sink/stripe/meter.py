"""Deliver meter events to Stripe, through its SDK.

https://docs.stripe.com/api/billing/meter-event/create
"""

import hashlib

import aiohttp
import orjson
import stripe
from stripe.params.billing import MeterEventCreateParams

from pipeline.config import StripeSettings
from pipeline.ledger.entries import Conclusion, Lease, MeterEvent
from pipeline.sink.meter import Meter
from pipeline.sink.stripe.client import MESSAGE_CHARACTERS_MAX, StripeClient
from pipeline.sink.stripe.responses import StripeResponse, conclusion_of

# Stripe remembers identifiers "within a rolling period of at least 24 hours"; an hour is margin.
REMEMBERED_SECONDS = 23 * 3600


def open_meter(settings: StripeSettings, *, timeout_seconds: float) -> Meter:
    """Open a meter; call this in the event loop that uses it.

    Raises:
        ConfigurationError: there is no key.
    """
    return StripeMeter(StripeClient(settings, timeout_seconds=timeout_seconds))


class StripeMeter:
    """Stripe as a `Meter`. Closing it closes its client."""

    name = "Stripe"
    remembered_seconds = REMEMBERED_SECONDS

    def __init__(self, client: StripeClient) -> None:
        self._client = client

    def body_sha256(self, event: MeterEvent) -> str:
        return body_sha256(event)

    async def deliver(self, event: MeterEvent, lease: Lease) -> Conclusion:
        return conclusion_of(await self._call(event, lease.idempotency_key), lease)

    async def close(self) -> None:
        await self._client.close()

    async def _call(self, event: MeterEvent, idempotency_key: str) -> StripeResponse:
        try:
            created = await self._client.v1.billing.meter_events.create_async(
                body(event), options={"idempotency_key": idempotency_key}
            )
        except stripe.StripeError as error:
            return StripeResponse(
                status=error.http_status,
                unreached=_is_unreached(error),
                replayed=_is_replayed(error.headers or {}),
                code=error.code,
                message=self._client.message_of(error),
                request_id=error.request_id,
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            # The SDK reads a response's body outside of its error handling, so these come unwrapped.
            message = f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS_MAX]
            return StripeResponse(message=message)
        response = created.last_response
        return StripeResponse(
            accepted=True,
            status=response.code if response else 200,
            replayed=_is_replayed(response.headers if response else {}),
            request_id=response.request_id if response else None,
        )


def body(event: MeterEvent) -> MeterEventCreateParams:
    """Return the parameters of the call. Their order never changes, so a retry sends equal bytes.

    The keys in `payload` are those that a Stripe meter has by default.
    """
    return {
        "event_name": event.event_name,
        "identifier": event.identifier,
        "payload": {"stripe_customer_id": event.customer, "value": str(event.value)},
        "timestamp": event.timestamp,
    }


def body_sha256(event: MeterEvent) -> str:
    return hashlib.sha256(orjson.dumps(body(event))).hexdigest()


def _is_unreached(error: stripe.StripeError) -> bool:
    # A proxy that makes no connection for us has passed nothing on.
    return isinstance(
        error.__cause__,
        aiohttp.ClientConnectorError
        | aiohttp.ConnectionTimeoutError
        | aiohttp.ClientHttpProxyError,
    )


def _is_replayed(headers: object) -> bool:
    get = getattr(headers, "get", None)
    if get is None:
        return False
    return "true" in {get("idempotent-replayed"), get("Idempotent-Replayed")}
