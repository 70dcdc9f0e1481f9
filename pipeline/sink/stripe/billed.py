"""Compare what Stripe's subscriptions bill with what the catalog says. Pure.

https://docs.stripe.com/api/subscriptions/object
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pipeline.billing.contract import Tier
from pipeline.sink.stripe.wanted import Account, Price, major_units, tiers_text

_DAY_SECONDS = 86_400
_BILLING = {"active", "past_due"}


def differences(
    account: Account,
    prices: Sequence[Price],
    meters: Mapping[str, str],
    subscriptions: Sequence[Any],
    tiers: Mapping[str, Sequence[Any]],
) -> list[str]:
    """Return in words where a customer's subscriptions bill something else than its prices.

    Args:
        account: who is billed.
        prices: what its outcomes must cost.
        meters: event name → meter.
        subscriptions: Stripe's, that have not ended.
        tiers: price → its tiers; Stripe shows them only if asked.
    """
    who = f"account {account.name} ({account.customer})"
    items = [(each, item) for each in subscriptions for item in items_of(each)]
    found: list[str] = []
    billing: dict[str, Any] = {}
    apart: dict[str, None] = {}  # the subscriptions that bill an outcome alone
    for price in prices:
        meter = meters.get(price.event_name)
        of_meter = [(s, i) for s, i in items if meter and _meter_of(i.price) == meter]
        what = f"{who}, {price.outcome}"
        if not of_meter:
            found.append(f"{what}: no subscription has a price of the meter {price.event_name!r}")
        elif len(of_meter) > 1:
            ids = ", ".join(item.id for _, item in of_meter)
            found.append(f"{what}: billed {len(of_meter)} times, by the subscription items {ids}")
        else:
            apart |= {of_meter[0][0].id: None}
        for subscription, item in of_meter:
            billing[subscription.id] = subscription
            place = f"{what}: the price {item.price.id} of {subscription.id}"
            found += [f"{place} {why}" for why in price_differences(price, item.price, tiers)]
    if len(apart) > 1:
        found.append(
            f"{who}: its outcomes are billed by {len(apart)} subscriptions, {', '.join(apart)}: a "
            "period has one invoice; put all prices on one of them"
        )
    for subscription in billing.values():
        whys = _of_subscription(account, subscription)
        found += [f"{who}: {subscription.id} {why}" for why in whys]
    return found


def is_billed(
    prices: Sequence[Price], meters: Mapping[str, str], subscriptions: Sequence[Any]
) -> bool:
    """Return whether a subscription has a price of any of the meters."""
    wanted = {meters.get(price.event_name) for price in prices} - {None}
    return any(_meter_of(item.price) in wanted for each in subscriptions for item in items_of(each))


def tiered(subscriptions: Sequence[Any]) -> set[str]:
    """Return the prices whose tiers a comparison needs."""
    return {
        item.price.id
        for each in subscriptions
        for item in items_of(each)
        if item.price.billing_scheme == "tiered"
    }


def items_of(subscription: Any) -> list[Any]:
    """Return the items of a subscription."""
    # `items` of the SDK's objects is a method of their base class.
    return list(subscription["items"].data)


def _meter_of(price: Any) -> str | None:
    meter = getattr(price.recurring, "meter", None) if price.recurring else None
    return meter if isinstance(meter, str) else None


def price_differences(
    wanted: Price, price: Any, tiers: Mapping[str, Sequence[Any]]
) -> Iterator[str]:
    """Yield in words what a price of Stripe's has otherwise than the price that is wanted."""
    if price.currency != wanted.currency:
        yield f"is in {price.currency}, and the catalog's in {wanted.currency}"
        return
    if getattr(price, "transform_quantity", None):
        yield "changes the quantity (transform_quantity): every unit must be billed as one"
    interval = (price.recurring.interval, price.recurring.interval_count)
    if interval != ("month", 1):
        yield f"bills every {interval[1]} {interval[0]}, and periods are months"
    if price.billing_scheme == "tiered" and price.tiers_mode != "graduated":
        yield f"has the tiers_mode {price.tiers_mode!r}, and tiers are graduated here"
    of_stripe = tiers_of(price, tiers)
    if of_stripe is None:
        yield "has a flat amount in its tiers, and each unit must have one price"
    elif _joined(of_stripe) != _joined(wanted.tiers):
        yield (
            f"is {tiers_text(of_stripe)} {price.currency}, and the catalog's is "
            f"{tiers_text(wanted.tiers)}"
        )


def tiers_of(price: Any, tiers: Mapping[str, Sequence[Any]]) -> tuple[Tier, ...] | None:
    """Return what a unit costs at Stripe, or None if it costs something beside its units."""
    if price.billing_scheme != "tiered":
        amount = Decimal(str(price.unit_amount_decimal))
        return (Tier(None, major_units(amount, price.currency)),)
    found: list[Tier] = []
    for tier in tiers.get(price.id, ()):
        if Decimal(str(tier.flat_amount_decimal or 0)):
            return None
        amount = Decimal(str(tier.unit_amount_decimal or 0))
        found.append(Tier(tier.up_to, major_units(amount, price.currency)))
    return tuple(found)


def _joined(tiers: Sequence[Tier]) -> list[Tier]:
    """Return tiers without those that cost what the next one costs."""
    return [
        tier
        for tier, after in zip(tiers, [*tiers[1:], None], strict=True)
        if after is None or after.price != tier.price
    ]


def _of_subscription(account: Account, subscription: Any) -> Iterator[str]:
    """Compare where the periods begin, and find what else changes an invoice."""
    config = getattr(subscription, "billing_cycle_anchor_config", None)
    anchor = int(subscription.billing_cycle_anchor)
    day = getattr(config, "day_of_month", None) or _day(anchor)
    wanted = account.anchor_ms // 1000
    if (day, anchor % _DAY_SECONDS) != (_day(wanted), wanted % _DAY_SECONDS):
        yield (
            f"begins its periods on day {day} at {_time(anchor)} UTC, and the contract's begin on day "
            f"{_day(wanted)} at {_time(wanted)} UTC"
        )
    if subscription.status not in _BILLING:
        yield f"is {subscription.status}: Stripe bills nothing of it until it is active"
    if getattr(subscription, "pause_collection", None):
        yield "is paused (pause_collection): its invoices are not collected"
    if any(getattr(each, "discounts", None) for each in (subscription, *items_of(subscription))):
        yield "has a discount: its invoices come to less than the statements"


def _day(seconds: int) -> int:
    return datetime.fromtimestamp(seconds, UTC).day


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")
