"""Create, change and end subscriptions to metered prices. Pure.

https://docs.stripe.com/api/subscriptions
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.dev.emulator.customers import Customers
from pipeline.dev.emulator.objects import PAGE, Object, Objects
from pipeline.dev.emulator.params import (
    Params,
    check_names,
    flag,
    listed,
    mapping,
    one_of,
    required,
    whole,
    whole_or,
    with_metadata,
)
from pipeline.dev.emulator.periods import Cycle, next_day_of_month
from pipeline.dev.emulator.prices import Prices
from pipeline.dev.emulator.response import StripeError, missing

PRORATIONS = {"always_invoice", "create_prorations", "none"}
COLLECTIONS = {"charge_automatically", "send_invoice"}
_CREATE = {
    "backdate_start_date", "billing_cycle_anchor", "billing_cycle_anchor_config",
    "cancel_at_period_end", "collection_method", "currency", "customer", "days_until_due",
    "description", "items", "metadata", "off_session", "proration_behavior",
}  # fmt: skip
_UPDATE = {
    "billing_cycle_anchor", "cancel_at_period_end", "collection_method", "days_until_due",
    "description", "items", "metadata", "proration_behavior",
}  # fmt: skip
_CYCLE_AT = {"hour": 23, "minute": 59, "second": 59}  # with the greatest value of each


class Subscriptions:
    """Subscriptions by id, each with the cycle of its periods."""

    def __init__(self, customers: Customers, prices: Prices, new_id: Callable[[str], str]) -> None:
        self._customers = customers
        self._prices = prices
        self._new_id = new_id
        self._subscriptions = Objects("subscription", "/v1/subscriptions")
        self._cycles: dict[str, Cycle] = {}

    def create(self, params: Params, now: float) -> Object:
        """Create an active subscription.

        Raises:
            StripeError: a parameter is missing, unknown or invalid, or the currency is not the one of
                the customer.
        """
        check_names(params, _CREATE)
        customer = self._customers.known(required(params, "customer"))["id"]
        subscription_id = self._new_id("sub")
        items = [self._item(subscription_id, each, now) for each in listed(params, "items")]
        price = _check_items(items)
        currency = price["currency"]
        self._customers.bill_in(customer, currency)
        cycle, config = _cycle(params, price["recurring"], int(now))
        start = whole_or(params, "backdate_start_date", int(now)) or 0
        if start > now:
            raise StripeError(400, "`backdate_start_date` must be in the past.")
        self._cycles[subscription_id] = cycle
        subscription: Object = {
            "id": subscription_id,
            "object": "subscription",
            "application": None,
            "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
            "billing_cycle_anchor": cycle.anchor,
            "billing_cycle_anchor_config": config,
            "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
            "billing_schedules": [],
            "billing_thresholds": None,
            "cancel_at": None,
            "cancel_at_period_end": flag(params, "cancel_at_period_end", default=False),
            "canceled_at": None,
            "created": int(now),
            "currency": currency,
            "customer": customer,
            "default_tax_rates": [],
            "description": params.get("description") or None,
            "discounts": [],
            "ended_at": None,
            "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
            "items": {
                "object": "list",
                "data": items,
                "has_more": False,
                "url": f"/v1/subscription_items?subscription={subscription_id}",
            },
            "latest_invoice": None,
            "livemode": False,
            "metadata": with_metadata({}, params),
            "pause_collection": None,
            "schedule": None,
            "start_date": start,
            "status": "active",
            "test_clock": None,
            "trial_end": None,
            "trial_start": None,
            **_collection(params, {}),
        }
        # A cycle that is anchored in the future begins with a period up to the anchor.
        # https://docs.stripe.com/billing/subscriptions/billing-cycle#new-subscriptions
        _set_period(subscription, start, cycle.after(now))
        return self._subscriptions.put(subscription)

    def update(self, subscription_id: str, params: Params, now: float) -> Object:
        """Change a subscription; a price that is replaced bills nothing of the current period.

        Raises:
            StripeError: a parameter is unknown or invalid, or the subscription has ended.
        """
        subscription = self._subscriptions.get(subscription_id)
        check_names(params, _UPDATE)
        if subscription["status"] == "canceled":
            raise StripeError(400, "A canceled subscription can only update its metadata.")
        one_of(params, "proration_behavior", PRORATIONS, "create_prorations")
        one_of(params, "billing_cycle_anchor", {"unchanged"}, "unchanged")
        items = self._changed_items(subscription, listed(params, "items"), now)
        if _check_items(items)["currency"] != subscription["currency"]:
            raise StripeError(400, "The currency of a subscription cannot change.")
        subscription["items"]["data"] = items
        subscription["metadata"] = with_metadata(subscription["metadata"], params)
        if "description" in params:
            subscription["description"] = params["description"] or None
        subscription["cancel_at_period_end"] = flag(
            params, "cancel_at_period_end", default=subscription["cancel_at_period_end"]
        )
        subscription |= _collection(params, subscription)
        return subscription

    def end(self, subscription: Object, now: float) -> None:
        """End a subscription."""
        subscription |= {"status": "canceled", "canceled_at": int(now), "ended_at": int(now)}

    def get(self, subscription_id: object) -> Object:
        return self._subscriptions.get(subscription_id)

    def listing(self, params: Params) -> Object:
        """Return a page of the subscriptions that the parameters select; by default the active ones."""
        check_names(params, {"customer", "price", "status", "collection_method", *PAGE})
        status = one_of(params, "status", {"active", "canceled", "all", "ended"}, "active")
        if "customer" in params and status != "all":
            self._customers.known(params["customer"])

        def is_wanted(each: Object) -> bool:
            prices = {item["price"]["id"] for item in each["items"]["data"]}
            return (
                status in {"all", each["status"]}
                or (status == "ended" and each["status"] == "canceled")
            ) and (
                params.get("customer") in {None, each["customer"]}
                and params.get("price") in {None, *prices}
                and params.get("collection_method") in {None, each["collection_method"]}
            )

        return self._subscriptions.page(params, is_wanted)

    def of_customer(self, customer_id: str) -> Sequence[Object]:
        """Return the subscriptions of a customer that have not ended."""
        return [
            each
            for each in self._subscriptions
            if each["customer"] == customer_id and each["status"] != "canceled"
        ]

    # --- periods ----------------------------------------------------------------------------------

    def next_due(self) -> tuple[int, str] | None:
        """Return when the next period ends, and whose."""
        live = (each for each in self._subscriptions if each["status"] != "canceled")
        return min(((_period(each)[1], each["id"]) for each in live), default=None)

    def step(self, subscription: Object) -> tuple[int, int]:
        """End the current period and begin the next; return the period that has ended."""
        start, end = _period(subscription)
        if subscription["cancel_at_period_end"]:
            self.end(subscription, end)
        else:
            _set_period(subscription, end, self._cycles[subscription["id"]].after(end))
        return start, end

    def period(self, subscription: Object) -> tuple[int, int]:
        return _period(subscription)

    # --- items ------------------------------------------------------------------------------------

    def _item(self, subscription_id: str, given: Any, now: float) -> Object:
        if not isinstance(given, Mapping):
            raise StripeError(400, "Invalid object: items")
        check_names(given, {"metadata", "price"})
        price = self._prices.get(required(given, "price"))
        if not price["active"]:
            raise StripeError(400, f"The price specified is inactive: {price['id']}.")
        if not price["recurring"] or price["recurring"]["usage_type"] != "metered":
            raise StripeError(400, f"The emulator subscribes to metered prices only: {price['id']}")
        return {
            "id": self._new_id("si"),
            "object": "subscription_item",
            "billing_thresholds": None,
            "created": int(now),
            "current_period_end": 0,
            "current_period_start": 0,
            "discounts": [],
            "metadata": with_metadata({}, given),
            "price": price,
            "subscription": subscription_id,
            "tax_rates": [],
        }

    def _changed_items(self, subscription: Object, changes: list[Any], now: float) -> list[Object]:
        items = {item["id"]: item for item in subscription["items"]["data"]}
        start, end = _period(subscription)
        for change in changes:
            if not isinstance(change, Mapping):
                raise StripeError(400, "Invalid object: items")
            item_id = change.get("id")
            if item_id is not None and item_id not in items:
                raise StripeError(400, f"No such subscription item: '{item_id}'")
            if flag(change, "deleted", default=False):
                del items[str(item_id)]
                continue
            old = items[item_id] if item_id is not None else {}
            given = {key: value for key, value in change.items() if key not in {"id", "deleted"}}
            if old and "price" not in given:
                given["price"] = old["price"]["id"]
            item = self._item(subscription["id"], given, now)
            item |= {"current_period_start": start, "current_period_end": end}
            if old:
                item |= {"id": item_id, "created": old["created"]}
                item["metadata"] = with_metadata(old["metadata"], change)
            items[item["id"]] = item
        return list(items.values())


def _check_items(items: list[Object]) -> Object:
    """Return the first price; check that the others go with it."""
    if not items:
        raise missing("items")
    first: Object = items[0]["price"]
    for price in (item["price"] for item in items):
        if price["currency"] != first["currency"]:
            raise StripeError(400, "All prices on a subscription must have the same currency.")
        for name in ("interval", "interval_count"):
            if price["recurring"][name] != first["recurring"][name]:
                raise StripeError(400, "All prices on a subscription must have the same interval.")
    if len({item["price"]["id"] for item in items}) < len(items):
        raise StripeError(400, "A subscription can have each price only once.")
    return first


def _cycle(params: Params, recurring: Object, now: int) -> tuple[Cycle, Object | None]:
    """Return the cycle of a new subscription, and the configuration that it came from."""
    interval, count = recurring["interval"], recurring["interval_count"]
    one_of(params, "proration_behavior", PRORATIONS, "create_prorations")
    if "billing_cycle_anchor_config" in params:
        if "billing_cycle_anchor" in params or interval not in {"month", "year"}:
            raise StripeError(
                400,
                "`billing_cycle_anchor_config` is for monthly and yearly prices, without "
                "`billing_cycle_anchor`.",
            )
        given = mapping(params, "billing_cycle_anchor_config")
        check_names(given, {"day_of_month", *_CYCLE_AT})
        day = whole(given, "day_of_month")
        clock = {name: whole_or(given, name, None) for name in _CYCLE_AT}
        if not 1 <= day <= 31 or any(
            not 0 <= (clock[name] or 0) <= most for name, most in _CYCLE_AT.items()
        ):
            raise StripeError(400, "Invalid billing_cycle_anchor_config")
        # Without hour, minute and second, those of the creation.
        of_day = now % 86_400
        default = {"hour": of_day // 3600, "minute": of_day // 60 % 60, "second": of_day % 60}
        at = {name: default[name] if value is None else value for name, value in clock.items()}
        anchor = next_day_of_month(now, day, at["hour"], at["minute"], at["second"])
        config = {"day_of_month": day, "month": None, **clock}
        return Cycle(anchor, interval, count, day), config
    anchor = whole_or(params, "billing_cycle_anchor", now) or 0
    if anchor < now:
        raise StripeError(400, "`billing_cycle_anchor` must be in the future.")
    if anchor > Cycle(now, interval, count).boundary(1):
        raise StripeError(
            400, "`billing_cycle_anchor` cannot be later than the next natural billing date."
        )
    return Cycle(anchor, interval, count), None


def _collection(params: Params, old: Object) -> Object:
    method = one_of(
        params,
        "collection_method",
        COLLECTIONS,
        old.get("collection_method", "charge_automatically"),
    )
    days = whole_or(params, "days_until_due", old.get("days_until_due"))
    if method == "send_invoice" and days is None:
        raise missing("days_until_due")
    return {
        "collection_method": method,
        "days_until_due": days if method == "send_invoice" else None,
    }


def _period(subscription: Object) -> tuple[int, int]:
    first = subscription["items"]["data"][0]
    return first["current_period_start"], first["current_period_end"]


def _set_period(subscription: Object, start: int, end: int) -> None:
    for item in subscription["items"]["data"]:
        item |= {"current_period_start": start, "current_period_end": end}
