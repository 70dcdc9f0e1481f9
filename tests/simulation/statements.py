"""State what the ledger of a run says that each tenant owes."""

from collections.abc import Iterable, Iterator

from pipeline.billing.contract import BilledAccount, Contract, Terms
from pipeline.billing.periods import HOUR_MS, Calendar, Period
from pipeline.catalog.prices import Prices
from pipeline.ledger import Ledger
from pipeline.ledger.statements import state_account
from tests.simulation.histories import DAY, T0

# An hour before the first time of the clock. Events may be dated some days before it.
_CONTRACT = Contract("usd", [Terms(anchor_ms=(T0 // HOUR_MS - 1) * HOUR_MS)])


def stated_units(
    ledger: Ledger, tenant_ids: Iterable[str], prices: Prices, now: int
) -> dict[str, int]:
    """Return the units on each tenant's statements that no reversal takes back.

    Unmatched reversals count as less; each statement has all of them.
    """
    units: dict[str, int] = {}
    for tenant_id in tenant_ids:
        account = BilledAccount(tenant_id, (tenant_id,), lambda _: _CONTRACT)
        counts = [
            state_account(ledger, account, prices, period.name, now).statement.counts
            for period in _periods(_CONTRACT.calendar, T0 - 60 * DAY, now)
        ]
        standing = sum(each.known - each.taken_back for each in counts)
        units[tenant_id] = standing - counts[-1].unmatched
    return units


def _periods(calendar: Calendar, since: int, until: int) -> Iterator[Period]:
    period = calendar.period_at(since)
    while period.start_ms <= until:
        yield period
        period = calendar.after(period)
