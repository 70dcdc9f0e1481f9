"""The bill of the demo: what the ledger has and what Stripe counted, side by side."""

import time
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from pipeline.billing.statement import Statement
from pipeline.catalog.accounts import account_of
from pipeline.catalog.tenants import Tenants
from pipeline.dev.demo import Demo, InvoiceLine, histories, invoices_at_stripe, sums_at_stripe
from pipeline.errors import ConfigurationError
from pipeline.ledger import Ledger, reports
from pipeline.ledger.entries import Receipt
from pipeline.ledger.statements import state_account


@dataclass
class BillLine:
    """The bill of a tenant."""

    conversations: int = 0
    quantity: int = 0
    confirmed: int = 0
    assumed: int = 0
    amount: Decimal = Decimal(0)
    at_stripe: int = 0


def read_bill(demo: Demo, tenants: Tenants, ledger: Ledger) -> dict[str, BillLine]:
    """Return each tenant's line, ordered by tenant: from the ledger, and from Stripe's sums."""
    lines: dict[str, BillLine] = {}
    for tenant_id, _, _ in histories(demo.data):
        lines.setdefault(tenant_id, BillLine()).conversations += 1
    for usage in reports.usage(ledger):
        price = tenants.price_for(
            usage.tenant_id, usage.outcome, usage.policy, usage.policy_version
        )
        assert price is not None
        line = lines[usage.tenant_id]
        line.quantity += usage.quantity
        line.confirmed += usage.confirmed
        line.assumed += usage.assumed
        line.amount += price[0] * usage.quantity
    at_stripe = sums_at_stripe(demo)
    for tenant_id, line in lines.items():
        line.at_stripe = at_stripe[tenant_id]
    return dict(sorted(lines.items()))


class Month(NamedTuple):
    """A tenant's statement of the month, and the lines of its final invoice; None: it has none."""

    statement: Statement
    invoice: list[InvoiceLine] | None

    @property
    def invoiced(self) -> int | None:
        return None if self.invoice is None else sum(line.amount for line in self.invoice)


def read_month(demo: Demo, tenants: Tenants, ledger: Ledger) -> dict[str, Month]:
    """Return each tenant's month, ordered by tenant."""
    invoices = invoices_at_stripe(demo)
    now_ms = int(time.time() * 1000)
    months: dict[str, Month] = {}
    for name in sorted(tenants.customers):
        account = account_of(tenants, name)
        stated = state_account(ledger, account, tenants, demo.period, now_ms)
        months[name] = Month(stated.statement, invoices.get(name))
    return months


def assumed_receipts(demo: Demo, ledger: Ledger) -> list[list[Receipt]]:
    """Return the receipts of each conversation whose silence is billed; at least two.

    Raises:
        ConfigurationError: the demo's data has fewer.
    """
    found: list[list[Receipt]] = []
    for tenant_id, conversation, _ in histories(demo.data):
        receipts = reports.receipts(ledger, tenant_id, conversation)
        if receipts and receipts[-1].record.kind == "assumed":
            found.append(receipts)
    if len(found) < 2:
        raise ConfigurationError(["the demo's data has fewer than two assumed resolutions"])
    return found
