"""Say what an account's outcomes cost in a period: the terms of its contract. Pure.

docs/reference/money.md §2 has the keys. Amounts are in minor units of the contract's currency.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from pipeline.billing.money import share
from pipeline.billing.periods import (
    ALWAYS_MS,
    DAY_MS,
    DEFAULT_ANCHOR_MS,
    Calendar,
    Period,
)

CapAction = Literal["alert", "stop"]


class Tier(NamedTuple):
    """The price of an outcome's metered units up to a position; None: of all that follow."""

    up_to: int | None
    price: Decimal


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a contract."""

    effective_from: int = ALWAYS_MS
    anchor_ms: int = DEFAULT_ANCHOR_MS
    tiers: Mapping[str, tuple[Tier, ...]] = {}  # by outcome; a single price is one tier
    included: Mapping[str, int] = {}
    cap_units: int | None = None
    cap_amount: int | None = None
    cap_action: CapAction = "alert"
    minimum: int = 0
    alerts: tuple[Decimal, ...] = (Decimal("0.5"), Decimal("0.8"), Decimal("1.0"))
    prorate: bool = True

    def price_at(self, outcome: str, position: int, of_policy: Decimal | None) -> Decimal | None:
        """Return the price of the outcome's metered unit at a position, counted from 1."""
        for tier in self.tiers.get(outcome, ()):
            if tier.up_to is None or position <= tier.up_to:
                return tier.price
        return of_policy


class Contract:
    """The versions of an account's contract, in order.

    Args:
        currency: of all versions.
        versions: what holds from when.
        account: whom its file names.
        begins_ms: from when on periods are reckoned without any unit, and a minimum is owed; None:
            from when the first version holds.
        cuts: when the account got a contract or lost it: periods begin and end then too.
    """

    def __init__(
        self,
        currency: str,
        versions: Sequence[Terms] = (Terms(),),
        account: str | None = None,
        begins_ms: int | None = None,
        cuts: Collection[int] = (),
    ) -> None:
        self.account = account
        self.currency = currency
        self.versions = tuple(sorted(versions, key=lambda terms: terms.effective_from))
        anchors = [(terms.effective_from, terms.anchor_ms) for terms in self.versions]
        self.calendar = Calendar(anchors, cuts)
        # `ALWAYS_MS`: only with a unit.
        self.begins_ms = self.versions[0].effective_from if begins_ms is None else begins_ms

    def terms_for(self, period: Period) -> Terms:
        """Return the version in force at the period's start, prorated where the period is partial.

        Before the first version, its terms hold without a minimum.
        """
        terms = self.versions[0]
        for version in self.versions:
            if version.effective_from <= period.start_ms:
                terms = version
        if period.end_ms <= self.begins_ms:
            return msgspec.structs.replace(terms, minimum=0)
        length_ms = period.end_ms - period.start_ms
        if not terms.prorate or length_ms == period.whole_ms:
            return terms
        return _prorated(terms, length_ms // DAY_MS, period.whole_ms // DAY_MS, self.currency)


class BilledAccount(NamedTuple):
    """Who is billed: an account, its tenants, and its contract, by the currencies of its prices.

    `owns` says whether a tenant's unit of a time, ms, belongs to it: a tenant may move.
    """

    name: str
    tenant_ids: tuple[str, ...]
    contract_of: Callable[[Collection[str]], Contract]
    owns: Callable[[str, int], bool] = lambda tenant_id, at_ms: True


def _prorated(terms: Terms, days: int, of_days: int, currency: str) -> Terms:
    """Return the terms of a partial period: counts are rounded up, money as lines are."""

    def units(number: int) -> int:
        return -(-number * days // of_days)

    def money(amount: int) -> int:
        return share(amount, days, of_days, currency)

    return msgspec.structs.replace(
        terms,
        included={outcome: units(number) for outcome, number in terms.included.items()},
        cap_units=None if terms.cap_units is None else units(terms.cap_units),
        cap_amount=None if terms.cap_amount is None else money(terms.cap_amount),
        minimum=money(terms.minimum),
    )
