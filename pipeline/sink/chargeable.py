"""Which pending units the meter of a subscription counts. Pure.

docs/reference/money.md §6: Stripe charges what its meter has counted, at the price of the subscription.
So a meter event has only units that this price is for; all others reach the invoice as items, or cost
nothing, and stay pending until their period is closed.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal, Protocol

import msgspec

from pipeline.billing.contract import Terms, Tier
from pipeline.billing.statement import PlacedUnit
from pipeline.catalog.prices import Prices
from pipeline.ledger.entries import PendingRecord
from pipeline.ledger.pricing import PriceSource, price_in_ledger

Tiers = tuple[Tier, ...]
# Why a unit is in no meter event:
Why = Literal[
    "parked",  # its account has no customer
    "carried",  # a reversal that waits for later usage of its period, or for its charge's withdrawal
    "late",  # its period is closed
    "unmatched",  # a reversal whose charge is not known
    "held",  # the meter does not count it: included, in a pack, over the cap, or at another price
    "unpriced",  # nothing says its price
]

# Of these, a customer or later usage is all that is missing. The others wait for the close, or a price.
ON_ITS_WAY: tuple[Why, ...] = ("parked", "carried")


class Rule(Protocol):
    """Says which pending records of an outcome go into meter events."""

    def why_not(self, record: PendingRecord, /) -> Why | None:
        """Return why a record stays pending; None: it does not."""


class UnitPrices:
    """The prices of the units of a tenant and outcome, each looked up once.

    With a currency, a price in another one is none.
    """

    def __init__(
        self, tenant_id: str, outcome: str, prices: Prices, currency: str | None = None
    ) -> None:
        self._usage = tenant_id, outcome
        self._prices = prices
        self._currency = currency
        self._known: dict[tuple[object, ...], Decimal | None] = {}

    def of(self, record: PendingRecord) -> Decimal | None:
        key = record[5:]
        try:
            return self._known[key]
        except KeyError:
            source: PriceSource = (*self._usage, record.policy, record.policy_version)
            found = price_in_ledger(record.price, record.currency, source, self._prices)
            is_ours = found and self._currency in {None, found[1].lower()}
            price = self._known[key] = found[0] if found and is_ours else None
            return price


class Priced:
    """Without a contract, the meter counts every unit that has a price."""

    def __init__(self, prices: UnitPrices) -> None:
        self._price_of = prices.of

    def why_not(self, record: PendingRecord) -> Why | None:
        return "unpriced" if self._price_of(record) is None else None


class Subscribed:
    """Under a contract without limits, it counts every unit at the subscription's price.

    Args:
        outcome: of the units.
        terms: of the contract.
        tiers: what the subscription charges for the outcome; empty: nothing.
        prices: of units that the contract does not price.
    """

    def __init__(self, outcome: str, terms: Terms, tiers: Tiers, prices: UnitPrices) -> None:
        self._is_contracts = outcome in terms.tiers
        self._tiers = tiers
        self._price_of = prices.of

    def why_not(self, record: PendingRecord) -> Why | None:
        if self._is_contracts:
            return None if self._tiers else "held"
        price = self._price_of(record)
        if price is None:
            return "unpriced"
        return None if is_charged(price, self._tiers) else "held"


class Reckoned:
    """Under a contract with limits, or with packs, it counts what a reckoning says is metered.

    A pair of a charge and its reversal is taken, so that the two cancel out. Records that the reckoning
    does not know stay pending until the next one.
    """

    def __init__(self, units: "Reckoning") -> None:
        self._units = units

    def why_not(self, record: PendingRecord) -> Why | None:
        units = self._units
        if record.quantity < 0:
            return None if record.charge in units.taken_back else "held"
        if record.id in units.sent or record.id in units.taken_back:
            return None
        return "unpriced" if record.id in units.unpriced else "held"


class Reckoning(msgspec.Struct, frozen=True):
    """The +1 of a period by what a meter event may do with them."""

    sent: frozenset[str] = frozenset()
    taken_back: frozenset[str] = frozenset()
    unpriced: frozenset[str] = frozenset()


def is_limited(terms: Terms) -> bool:
    """Return whether the other units of a period decide if the meter counts a unit."""
    has_cap = terms.cap_units is not None or terms.cap_amount is not None
    return any(terms.included.values()) or (has_cap and terms.cap_action == "stop")


def is_charged(price: Decimal, tiers: Tiers) -> bool:
    """Return whether the subscription has a price; of tiers it has all."""
    return len(tiers) > 1 or any(tier.price == price for tier in tiers)


def overtaken(
    units: Iterable[PlacedUnit], tiers: Mapping[str, Tiers], pending: Container[str]
) -> list[str]:
    """Return the units that were sent, stand, and are metered no more: others have moved up."""
    return [
        unit.id
        for unit in units
        if unit.id not in pending and unit.placed.state != "taken_back"
        if (price := unit.placed.charged) is None
        or not any(is_charged(price, each) for each in tiers.values())
    ]


def reckoning_of(
    units: Sequence[PlacedUnit],
    tiers: Mapping[str, Tiers],
    pending: Mapping[str, str],
    surplus: Mapping[str, int],
) -> Reckoning:
    """Say what may be sent of a period, so that the meter never has more than what is metered.

    Args:
        units: the +1 of the period and what covers them, in the order of reckoning.
        tiers: what the subscription charges, by outcome.
        pending: the outcome of each that no meter event has, by id.
        surplus: how many units were sent and are metered no more, by outcome. As many of the newest stay
            pending.
    """
    chargeable: dict[str, list[str]] = {}
    for unit in units:
        outcome, price = pending.get(unit.id), unit.placed.charged
        if outcome and price is not None and is_charged(price, tiers.get(outcome, ())):
            chargeable.setdefault(outcome, []).append(unit.id)
    sent: set[str] = set()
    for outcome, ids in chargeable.items():
        sent.update(ids[: max(0, len(ids) - surplus.get(outcome, 0))])
    return Reckoning(
        frozenset(sent),
        frozenset(unit.id for unit in units if unit.placed.state == "taken_back"),
        frozenset(unit.id for unit in units if unit.placed.state == "unpriced"),
    )
