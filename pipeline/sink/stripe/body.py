"""This file writes a meter event as Stripe gets it: the same bytes at every retry. Pure.

https://docs.stripe.com/api/billing/meter-event/create
"""

import hashlib
from typing import TypedDict

import orjson


class Body(TypedDict):
    event_name: str
    identifier: str
    payload: dict[str, str]
    timestamp: int


def body(identifier: str, customer: str, event_name: str, value: int, timestamp: int) -> Body:
    """Return the parameters of the call, in the order in which they go out.

    The keys of the payload are the defaults of a meter; a value is an integer in digits.
    """
    return {
        "event_name": event_name,
        "identifier": identifier,
        "payload": {"stripe_customer_id": customer, "value": str(value)},
        "timestamp": timestamp,
    }


def body_sha256(body: Body) -> str:
    return hashlib.sha256(orjson.dumps(body)).hexdigest()
