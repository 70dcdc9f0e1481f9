"""How far a period of an account is: not closed, waiting, stopped, or invoiced."""

from collections import Counter
from typing import Literal, NamedTuple

from pipeline.billing.approvals import Blocked
from pipeline.billing.contract import BilledAccount
from pipeline.billing.periods import Period
from pipeline.billing.statement import Statement
from pipeline.catalog.tenants import Tenants
from pipeline.ledger.invoices import StoredInvoice
from pipeline.sink.completing import missed_text, money_text

State = Literal["open", "waiting", "stopped", "invoiced", "missed", "without"]


class Work(NamedTuple):
    """A period of an account that is not invoiced."""

    account: BilledAccount
    customer: str | None
    period: Period
    currency: str
    is_first: bool = False  # no period of the account is closed yet
    is_closed: bool = False
    statement: Statement | None = None  # of a closed period, once it is needed
    stored: StoredInvoice | None = None


class Progress(NamedTuple):
    """How far a period of an account is.

    `amount` is what its statement comes to, or what a missed invoice lacks. `finalises_at` is when the
    biller makes a draft final that is not held, in seconds. `corrections` wait for a person.
    """

    account: str
    period: Period
    state: State
    currency: str
    amount: int | None = None
    invoice: str | None = None
    texts: tuple[str, ...] = ()
    finalises_at: int | None = None
    is_due: bool = False  # nothing but the close comes next
    corrections: Blocked = Blocked(0, 0)


def own_customers(tenants: Tenants) -> dict[str, str]:
    """Return the customer of each account that shares it with no other one."""
    customers = tenants.catalog.customers
    numbers = Counter(customers.values())
    return {name: each for name, each in customers.items() if numbers[each] == 1}


def progress_of(work: Work, state: State, *texts: str) -> Progress:
    amount = None if work.statement is None else work.statement.total
    invoice = work.stored.planned.invoice if work.stored and work.stored.planned else ""
    return Progress(
        work.account.name, work.period, state, work.currency, amount, invoice or None, texts
    )


def concluded(work: Work, stored: StoredInvoice) -> Progress:
    """Return the progress of a period whose invoice is final, or that has none."""
    if stored.state == "planned" or stored.planned is None:
        return progress_of(work, "without")
    planned, came_to = stored.planned, stored.amount or 0
    texts: list[str] = []
    if planned.settled:
        texts.append(
            f"settled by hand or at an earlier customer, and not charged: {money_text(planned.settled, planned.currency)}"
        )
    lacks = planned.total - came_to
    if stored.state == "missed":
        texts.append(missed_text(planned, lacks))
    progress = progress_of(work, stored.state, *texts)
    return progress._replace(amount=lacks if stored.state == "missed" else came_to)
