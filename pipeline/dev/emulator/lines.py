"""Make the lines of an invoice from metered usage and from invoice items. Pure.

https://docs.stripe.com/api/invoice-line-item/object
https://docs.stripe.com/products-prices/pricing-models#tiered-pricing
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from pipeline.dev.emulator.money import plain, times
from pipeline.dev.emulator.objects import Object


class Usage(NamedTuple):
    """A subscription item whose usage of a period an invoice bills."""

    subscription: str
    item: str
    price: Object
    start: int
    end: int


def usage_lines(invoice_id: str, usage: Usage, quantity: int) -> list[Object]:
    """Return the lines of a quantity, each rounded: one for each tier that it reaches.

    Usage of nothing has one line, of 0.
    """
    pricing = {
        "type": "price_details",
        "price_details": {"price": usage.price["id"], "product": usage.price["product"]},
    }
    parent = {
        "type": "subscription_item_details",
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": None,
            "proration": False,
            "proration_details": {"credited_items": None},
            "subscription": usage.subscription,
            "subscription_item": usage.item,
        },
    }
    parts = list(_parts(usage.price, quantity)) or [_Part(0, "", Decimal(0))]
    return [
        _line(
            f"il_{invoice_id}_{usage.item}_{number}",
            invoice_id,
            amount=times(part.unit_amount, part.multiplier, usage.price["currency"]),
            currency=usage.price["currency"],
            description=f"{part.quantity} x {usage.price['nickname'] or usage.price['product']}"
            + part.place,
            metadata={},
            parent=parent,
            period={"start": usage.start, "end": usage.end},
            pricing={**pricing, "unit_amount_decimal": plain(part.unit_amount)},
            quantity=part.quantity,
        )
        for number, part in enumerate(parts, 1)
    ]


def item_line(invoice_id: str, item: Object) -> Object:
    """Return the line of an invoice item."""
    parent = {
        "type": "invoice_item_details",
        "invoice_item_details": {
            "invoice_item": item["id"],
            "proration": False,
            "proration_details": {"credited_items": None},
            "subscription": None,
        },
        "subscription_item_details": None,
    }
    kept = ("amount", "currency", "description", "metadata", "period", "pricing", "quantity")
    return _line(
        f"il_{item['id']}", invoice_id, parent=parent, **{name: item[name] for name in kept}
    )


class _Part(NamedTuple):
    quantity: int
    place: str
    unit_amount: Decimal
    is_flat: bool = False

    @property
    def multiplier(self) -> int:
        return 1 if self.is_flat else self.quantity


def _parts(price: Object, quantity: int) -> Iterator[_Part]:
    """Yield what a quantity costs, tier by tier."""
    if price["billing_scheme"] == "per_unit":
        yield _Part(quantity, "", Decimal(price["unit_amount_decimal"]))
        return
    below = 0
    for number, tier in enumerate(price["tiers"], 1):
        up_to = tier["up_to"]
        is_reached = quantity > below or (number == 1 and quantity == 0)
        if price["tiers_mode"] == "volume":
            # The tier that the whole quantity falls into prices all of it.
            inside = quantity if is_reached and (up_to is None or quantity <= up_to) else None
        else:
            top = quantity if up_to is None else min(quantity, up_to)
            inside = top - below if is_reached else None
        if inside is not None:
            place = f" (Tier {number})"
            if tier["unit_amount_decimal"] is not None:
                yield _Part(inside, place, Decimal(tier["unit_amount_decimal"]))
            if tier["flat_amount_decimal"] is not None:
                yield _Part(
                    inside, f"{place}: flat fee", Decimal(tier["flat_amount_decimal"]), True
                )
        below = up_to or below


def _line(line_id: str, invoice_id: str, **members: object) -> Object:
    return {
        "id": line_id,
        "object": "line_item",
        "discount_amounts": [],
        "discountable": False,
        "discounts": [],
        "invoice": invoice_id,
        "livemode": False,
        "pretax_credit_amounts": [],
        "quantity_decimal": str(members["quantity"]),
        "subscription": None,
        "subtotal": members["amount"],
        "taxes": [],
        **members,
    }
