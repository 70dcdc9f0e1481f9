"""Say what is missing before a period of an account can be closed.

A final statement never changes, so nothing may be under way: all that occurred in the period is decided,
stored and at the biller. What is late all the same is on the next statement.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import NamedTuple

import msgspec

from pipeline.billing.contract import BilledAccount
from pipeline.billing.invoice import InvoicePlan, StripePrice, plan_invoice
from pipeline.billing.periods import Period
from pipeline.billing.run import Stated
from pipeline.catalog.accounts import account_of
from pipeline.catalog.tenants import Tenants
from pipeline.config import Settings
from pipeline.errors import BrokenInvariantError, ConfigurationError
from pipeline.events.times import format_time
from pipeline.ledger import Ledger, reports
from pipeline.ledger.month_entries import Closing
from pipeline.ledger.statements import Missing, Prepared, counted, prepare_closing
from pipeline.replay.decided import Decided, read_decided, read_written
from pipeline.sink.metering import Metering
from pipeline.sink.stripe.wanted import Account, accounts_of, charged_to, event_name_of

__all__ = ["Checks", "Missing", "Readiness", "undecided"]


class Readiness(NamedTuple):
    """A period of an account, its statement as it would be now, and what is missing to close it."""

    stated: Stated
    missing: tuple[Missing, ...]
    invoice: InvoicePlan | None  # None: the account has no customer, or shares it
    closing: Closing | None  # for the journal; None: something is missing


class Checks:
    """The checks of accounts' periods.

    Args:
        ledger: the sink's.
        tenants: their prices, policies and customers.
        decided: how far the workers are.
        now_ms: the time of the close.
        amount_max: an adjustment of an earlier period above it waits for a person.
        written: up to where the ledger must have stored usage records; see `read_written`.
    """

    def __init__(
        self,
        ledger: Ledger,
        tenants: Tenants,
        decided: Sequence[Decided],
        now_ms: int,
        amount_max: Decimal,
        written: Mapping[int, int] | None = None,
    ) -> None:
        self._ledger = ledger
        self._tenants = tenants
        self._decided = decided
        self._now_ms = now_ms
        self._amount_max = amount_max
        self._written = written or {}
        self._billed_in = cache(self._billed)
        self._counted_in = cache(self._counted)

    def readiness(self, account: BilledAccount, period: str | None) -> Readiness:
        """Return what is missing to close a period; `period` is its name, None: the next to close.

        Raises:
            ConfigurationError: no period has this name.
        """
        tenants = self._tenants
        customers = tenants.catalog.customers
        customer = customers.get(account.name, "")
        is_shared = list(customers.values()).count(customer) > 1
        metering = Metering(self._ledger, tenants, charged_to, self._now_ms)
        must_be_sent = metering.must_be_sent(account)
        stated, found, closing = prepare_closing(
            self._ledger,
            account,
            tenants,
            period,
            self._now_ms,
            must_be_sent,
            amount_max=self._amount_max,
            customer="" if is_shared else customer,
            written=self._written,
        )
        grace_ms = max(_grace_ms(tenants, each) for each in account.tenant_ids)
        missing = undecided(self._decided, stated.statement.period.end_ms + grace_ms)
        missing += found if customer else map(_parked, found)
        return Readiness(
            stated, tuple(missing), self._invoice(stated), None if missing else closing
        )

    def _invoice(self, stated: Stated) -> InvoicePlan | None:
        """Compare the statement with what Stripe charges for the units that the ledger delivered."""
        catalog, period = self._tenants.catalog, stated.statement.period
        billed = self._billed_in(period).get(stated.account)
        if billed is None:
            return None
        sums = self._counted_in(period)
        counted = {
            outcome: sums.get((billed.customer, event_name_of(catalog, outcome)), 0)
            for outcome in billed.tiers
        }
        prices = {outcome: StripePrice(tiers) for outcome, tiers in billed.tiers.items()}
        return plan_invoice(stated.account, stated.statement, prices, counted)

    def _billed(self, period: Period) -> dict[str, Account]:
        """Return who has a customer of its own, with the prices at the start of a period."""
        catalog = self._tenants.catalog
        customers = Counter(catalog.customers.values())
        known, _ = accounts_of(catalog, lambda _: period.start_ms)
        return {each.name: each for each in known if customers[each.customer] == 1}

    def _counted(self, period: Period) -> dict[tuple[str, str], int]:
        """Return the units that Stripe may have counted, by customer and event name."""
        first, end = period.start_ms // 1000, period.end_ms // 1000
        sums = reports.delivered_sums(self._ledger, first, end, self._now_ms)
        return {(each.customer, each.event_name): each.most for each in sums}


def read_checks(settings: Settings, ledger: Ledger, tenants: Tenants) -> Checks:
    """Return the checks of the present time.

    Raises:
        ConfigurationError: a topic of the workers does not exist, or cannot be read.
        UnavailableError: no broker responds.
    """
    now_ms = int(time.time() * 1000)
    decided = read_decided(settings)  # first: what is decided by then is written
    written = read_written(settings, ledger)
    return Checks(ledger, tenants, decided, now_ms, settings.corrections.amount_max, written)


def prepared_closings(
    settings: Settings, ledger: Ledger, tenants: Tenants, asked: Sequence[tuple[str, Period]]
) -> dict[str, Prepared | str]:
    """Return the closing of a period of each account, or what is missing for it, without the units.

    Of an account that cannot be stated, return why: it does not hold up the others.

    Raises:
        ConfigurationError: a topic of the workers does not exist, or cannot be read.
        UnavailableError: no broker responds.
    """
    checks = read_checks(settings, ledger, tenants)
    prepared: dict[str, Prepared | str] = {}
    for name, period in asked:
        try:
            found = checks.readiness(account_of(tenants, name), format_time(period.start_ms))
        except (BrokenInvariantError, ConfigurationError) as error:
            prepared[name] = str(error)
            continue
        statement = msgspec.structs.replace(found.stated.statement, units=(), adjusted=())
        stated = found.stated._replace(statement=statement, units=())
        prepared[name] = Prepared(stated, found.missing, found.closing)
    return prepared


def _grace_ms(tenants: Tenants, tenant_id: str) -> int:
    return max(version.grace for version in tenants.timeline_for(tenant_id).versions)


def _parked(missing: Missing) -> Missing:
    """Return what is missing of an account without a customer."""
    if missing.what != "undelivered":
        return missing
    text = counted(missing.number, "unit waits", "units wait")
    return Missing("parked", missing.number, f"{text} for a customer in the catalog")


def undecided(decided: Iterable[Decided], until_ms: int) -> list[Missing]:
    """Return what arrived before a time and is not decided."""
    behind = [each for each in decided if each.until_ms < until_ms]
    missing: list[Missing] = []
    if behind:
        names = ", ".join(str(each.partition) for each in behind)
        earliest_ms = min(each.until_ms for each in behind)
        text = (
            f"partitions are decided only up to {format_time(earliest_ms)}, of "
            f"{format_time(until_ms)}: {names}; check that the workers run"
        )
        missing.append(Missing("undecided", len(behind), text))
    if lost := sum(each.lost for each in decided):
        text = counted(lost, "event was", "events were")
        hint = "deleted before any worker read that far: see `resmeter topics acknowledge`"
        missing.append(Missing("lost", lost, f"{text} {hint}"))
    return missing
