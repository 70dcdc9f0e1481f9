"""Reckon one period: what covers each of its units, and what that costs. Pure.

docs/reference/money.md §3. A period is always reckoned as if everything that is known had been known
from its start.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from pipeline.billing.contract import Terms
from pipeline.billing.grants import PackLeft
from pipeline.billing.money import line_amount
from pipeline.billing.units import Unit

State = Literal["taken_back", "included", "pack", "metered", "over_cap", "unpriced"]
PriceKey = tuple[str, Decimal]  # outcome and price


class Placed(NamedTuple):
    """What covers a unit; the price is that of a metered unit or of one over the cap."""

    state: State
    grant: str | None = None
    price: Decimal | None = None

    @property
    def charged(self) -> Decimal | None:
        """The price that a line has for the unit."""
        return self.price if self.state == "metered" else None


class Metered(NamedTuple):
    """What the metered units of an outcome at a price come to."""

    quantity: int
    amount: int  # minor units, rounded


class Reckoned(msgspec.Struct, kw_only=True):
    """A period as reckoned. Equal inputs give equal results."""

    placed: dict[str, Placed]  # by record id, in the order of reckoning
    lines: dict[PriceKey, Metered]
    pack_use: dict[str, int]
    minimum: int = 0  # what the metered lines lack

    def count(self, state: State) -> int:
        return sum(placed.state == state for placed in self.placed.values())


def reckon(
    units: Sequence[Unit], terms: Terms, packs: Sequence[PackLeft], currency: str, *, ended: bool
) -> Reckoned:
    """Cover the units of a period, each by the first that holds: included, pack, cap, price.

    Args:
        units: the known units of the period, in any order.
        terms: what holds for the period.
        packs: what it may draw from, in the order in which it draws.
        currency: of the account.
        ended: the period is over, so that its minimum is owed.
    """
    cover = _Cover(terms, packs, currency)
    placed: dict[str, Placed] = {}
    for unit in sorted(units, key=lambda unit: unit.order):
        placed[unit.record.id] = Placed("taken_back") if unit.taken_back else cover.place(unit)
    missing = terms.minimum - cover.amount if ended else 0
    return Reckoned(
        placed=placed, lines=cover.lines, pack_use=cover.pack_use, minimum=max(0, missing)
    )


class _Cover:
    """What the units so far have used of a period's terms and packs."""

    def __init__(self, terms: Terms, packs: Sequence[PackLeft], currency: str) -> None:
        self._terms = terms
        self._packs = packs
        self._currency = currency
        self._included: dict[str, int] = {}
        self._metered: dict[str, int] = {}
        self.lines: dict[PriceKey, Metered] = {}
        self.pack_use: dict[str, int] = {}
        self.amount = 0  # of all lines

    def place(self, unit: Unit) -> Placed:
        outcome, terms = unit.record.outcome, self._terms
        included = self._included.get(outcome, 0)
        if included < terms.included.get(outcome, 0):
            self._included[outcome] = included + 1
            return Placed("included")
        for pack in self._packs:
            used = self.pack_use.get(pack.id, 0)
            is_in_time = pack.from_ms <= unit.record.occurred_at < pack.until_ms
            if outcome in pack.outcomes and is_in_time and used < pack.left:
                self.pack_use[pack.id] = used + 1
                return Placed("pack", pack.id)
        position = self._metered.get(outcome, 0) + 1
        price = terms.price_at(outcome, position, unit.record.price)
        if price is None:
            return Placed("unpriced")
        quantity, amount = self.lines.get((outcome, price), Metered(0, 0))
        line = Metered(quantity + 1, line_amount(quantity + 1, price, self._currency))
        if self._stops(line.amount - amount):
            return Placed("over_cap", None, price)
        self._metered[outcome] = position
        self.lines[outcome, price] = line
        self.amount += line.amount - amount
        return Placed("metered", None, price)

    def _stops(self, added: int) -> bool:
        terms = self._terms
        if terms.cap_action != "stop":
            return False
        if terms.cap_units is not None and sum(self._metered.values()) >= terms.cap_units:
            return True
        return terms.cap_amount is not None and self.amount + added > terms.cap_amount


def differences(
    now: Mapping[PriceKey, Metered], stated: Mapping[PriceKey, Metered]
) -> list[tuple[PriceKey, Metered]]:
    """Return what the lines now have more than those stated, by outcome and price."""
    nothing = Metered(0, 0)
    found: list[tuple[PriceKey, Metered]] = []
    for key in sorted({*now, *stated}):
        new, old = now.get(key, nothing), stated.get(key, nothing)
        change = Metered(new.quantity - old.quantity, new.amount - old.amount)
        if change != nothing:
            found.append((key, change))
    return found
