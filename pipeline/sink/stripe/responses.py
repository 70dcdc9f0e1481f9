"""Read Stripe's responses: everything that decides what became of a call. Pure.

| response                                  | result                                     |
|-------------------------------------------|--------------------------------------------|
| 2xx                                       | delivered                                  |
| 4xx, the identifier exists, and our       |                                            |
| · ledger has a call that may have made it | duplicate: Stripe counts it once           |
| · ledger has no such call                 | collision: an alarm                        |
| 401, 403                                  | halted: nothing is sent until a restart    |
| 409, 429, no connection                   | refused: throttled or unreached, try again |
| other 4xx                                 | rejected for good: an operator must act    |
| 5xx, a broken connection, all else        | failed: perhaps counted, try again         |

Source: https://docs.stripe.com/api/errors.
"""

import msgspec

from pipeline.ledger.entries import Conclusion, Lease, Result


class StripeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What came back from a call. `accepted` is a 2xx that could be read."""

    accepted: bool = False
    status: int | None = None  # None: there was no response
    unreached: bool = False  # no connection was made: surely not counted
    replayed: bool = False  # the response that Stripe keeps for the idempotency key
    code: str | None = None
    message: str = ""
    request_id: str | None = None


def conclusion_of(response: StripeResponse, lease: Lease) -> Conclusion:
    """Return what the ledger stores of a response."""
    return Conclusion(
        result=read_response(response, lease.identifier, perhaps_counted=lease.perhaps_counted),
        http_status=response.status,
        request_id=response.request_id,
        replayed=response.replayed,
        detail=response.message or None,
    )


def read_response(response: StripeResponse, identifier: str, *, perhaps_counted: bool) -> Result:
    """Return what became of the call.

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
    # Too old a timestamp is an error of the same type and without a code too: only the message
    # distinguishes them. The code is that of /v2.
    sentence = f"An event already exists with identifier {identifier}"
    return response.code == "duplicate_meter_event" or sentence in response.message
