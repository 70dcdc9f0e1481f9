"""Parse the values of keys in TOML files. Pure. An error's text continues `file: key: `."""

import difflib
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, get_args

from pipeline.events.times import parse_time

Parse = Callable[[object], Any]  # raises ValueError
_ABSENT = "absent"  # unsets a value of the base, because TOML has no null
_UNBOUNDED = "unbounded"
_PRICE_MAX = 1_000_000_000
_PRICE_DECIMALS_MAX = 12
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)", re.ASCII)
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def invalid(value: object, expected: str) -> ValueError:
    return ValueError(f"is {value!r}; it must be {expected}")


def parse_duration(text: object) -> int:
    """Return the milliseconds of a duration such as `"24h"`, `"7d"`, `"90m"` or `"30s"`.

    Raises:
        ValueError: the message shows the text and the expected form.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise invalid(text, 'a duration such as "24h", "7d", "90m" or "30s"')
    return int(match[1]) * _UNITS_MS[match[2]]


def one_of(literal: object) -> Parse:
    choices = get_args(literal)

    def parse(value: object) -> object:
        if value not in choices:
            raise invalid(value, f"one of {', '.join(choices)}")
        return value

    return parse


def names_of(choices: Sequence[str] | None = None) -> Parse:
    """Parse a list of names. With `choices`, each name must be one of them."""

    def parse(value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise invalid(value, 'a list of names, such as ["resolution"]')
        for name in value:
            if not isinstance(name, str) or not 1 <= len(name) <= 64:
                raise ValueError(f"has {name!r}; a name has 1 to 64 characters")
            if choices is not None and name not in choices:
                raise ValueError(f"has {name!r}; each name must be one of {', '.join(choices)}")
            if value.count(name) > 1:
                raise ValueError(f"duplicate name {name!r}")
        return tuple(value)

    return parse


def parse_whole(lowest: int, highest: int) -> Parse:
    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise invalid(value, f"a whole number from {lowest} to {highest}")
        return value

    return parse


def or_absent(parse: Parse) -> Parse:
    return lambda value: None if value == _ABSENT else parse(value)


def parse_truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise invalid(value, "true or false")
    return value


def parse_name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value, re.ASCII):
        raise invalid(value, "1 to 64 characters of A-Z a-z 0-9 . _ -")
    return value


def parse_instant(value: object) -> int:
    """Return the milliseconds of a TOML time with a zone, or of an RFC 3339 text.

    Raises:
        ValueError: the message says what is wrong.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"has no time zone: write {value.isoformat()}Z")
        try:
            return parse_time(value.astimezone(UTC).isoformat())
        except OverflowError:
            raise ValueError(f"{value} is out of range") from None
    if isinstance(value, str):
        return parse_time(value)
    if value is None:
        raise ValueError("is missing; it must be a time such as 2026-01-01T00:00:00Z")
    raise ValueError(f"is {value}; it must be a time such as 2026-01-01T00:00:00Z")


def parse_horizon(value: object) -> int | None:
    return None if value == _UNBOUNDED else parse_duration(value)


def parse_price(value: object) -> Decimal:
    # The TOML reader returns 0.1 as a float, whose shortest text is the decimal in the file.
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise invalid(value, "a decimal such as 0.99")
    try:
        price = Decimal(str(value))
    except InvalidOperation:
        raise invalid(value, "a decimal such as 0.99") from None
    if not price.is_finite() or not 0 <= price <= _PRICE_MAX:
        raise invalid(value, f"an amount from 0 to {_PRICE_MAX}")
    if int(price.as_tuple().exponent) < -_PRICE_DECIMALS_MAX:
        raise ValueError(f"is {value!r}; it may have at most {_PRICE_DECIMALS_MAX} decimals")
    return price.copy_abs()  # -0 is 0


def parse_currency(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z]{3}", value):
        raise invalid(value, 'a currency such as "usd"')
    return value


def unknown_key(key: str, keys: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, keys, 1)
    return "unknown key" + (f"; did you mean {close[0]}?" if close else "")
