"""State what the ledger of a run says that each tenant owes."""

from collections.abc import Iterable

from pipeline.billing.contract import BilledAccount, Contract, Terms
from pipeline.billing.periods import HOUR_MS
from pipeline.catalog.prices import Prices
from pipeline.ledger import Ledger
from pipeline.ledger.statements import state_account
from tests.simulation.histories import T0


def stated_units(
    ledger: Ledger, tenant_ids: Iterable[str], prices: Prices, now: int
) -> dict[str, int]:
    """Return the units of each tenant's statement that no reversal takes back.

    A run is shorter than a month, so one period has all of it. Unmatched reversals count as less.
    """
    # The first time of a run is its clock's, and events may be dated a little before.
    anchor_ms = (T0 // HOUR_MS - 1) * HOUR_MS
    contract = Contract("usd", [Terms(anchor_ms=anchor_ms)])
    period = contract.calendar.period_at(T0)
    units: dict[str, int] = {}
    for tenant_id in tenant_ids:
        account = BilledAccount(tenant_id, (tenant_id,), lambda _: contract)
        counts = state_account(ledger, account, prices, period.name, now).statement.counts
        units[tenant_id] = counts.known - counts.taken_back - counts.unmatched
    return units
