"""Build responses and errors in Stripe's form. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec


class Response(msgspec.Struct, frozen=True):
    """A response, whose body is sent as JSON."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = {}


class StripeError(Exception):
    """A failed call, with its error response."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body: dict[str, Any] = {"error": {"type": kind, "message": message}}
        if code is not None:
            self.body["error"]["code"] = code

    def response(self) -> Response:
        return Response(self.status, self.body, self.headers)


def missing(name: str) -> StripeError:
    return StripeError(400, f"Missing required param: {name}.", code="parameter_missing")


def not_found(kind: str, object_id: str) -> StripeError:
    return StripeError(404, f"No such {kind}: '{object_id}'", code="resource_missing")


def unrecognized(method: str, path: str) -> StripeError:
    return StripeError(404, f"Unrecognized request URL ({method}: {path}).")


def unauthorized(message: str = "Invalid API Key provided.") -> StripeError:
    return StripeError(401, message)


def forbidden() -> StripeError:
    """Return the error for a restricted key that lacks a permission."""
    return StripeError(
        403, "The provided key does not have the required permissions for this endpoint."
    )


def concurrent() -> StripeError:
    """Return the error for a call while another call for its customer and meter is in flight."""
    return StripeError(
        409,
        "There is another meter event in flight for this customer and meter.",
        code="too_many_concurrent_requests",
    )


def rate_limited() -> StripeError:
    return StripeError(
        429,
        "Request rate limit exceeded. Learn more about rate limits here "
        "https://stripe.com/docs/rate-limits.",
        code="rate_limit",
    )


def internal() -> StripeError:
    return StripeError(500, "An unknown error occurred", kind="api_error")
