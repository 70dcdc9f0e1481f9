"""Count money as Stripe does: in minor units, rounded for each line. Pure.

https://docs.stripe.com/currencies#zero-decimal
https://docs.stripe.com/billing/subscriptions/decimal-amounts
"""

import re
from decimal import ROUND_HALF_UP, Context, Decimal

from pipeline.dev.emulator.response import StripeError

DECIMAL_PLACES_MAX = 12
AMOUNT_DIGITS_MAX = 12  # an amount that no currency reaches
_DECIMAL = re.compile(r"(-?\d{1,15})(?:\.(\d{1,12}))?")
_CURRENCY = re.compile(r"[a-z]{3}")
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)

# Written with two decimals, but without a coin of a hundredth: the last two digits are always 0.
# https://docs.stripe.com/currencies#special-cases
_WHOLE = frozenset({"isk", "ugx"})
# https://docs.stripe.com/currencies#three-decimal: the last digit is always 0.
_THREE_DECIMALS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
# The least that an invoice charges a card, of the currencies that most accounts use.
# https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts
_CHARGE_MIN = {"usd": 50, "eur": 50, "gbp": 30, "aud": 50, "cad": 50, "chf": 50, "jpy": 50}


def currency_of(text: object) -> str:
    """Return a currency in small letters.

    Raises:
        StripeError: it is not a currency.
    """
    currency = str(text).lower()
    if not _CURRENCY.fullmatch(currency):
        raise StripeError(400, f"Invalid currency: {text}.")
    return currency


def step_of(currency: str) -> int:
    """Return what each amount of a currency is a multiple of, in Stripe's minor units."""
    if currency in _WHOLE:
        return 100
    return 10 if currency in _THREE_DECIMALS else 1


def charge_min(currency: str) -> int:
    """Return the least amount that Stripe charges in a currency."""
    return _CHARGE_MIN.get(currency, 0)


def decimal_of(name: str, text: object) -> Decimal:
    """Return an amount of minor units with at most 12 decimal places.

    Raises:
        StripeError: it is not a number, or has more places.
    """
    if not _DECIMAL.fullmatch(str(text)):
        raise StripeError(
            400, f"Invalid decimal: {name} must be a number with at most 12 decimal places"
        )
    return Decimal(str(text))


def amount_of(name: str, amount: int, currency: str) -> int:
    """Return an amount if it is one that the currency has.

    Raises:
        StripeError: it is finer than the currency, or too large.
    """
    if amount % step_of(currency):
        raise StripeError(
            400, f"Invalid {name}: amounts in {currency} must be divisible by {step_of(currency)}"
        )
    if abs(amount) >= 10**AMOUNT_DIGITS_MAX:
        raise StripeError(
            400, f"{name} must be no more than 999,999,999,999", code="amount_too_large"
        )
    return amount


def times(unit_amount: Decimal, quantity: int, currency: str) -> int:
    """Return unit amount times quantity, rounded to what the currency has, halves away from zero."""
    step = step_of(currency)
    exact = _EXACT.multiply(unit_amount, Decimal(quantity))
    return int(_EXACT.divide(exact, Decimal(step)).to_integral_value(ROUND_HALF_UP)) * step


def plain(amount: Decimal) -> str:
    """Return an amount as Stripe writes a decimal: without exponent and trailing zeros."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
