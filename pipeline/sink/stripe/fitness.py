"""Compare a meter with what resmeter sends to it. Pure."""

from collections.abc import Sequence
from typing import Any

# The members of a payload, as a meter has them by default.
CUSTOMER_KEY, VALUE_KEY = "stripe_customer_id", "value"


def meter_problems(event_name: str, meters: Sequence[Any]) -> list[str]:
    """Return what would make Stripe take meter events of this name, and not count them later.

    Stripe responds 200 to a meter event before it looks at the meter.
    https://docs.stripe.com/api/billing/meter/object
    """
    named = [meter for meter in meters if _part(meter, "event_name") == event_name]
    active = [meter for meter in named if _part(meter, "status") == "active"]
    if not active:
        if named:
            inactive = f"the meter {_part(named[0], 'id')} with the event_name {event_name!r}"
            status = _part(named[0], "status")
            return [f"{inactive} is {status}, and Stripe drops what it is sent: reactivate it"]
        missing = (
            f"no active meter has the event_name {event_name!r}: create it (aggregation `sum`)"
        )
        return [f"{missing}, or name another one under [meters] of the tenant file"]
    meter = active[0]
    wrong = {
        "aggregates by": (_part(meter, "default_aggregation", "formula"), "sum"),
        "maps customers": (_part(meter, "customer_mapping", "type"), "by_id"),
        "takes the customer from": (
            _part(meter, "customer_mapping", "event_payload_key"),
            CUSTOMER_KEY,
        ),
        "takes the value from": (_part(meter, "value_settings", "event_payload_key"), VALUE_KEY),
        # With a window, the last meter event in it replaces the others.
        "has the event_time_window": (_part(meter, "event_time_window"), None),
        "needs the dimensions": (_part(meter, "dimension_payload_keys") or None, None),
    }
    return [
        f"the meter {_part(meter, 'id')} of {event_name!r} {what} {found!r}, and resmeter needs "
        f"{needed or 'none'!r}: create a meter that has it, because Stripe changes none of this later"
        for what, (found, needed) in wrong.items()
        if found != needed
    ]


def _part(found: Any, *names: str) -> Any:
    """Return a member of a member; None if there is none."""
    for name in names:
        found = getattr(found, name, None)
    return found
