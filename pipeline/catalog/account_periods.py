"""In which period of which account a tenant's units of a time are. Pure.

docs/reference/money.md §1: a unit belongs for ever to the account of its tenant at its time, and to the
period of that account that contains it.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from pipeline.billing.contract import Terms
from pipeline.billing.periods import Calendar, Period
from pipeline.catalog.account_contract import contract_of
from pipeline.catalog.dated import spans
from pipeline.catalog.value import NEVER, START, Catalog


class AccountPeriod(NamedTuple):
    """A period of an account, and the times in it, ms, at which a tenant is the account's.

    `terms` and `currency` are those of the account's contract; None: it never has one.
    """

    account: str
    period: Period
    from_ms: int
    to_ms: int
    terms: Terms | None
    currency: str | None


class AccountPeriods:
    """The periods of a catalog's accounts, each worked out once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._contract = cache(lambda account: contract_of(catalog, account))
        self._spans = cache(lambda tenant_id: list(_spans(catalog, tenant_id)))
        self._months = Calendar()

    def at(self, tenant_id: str, at_ms: int) -> AccountPeriod:
        """Return the period with a unit of a tenant; without a contract it is a calendar month."""
        account, from_ms, to_ms = next(
            each for each in self._spans(tenant_id) if each[1] <= at_ms < each[2]
        )
        contract = self._contract(account)
        period = self._calendar(account).period_at(at_ms)
        return AccountPeriod(
            account,
            period,
            max(period.start_ms, from_ms),
            min(period.end_ms, to_ms),
            contract.terms_for(period) if contract else None,
            contract.currency if contract else None,
        )

    def between(self, account: str, first_ms: int, last_ms: int) -> Iterator[Period]:
        """Yield the account's periods from that of one time to that of another."""
        calendar = self._calendar(account)
        period = calendar.period_at(first_ms)
        while period.start_ms <= last_ms:
            yield period
            period = calendar.after(period)

    def has_contract(self, account: str) -> bool:
        """Return whether the account ever has a contract."""
        return self._contract(account) is not None

    def _calendar(self, account: str) -> Calendar:
        contract = self._contract(account)
        return contract.calendar if contract else self._months


def _spans(catalog: Catalog, tenant_id: str) -> list[tuple[str, int, int]]:
    """Return the accounts of a tenant over time; one that names none is its own account."""
    named = list(spans(catalog.members.get(tenant_id, ())))
    first_ms = named[0][1] if named else NEVER
    own = [(tenant_id, START, first_ms)] if first_ms > START else []
    return own + named
