"""Make calls for what Stripe keeps, such as invoices, and say what an error of them means."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import aiohttp
import stripe

from pipeline.config import StripeSettings
from pipeline.errors import ConfigurationError, ResmeterError, UnavailableError
from pipeline.sink.stripe.client import PAGE_SIZE, StripeClient, read_again, read_pages
from pipeline.sink.stripe.responses import is_busy

CALL_TIMEOUT_SECONDS = 20.0
KEY = "resmeter_key"  # in the metadata: what an object of ours stands for
# What Stripe's SDK raises of an answer that lacks a member.
_NOT_STRIPES = (AttributeError, KeyError, TypeError, ValueError)


class StripeCalls:
    """An open client with its calls. Closing it closes the client; use it in one event loop.

    `refused` is raised where Stripe refuses a call for good.
    """

    refused: ClassVar[type[ResmeterError]]

    def __init__(
        self,
        settings: StripeSettings,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Open a client; nothing is sent.

        Raises:
            ConfigurationError: there is no key.
        """
        self._client = StripeClient(settings, timeout_seconds=CALL_TIMEOUT_SECONDS)
        self._v1 = self._client.v1
        self._pause = pause

    async def close(self) -> None:
        await self._client.close()

    async def _again(self, read: Callable[[], Awaitable[object]]) -> object:
        return await read_again(read, self._pause)

    async def _pages(
        self, listing: Callable[[Any], Awaitable[object]], what: str, **which: Any
    ) -> list[Any]:
        """Return all objects of a list; `what` it has is for messages."""

        async def read(after: str | None) -> object:
            params = {**which, "limit": PAGE_SIZE}
            if after is not None:
                params["starting_after"] = after
            return await self._again(lambda: listing(params))

        return await read_pages(read, what)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Raise our own error for one of Stripe, of the network or of a proxy.

        Where another call has the idempotency key, that call may count: what it made is found later.
        """
        client = self._client
        try:
            yield
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            raise ConfigurationError(
                [f"RESMETER_STRIPE__API_KEY: {what}: {client.message_of(error)}"]
            ) from error
        except (stripe.InvalidRequestError, stripe.CardError) as error:
            message = f"{what}: {client.message_of(error)}"
            if is_busy(error.http_status, error.code):
                raise UnavailableError(f"Stripe at {client.address}: {message}") from error
            raise self.refused(f"Stripe refuses a call: {message}") from error
        except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(
                f"Stripe at {client.address}: {what}: {client.message_of(error)}"
            ) from error
        except _NOT_STRIPES as error:
            raise UnavailableError(
                f"{client.address}: {what}: not an answer of Stripe: {client.message_of(error)}"
            ) from error
