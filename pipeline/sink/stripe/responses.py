"""Decide the result of a call from Stripe's response. Pure.

| response                                  | result                                     |
|-------------------------------------------|--------------------------------------------|
| 2xx                                       | delivered                                  |
| 4xx, the identifier exists, and the       |                                            |
| · ledger has a call that may have counted | duplicate: Stripe counts the event once    |
| · ledger has no such call                 | collision: an alarm                        |
| 401, 403                                  | halted: nothing is sent until a restart    |
| 409, 429                                  | refused (throttled): not counted, retried  |
| no connection                             | refused (unreached): not counted, retried  |
| other 4xx                                 | rejected for good: an operator must act    |
| 5xx, a broken connection, all else        | failed: perhaps counted, retried           |

Source: https://docs.stripe.com/api/errors.
"""

import msgspec

from pipeline.ledger.entries import Conclusion, Lease, Result


class StripeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The response to one call, if any. `accepted`: a 2xx whose body could be read."""

    accepted: bool = False
    status: int | None = None  # None: there was no response
    unreached: bool = False  # no connection was made: certainly not counted
    replayed: bool = False  # Stripe repeated the response that it stored for the key
    code: str | None = None
    message: str = ""
    request_id: str | None = None


def conclusion_of(response: StripeResponse, lease: Lease) -> Conclusion:
    """Return the conclusion that the ledger stores for a response."""
    return Conclusion(
        result=read_response(response, lease.identifier, perhaps_counted=lease.perhaps_counted),
        http_status=response.status,
        request_id=response.request_id,
        replayed=response.replayed,
        detail=response.message or None,
    )


def read_response(response: StripeResponse, identifier: str, *, perhaps_counted: bool) -> Result:
    """Return the result of the call.

    `perhaps_counted`: an earlier call with this identifier and body may have taken effect.
    """
    status = response.status
    if response.accepted:
        return "delivered"
    if status is None:
        return "refused" if response.unreached else "failed"
    if status in {401, 403}:
        return "halted"
    if status in {409, 429}:
        return "refused"
    if 400 <= status < 500:
        if _is_duplicate(response, identifier):
            return "duplicate" if perhaps_counted else "collision"
        return "rejected"
    return "failed"


def _is_duplicate(response: StripeResponse, identifier: str) -> bool:
    # A timestamp that is too old is an error of the same type, and neither error has a code: only
    # the message distinguishes them. /v2 does have a code for a duplicate.
    sentence = f"An event already exists with identifier {identifier}"
    return response.code == "duplicate_meter_event" or sentence in response.message
