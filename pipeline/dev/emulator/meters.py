"""Create and list meters. Pure."""

from collections.abc import Callable
from typing import Any

from pipeline.dev.emulator.params import Params, mapping, page
from pipeline.dev.emulator.response import Response, StripeError, missing, not_found

_FORMULAS = {"sum", "count", "last"}


class Meters:
    """Meters by id, kept until the process ends."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._by_id: dict[str, dict[str, Any]] = {}

    def create(self, params: Params, now: float) -> Response:
        """Create an active meter.

        Raises:
            StripeError: a parameter is missing, or an active meter already has the event name.
        """
        for name in ("display_name", "event_name"):
            if not params.get(name):
                raise missing(name)
        aggregation = mapping(params, "default_aggregation")
        if aggregation.get("formula") not in _FORMULAS:
            raise missing("default_aggregation[formula]")
        event_name = str(params["event_name"])
        if any(
            meter["event_name"] == event_name and meter["status"] == "active"
            for meter in self._by_id.values()
        ):
            raise StripeError(
                400, f"There's already an active meter with the event_name {event_name!r}."
            )
        customers, values = mapping(params, "customer_mapping"), mapping(params, "value_settings")
        meter_id = self._new_id("mtr")
        meter = {
            "id": meter_id,
            "object": "billing.meter",
            "created": int(now),
            "updated": int(now),
            "display_name": params["display_name"],
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
        self._by_id[meter_id] = meter
        return Response(200, meter)

    def retrieve(self, meter_id: str) -> Response:
        return Response(200, self.get(meter_id))

    def deactivate(self, meter_id: str, now: float) -> Response:
        """Deactivate a meter; later meter events of its name are taken and not counted."""
        meter = self.get(meter_id)
        meter["status"] = "inactive"
        meter["status_transitions"] = {"deactivated_at": int(now)}
        return Response(200, meter)

    def list(self, params: Params) -> Response:
        """Return a page of the meters, newest first; the parameter `status` filters them."""
        status = params.get("status")
        meters = [m for m in reversed(self._by_id.values()) if status in {None, m["status"]}]
        return Response(200, page(meters, params, "/v1/billing/meters"))

    def get(self, meter_id: str) -> dict[str, Any]:
        """Return a meter.

        Raises:
            StripeError: there is no such meter.
        """
        if meter_id not in self._by_id:
            raise not_found("meter", meter_id)
        return self._by_id[meter_id]

    def of_event_name(self, event_name: str) -> dict[str, Any] | None:
        """Return the meter for events of this name, an active one if possible."""
        named = [m for m in self._by_id.values() if m["event_name"] == event_name]
        return next((m for m in named if m["status"] == "active"), named[0] if named else None)
