"""Decide the result of a call from the response: Stripe's own, or somebody else's. Pure.

| response                                  | result                                     |
|-------------------------------------------|--------------------------------------------|
| 2xx with our meter event                  | delivered                                  |
| Stripe's error, and                       |                                            |
| · the identifier exists, and the ledger   |                                            |
|   has a call that may have counted        | duplicate: Stripe counts the event once    |
|   has no such call                        | collision: an alarm                        |
| · 400, 402, 422; 404 of an object         | rejected: an operator must act             |
| · 401, 403                                | halted: nothing is sent until a restart    |
| · 409, 429                                | refused (throttled): not counted, retried  |
| · 5xx                                     | failed: perhaps counted, retried           |
| no connection, or no byte was sent        | refused (unreached): not counted, retried  |
| a broken connection                       | failed: perhaps counted, retried           |
| anything else: a page of a proxy, another | foreign: perhaps counted, retried, and an  |
| service's JSON, a wrong path              | alarm                                      |

Only Stripe's own answer is final. An error is Stripe's if it is a JSON object with the member
`error`, whose `type` is one of Stripe's, and if it comes with Stripe's header `Request-Id`.

Source: https://docs.stripe.com/api/errors.
"""

from collections.abc import Mapping

import msgspec
import orjson

from pipeline.ledger.entries import Conclusion, Lease, Result

ERROR_TYPES = frozenset(
    {
        "api_error",
        "authentication_error",
        "card_error",
        "idempotency_error",
        "invalid_request_error",
        "permission_error",
        "rate_limit_error",
    }
)
REQUEST_ID_PREFIX = "req_"
# Other statuses of Stripe say nothing about the meter event: 404 without a code is a wrong path.
_FINAL = {400, 402, 422}


class StripeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response to one call, if any. `accepted`: a 2xx with the meter event that was sent."""

    accepted: bool = False
    status: int | None = None  # None: there was no response
    unreached: bool = False  # no connection was made, or no byte was sent: certainly not counted
    foreign: bool = False  # the response is not Stripe's
    replayed: bool = False  # Stripe repeated the response that it stored for the key
    code: str | None = None
    message: str = ""
    request_id: str | None = None


def foreign_reason(status: int, headers: Mapping[str, str], body: bytes) -> str | None:
    """Return why a response is not one of Stripe's API, or None if it is.

    `headers` finds names in any case. The reason shows the body, which may repeat our key.
    """
    # Nothing of Stripe's API redirects, and a redirected POST may become a GET.
    if 300 <= status < 400:
        return f"redirects to {headers.get('location', 'nowhere')}"
    shown = " ".join(body.decode(errors="replace").split())
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return f"is not JSON: {shown}" if shown else "is empty"
    if not isinstance(content, dict):
        return f"is no JSON object: {shown}"
    if status < 300:
        return None if isinstance(content.get("object"), str) else f"is no object: {shown}"
    error = content.get("error")
    if not isinstance(error, dict):
        return f"is not an error of Stripe's: {shown}"
    kind = error.get("type")
    if not isinstance(kind, str) or kind not in ERROR_TYPES:
        return f"is not an error of Stripe's: {shown}"
    if not isinstance(error.get("message", ""), str):
        return f"has no message of Stripe's: {shown}"
    if not isinstance(error.get("code") or "", str):
        return f"has no code of Stripe's: {shown}"
    if not headers.get("request-id", "").startswith(REQUEST_ID_PREFIX):
        return f"has no Request-Id of Stripe's: {shown}"
    return None


def storable(text: str) -> str:
    """Return text that every database and the log take: without NUL and lone surrogates.

    HTTP clients read header bytes that are not UTF-8 as lone surrogates.
    """
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def conclusion_of(response: StripeResponse, lease: Lease) -> Conclusion:
    """Return the conclusion that the ledger stores for a response."""
    return Conclusion(
        result=read_response(response, lease.identifier, perhaps_counted=lease.perhaps_counted),
        http_status=response.status,
        request_id=None if response.request_id is None else storable(response.request_id),
        replayed=response.replayed,
        detail=storable(response.message) or None,
    )


def read_response(response: StripeResponse, identifier: str, *, perhaps_counted: bool) -> Result:
    """Return the result of the call.

    `perhaps_counted`: an earlier call with this identifier and body may have taken effect.
    """
    status = response.status
    if response.accepted:
        return "delivered"
    if response.foreign:
        return "foreign"
    if status is None:
        return "refused" if response.unreached else "failed"
    if status in {401, 403}:
        return "halted"
    if status in {409, 429} or response.code == "rate_limit":
        return "refused"
    if _is_duplicate(response, identifier):
        return "duplicate" if perhaps_counted else "collision"
    if status in _FINAL or (status == 404 and response.code is not None):
        return "rejected"
    return "failed" if status >= 500 else "foreign"


def _is_duplicate(response: StripeResponse, identifier: str) -> bool:
    # A timestamp that is too old is an error of the same type, and neither error has a code: only
    # the message distinguishes them. /v2 does have a code for a duplicate.
    sentence = f"An event already exists with identifier {identifier}"
    is_refused = response.status is not None and 400 <= response.status < 500
    return is_refused and (response.code == "duplicate_meter_event" or sentence in response.message)
