"""What a meter counts follows from the subscription's price and from what covers each unit."""

from decimal import Decimal

import pytest

from pipeline.billing.contract import Terms, Tier
from pipeline.billing.reckoning import Placed, State
from pipeline.billing.statement import PlacedUnit
from pipeline.ledger.entries import PendingRecord
from pipeline.sink.chargeable import (
    Reckoned,
    Reckoning,
    Subscribed,
    Tiers,
    UnitPrices,
    Why,
    is_limited,
    overtaken,
    reckoning_of,
)

DEAR, CHEAP = Decimal("0.99"), Decimal("0.50")
AT_DEAR: Tiers = (Tier(None, DEAR),)


class Prices:
    """Says what version 1 of a policy costs; no other version has a price."""

    def price_for(self, _: str, __: str, policy: str, version: int) -> tuple[Decimal, str] | None:
        return (Decimal(policy), "USD") if version == 1 else None


def charge(name: str, policy: str = "0.99", version: int = 1) -> PendingRecord:
    return PendingRecord(1, name, 1, 0, None, policy, version)


def unit(name: str, state: State, price: Decimal | None = DEAR) -> PlacedUnit:
    return PlacedUnit(name, "2026-10-01", Placed(state, None, price))


@pytest.mark.parametrize(
    ("tiers", "policy", "version", "why"),
    [
        (AT_DEAR, "0.99", 1, None),
        (AT_DEAR, "0.990", 1, None),
        (AT_DEAR, "0.50", 1, "held"),
        (AT_DEAR, "0.99", 2, "unpriced"),
        ((), "0.99", 1, "held"),
        ((Tier(1, DEAR), Tier(None, CHEAP)), "7", 1, None),
    ],
)
def test_a_meter_counts_units_at_the_price_of_the_subscription(
    tiers: Tiers, policy: str, version: int, why: Why | None
) -> None:
    prices = UnitPrices("acme", "resolution", Prices(), "usd")

    rule = Subscribed("resolution", Terms(), tiers, prices)

    assert rule.why_not(charge("c1", policy, version)) == why


def test_a_price_in_another_currency_is_none() -> None:
    prices = UnitPrices("acme", "resolution", Prices(), "eur")

    assert Subscribed("resolution", Terms(), AT_DEAR, prices).why_not(charge("c1")) == "unpriced"


@pytest.mark.parametrize(
    ("terms", "limited"),
    [
        (Terms(), False),
        (Terms(included={"resolution": 0}, minimum=5), False),
        (Terms(cap_units=1, cap_action="alert"), False),
        (Terms(cap_action="stop"), False),
        (Terms(cap_amount=1, cap_action="stop"), True),
        (Terms(cap_units=1, cap_action="stop"), True),
        (Terms(included={"resolution": 1}), True),
    ],
)
def test_an_account_is_reckoned_only_if_its_units_depend_on_each_other(
    terms: Terms, *, limited: bool
) -> None:
    assert is_limited(terms) == limited


def test_only_metered_units_at_the_subscriptions_price_are_sent() -> None:
    units = [
        unit("a", "included"),
        unit("b", "pack"),
        unit("c", "metered"),
        unit("d", "metered", CHEAP),
        unit("e", "over_cap"),
        unit("f", "unpriced", None),
        unit("g", "taken_back", None),
    ]
    pending = dict.fromkeys("abcdefg", "resolution")

    found = reckoning_of(units, {"resolution": AT_DEAR}, pending, {})

    assert found == Reckoning(frozenset("c"), frozenset("g"), frozenset("f"))
    assert overtaken(units, {"resolution": AT_DEAR}, pending) == []


def test_for_each_unit_that_others_have_overtaken_the_newest_metered_one_stays() -> None:
    units = [unit("a", "included"), *(unit(name, "metered") for name in "bcd")]
    pending = dict.fromkeys("bcd", "resolution")  # a was sent when it was metered
    tiers = {"resolution": AT_DEAR}

    assert overtaken(units, tiers, pending) == ["a"]
    assert reckoning_of(units, tiers, pending, {"resolution": 1}).sent == frozenset("bc")
    assert reckoning_of(units, tiers, pending, {"resolution": 9}).sent == frozenset()
    assert reckoning_of(units, tiers, pending, {"qualification": 9}).sent == frozenset("bcd")


def test_a_reversal_is_taken_only_if_the_reckoning_knows_it() -> None:
    rule = Reckoned(Reckoning(taken_back=frozenset(["known"]), unpriced=frozenset(["free"])))

    def reversal(of: str) -> PendingRecord:
        return PendingRecord(2, "r", -1, 0, of)

    assert rule.why_not(reversal("known")) is None
    assert rule.why_not(charge("known")) is None
    assert rule.why_not(reversal("new")) == "held"
    assert rule.why_not(charge("new")) == "held"
    assert rule.why_not(charge("free")) == "unpriced"
