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
    NEVER_MS,
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
    """The versions of an account's contract, and from when to when the account has it."""

    def __init__(
        self,
        currency: str,
        versions: Sequence[Terms] = (Terms(),),
        from_ms: int | None = None,
        to_ms: int | None = None,
        account: str | None = None,
    ) -> None:
        self.account = account  # whom its file names
        self.currency = currency
        self.versions = tuple(sorted(versions, key=lambda terms: terms.effective_from))
        self.calendar = Calendar(
            [(terms.effective_from, terms.anchor_ms) for terms in self.versions]
        )
        self._assigned_ms = (
            ALWAYS_MS if from_ms is None else from_ms,
            NEVER_MS if to_ms is None else to_ms,
        )
        # From when on periods are reckoned without any unit; `ALWAYS_MS`: only with one.
        self.begins_ms = self.versions[0].effective_from if from_ms is None else from_ms

    def terms_for(self, period: Period) -> Terms:
        """Return the version in force at the period's start, prorated where the period is partial.

        Before the first version, its terms hold without a minimum. So they do before and after the
        assignment.
        """
        from_ms, to_ms = (min(max(ms, period.start_ms), period.end_ms) for ms in self._assigned_ms)
        terms = self.versions[0]
        for version in self.versions:
            if version.effective_from <= from_ms:
                terms = version
        if period.end_ms <= self.begins_ms or to_ms <= from_ms:
            return msgspec.structs.replace(terms, minimum=0)
        if not terms.prorate or to_ms - from_ms == period.whole_ms:
            return terms
        return _prorated(
            terms, (to_ms - from_ms) // DAY_MS, period.whole_ms // DAY_MS, self.currency
        )


class BilledAccount(NamedTuple):
    """Who is billed: an account, its tenants, and its contract, by the currencies of its prices."""

    name: str
    tenant_ids: tuple[str, ...]
    contract_of: Callable[[Collection[str]], Contract]


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
