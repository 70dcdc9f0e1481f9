"""Ask the catalog and the ledger which pending units a customer's meter counts.

To know it of an account with limits or packs, all its usage is reckoned. That may take a twentieth of
the time; in between, what is new of that account waits. Once its period has ended, it is reckoned at once.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import NamedTuple

from pipeline.billing.contract import BilledAccount
from pipeline.billing.periods import Period
from pipeline.billing.statement import PlacedUnit
from pipeline.catalog.account_periods import AccountPeriod, AccountPeriods
from pipeline.catalog.accounts import account_of
from pipeline.catalog.tenants import Tenants
from pipeline.catalog.value import Catalog
from pipeline.errors import BrokenInvariantError, ConfigurationError
from pipeline.events.times import format_time
from pipeline.ledger import Ledger, backlog
from pipeline.ledger.statements import state_account
from pipeline.logs import get_logger
from pipeline.sink.chargeable import (
    Priced,
    Reckoned,
    Reckoning,
    Rule,
    Subscribed,
    Tiers,
    UnitPrices,
    is_limited,
    overtaken,
    reckoning_of,
)

# What a subscription charges an account in the period that starts at a time, by outcome.
Charges = Callable[[Catalog, str, int], Mapping[str, Tiers]]
_PAUSE_FOR_EACH_SECOND = 19.0  # so that it takes a twentieth of the time


class _Taken(NamedTuple):
    at: float  # when the reckoning was done, by the stopwatch
    as_of: int  # the time of which it speaks, ms


class Reckonings:
    """When accounts were reckoned, and how long it took: a sink keeps it from flush to flush."""

    def __init__(self, stopwatch: Callable[[], float] = time.monotonic) -> None:
        self._stopwatch = stopwatch
        self._taken: dict[tuple[str, int], _Taken] = {}  # by account and start of the period
        self._seconds: dict[str, float] = {}  # of the last one of each account
        self.failed: dict[str, str] = {}  # why an account cannot be reckoned

    def is_due(self, of: AccountPeriod, now_ms: int) -> bool:
        """Return whether a period may be reckoned again now."""
        last = self._taken.get((of.account, of.period.start_ms))
        if last is None or last.as_of < of.period.end_ms <= now_ms:
            return True
        pause = _PAUSE_FOR_EACH_SECOND * sum(self._seconds.values())
        return self._stopwatch() - last.at >= pause

    @contextmanager
    def measured(self, of: AccountPeriod, now_ms: int) -> Iterator[None]:
        """Remember when a period is reckoned, and how long that takes."""
        began = self._stopwatch()
        yield
        ended = self._stopwatch()
        self._taken[of.account, of.period.start_ms] = _Taken(ended, now_ms)
        self._seconds[of.account] = ended - began


class Metering:
    """What the planner asks, at one time.

    Args:
        ledger: the sink's.
        tenants: who is billed, as the catalog says now.
        charges: what subscriptions charge.
        now_ms: the time.
        reckonings: those of this sink before.
    """

    def __init__(
        self,
        ledger: Ledger,
        tenants: Tenants,
        charges: Charges,
        now_ms: int,
        reckonings: Reckonings | None = None,
    ) -> None:
        self.ledger = ledger
        self.tenants = tenants
        self.now_ms = now_ms
        self._reckonings = reckonings or Reckonings()
        self._periods = AccountPeriods(tenants.catalog)
        self._closed = backlog.closed_until(ledger)
        self._with_packs = backlog.accounts_with_packs(ledger)
        self._tiers_of = cache(partial(charges, tenants.catalog))  # by account and start
        self._reckoned: dict[tuple[str, int], Reckoning | None] = {}

    def period_of(self, tenant_id: str, at_ms: int) -> AccountPeriod:
        """Return the period with the tenant's unit of a time."""
        return self._periods.at(tenant_id, at_ms)

    def is_closed(self, of: AccountPeriod) -> bool:
        """Return whether a period is closed; what is before the first closed one was closed with it."""
        return self._is_closed(of.account, of.period)

    def rule_for(self, of: AccountPeriod, tenant_id: str, outcome: str) -> Rule | None:
        """Return which units of a period may be sent; None: nobody knows before the next reckoning."""
        terms = of.terms
        if of.account in self._with_packs or (terms is not None and is_limited(terms)):
            key = of.account, of.period.start_ms
            if key not in self._reckoned:
                self._reckoned[key] = self._reckon(of)
            reckoning = self._reckoned[key]
            return None if reckoning is None else Reckoned(reckoning)
        prices = UnitPrices(tenant_id, outcome, self.tenants, of.currency)
        if terms is None:
            return Priced(prices)
        tiers = self._tiers_of(of.account, of.period.start_ms).get(outcome, ())
        return Subscribed(outcome, terms, tiers, prices)

    def must_be_sent(self, account: BilledAccount) -> Callable[[PlacedUnit], bool]:
        """Return which units the meter must have before their period is closed: what is planned."""
        name = account.name
        if not self._periods.has_contract(name) and name not in self._with_packs:
            return lambda unit: unit.placed.state == "metered"
        span = backlog.span_of_charges(self.ledger, account.tenant_ids)
        periods = self._periods.between(name, *span) if span else ()
        sent = {
            record_id
            for period in periods
            if not self._is_closed(name, period)
            for record_id in self._read(account, period).sent
        }
        return lambda unit: unit.id in sent

    def _is_closed(self, account: str, period: Period) -> bool:
        until_ms = self._closed.get(account)
        return until_ms is not None and period.start_ms < until_ms

    def _reckon(self, of: AccountPeriod) -> Reckoning | None:
        if not self._reckonings.is_due(of, self.now_ms):
            return None
        with self._reckonings.measured(of, self.now_ms):
            try:
                reckoning = self._read(account_of(self.tenants, of.account), of.period)
            except (BrokenInvariantError, ConfigurationError) as error:
                # One account's trouble holds up no other. Its units stay pending, and are counted.
                if self._reckonings.failed.get(of.account) != str(error):
                    get_logger(__name__).error(
                        "account_unreckoned", account=of.account, detail=str(error)
                    )
                self._reckonings.failed[of.account] = str(error)
                return None
            self._reckonings.failed.pop(of.account, None)
            return reckoning

    def _read(self, account: BilledAccount, period: Period) -> Reckoning:
        start_ms, end_ms = period.start_ms, period.end_ms
        name = format_time(start_ms)
        stated = state_account(self.ledger, account, self.tenants, name, self.now_ms)
        # What is stored in between is pending and unknown: it waits for the next reckoning.
        pending = backlog.pending_charges(self.ledger, account.tenant_ids, start_ms, end_ms)
        tiers, units = self._tiers_of(account.name, start_ms), stated.statement.units
        surplus = backlog.outcome_counts(self.ledger, overtaken(units, tiers, pending))
        return reckoning_of(units, tiers, pending, surplus)
