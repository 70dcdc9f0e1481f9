"""Accept meter events, cancel them, validate them, and sum them up. Pure.

https://docs.stripe.com/api/billing/meter-event
https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from pipeline.dev.emulator.customers import Customers
from pipeline.dev.emulator.meters import Meters
from pipeline.dev.emulator.objects import Object, page
from pipeline.dev.emulator.params import (
    Params,
    check_length,
    check_names,
    mapping,
    one_of,
    required,
    whole,
)
from pipeline.dev.emulator.remembered import Remembered
from pipeline.dev.emulator.response import StripeError, concurrent, missing

PAST_SECONDS_MAX = 35 * 24 * 3600
FUTURE_SECONDS_MAX = 300
CANCEL_SECONDS_MAX = 24 * 3600
IDENTIFIER_CHARACTERS_MAX = 100
EVENT_NAME_CHARACTERS_MAX = 100
VALUE_DIGITS_MAX = 15
_WINDOW_SECONDS = {"hour": 3600, "day": 86_400}
_INTEGER = re.compile(r"-?[0-9]+")


class Counted(msgspec.Struct):
    """An accepted meter event.

    `problem` is the code of a failed validation. Stripe validates later, so no response has it.
    """

    identifier: str
    event_name: str
    customer: str
    value: int
    timestamp: int
    received: float
    problem: str | None
    cancelled: float | None = None  # when


class MeterEvents:
    """The accepted events, and the identifiers of the last day.

    `lag_seconds` is how long summaries and invoices do not know an event, or that it is cancelled.
    """

    def __init__(
        self,
        customers: Customers,
        meters: Meters,
        new_id: Callable[[str], str],
        remembered_seconds: float,
        lag_seconds: float = 0.0,
    ) -> None:
        self.counted: list[Counted] = []
        self.lag_seconds = lag_seconds
        self._of: dict[tuple[str, str], list[Counted]] = {}  # customer, event name
        self.identifiers: Remembered[bool] = Remembered(remembered_seconds)
        self._customers = customers
        self._meters = meters
        self._new_id = new_id
        self._in_flight: set[tuple[str, str]] = set()  # customer, event name

    # --- accepting events -------------------------------------------------------------------------

    def create(self, params: Params, now: float) -> Object:
        """Accept a meter event. As at Stripe, an unknown customer or meter gives no error here.

        Raises:
            StripeError: a parameter is missing or invalid, or the identifier was used before.
        """
        check_names(params, {"event_name", "identifier", "payload", "timestamp"})
        event_name, payload = required(params, "event_name"), params.get("payload")
        if not isinstance(payload, Mapping):
            raise missing("payload")
        identifier = str(params.get("identifier") or self._new_id("mevt"))
        check_length(event_name, EVENT_NAME_CHARACTERS_MAX)
        check_length(identifier, IDENTIFIER_CHARACTERS_MAX)
        timestamp = _timestamp(params.get("timestamp"), now)
        if self.identifiers.get(identifier, now):
            raise StripeError(
                400,
                f"An event already exists with identifier {identifier}.",
                headers={"stripe-should-retry": "false"},
            )
        self.identifiers.put(identifier, True, now)
        event = self._validated(identifier, event_name, payload, timestamp, now)
        self.counted.append(event)
        self._of.setdefault((event.customer, event_name), []).append(event)
        return {
            "object": "billing.meter_event",
            "created": int(now),
            "event_name": event_name,
            "identifier": identifier,
            "livemode": False,
            "payload": dict(payload),
            "timestamp": timestamp,
        }

    def adjust(self, params: Params, now: float) -> Object:
        """Cancel a meter event. Its identifier stays used.

        An event of a final invoice can be cancelled, which changes the summaries and not the invoice.
        https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api#fix-incorrect-usage-data

        Raises:
            StripeError: no event of this name came under this identifier within 24 hours, or it is
                cancelled already.
        """
        check_names(params, {"cancel", "event_name", "type"})
        event_name = required(params, "event_name")
        one_of(params, "type", {"cancel"})
        identifier = required(mapping(params, "cancel"), "identifier")
        event = next((e for e in reversed(self.counted) if e.identifier == identifier), None)
        if event is None or event.event_name != event_name:
            raise StripeError(
                400, f"No event exists with identifier {identifier}.", code="resource_missing"
            )
        if now - event.received >= CANCEL_SECONDS_MAX:
            raise StripeError(
                400, "You can only cancel events within 24 hours of Stripe receiving them."
            )
        if event.cancelled is not None:
            raise StripeError(400, f"The event {identifier} is cancelled already.")
        event.cancelled = now
        return {
            "object": "billing.meter_event_adjustment",
            "cancel": {"identifier": identifier},
            "event_name": event_name,
            "livemode": False,
            "status": "pending" if self.lag_seconds else "complete",
            "type": "cancel",
        }

    def enter(self, params: Params) -> tuple[str, str]:
        """Begin a call for a customer and meter; return the key to pass to `leave`.

        Raises:
            StripeError: another call for this customer and meter is in flight.
        """
        payload = params.get("payload")
        customer = payload.get("stripe_customer_id") if isinstance(payload, Mapping) else None
        key = (str(customer), str(params.get("event_name")))
        if key in self._in_flight:
            raise concurrent()
        self._in_flight.add(key)
        return key

    def leave(self, key: tuple[str, str]) -> None:
        self._in_flight.discard(key)

    def _validated(
        self, identifier: str, event_name: str, payload: Params, timestamp: int, now: float
    ) -> Counted:
        meter = self._meters.of_event_name(event_name)
        customer_key = meter["customer_mapping"]["event_payload_key"] if meter else ""
        value_key = meter["value_settings"]["event_payload_key"] if meter else ""
        customer = str(payload.get(customer_key or "stripe_customer_id", ""))
        text = str(payload.get(value_key or "value", ""))
        problem = None
        if meter is None:
            problem = "no_meter"
        elif meter["status"] != "active":
            problem = "archived_meter"
        elif not customer:
            problem = "meter_event_no_customer_defined"
        elif customer not in self._customers:
            problem = "meter_event_customer_not_found"
        elif not _INTEGER.fullmatch(text):
            problem = "meter_event_invalid_value"
        elif len(text.lstrip("-")) > VALUE_DIGITS_MAX:
            problem = "meter_event_value_too_many_digits"
        is_readable = _INTEGER.fullmatch(text) and len(text.lstrip("-")) <= VALUE_DIGITS_MAX
        value = int(text) if is_readable else 0
        return Counted(identifier, event_name, customer, value, timestamp, now, problem)

    # --- sums -------------------------------------------------------------------------------------

    def quantity(self, meter_id: str, customer: str, start: int, end: int, now: float) -> int:
        """Return what an invoice bills of a period: what the summaries know, and never less than 0.

        https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api: of a period with
        a negative sum, an invoice bills 0.
        """
        meter = self._meters.get(meter_id)
        events = [
            each for each in self._known(meter, customer, now) if start <= each.timestamp < end
        ]
        return max(0, _aggregated(meter["default_aggregation"]["formula"], events))

    def _known(self, meter: Object, customer: object, now: float) -> list[Counted]:
        """Return the events of a customer and meter that count, as far as the summaries know."""
        latest = now - self.lag_seconds
        return [
            each
            for each in self._of.get((str(customer), meter["event_name"]), [])
            if each.problem is None
            and each.received <= latest
            and (each.cancelled is None or each.cancelled > latest)
        ]

    def summaries(self, meter_id: str, params: Params, now: float) -> Object:
        """Return a page of a customer's sums at a meter: by hour, by day or in all, newest first.

        Raises:
            StripeError: there is no such meter, or a parameter is missing or invalid.
        """
        meter = self._meters.get(meter_id)
        customer = required(params, "customer")
        start, end = whole(params, "start_time"), whole(params, "end_time")
        window = params.get("value_grouping_window")
        if window is not None and window not in _WINDOW_SECONDS:
            raise StripeError(400, f"Invalid value_grouping_window: {window}")
        step = _WINDOW_SECONDS.get(str(window), 60)
        for name, at in (("start_time", start), ("end_time", end)):
            if at % step:
                raise StripeError(
                    400, f"{name} must be aligned with {window or 'minute'} boundaries"
                )
        if window is None:
            step = max(end - start, 1)
        windows: dict[int, list[Counted]] = {} if window else {0: []}
        for event in self._known(meter, customer, now):
            if start <= event.timestamp < end:
                windows.setdefault((event.timestamp - start) // step, []).append(event)
        formula = meter["default_aggregation"]["formula"]
        summaries = [
            {
                "id": f"mtrusg_{meter_id}_{customer}_{start + n * step}_{step}",
                "object": "billing.meter_event_summary",
                "aggregated_value": _aggregated(formula, events),
                "start_time": start + n * step,
                "end_time": start + (n + 1) * step,
                "meter": meter_id,
                "livemode": False,
            }
            for n, events in sorted(windows.items(), reverse=True)
        ]
        url = f"/v1/billing/meters/{meter_id}/event_summaries"
        return page(summaries, params, url)

    def sums(self) -> dict[str, Any]:
        """Return events and units by customer and meter; events with a problem come separately.

        Cancelled events are in neither.
        """
        valid: dict[tuple[str, str], list[int]] = {}
        invalid: dict[tuple[str, str, str], list[int]] = {}
        for event in self.counted:
            total: list[int]
            if event.cancelled is not None:
                continue
            if event.problem is None:
                total = valid.setdefault((event.customer, event.event_name), [0, 0])
            else:
                key = (event.problem, event.customer, event.event_name)
                total = invalid.setdefault(key, [0, 0])
            total[0] += 1
            total[1] += event.value
        return {
            "sums": [
                {"customer": customer, "event_name": name, "events": events, "sum": units}
                for (customer, name), (events, units) in sorted(valid.items())
            ],
            "unvalidated": [
                {
                    "code": code,
                    "customer": customer,
                    "event_name": name,
                    "events": events,
                    "sum": units,
                }
                for (code, customer, name), (events, units) in sorted(invalid.items())
            ],
        }


def _aggregated(formula: str, events: list[Counted]) -> int:
    if formula == "count":
        return len(events)
    if formula == "last":
        return max(events, key=lambda e: e.timestamp).value if events else 0
    return sum(event.value for event in events)


def _timestamp(text: object, now: float) -> int:
    if text is None:
        return int(now)
    try:
        timestamp = int(str(text))
    except ValueError:
        raise StripeError(
            400, f"Invalid timestamp: {text}", code="parameter_invalid_integer"
        ) from None
    if timestamp < now - PAST_SECONDS_MAX:
        raise StripeError(400, "The timestamp must be within the past 35 calendar days.")
    if timestamp > now + FUTURE_SECONDS_MAX:
        raise StripeError(400, "The timestamp must not be more than 5 minutes in the future.")
    return timestamp
