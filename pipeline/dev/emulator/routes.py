"""Find what answers a call, and answer it. Pure.

https://docs.stripe.com/api
"""

from collections.abc import Callable
from typing import Any

import msgspec

from pipeline.dev.emulator.objects import Object
from pipeline.dev.emulator.params import Params, check_shape, listed, nested
from pipeline.dev.emulator.response import Response, StripeError, unrecognized
from pipeline.dev.emulator.state import State

METER_EVENTS = "/v1/billing/meter_events"
# The parts of an object that it has only if the call asks for them, by the names of its members.
# https://docs.stripe.com/api/expanding_objects
_EXPANDABLE = "tiers"
_EXPANDED_LEVELS_MAX = 4


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call: its form is the body of a POST, or the query."""

    method: str
    path: str
    form: str = ""
    key: str | None = None  # idempotency key
    account: str | None = None  # connected account


Handler = Callable[[State, str, Params, float], Object]

_CUSTOMERS, _METERS, _PRODUCTS, _PRICES = (
    "/v1/customers", "/v1/billing/meters", "/v1/products", "/v1/prices",
)  # fmt: skip
_SUBSCRIPTIONS, _INVOICES, _ITEMS = "/v1/subscriptions", "/v1/invoices", "/v1/invoiceitems"
_GRANTS, _NOTES = "/v1/billing/credit_grants", "/v1/credit_notes"

# By method and path: the state, the id in the path, the parameters and the time give an object.
ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", METER_EVENTS): lambda s, i, p, t: s.meter_events.create(p, t),
    ("POST", "/v1/billing/meter_event_adjustments"): lambda s, i, p, t: s.meter_events.adjust(p, t),
    ("POST", _CUSTOMERS): lambda s, i, p, t: s.customers.create(p, t),
    ("GET", _CUSTOMERS): lambda s, i, p, t: s.customers.listing(p),
    ("GET", f"{_CUSTOMERS}/*"): lambda s, i, p, t: s.customers.get(i),
    ("POST", f"{_CUSTOMERS}/*"): lambda s, i, p, t: s.customers.update(i, p, t),
    ("DELETE", f"{_CUSTOMERS}/*"): lambda s, i, p, t: s.delete_customer(i, t),
    ("GET", f"{_CUSTOMERS}/*/balance_transactions"): lambda s, i, p, t: (
        s.customers.list_transactions(i, p)
    ),
    ("POST", f"{_CUSTOMERS}/*/balance_transactions"): lambda s, i, p, t: (
        s.customers.create_transaction(i, p, t)
    ),
    ("POST", _METERS): lambda s, i, p, t: s.meters.create(p, t),
    ("GET", _METERS): lambda s, i, p, t: s.meters.listing(p),
    ("GET", f"{_METERS}/*"): lambda s, i, p, t: s.meters.get(i),
    ("POST", f"{_METERS}/*"): lambda s, i, p, t: s.meters.update(i, p, t),
    ("POST", f"{_METERS}/*/deactivate"): lambda s, i, p, t: s.meters.deactivate(i, t),
    ("POST", f"{_METERS}/*/reactivate"): lambda s, i, p, t: s.meters.reactivate(i, t),
    ("GET", f"{_METERS}/*/event_summaries"): lambda s, i, p, t: s.meter_events.summaries(i, p, t),
    ("POST", _PRODUCTS): lambda s, i, p, t: s.products.create(p, t),
    ("GET", _PRODUCTS): lambda s, i, p, t: s.products.listing(p),
    ("GET", f"{_PRODUCTS}/*"): lambda s, i, p, t: s.products.get(i),
    ("POST", f"{_PRODUCTS}/*"): lambda s, i, p, t: s.products.update(i, p, t),
    ("POST", _PRICES): lambda s, i, p, t: s.prices.create(p, t),
    ("GET", _PRICES): lambda s, i, p, t: s.prices.listing(p),
    ("GET", f"{_PRICES}/*"): lambda s, i, p, t: s.prices.get(i),
    ("POST", f"{_PRICES}/*"): lambda s, i, p, t: s.prices.update(i, p),
    ("POST", _SUBSCRIPTIONS): lambda s, i, p, t: s.subscribe(p, t),
    ("GET", _SUBSCRIPTIONS): lambda s, i, p, t: s.subscriptions.listing(p),
    ("GET", f"{_SUBSCRIPTIONS}/*"): lambda s, i, p, t: s.subscriptions.get(i),
    ("POST", f"{_SUBSCRIPTIONS}/*"): lambda s, i, p, t: s.subscriptions.update(i, p, t),
    ("DELETE", f"{_SUBSCRIPTIONS}/*"): lambda s, i, p, t: s.unsubscribe(i, p, t),
    ("POST", _INVOICES): lambda s, i, p, t: s.invoices.create(p, t),
    ("GET", _INVOICES): lambda s, i, p, t: s.invoices.listing(p, t),
    ("GET", f"{_INVOICES}/*"): lambda s, i, p, t: s.invoices.shown(i, t),
    ("POST", f"{_INVOICES}/*"): lambda s, i, p, t: s.invoices.update(i, p, t),
    ("DELETE", f"{_INVOICES}/*"): lambda s, i, p, t: s.invoices.delete(i),
    ("GET", f"{_INVOICES}/*/lines"): lambda s, i, p, t: s.invoices.list_lines(i, p, t),
    ("POST", f"{_INVOICES}/*/finalize"): lambda s, i, p, t: s.invoices.finalize(i, p, t),
    ("POST", f"{_INVOICES}/*/pay"): lambda s, i, p, t: s.invoices.pay(i, p, t),
    ("POST", f"{_INVOICES}/*/void"): lambda s, i, p, t: s.invoices.void(i, t),
    ("POST", _ITEMS): lambda s, i, p, t: s.invoice_items.create(p, t),
    ("GET", _ITEMS): lambda s, i, p, t: s.invoice_items.listing(p),
    ("GET", f"{_ITEMS}/*"): lambda s, i, p, t: s.invoice_items.get(i),
    ("POST", f"{_ITEMS}/*"): lambda s, i, p, t: s.invoice_items.update(i, p, t),
    ("DELETE", f"{_ITEMS}/*"): lambda s, i, p, t: s.invoice_items.delete(i),
    ("POST", _NOTES): lambda s, i, p, t: s.credit_notes.create(p, t),
    ("GET", _NOTES): lambda s, i, p, t: s.credit_notes.listing(p),
    ("GET", f"{_NOTES}/*"): lambda s, i, p, t: s.credit_notes.get(i),
    ("POST", f"{_NOTES}/*"): lambda s, i, p, t: s.credit_notes.update(i, p),
    ("POST", f"{_NOTES}/*/void"): lambda s, i, p, t: s.credit_notes.void(i, t),
    ("GET", f"{_NOTES}/*/lines"): lambda s, i, p, t: s.credit_notes.list_lines(i, p),
    ("POST", _GRANTS): lambda s, i, p, t: s.credit_grants.create(p, t),
    ("GET", _GRANTS): lambda s, i, p, t: s.credit_grants.listing(p),
    ("GET", f"{_GRANTS}/*"): lambda s, i, p, t: s.credit_grants.get(i),
    ("POST", f"{_GRANTS}/*/expire"): lambda s, i, p, t: s.credit_grants.expire(i, t),
    ("POST", f"{_GRANTS}/*/void"): lambda s, i, p, t: s.credit_grants.void(i, t),
    ("GET", "/v1/billing/credit_balance_transactions"): lambda s, i, p, t: (
        s.credit_grants.list_transactions(p)
    ),
}


def respond(state: State, call: Call, now: float) -> Response:
    """Let the state move to a time, and answer a call there.

    Raises:
        StripeError: Stripe, or the emulator, has no such path.
    """
    handler, object_id = _find(call)
    params = nested(call.form)
    state.advance(now)

    def act() -> Response:
        check_shape(params)
        expand = [str(each) for each in listed(params, "expand")]
        for each in expand:
            if each.count(".") >= _EXPANDED_LEVELS_MAX:
                raise StripeError(
                    400, f"You cannot expand more than 4 levels of a property: {each}"
                )
            if each.rsplit(".", 1)[-1] != _EXPANDABLE:
                raise StripeError(400, f"This property cannot be expanded ({each}).")
        found = handler(state, object_id, params, now)
        return Response(200, _shown(found, expand))

    if call.method != "POST":
        return state.once(None, b"", act, now)
    # The path is part of the call: the same form at another path is another call.
    return state.once(call.key, f"{call.path}?{call.form}".encode(), act, now)


def _find(call: Call) -> tuple[Handler, str]:
    handler = ROUTES.get((call.method, call.path))
    if handler is not None:
        return handler, ""
    parts = call.path.split("/")
    for place in range(3, len(parts)):
        template = "/".join([*parts[:place], "*", *parts[place + 1 :]])
        handler = ROUTES.get((call.method, template))
        if handler is not None and parts[place]:
            return handler, parts[place]
    raise unrecognized(call.method, call.path)


def _shown(value: Any, expand: list[str], place: str = "") -> Any:
    """Copy an object, without what it has only if the call asks for it."""
    if isinstance(value, dict):
        return {
            name: _shown(member, expand, f"{place}{name}.")
            for name, member in value.items()
            if name != _EXPANDABLE or f"{place}{name}" in expand
        }
    if isinstance(value, list):
        return [_shown(each, expand, place) for each in value]
    return value
