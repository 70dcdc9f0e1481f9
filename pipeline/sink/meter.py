"""This file speaks to Stripe, through its SDK; all that is special to Stripe is here."""

import aiohttp
import stripe

from pipeline.ledger.entries import MeterEvent
from pipeline.sink.answer import Answer
from pipeline.sink.body import body

MESSAGE_CHARACTERS_MAX = 500
CONNECT_SECONDS_MAX = 10.0
# Stripe remembers identifiers "within a rolling period of at least 24 hours". After less than
# that, a call that may have been counted is not made again.
REMEMBERED_SECONDS = 23 * 3600


class StripeMeter:
    """Sends meter events. Open it in the event loop that uses it, and close it there."""

    def __init__(self, api_key: str, *, base_url: str | None, timeout_seconds: float) -> None:
        timeout = aiohttp.ClientTimeout(
            total=timeout_seconds, sock_connect=min(timeout_seconds, CONNECT_SECONDS_MAX)
        )
        # The retries are ours, in one place: the SDK never retries 429, and knows no ledger.
        self._http = stripe.AIOHTTPClient(timeout=timeout)
        self._client = stripe.StripeClient(
            api_key,
            base_addresses={"api": base_url, "meter_events": base_url} if base_url else None,
            http_client=self._http,
            max_network_retries=0,
        )

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
                message=_message(error),
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


def _is_unreached(error: stripe.StripeError) -> bool:
    return isinstance(
        error.__cause__, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError
    )


def _is_replayed(headers: object) -> bool:
    get = getattr(headers, "get", None)
    if get is None:
        return False
    return "true" in {get("idempotent-replayed"), get("Idempotent-Replayed")}


def _message(error: stripe.StripeError) -> str:
    cause = error.__cause__
    if error.http_status is None and cause is not None:
        return f"{type(cause).__name__}: {cause}"[:MESSAGE_CHARACTERS_MAX]
    return (error.user_message or type(error).__name__)[:MESSAGE_CHARACTERS_MAX]
