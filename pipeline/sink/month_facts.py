"""Read what is known of the periods of accounts: from the catalog, the ledger and the biller."""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from pipeline.billing.invoice import settled_amounts
from pipeline.billing.periods import Calendar, Period
from pipeline.catalog.accounts import account_of
from pipeline.catalog.tenants import Tenants
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.events.times import format_time
from pipeline.ledger import Ledger
from pipeline.ledger.invoices import invoices_of, settled_units, units_delivered, units_open
from pipeline.ledger.months import closed_starts
from pipeline.ledger.statements import first_open, state_account
from pipeline.sink.completing import Facts, Units, charging
from pipeline.sink.invoicing import Charge, Invoices
from pipeline.sink.progress import Work, own_customers

MISSED_MS = 40 * 86_400_000  # for how long a missed invoice is reported


class MonthFacts:
    """Reads them; changes nothing.

    Args:
        ledger: where closings and the states of invoices are.
        tenants: returns who is billed, as the catalog has it now.
        biller: where the invoices are.
        now_ms: the time.
    """

    def __init__(
        self,
        ledger: Ledger,
        tenants: Callable[[], Tenants],
        biller: Invoices,
        now_ms: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._tenants = tenants
        self._biller = biller
        self._now_ms = now_ms

    def works(self, names: Iterable[str], period: str | None) -> list[Work]:
        customers = own_customers(self._tenants())
        return [
            work for name in names for work in self._works_of(name, customers.get(name), period)
        ]

    def _works_of(self, name: str, customer: str | None, period: str | None) -> Iterator[Work]:
        """Yield the periods of an account that are closed and not invoiced, and the next."""
        tenants, now_ms = self._tenants(), self._now_ms()
        account = account_of(tenants, name)
        contract = account.contract_of(())
        calendar = contract.calendar
        customers = closed_starts(self._ledger, name)
        closed = [calendar.period_at(each) for each in customers]
        stored = {each.period_start: each for each in invoices_of(self._ledger, name)}
        wanted = None if period is None else _named(calendar, period)
        work = Work(account, customer, calendar.period_at(now_ms), contract.currency)
        for each in closed:
            last = stored.get(each.start_ms)
            is_open = last is None or last.state == "planned"
            is_told = last is not None and last.state == "missed"
            is_told = is_told and now_ms - each.end_ms < MISSED_MS
            if each == wanted or (wanted is None and (is_open or is_told)):
                # Its meter events went to the customer of its close, also if another one is billed now.
                of_close = customers[each.start_ms] or customer
                yield work._replace(period=each, customer=of_close, is_closed=True, stored=last)
        following = calendar.after(closed[-1]) if closed else None
        upcoming = wanted or following or calendar.period_at(work.period.start_ms - 1)
        if upcoming not in closed and (wanted is not None or upcoming.end_ms <= now_ms):
            yield work._replace(period=upcoming, is_first=not closed)

    def stated(self, work: Work) -> Work:
        """Return a closed period with its statement."""
        name = format_time(work.period.start_ms)
        stated = state_account(self._ledger, work.account, self._tenants(), name, self._now_ms())
        if not stated.statement.is_final or stated.doubts:
            why = "; ".join(stated.doubts) or "the statement is not final"
            raise UnavailableError(f"{work.account.name}, {work.period.name}: {why}")
        return work._replace(statement=stated.statement, currency=stated.statement.currency)

    def again(self, work: Work) -> Work:
        """Return what the ledger has now; a final statement never changes."""
        name = work.account.name
        again = next(self._works_of(name, work.customer, format_time(work.period.start_ms)))
        return again._replace(statement=work.statement, currency=work.currency)

    def first_open(self, work: Work) -> Period:
        """Return the first period of an account that has something to state; none is closed yet."""
        return first_open(self._ledger, work.account, self._tenants(), work.period)

    async def of(self, work: Work) -> Facts:
        tenants, customer = self._tenants(), work.customer or ""
        start = work.period.start_ms // 1000
        found = await self._biller.of_customer(customer, tenants.outcomes_metered, start)
        facts = Facts(
            work.account.name,
            customer,
            work.period,
            work.statement,
            found,
            work.stored.planned if work.stored else None,
        )
        if work.statement is None or work.stored is not None:
            return facts
        units = {
            charge.item: await self._units(customer, charge, tenants.event_name_for(charge.outcome))
            for invoice in charging(facts.invoices, work.period)
            if invoice.is_draft
            for charge in invoice.charges
        }
        tenant_ids = work.account.tenant_ids
        settled = await asyncio.to_thread(settled_units, self._ledger, tenant_ids, customer)
        return facts._replace(units=units, settled=settled_amounts(work.statement, settled))

    async def _units(self, customer: str, charge: Charge, event_name: str) -> Units:
        counted = await self._biller.counted(customer, charge)
        place, times = (self._ledger, customer, event_name), (charge.start, charge.end)
        delivered = await asyncio.to_thread(units_delivered, *place, *charge.minutes)
        due = await asyncio.to_thread(units_delivered, *place, *times)
        return Units(delivered, counted, due, await asyncio.to_thread(units_open, *place, *times))


def _named(calendar: Calendar, period: str) -> Period:
    try:
        return calendar.named(period)
    except ValueError as error:
        raise ConfigurationError([f"--period {period}: {error}"]) from None
