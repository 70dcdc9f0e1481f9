"""This file reads Stripe's answers: everything that decides what becomes of a call. Pure.

| answer                                    | result                | then   |
|-------------------------------------------|-----------------------|--------|
| 2xx                                       | delivered             | done   |
| 4xx, the identifier exists, and our       |                       |        |
| · ledger has a call that may have made it | duplicate             | done   |
| · ledger has none                         | collision: an alarm   | done   |
| 401, 403                                  | halted                | halt   |
| 409, 429, no connection                   | refused               | retry  |
| other 4xx                                 | rejected: it is parked| done   |
| 5xx, a broken connection, all else        | failed                | retry  |
"""

from typing import Literal

import msgspec

from pipeline.ledger.entries import Result

Then = Literal["done", "retry", "halt"]
RESULTS: tuple[Result, ...] = (
    "delivered",
    "duplicate",
    "collision",
    "rejected",
    "failed",
    "refused",
    "halted",
)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came back from a call. `accepted` is a 2xx that could be read."""

    accepted: bool = False
    status: int | None = None  # None: there was no answer
    unreached: bool = False  # no connection was made: it was surely not counted
    replayed: bool = False  # Stripe gave the answer that it kept for the idempotency key
    code: str | None = None
    message: str = ""
    request_id: str | None = None


def read_answer(answer: Answer, identifier: str, *, perhaps_counted: bool) -> tuple[Result, Then]:
    """Return what became of the call, and what follows.

    `perhaps_counted`: an earlier call with this identifier and body may have taken effect.
    """
    status = answer.status
    if answer.accepted:
        return "delivered", "done"
    if status is None:
        return ("refused" if answer.unreached else "failed"), "retry"
    if status in {401, 403}:
        return "halted", "halt"
    if status in {409, 429}:
        return "refused", "retry"
    if 400 <= status < 500:
        if _says_duplicate(answer, identifier):
            return ("duplicate" if perhaps_counted else "collision"), "done"
        return "rejected", "done"
    return "failed", "retry"


def _says_duplicate(answer: Answer, identifier: str) -> bool:
    # Too old a timestamp is an error of the same type and has no code either: only the message
    # tells. The code is that of /v2.
    said = f"An event already exists with identifier {identifier}"
    return answer.code == "duplicate_meter_event" or said in answer.message
