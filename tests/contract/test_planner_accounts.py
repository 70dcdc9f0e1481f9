"""Each unit goes to the customer of the account that its tenant was in at the time."""

from pathlib import Path

from sqlalchemy import select

from pipeline.catalog.tenants import load_tenants
from pipeline.events.times import format_time
from pipeline.ledger import Ledger, deliveries
from pipeline.ledger.tables import meter_event
from pipeline.sink.metering import Metering
from pipeline.sink.planner import LedgerPlans, Planned, plan_pending
from pipeline.sink.stripe.meter import body_sha256
from pipeline.sink.stripe.wanted import charged_to
from tests.support.bench import record
from tests.support.ledger import HOUR_MS, T0, stored

MOVED_MS = T0 // HOUR_MS * HOUR_MS
ACCOUNTS = """
[accounts.old]
{old}
[accounts.group]
stripe_customer = "cus_group"
[tenants.acme]
account = [{{ name = "old" }}, {{ name = "group", from = {moved} }}]
"""


def planned(ledger: Ledger, folder: Path, old: str) -> tuple[Planned, dict[str, int]]:
    """Store a unit from before and one from after the move; return what was planned."""
    file = folder / "resmeter.toml"
    file.write_text(ACCOUNTS.format(old=old, moved=format_time(MOVED_MS)))
    stored(ledger, record("c1", at=MOVED_MS - 1), record("c2", at=MOVED_MS))
    metering = Metering(ledger, load_tenants(file), charged_to, T0)
    result = plan_pending(metering, body_sha256, LedgerPlans(ledger, T0))
    with ledger.reading() as connection:
        rows = connection.execute(select(meter_event.c.customer, meter_event.c.value))
        return result, {row.customer: row.value for row in rows}


def test_a_tenant_that_moved_is_billed_to_both_accounts(ledger: Ledger, tmp_path: Path) -> None:
    result, values = planned(ledger, tmp_path, 'stripe_customer = "cus_old"')

    assert values == {"cus_old": 1, "cus_group": 1}
    assert (result.kept, deliveries.pending_sums(ledger)) == ({}, [])


def test_units_from_an_account_without_a_customer_are_parked(
    ledger: Ledger, tmp_path: Path
) -> None:
    result, values = planned(ledger, tmp_path, "")

    assert values == {"cus_group": 1}
    assert result.units("parked") == {"acme": 1}
    assert [pending.quantity for pending in deliveries.pending_sums(ledger)] == [1]
