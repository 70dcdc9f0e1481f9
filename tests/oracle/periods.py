"""Times, amounts and periods of the law of money, for its second implementation.

It uses nothing of the package. Money is an integer of minor units, and a price is a fraction, so
nothing is rounded but lines.
"""

import math
from calendar import monthrange
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

Json = Mapping[str, Any]

DAY_MS = 86_400_000
FOREVER = 2**62
NO_DIGITS = "bif clp djf gnf isk jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf"
THREE_DIGITS = "bhd jod kwd omr tnd"


# --- values ---------------------------------------------------------------------------------------


def milliseconds(value: object) -> int:
    """Return the time of a number of milliseconds, an RFC 3339 text or a TOML time."""
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    assert isinstance(value, datetime)
    return round((value - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def digits(currency: str) -> int:
    return 0 if currency in NO_DIGITS else 3 if currency in THREE_DIGITS else 2


def rounded(amount: Fraction, currency: str) -> int:
    """Return an amount in minor units: the nearest that the currency can pay, halves away from zero."""
    step = 10 if currency in THREE_DIGITS else 1
    steps: Fraction = abs(amount) * 10 ** digits(currency) / step
    return math.floor(steps + Fraction(1, 2)) * step * (1 if amount >= 0 else -1)


def minor(amount: object, currency: str) -> int:
    """Return an amount that the currency can pay, in minor units."""
    exact = Fraction(str(amount))
    units = rounded(exact, currency)
    if Fraction(units, 10 ** digits(currency)) != exact:
        raise ValueError(f"{amount} has more digits than {currency} has")
    return units


def part(amount: object, share: Fraction, currency: str) -> int:
    """Return the share of an amount, in minor units."""
    minor(amount, currency)
    return rounded(Fraction(str(amount)) * share, currency)


def shown(amount: int, currency: str) -> str:
    places = digits(currency)
    return f"{Decimal(amount).scaleb(-places):.{places}f}"


def shown_price(price: Fraction) -> str:
    text = f"{Decimal(price.numerator) / Decimal(price.denominator):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# --- section 1: periods ---------------------------------------------------------------------------


class Period(NamedTuple):
    name: str
    start: int
    end: int
    share: Fraction  # of the whole period that it is a part of, by whole days
    terms: Json  # the contract's version


def boundary(anchor: datetime, step: int) -> int:
    """Return the start of the period that begins `step` months after the anchor."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + step, 12)
    last = monthrange(year, month + 1)[1]
    return milliseconds(anchor.replace(year=year, month=month + 1, day=min(anchor.day, last)))


def from_on(anchor: datetime, time: int) -> int:
    """Return the first boundary of the anchor that is not before the time."""
    moment = datetime.fromtimestamp(time / 1000, UTC)
    step = (moment.year - anchor.year) * 12 + moment.month - anchor.month - 1
    while boundary(anchor, step) < time:
        step += 1
    return boundary(anchor, step)


def anchor_of(terms: Json) -> datetime:
    value = terms.get("period", {}).get("anchor", "2026-01-01T00:00:00Z")
    return datetime.fromtimestamp(milliseconds(value) / 1000, UTC)


def begins(terms: Json) -> int:
    return milliseconds(terms["effective_from"]) if "effective_from" in terms else -FOREVER


def in_force(versions: Sequence[Json], time: int) -> Json:
    """Return the version in force; before the first version there is only the first one."""
    begun = [one for one in versions if begins(one) <= time]
    return max(begun, key=lambda one: (begins(one), one.get("version", 0)), default=None) or min(
        versions, key=begins
    )


def assigned(versions: Sequence[Json], from_ms: int, to_ms: int) -> list[Json]:
    """Return what an account has that gets a contract and loses it: else the policies' prices hold."""
    first = {**in_force(versions, from_ms), "effective_from": from_ms}
    later = [one for one in versions if from_ms < begins(one) < to_ms]
    last = max([first, *later], key=begins)
    after = {"effective_from": to_ms, "period": last.get("period", {})}
    return [{}, first, *later, *([after] if to_ms < FOREVER else [])]


def calendar(versions: Sequence[Json], time: int, cuts: Sequence[int] = ()) -> Iterator[Period]:
    """Yield the periods in order, from some time before the given one; each cut begins another."""
    in_turn = sorted(versions, key=lambda one: (begins(one), one.get("version", 0)))
    # Each anchor takes over at its first boundary after its version took effect.
    takes_over = [
        (-FOREVER if n == 0 else from_on(anchor_of(version), begins(version)), anchor_of(version))
        for n, version in enumerate(in_turn)
    ]

    def anchor_at(at: int) -> datetime:
        return [anchor for first, anchor in takes_over if first <= at][-1]

    start = from_on(anchor_at(time - 62 * DAY_MS), time - 62 * DAY_MS)
    while True:
        terms, anchor = in_force(versions, start), anchor_at(start)
        whole_start = from_on(anchor, start - 31 * DAY_MS)
        while from_on(anchor, whole_start + 1) <= start:
            whole_start = from_on(anchor, whole_start + 1)
        whole_end = from_on(anchor, whole_start + 1)
        others = [first for first, other in takes_over if anchor_at(first) == other != anchor]
        end = min(at for at in [whole_end, *others, *cuts] if at > start)
        share = Fraction(1)
        if end - start < whole_end - whole_start and terms.get("prorate", True):
            share = Fraction((end - start) // DAY_MS, (whole_end - whole_start) // DAY_MS)
        name = datetime.fromtimestamp(start / 1000, UTC).date().isoformat()
        yield Period(name, start, end, share, terms)
        start = end
