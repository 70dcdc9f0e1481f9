"""Decide the result of a call from the response: Stripe's own, or somebody else's. Pure.

| response                                  | result                                     |
|-------------------------------------------|--------------------------------------------|
| 2xx with our meter event and a Request-Id | delivered                                  |
| 2xx with our adjustment and a Request-Id  | withdrawn                                  |
| Stripe's error, and                       |                                            |
| · the identifier exists, and the ledger   |                                            |
|   has a call that may have counted        | duplicate: Stripe counts the event once    |
|   has no such call                        | collision: an alarm                        |
| · another call used the idempotency key   | collision: an alarm                        |
| · the request is invalid                  | rejected: an operator must act             |
| · the key is not accepted                 | halted: nothing is sent until a restart    |
| · Stripe is busy                          | refused (throttled): not counted, retried  |
| · 5xx                                     | failed: perhaps counted, retried           |
| no connection, or no byte was sent        | refused (unreached): not counted, retried  |
| a broken connection                       | failed: perhaps counted, retried           |
| anything else: a page of a proxy, another | foreign: perhaps counted, retried, and an  |
| service's JSON, a wrong path, an error    | alarm                                      |
| whose type does not belong to its status  |                                            |

Of a call that withdraws an event, `rejected` means that Stripe does not cancel it. Stripe does not document
by which error, so no message is compared: after a call that may have counted, an operator must look.

Only Stripe's own answer is final: one with Stripe's header `Request-Id`. An error is a JSON object
with the member `error`, whose `type` is one of Stripe's.

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
_INVALID = "invalid_request_error"
# What an error means by its status and type. No other pair is documented for a meter event.
_RESULTS: dict[tuple[int, str | None], Result] = {
    (400, _INVALID): "rejected",
    (402, "card_error"): "rejected",
    (400, "idempotency_error"): "collision",
    **{
        (status, kind): "halted"
        for status in (401, 403)
        for kind in (_INVALID, "authentication_error", "permission_error")
    },
    (409, _INVALID): "refused",
    (409, "idempotency_error"): "refused",
    (429, _INVALID): "refused",
    (429, "rate_limit_error"): "refused",
}
# These codes belong to 429, and Stripe has sent them with 400.
_BUSY = {"lock_timeout", "rate_limit"}


class StripeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response to one call, if any. `accepted`: a 2xx with what was sent."""

    accepted: bool = False
    status: int | None = None  # None: there was no response
    unreached: bool = False  # no connection was made, or no byte was sent: certainly not counted
    foreign: bool = False  # the response is not Stripe's
    replayed: bool = False  # Stripe repeated the response that it stored for the key
    error_type: str | None = None  # of an error of Stripe's
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
    if status < 300 and not isinstance(content.get("object"), str):
        return f"is no object: {shown}"
    if not headers.get("request-id", "").startswith(REQUEST_ID_PREFIX):
        return f"has no Request-Id of Stripe's: {shown}"
    if status < 300:
        return None
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
    return None


def storable(text: str) -> str:
    """Return text that every database and the log take: without NUL and lone surrogates.

    HTTP clients read header bytes that are not UTF-8 as lone surrogates.
    """
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def conclusion_of(response: StripeResponse, lease: Lease) -> Conclusion:
    """Return the conclusion that the ledger stores for a response."""
    result = read_response(response, lease.identifier, perhaps_counted=lease.perhaps_counted)
    if lease.call == "withdraw":
        # A key that may write meter events, and no adjustments, must not stop what it may do.
        is_refused = result == "halted" and response.status == 403
        result = "withdrawn" if result == "delivered" else "rejected" if is_refused else result
    detail = storable(response.message)
    if result == "foreign" and not response.foreign:
        detail = (
            f"an error that Stripe does not document for HTTP {response.status}: "
            f"{response.error_type}, code {storable(response.code or 'none')}: {detail}"
        )
    return Conclusion(
        result=result,
        http_status=response.status,
        request_id=None if response.request_id is None else storable(response.request_id),
        replayed=response.replayed,
        detail=detail or None,
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
    if status >= 500:
        return "failed"
    if _is_duplicate(response, identifier):
        return "duplicate" if perhaps_counted else "collision"
    if status == 404:
        # Without this code, Stripe does not know the path.
        is_ours = response.error_type == _INVALID and response.code == "resource_missing"
        return "rejected" if is_ours else "foreign"
    result = _RESULTS.get((status, response.error_type), "foreign")
    if response.code in _BUSY and result in {"rejected", "collision"}:
        return "refused"
    return result


def is_busy(status: int | None, code: str | None) -> bool:
    """Return whether an error of Stripe's says that the same call may be accepted later."""
    return status in {409, 429} or code in _BUSY


def _is_duplicate(response: StripeResponse, identifier: str) -> bool:
    # A timestamp that is too old is an error of the same type, and neither error has a code: only
    # the message distinguishes them. /v2 does have a code for a duplicate.
    sentence = f"An event already exists with identifier {identifier}"
    is_refused = response.status == 400 and response.error_type == _INVALID
    return is_refused and (response.code == "duplicate_meter_event" or sentence in response.message)
