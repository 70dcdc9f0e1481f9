"""A price is named by what it costs, and read back as it was written."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from pipeline.billing.contract import Tier
from pipeline.sink.stripe.wanted import Price, major_units, minor_units, tiers_text

prices = st.decimals(0, 10**6, places=6, allow_nan=False)
currencies = st.sampled_from(["usd", "jpy", "isk", "ugx", "kwd"])


def of(*tiers: Tier, outcome: str = "resolution") -> Price:
    return Price(outcome, f"resmeter_{outcome}", "usd", tiers)


GRADUATED = (Tier(10, Decimal("1.00")), Tier(None, Decimal("0.5")))


def test_equal_prices_have_one_key_however_they_are_written() -> None:
    assert of(Tier(None, Decimal("0.990"))).lookup_key == "resmeter/resmeter_resolution/usd/0.99"
    assert of(*GRADUATED).lookup_key == "resmeter/resmeter_resolution/usd/10:1,inf:0.5"
    assert tiers_text(GRADUATED) == "1 up to 10, then 0.5"


def test_a_key_that_is_too_long_is_a_digest_that_still_tells_prices_apart() -> None:
    many = [Tier(n, Decimal(n)) for n in range(1, 60)]
    first, second = of(*many, Tier(None, Decimal(1))), of(*many, Tier(None, Decimal(2)))

    assert len(first.lookup_key) <= 200
    assert first.lookup_key != second.lookup_key


@given(prices, currencies)
def test_a_price_is_read_back_from_stripes_minor_units(price: Decimal, currency: str) -> None:
    assert major_units(minor_units(price, currency), currency) == price


@given(prices, prices, currencies)
def test_tiers_are_sent_in_minor_units_and_the_last_has_no_end(
    first: Decimal, last: Decimal, currency: str
) -> None:
    tiers = (Tier(7, first), Tier(None, last))

    params = Price("resolution", "e", currency, tiers).params()

    assert [tier["up_to"] for tier in params["tiers"]] == [7, "inf"]
    sent = [Decimal(tier["unit_amount_decimal"]) for tier in params["tiers"]]
    assert [major_units(amount, currency) for amount in sent] == [first, last]
