"""What Stripe bills is compared with what the catalog says, also where no emulator shows it."""

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.billing.contract import Tier
from pipeline.billing.periods import DEFAULT_ANCHOR_MS
from pipeline.sink.stripe.billed import differences
from pipeline.sink.stripe.wanted import Account, Price

TIERS = (Tier(None, Decimal("0.99")),)
ACCOUNT = Account("acme", "cus_1", "usd", {"resolution": TIERS})
PRICE = Price("resolution", "resmeter_resolution", "usd", TIERS)


class Subscription(dict[str, Any]):
    """As the SDK's: members are attributes, and `items` is one too."""

    __getattr__ = dict.__getitem__


_NOTHING: dict[str, Any] = {"pause_collection": None, "discounts": []}


def subscription(of_price: dict[str, Any] | None = None, **more: Any) -> Subscription:
    price = {
        "id": "price_1",
        "currency": "usd",
        "billing_scheme": "per_unit",
        "tiers_mode": None,
        "unit_amount_decimal": "99",
        "recurring": SimpleNamespace(interval="month", interval_count=1, meter="mtr_1"),
        "transform_quantity": None,
        **(of_price or {}),
    }
    item = SimpleNamespace(id="si_1", price=SimpleNamespace(**price))
    return Subscription(
        id="sub_1",
        items=SimpleNamespace(data=[item]),
        billing_cycle_anchor=DEFAULT_ANCHOR_MS // 1000,
        **{"status": "active", "billing_cycle_anchor_config": None, **_NOTHING, **more},
    )


def compared(of: Subscription) -> list[str]:
    meters = {"resmeter_resolution": "mtr_1"}
    return differences(ACCOUNT, [PRICE], meters, [of], {})


def test_a_subscription_that_fits_has_no_difference() -> None:
    assert compared(subscription()) == []


def test_a_price_that_divides_the_quantity_is_named() -> None:
    divides = {"transform_quantity": SimpleNamespace(divide_by=10, round="up")}

    (problem,) = compared(subscription(divides))

    assert "changes the quantity (transform_quantity)" in problem


@pytest.mark.parametrize(
    ("member", "says"),
    [
        ({"pause_collection": SimpleNamespace(behavior="void")}, "sub_1 is paused"),
        ({"status": "trialing"}, "sub_1 is trialing: Stripe bills nothing of it"),
        ({"status": "incomplete"}, "sub_1 is incomplete"),
        ({"discounts": ["di_1"]}, "sub_1 has a discount"),
    ],
)
def test_what_else_changes_an_invoice_is_named(member: dict[str, Any], says: str) -> None:
    (problem,) = compared(subscription(**member))

    assert says in problem


def test_a_price_without_a_meter_bills_none_of_the_units() -> None:
    licensed = {"recurring": SimpleNamespace(interval="month", interval_count=1, meter=None)}

    (problem,) = compared(subscription(licensed))

    assert "no subscription has a price of the meter 'resmeter_resolution'" in problem


def test_outcomes_that_two_subscriptions_bill_are_named() -> None:
    other = subscription(
        {"recurring": SimpleNamespace(interval="month", interval_count=1, meter="mtr_2")}
    )
    second = Price("handoff", "resmeter_handoff", "usd", TIERS)
    meters = {"resmeter_resolution": "mtr_1", "resmeter_handoff": "mtr_2"}
    both = [subscription(), Subscription({**other, "id": "sub_2"})]

    (problem,) = differences(ACCOUNT, [PRICE, second], meters, both, {})

    assert "billed by 2 subscriptions, sub_1, sub_2" in problem
