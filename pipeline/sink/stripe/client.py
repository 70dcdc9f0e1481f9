"""Open a client of Stripe's API from the settings, and describe its errors without the key."""

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import stripe

from pipeline.config import StripeSettings
from pipeline.errors import ConfigurationError
from pipeline.sink.stripe.responses import storable
from pipeline.sink.stripe.transport import ForeignResponseError, Transport

CONNECT_SECONDS_MAX = 10.0
MESSAGE_CHARACTERS_MAX = 500
PAGE_SIZE = 100  # Stripe's maximum
PAGES_MAX = 100
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)  # before something is read again; Stripe may throttle
_Read = TypeVar("_Read")
NO_KEY = "RESMETER_STRIPE__API_KEY: is not set; the emulator takes sk_test_anything"


class StripeClient:
    """An open client: create and close it in the event loop that uses it."""

    def __init__(self, settings: StripeSettings, *, timeout_seconds: float) -> None:
        """Open the client; nothing is sent.

        Raises:
            ConfigurationError: there is no key, or the CA file cannot be used.
        """
        if settings.api_key is None:
            raise ConfigurationError([NO_KEY])
        self._api_key = settings.api_key.get_secret_value()
        self.address = settings.base_url or "api.stripe.com"
        timeout = aiohttp.ClientTimeout(
            total=timeout_seconds, sock_connect=min(timeout_seconds, CONNECT_SECONDS_MAX)
        )
        self._proxy = settings.proxy.get_secret_value() if settings.proxy else None
        self._http = Transport(
            timeout=timeout,
            connector=_connector(settings.ca_file) if settings.ca_file else None,
            proxy=self._proxy,
        )
        base = settings.base_url
        # The dispatcher retries: the SDK never retries a 429 and knows nothing of the ledger.
        client = stripe.StripeClient(
            self._api_key,
            base_addresses={"api": base, "meter_events": base} if base else None,
            http_client=self._http,
            max_network_retries=0,
            stripe_account=settings.account,
        )
        self.v1 = client.v1

    def message_of(self, error: Exception) -> str:
        """Return the message of an error, shortened and without the key."""
        message = str(error)
        if isinstance(error, stripe.StripeError):
            cause = error.__cause__
            if error.http_status is None and cause is not None:
                message = f"{type(cause).__name__}: {cause}"
            else:
                message = error.user_message or type(error).__name__
        # The message goes into logs, the ledger and /health. A server that is not Stripe, such as a
        # wrong base_url, may repeat the key.
        message = message.replace(self._api_key, "(the key)")
        if self._proxy:
            message = message.replace(self._proxy, "(the proxy)")
        return storable(message)[:MESSAGE_CHARACTERS_MAX]

    async def list_meters(self) -> list[Any]:
        """Return all meters of the account, inactive ones included.

        Raises:
            ForeignResponseError: the response is not a list, or its pages do not end: something on
                the way answers every request for a page with the same one.
        """

        async def read(after: str | None) -> object:
            if after is None:
                return await self.v1.billing.meters.list_async({"limit": PAGE_SIZE})
            return await self.v1.billing.meters.list_async(
                {"limit": PAGE_SIZE, "starting_after": after}
            )

        return await read_pages(read, "meters")

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]


async def read_again(
    read: Callable[[], Awaitable[_Read]], pause: Callable[[float], Awaitable[None]]
) -> _Read:
    """Read something, and again after a pause, if it cannot be read for now."""
    for seconds in PAUSES_SECONDS:
        try:
            return await read()
        except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
            status = getattr(error, "http_status", None)
            if status is not None and 400 <= status < 500 and status not in {409, 429}:
                raise
        await pause(seconds)
    return await read()


async def read_pages(read: Callable[[str | None], Awaitable[object]], what: str) -> list[Any]:
    """Return all objects of a list.

    Args:
        read: reads the page after an id, or the first one.
        what: what the list has, for messages.

    Raises:
        ForeignResponseError: a page is not a list, repeats, or the pages do not end: something on the
            way answers every request for a page with the same one.
    """
    found: dict[str, Any] = {}
    after: str | None = None
    for _ in range(PAGES_MAX):
        page = await read(after)
        data, has_more = getattr(page, "data", None), getattr(page, "has_more", None)
        if not isinstance(data, list) or not isinstance(has_more, bool):
            raise ForeignResponseError(f"not an answer of Stripe: it has no list of {what}")
        for each in data:
            after = getattr(each, "id", None)
            if not isinstance(after, str) or after in found:
                raise ForeignResponseError(f"not an answer of Stripe: its list of {what} repeats")
            found[after] = each
        if not has_more:
            return list(found.values())
        if not data:
            break
    raise ForeignResponseError(
        f"not an answer of Stripe: its list of {what} does not end, after {len(found):,} of them"
    )


def _connector(ca_file: Path) -> aiohttp.TCPConnector:
    """Return a connector that trusts the CAs of Stripe's SDK and those of a file."""
    context = ssl.create_default_context(cafile=stripe.ca_bundle_path)
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            [f"RESMETER_STRIPE__CA_FILE: {ca_file} cannot be used: {error}"]
        ) from error
    return aiohttp.TCPConnector(ssl=context)
