"""The statement of a period: its lines, its totals and what it leaves. Pure.

docs/reference/money.md §4.2 has the order of the lines, §5.3 the form in JSON.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Literal

import msgspec

from pipeline.billing.money import amount_text, price_text
from pipeline.billing.periods import Period
from pipeline.billing.reckoning import Placed

Kind = Literal[
    "carried",
    "credit_note",
    "metered",
    "minimum",
    "adjusted",
    "waived",
    "credit",
    "carried_forward",
]  # in the order of the lines


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line; members that do not belong to its kind are None."""

    kind: Kind
    amount: int  # minor units
    period: str | None = None  # the earlier period that is adjusted, or whose adjustment is waived
    outcome: str | None = None
    quantity: int | None = None
    price: Decimal | None = None
    grant: str | None = None


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The units of a period by state, and the records that are late or have no charge."""

    known: int
    taken_back: int
    included: int
    pack: int
    metered: int
    over_cap: int
    late: int
    unmatched: int
    unpriced: int


class Closing(msgspec.Struct, frozen=True):
    """What a statement leaves: an amount below zero, and what is left of each grant, by id."""

    carried: int
    packs: dict[str, int]
    credits: dict[str, int]


class PlacedUnit(msgspec.Struct, frozen=True):
    """A unit on a statement. `adjusted` names the later period whose statement changed its charge."""

    id: str
    period: str
    placed: Placed
    adjusted: str | None = None


class Adjustment(msgspec.Struct, frozen=True):
    """What a statement says of an earlier period: its adjusted lines, and whether they are waived."""

    period: Period
    lines: tuple[Line, ...]
    is_waived: bool = False

    @property
    def amount(self) -> int:
        """What the lines come to, in minor units."""
        return sum(line.amount for line in self.lines)

    @property
    def minimum(self) -> int:
        """What of it is of the period's minimum, in minor units."""
        return sum(line.amount for line in self.lines if line.kind == "minimum")

    @property
    def stated(self) -> tuple[Line, ...]:
        """The lines as the statement has them: if they are waived, a line of the opposite follows."""
        if not self.is_waived or not self.amount:
            return self.lines
        return (*self.lines, Line(kind="waived", period=self.period.name, amount=-self.amount))


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What a period comes to, with what changed in earlier ones since their statements."""

    period: Period
    is_final: bool
    currency: str
    counts: Counts
    lines: tuple[Line, ...]
    subtotal: int
    total: int
    closing: Closing
    units: tuple[PlacedUnit, ...]  # of the period, in the order of reckoning
    adjusted: tuple[PlacedUnit, ...]  # of earlier periods: what the adjusted lines are made of
    adjustments: tuple[Adjustment, ...] = ()  # in the order of their periods
    unmatched: tuple[str, ...] = ()  # ids of the reversals whose charge is not known


def statement_object(account: str, statement: Statement) -> dict[str, Any]:
    """Return the statement as the JSON object of docs/reference/money.md §5.3."""
    currency = statement.currency
    units: dict[str, int] = msgspec.to_builtins(statement.counts)
    if not units["unpriced"]:
        del units["unpriced"]
    closing = statement.closing
    return {
        "account": account,
        "period": statement.period.name,
        "state": "final" if statement.is_final else "open",
        "currency": currency,
        "units": units,
        "lines": [dict(line_members(line, currency)) for line in statement.lines],
        "subtotal": amount_text(statement.subtotal, currency),
        "total": amount_text(statement.total, currency),
        "closing": {
            "carried": amount_text(closing.carried, currency),
            "packs": closing.packs,
            "credits": {
                grant: amount_text(left, currency) for grant, left in closing.credits.items()
            },
        },
    }


def line_members(line: Line, currency: str) -> Iterator[tuple[str, Any]]:
    """Yield the members of a line that belong to its kind, in their order."""
    for name in ("kind", "period", "outcome", "quantity"):
        if (value := getattr(line, name)) is not None:
            yield name, value
    if line.price is not None:
        yield "price", price_text(line.price)
    if line.grant is not None:
        yield "grant", line.grant
    yield "amount", amount_text(line.amount, currency)


def unit_object(unit: PlacedUnit) -> dict[str, Any]:
    """Return a unit as one line of `--units`."""
    price = unit.placed.price
    return {
        "id": unit.id,
        "period": unit.period,
        "state": unit.placed.state,
        "grant": unit.placed.grant,
        "price": None if price is None else price_text(price),
        "adjusted": unit.adjusted,
    }
