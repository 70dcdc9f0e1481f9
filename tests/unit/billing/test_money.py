"""Money: lines round half away from zero, amounts have the digits of their currency."""

from decimal import Decimal

import pytest

from pipeline.billing.money import amount_text, line_amount, minor_units, price_text, share


@pytest.mark.parametrize(
    ("quantity", "price", "currency", "amount"),
    [
        (1, "0.005", "usd", 1),
        (-1, "0.005", "usd", -1),
        (3, "0.0049", "usd", 1),
        (1, "0.00499", "usd", 0),
        (3, "0.5", "jpy", 2),
        (1, "0.005", "kwd", 10),
        (1, "0.0049", "kwd", 0),
        (10**9, "999999999.999999999999", "usd", 10**20),
    ],
)
def test_a_line_rounds_half_away_from_zero(
    quantity: int, price: str, currency: str, amount: int
) -> None:
    assert line_amount(quantity, Decimal(price), currency) == amount


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [(-5, "usd", "-0.05"), (0, "usd", "0.00"), (12, "jpy", "12"), (1230, "bhd", "1.230")],
)
def test_an_amount_has_all_digits_of_its_currency(minor: int, currency: str, text: str) -> None:
    assert amount_text(minor, currency) == text
    assert minor_units(Decimal(text), currency) == minor


@pytest.mark.parametrize(
    ("amount", "currency"), [("0.001", "usd"), ("1.5", "jpy"), ("1.005", "bhd")]
)
def test_an_amount_with_more_digits_is_refused(amount: str, currency: str) -> None:
    with pytest.raises(ValueError, match="more digits"):
        minor_units(Decimal(amount), currency)


@pytest.mark.parametrize(
    ("price", "text"), [("0.990", "0.99"), ("10", "10"), ("1E+2", "100"), ("0.00", "0")]
)
def test_a_price_has_no_trailing_zeros(price: str, text: str) -> None:
    assert price_text(Decimal(price)) == text


def test_a_share_rounds_as_a_line_does() -> None:
    assert share(1000, 14, 30, "usd") == 467
    assert share(5, 1, 10, "usd") == 1
    assert share(1000, 1, 200, "kwd") == 10
