"""Deliver meter events to Stripe and withdraw them, through its SDK.

https://docs.stripe.com/api/billing/meter-event/create
https://docs.stripe.com/api/billing/meter-event-adjustment/create
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Collection

import aiohttp
import orjson
import stripe
from stripe import RequestOptions
from stripe.params.billing import (
    MeterEventAdjustmentCreateParams,
    MeterEventAdjustmentCreateParamsCancel,
    MeterEventCreateParams,
)

from pipeline.config import StripeSettings
from pipeline.ledger.entries import Conclusion, Lease, MeterEvent
from pipeline.logs import get_logger
from pipeline.sink.meter import Meter
from pipeline.sink.stripe.client import MESSAGE_CHARACTERS_MAX, StripeClient
from pipeline.sink.stripe.fitness import CUSTOMER_KEY, VALUE_KEY, meter_problems
from pipeline.sink.stripe.responses import StripeResponse, conclusion_of
from pipeline.sink.stripe.transport import ForeignResponseError

FIT_SECONDS = 3600.0
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

    def __init__(
        self, client: StripeClient, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._monotonic = monotonic
        self._log = get_logger(__name__)
        self._fit_until: dict[str, float] = {}

    def body_sha256(self, event: MeterEvent) -> str:
        return body_sha256(event)

    async def deliver(self, event: MeterEvent, lease: Lease) -> Conclusion:
        events = self._client.v1.billing.meter_events
        call = events.create_async(body(event), options={"idempotency_key": lease.idempotency_key})
        response = await self._response(call, lambda created: _is_event(created, event))
        return conclusion_of(response, lease)

    async def withdraw(self, event: MeterEvent, lease: Lease) -> Conclusion:
        adjustments = self._client.v1.billing.meter_event_adjustments
        options: RequestOptions = {"idempotency_key": lease.idempotency_key}
        call = adjustments.create_async(adjustment(event), options=options)
        response = await self._response(call, lambda created: _is_adjustment(created, event))
        return conclusion_of(response, lease)

    async def unfit(self, event_names: Collection[str], /) -> dict[str, str]:
        """Return which meters would drop what they take; those that are fit are asked once an hour."""
        now = self._monotonic()
        unknown = [name for name in event_names if self._fit_until.get(name, now) <= now]
        if not unknown:
            return {}
        try:
            meters = await self._client.list_meters()
        except Exception as error:
            # A key may be allowed to write meter events only, and an outage shows at the call;
            # so does an answer that is not Stripe's, on which the SDK fails in many ways.
            self._log.debug("meters_not_checked", detail=self._client.message_of(error))
            return {}
        found = {name: meter_problems(name, meters) for name in unknown}
        self._fit_until |= {
            name: now + FIT_SECONDS for name, problems in found.items() if not problems
        }
        return {name: "; ".join(problems) for name, problems in found.items() if problems}

    async def close(self) -> None:
        await self._client.close()

    async def _response(
        self, call: Awaitable[stripe.StripeObject], is_ours: Callable[[object], bool]
    ) -> StripeResponse:
        try:
            created = await call
        except stripe.StripeError as error:
            return StripeResponse(
                status=error.http_status,
                unreached=_is_unreached(error),
                foreign=isinstance(error, ForeignResponseError),
                replayed=_is_replayed(error.headers or {}),
                error_type=_member(error, "type"),
                code=_member(error, "code"),
                message=self._client.message_of(error),
                request_id=error.request_id,
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            # The SDK reads a response's body outside of its error handling, so these come unwrapped.
            message = f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS_MAX]
            return StripeResponse(message=message)
        except Exception as error:
            # The SDK fails in many ways on JSON that is none of Stripe's, such as a deeply nested one.
            # It has an answer then, so the call may have counted.
            message = f"the SDK cannot read the answer: {type(error).__name__}: {error}"
            return StripeResponse(foreign=True, message=message[:MESSAGE_CHARACTERS_MAX])
        response = created.last_response
        accepted = is_ours(created)
        return StripeResponse(
            accepted=accepted,
            foreign=not accepted,
            status=response.code if response else 200,
            replayed=_is_replayed(response.headers if response else {}),
            message="" if accepted else "not an answer of Stripe: it has no such meter event",
            request_id=response.request_id if response else None,
        )


def body(event: MeterEvent) -> MeterEventCreateParams:
    """Return the parameters of the call. Their order never changes, so a retry sends equal bytes.

    The keys in `payload` are those that a Stripe meter has by default.
    """
    return {
        "event_name": event.event_name,
        "identifier": event.identifier,
        "payload": {CUSTOMER_KEY: event.customer, VALUE_KEY: str(event.value)},
        "timestamp": event.timestamp,
    }


def adjustment(event: MeterEvent) -> MeterEventAdjustmentCreateParams:
    """Return the parameters of the call that cancels a meter event."""
    cancel: MeterEventAdjustmentCreateParamsCancel = {"identifier": event.identifier}
    return {"event_name": event.event_name, "type": "cancel", "cancel": cancel}


def body_sha256(event: MeterEvent) -> str:
    return hashlib.sha256(orjson.dumps(body(event))).hexdigest()


def _is_event(created: object, event: MeterEvent) -> bool:
    """Return whether a 2xx has the meter event that was sent."""
    return (
        getattr(created, "object", None) == "billing.meter_event"
        and getattr(created, "identifier", None) == event.identifier
    )


def _is_adjustment(created: object, event: MeterEvent) -> bool:
    """Return whether a 2xx has the adjustment that was asked for."""
    cancel = getattr(created, "cancel", None)
    return (
        getattr(created, "object", None) == "billing.meter_event_adjustment"
        and getattr(cancel, "identifier", None) == event.identifier
    )


# Errors before the first byte of the call was sent. A `ValueError` comes from the making of the
# request: a header that HTTP does not allow, a URL that is none. A proxy that does not open the
# tunnel to Stripe (`ClientHttpProxyError`) has not seen the call.
_UNREACHED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.NonHttpUrlClientError,
    ValueError,
)


def _is_unreached(error: stripe.StripeError) -> bool:
    return isinstance(error, stripe.APIConnectionError) and isinstance(error.__cause__, _UNREACHED)


def _member(error: stripe.StripeError, name: str) -> str | None:
    """Return a member of Stripe's error object; the SDK itself passes on few of them."""
    body = error.json_body
    found = body.get("error") if isinstance(body, dict) else None
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, str) else None


def _is_replayed(headers: object) -> bool:
    get = getattr(headers, "get", None)
    if get is None:
        return False
    return "true" in {get("idempotent-replayed"), get("Idempotent-Replayed")}
