"""Stripe's HTTP client, which passes on Stripe's own responses only."""

from collections.abc import Mapping
from typing import Any

import stripe

from pipeline.sink.stripe.responses import foreign_reason

# Far more than a page of Stripe's has. Whatever is on the way may send without an end.
BODY_BYTES_MAX = 16 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024


class ForeignResponseError(stripe.APIError):
    """The response is from something other than Stripe, such as a proxy."""


class Transport(stripe.AIOHTTPClient):
    """The SDK's client on aiohttp. It follows no redirect, and checks who answers.

    The SDK takes any JSON of a 2xx for Stripe's, and fails on some errors of other services. It
    reads a body of any size.
    """

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Return body, status and headers of a response of Stripe.

        Raises:
            ForeignResponseError: the response is not Stripe's.
        """
        stream, status, answered = await self.request_stream_async(method, url, headers, post_data)
        body = bytearray()
        async for part in stream.iter_chunked(_CHUNK_BYTES):
            body += part
            if len(body) > BODY_BYTES_MAX:
                message = f"not an answer of Stripe: it has more than {BODY_BYTES_MAX:,} bytes"
                raise ForeignResponseError(message, http_status=status, headers=dict(answered))
        reason = foreign_reason(status, answered, bytes(body))
        if reason is not None:
            message = f"not an answer of Stripe: the response {reason}"
            raise ForeignResponseError(message, http_status=status, headers=dict(answered))
        return bytes(body), status, answered

    def _get_request_args_kwargs(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any
    ) -> tuple[tuple[str, str], dict[str, Any]]:
        # The SDK has no public way to pass this on; a test against a redirect holds it.
        args, arguments = super()._get_request_args_kwargs(method, url, headers, post_data)
        return args, {**arguments, "allow_redirects": False}
