"""Create and list meters. Pure.

https://docs.stripe.com/api/billing/meter
"""

from collections.abc import Callable

from pipeline.dev.emulator.objects import PAGE, Object, Objects, matches
from pipeline.dev.emulator.params import Params, check_names, mapping, required
from pipeline.dev.emulator.response import StripeError, missing

_FORMULAS = {"sum", "count", "last"}
_CREATE = {
    "customer_mapping", "default_aggregation", "display_name", "event_name",
    "event_time_window", "value_settings",
}  # fmt: skip


class Meters:
    """Meters by id."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._meters = Objects("meter", "/v1/billing/meters")

    def create(self, params: Params, now: float) -> Object:
        """Create an active meter.

        Raises:
            StripeError: a parameter is missing, or an active meter already has the event name.
        """
        check_names(params, _CREATE)
        display_name = required(params, "display_name")
        event_name = required(params, "event_name")
        aggregation = mapping(params, "default_aggregation")
        if aggregation.get("formula") not in _FORMULAS:
            raise missing("default_aggregation[formula]")
        if any(
            meter["event_name"] == event_name and meter["status"] == "active"
            for meter in self._meters
        ):
            raise StripeError(
                400, f"There's already an active meter with the event_name {event_name!r}."
            )
        customers, values = mapping(params, "customer_mapping"), mapping(params, "value_settings")
        meter = {
            "id": self._new_id("mtr"),
            "object": "billing.meter",
            "created": int(now),
            "updated": int(now),
            "display_name": display_name,
            "event_name": event_name,
            "status": "active",
            "customer_mapping": {
                "type": "by_id",
                "event_payload_key": customers.get("event_payload_key", "stripe_customer_id"),
            },
            "default_aggregation": {"formula": aggregation["formula"]},
            "value_settings": {"event_payload_key": values.get("event_payload_key", "value")},
            "event_time_window": params.get("event_time_window"),
            "livemode": False,
            "status_transitions": {"deactivated_at": None},
        }
        return self._meters.put(meter)

    def update(self, meter_id: str, params: Params, now: float) -> Object:
        """Change the name of a meter; nothing else of it can change."""
        meter = self.get(meter_id)
        check_names(params, {"display_name"})
        meter |= {"display_name": required(params, "display_name"), "updated": int(now)}
        return meter

    def deactivate(self, meter_id: str, now: float) -> Object:
        """Deactivate a meter; later meter events of its name are taken and not counted."""
        meter = self.get(meter_id)
        meter |= {"status": "inactive", "updated": int(now)}
        meter["status_transitions"] = {"deactivated_at": int(now)}
        return meter

    def reactivate(self, meter_id: str, now: float) -> Object:
        meter = self.get(meter_id)
        meter |= {"status": "active", "updated": int(now)}
        meter["status_transitions"] = {"deactivated_at": None}
        return meter

    def listing(self, params: Params) -> Object:
        """Return a page of the meters, newest first; the parameter `status` filters them."""
        check_names(params, {"status", *PAGE})
        return self._meters.page(params, matches(params, status="status"))

    def get(self, meter_id: str) -> Object:
        """Return a meter.

        Raises:
            StripeError: there is no such meter.
        """
        return self._meters.get(meter_id)

    def of_event_name(self, event_name: str) -> Object | None:
        """Return the meter for events of this name, an active one if possible."""
        named = [m for m in self._meters if m["event_name"] == event_name]
        return next((m for m in named if m["status"] == "active"), named[0] if named else None)
