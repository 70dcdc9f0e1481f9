"""Count money in minor units of a currency, such as cents. Pure.

docs/reference/money.md §3.3 has the rules. Amounts are whole numbers of minor units, so no addition
rounds; only `line_amount` and `share` round.
"""

import re
from decimal import Decimal
from functools import lru_cache

_WITHOUT_DIGITS = frozenset(
    [
        "bif",
        "clp",
        "djf",
        "gnf",
        "isk",
        "jpy",
        "kmf",
        "krw",
        "mga",
        "pyg",
        "rwf",
        "ugx",
        "vnd",
        "vuv",
        "xaf",
        "xof",
        "xpf",
    ]
)
_HUNDREDTHS_AT_STRIPE = frozenset(["isk", "ugx"])
_WITH_THREE_DIGITS = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
_AMOUNT = re.compile(r"\d{1,13}(\.\d{1,12})?", re.ASCII)


def digits_of(currency: str) -> int:
    """Return how many digits an amount of the currency has after the point."""
    if currency in _WITHOUT_DIGITS:
        return 0
    return 3 if currency in _WITH_THREE_DIGITS else 2


def stripe_digits(currency: str) -> int:
    """Return how many digits Stripe counts an amount of the currency in.

    https://docs.stripe.com/currencies
    """
    return 2 if currency in _HUNDREDTHS_AT_STRIPE else digits_of(currency)


def step_of(currency: str) -> int:
    """Return the smallest amount in minor units: of three digits, the last is always 0."""
    return 10 if currency in _WITH_THREE_DIGITS else 1


@lru_cache(10_000)
def line_amount(quantity: int, price: Decimal, currency: str) -> int:
    """Return quantity times price in minor units, rounded: halves away from zero."""
    numerator, denominator = price.as_integer_ratio()
    step = step_of(currency)
    scale: int = 10 ** digits_of(currency) // step
    return _rounded(quantity * numerator * scale, denominator) * step


def share(amount: int, part: int, whole: int, currency: str) -> int:
    """Return `part / whole` of an amount in minor units, rounded as a line is."""
    step = step_of(currency)
    return _rounded(amount * part, whole * step) * step


def _rounded(numerator: int, denominator: int) -> int:
    size = (2 * abs(numerator) + denominator) // (2 * denominator)
    return size if numerator >= 0 else -size


def minor_units(amount: Decimal, currency: str) -> int:
    """Return an amount in minor units.

    Raises:
        ValueError: it has more digits than the currency.
    """
    minor = line_amount(1, amount, currency)
    if Decimal(minor).scaleb(-digits_of(currency)) != amount:
        example = amount_text(minor, currency)
        raise ValueError(
            f"{amount} has more digits than an amount in {currency}, such as {example}"
        )
    return minor


def read_amount(text: object, currency: str) -> int:
    """Return the minor units of an amount in JSON: a text such as `"500.00"`.

    Raises:
        ValueError: the text is not an amount, or has more digits than the currency.
    """
    if not isinstance(text, str) or not _AMOUNT.fullmatch(text):
        raise ValueError(f'is {text!r}; it must be an amount such as "500.00"')
    return minor_units(Decimal(text), currency)


def plain_amount(text: object) -> Decimal | None:
    """Return an amount above or equal to zero that is written as in JSON; None for anything else."""
    return Decimal(text) if isinstance(text, str) and _AMOUNT.fullmatch(text) else None


def amount_text(minor: int, currency: str) -> str:
    """Return an amount with all digits of its currency: `-0.99`."""
    digits = digits_of(currency)
    size = f"{abs(minor):0{digits + 1}d}"
    whole = f"{size[:-digits]}.{size[-digits:]}" if digits else size
    return f"-{whole}" if minor < 0 else whole


def price_text(price: Decimal) -> str:
    """Return a price without trailing zeros: `0.99`, `10`."""
    text = f"{price:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
