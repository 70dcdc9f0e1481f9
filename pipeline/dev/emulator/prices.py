"""Create, change and list prices, per unit or in tiers. Pure.

https://docs.stripe.com/api/prices
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from pipeline.dev.emulator.meters import Meters
from pipeline.dev.emulator.money import amount_of, currency_of, decimal_of, plain
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
from pipeline.dev.emulator.products import Products
from pipeline.dev.emulator.response import StripeError, missing

_CREATE = {
    "active", "billing_scheme", "currency", "lookup_key", "metadata", "nickname", "product",
    "product_data", "recurring", "tax_behavior", "tiers", "tiers_mode", "transfer_lookup_key",
    "unit_amount", "unit_amount_decimal",
}  # fmt: skip
_MONTHS = {"month": 12, "year": 1, "week": 52, "day": 365}  # the most intervals of a price


class Prices:
    """Prices by id. What a price costs never changes."""

    def __init__(self, products: Products, meters: Meters, new_id: Callable[[str], str]) -> None:
        self._products = products
        self._meters = meters
        self._new_id = new_id
        self._prices = Objects("price", "/v1/prices")

    def create(self, params: Params, now: float) -> Object:
        """Create a price.

        Raises:
            StripeError: a parameter is missing, unknown or invalid, or contradicts another.
        """
        check_names(params, _CREATE)
        currency = currency_of(required(params, "currency"))
        recurring = self._recurring(params)
        costs = _costs(params, currency)
        lookup_key = self._lookup_key(params, "")
        price = self._put(currency, self._product(params, now), costs, now)
        price |= {
            "active": flag(params, "active", default=True),
            "lookup_key": lookup_key,
            "metadata": with_metadata({}, params),
            "nickname": params.get("nickname") or None,
            "recurring": recurring,
            "tax_behavior": params.get("tax_behavior") or "unspecified",
            "type": "recurring" if recurring else "one_time",
        }
        return price

    def inline(self, params: Params, now: float) -> Object:
        """Create the price that an invoice item brings with it; it may be negative, and is inactive."""
        check_names(
            params, {"currency", "product", "tax_behavior", "unit_amount", "unit_amount_decimal"}
        )
        currency = currency_of(required(params, "currency"))
        product = self._products.get(required(params, "product"))["id"]
        amount = _unit_amount(params, "unit_amount", currency, can_be_negative=True)
        if amount is None:
            raise missing("unit_amount")
        costs = {"billing_scheme": "per_unit", "tiers_mode": None, **_both("unit_amount", amount)}
        price = self._put(currency, product, costs, now)
        price["active"] = False
        return price

    def update(self, price_id: str, params: Params) -> Object:
        """Change the names of a price; what it costs cannot change."""
        price = self._prices.get(price_id)
        check_names(params, {"active", "lookup_key", "metadata", "nickname", "transfer_lookup_key"})
        if "lookup_key" in params:
            price["lookup_key"] = self._lookup_key(params, price_id)
        price["metadata"] = with_metadata(price["metadata"], params)
        price["active"] = flag(params, "active", default=price["active"])
        if "nickname" in params:
            price["nickname"] = params["nickname"] or None
        return price

    def get(self, price_id: object) -> Object:
        return self._prices.get(price_id)

    def listing(self, params: Params) -> Object:
        """Return a page of the prices that the parameters select."""
        check_names(
            params, {"active", "currency", "lookup_keys", "product", "recurring", "type", *PAGE}
        )
        keys = set(listed(params, "lookup_keys"))
        active = flag(params, "active", default=True) if "active" in params else None
        meter = mapping(params, "recurring").get("meter")

        def is_wanted(price: Object) -> bool:
            return (
                active in {None, price["active"]}
                and (not keys or price["lookup_key"] in keys)
                and params.get("product") in {None, price["product"]}
                and params.get("currency") in {None, price["currency"]}
                and params.get("type") in {None, price["type"]}
                and (meter is None or (price["recurring"] or {}).get("meter") == meter)
            )

        return self._prices.page(params, is_wanted)

    def _put(self, currency: str, product: str, costs: Object, now: float) -> Object:
        return self._prices.put(
            {
                "id": self._new_id("price"),
                "object": "price",
                "active": True,
                "created": int(now),
                "currency": currency,
                "custom_unit_amount": None,
                "livemode": False,
                "lookup_key": None,
                "metadata": {},
                "nickname": None,
                "product": product,
                "recurring": None,
                "tax_behavior": "unspecified",
                "transform_quantity": None,
                "type": "one_time",
                **costs,
            }
        )

    def _product(self, params: Params, now: float) -> str:
        if "product" in params and "product_data" in params:
            raise StripeError(400, "You may only specify one of these: product, product_data.")
        if "product_data" in params:
            return str(self._products.create(mapping(params, "product_data"), now)["id"])
        return str(self._products.get(required(params, "product"))["id"])

    def _lookup_key(self, params: Params, price_id: str) -> str | None:
        """Return the lookup key of a price, after it was taken from another if that is wanted."""
        key = params.get("lookup_key") or None
        holder = next((each for each in self._prices if key and each["lookup_key"] == key), None)
        if holder is not None and holder["id"] != price_id:
            if not flag(params, "transfer_lookup_key", default=False):
                raise StripeError(
                    400,
                    f"A price (`{holder['id']}`) already uses that lookup key.",
                )
            holder["lookup_key"] = None
        return key

    def _recurring(self, params: Params) -> dict[str, Any] | None:
        if "recurring" not in params:
            return None
        recurring = mapping(params, "recurring")
        check_names(recurring, {"interval", "interval_count", "meter", "usage_type"})
        interval = one_of(recurring, "interval", _MONTHS)
        count = whole_or(recurring, "interval_count", 1) or 0
        usage_type = one_of(recurring, "usage_type", {"licensed", "metered"}, "licensed")
        meter = recurring.get("meter")
        if not 1 <= count <= 3 * _MONTHS[interval]:
            raise StripeError(400, "Invalid recurring[interval_count]: at most three years")
        # Since version 2025-03-31 of the API, metered usage comes from a meter alone.
        # https://docs.stripe.com/changelog/basil/2025-03-31/deprecate-legacy-usage-based-billing
        if (usage_type == "metered") != bool(meter):
            raise StripeError(
                400, "`recurring[meter]` is required for, and only for, a metered price."
            )
        if meter and self._meters.get(str(meter))["status"] != "active":
            raise StripeError(400, f"The meter {meter} is not active.")
        return {
            "interval": interval,
            "interval_count": count,
            "meter": meter,
            "trial_period_days": None,
            "usage_type": usage_type,
        }


def _costs(params: Params, currency: str) -> dict[str, Any]:
    """Return what a unit costs. A tiered price has no amount of its own."""
    scheme = one_of(params, "billing_scheme", {"per_unit", "tiered"}, "per_unit")
    if scheme == "per_unit":
        if "tiers" in params or "tiers_mode" in params:
            raise StripeError(400, "`tiers` needs `billing_scheme` to be `tiered`.")
        amount = _unit_amount(params, "unit_amount", currency)
        if amount is None:
            raise missing("unit_amount")
        return {"billing_scheme": scheme, "tiers_mode": None, **_both("unit_amount", amount)}
    for name in ("unit_amount", "unit_amount_decimal"):
        if name in params:
            raise StripeError(400, f"`{name}` and `billing_scheme=tiered` exclude each other.")
    return {
        "billing_scheme": scheme,
        "tiers_mode": one_of(params, "tiers_mode", {"graduated", "volume"}),
        "tiers": _tiers(listed(params, "tiers"), currency),
        **_both("unit_amount", None),
    }


def _tiers(given: list[Any], currency: str) -> list[Object]:
    """Return the tiers of a price.

    https://docs.stripe.com/api/prices/create#create_price-tiers
    """
    tiers: list[Object] = []
    above = 0
    for number, tier in enumerate(given, 1):
        if not isinstance(tier, Mapping):
            raise StripeError(400, "Invalid object: tiers")
        check_names(
            tier,
            {"up_to", "unit_amount", "unit_amount_decimal", "flat_amount", "flat_amount_decimal"},
        )
        is_last = number == len(given)
        if (required(tier, "up_to") == "inf") != is_last:
            raise StripeError(400, "The last tier, and no other, must have `up_to=inf`.")
        up_to = None if is_last else whole(tier, "up_to")
        if up_to is not None and up_to <= above:
            raise StripeError(400, "Invalid tiers: each `up_to` must exceed the one before.")
        above = up_to or above
        flat, unit = (_unit_amount(tier, name, currency) for name in ("flat_amount", "unit_amount"))
        if flat is None and unit is None:
            raise StripeError(400, "A tier must have a `flat_amount` or a `unit_amount`.")
        tiers.append({"up_to": up_to, **_both("flat_amount", flat), **_both("unit_amount", unit)})
    if not tiers:
        raise missing("tiers")
    return tiers


def _unit_amount(
    params: Params, name: str, currency: str, *, can_be_negative: bool = False
) -> Decimal | None:
    """Return an amount, given in minor units or as a decimal of them."""
    if name in params and f"{name}_decimal" in params:
        raise StripeError(400, f"You may only specify one of these: {name}, {name}_decimal.")
    if name in params:
        amount = Decimal(amount_of(name, whole(params, name), currency))
    elif f"{name}_decimal" in params:
        amount = decimal_of(f"{name}_decimal", params[f"{name}_decimal"])
    else:
        return None
    if amount < 0 and not can_be_negative:
        raise StripeError(400, f"Invalid non-negative integer: {name}")
    return amount


def _both(name: str, amount: Decimal | None) -> dict[str, Any]:
    """Return an amount in both forms that Stripe has; a fraction has only the second."""
    if amount is None:
        return {name: None, f"{name}_decimal": None}
    is_whole = amount == amount.to_integral_value()
    return {name: int(amount) if is_whole else None, f"{name}_decimal": plain(amount)}
