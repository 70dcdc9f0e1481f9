"""Say what is missing before a period of an account can be closed.

A final statement never changes, so nothing may be under way: all that occurred in the period is decided,
stored and at the biller. What is late all the same is on the next statement.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from pipeline.billing.contract import BilledAccount
from pipeline.billing.run import Stated
from pipeline.catalog.tenants import Tenants
from pipeline.events.times import format_time
from pipeline.ledger import Ledger, reports
from pipeline.ledger.entries import STUCK
from pipeline.ledger.statements import state_to_close
from pipeline.replay.decided import Decided

What = Literal[
    "order",  # the ledger's closings do not allow it now
    "undecided",
    "lost",
    "undelivered",
    "parked",
    "rejected",
    "uncertain",
    "altered",
    "unmatched",
    "unpriced",
]


class Missing(NamedTuple):
    """One thing that is missing; `number` counts what `detail` names."""

    what: What
    number: int
    detail: str


class Readiness(NamedTuple):
    """A period of an account, its statement as it would be now, and what is missing to close it."""

    stated: Stated
    missing: tuple[Missing, ...]


def readiness(
    ledger: Ledger,
    tenants: Tenants,
    account: BilledAccount,
    period: str | None,
    decided: Sequence[Decided],
    now_ms: int,
) -> Readiness:
    """Return what is missing to close a period of an account.

    Args:
        ledger: the sink's.
        tenants: their prices, policies and customers.
        account: whose period it is.
        period: its name; None: the next one to close.
        decided: how far the workers are.
        now_ms: the time of the close.

    Raises:
        ConfigurationError: no period has this name.
    """
    stated, problems = state_to_close(ledger, account, tenants, period, now_ms)
    of = stated.statement.period
    missing = [Missing("order", 1, problem) for problem in problems]
    decided_by = of.end_ms + max(_grace_ms(tenants, each) for each in account.tenant_ids)
    missing += undecided(decided, decided_by)
    for tenant_id in account.tenant_ids:
        missing += _undelivered(ledger, tenants, tenant_id, of.start_ms, of.end_ms)
    counts = stated.statement.counts
    if counts.unmatched:
        text = "reversals name a charge that the ledger does not have: `resmeter audit` says which"
        missing.append(Missing("unmatched", counts.unmatched, text))
    missing += [Missing("unpriced", counts.unpriced, each) for each in stated.missing]
    return Readiness(stated, tuple(missing))


def _grace_ms(tenants: Tenants, tenant_id: str) -> int:
    return max(version.grace for version in tenants.timeline_for(tenant_id).versions)


def _undelivered(
    ledger: Ledger, tenants: Tenants, tenant_id: str, from_ms: int, to_ms: int
) -> Iterator[Missing]:
    """Yield what of a tenant's usage is not at the biller, and should be."""
    sums = reports.usage(ledger, tenant_id=tenant_id, from_ms=from_ms, to_ms=to_ms)
    pending = sum(
        each.quantity - each.delivered - each.rejected - each.uncertain - each.altered
        for each in sums
    )
    if pending > 0 and tenants.customer_for(tenant_id) is None:
        yield Missing("parked", pending, f"units of {tenant_id} wait for a customer in the catalog")
    elif pending > 0:
        yield Missing("undelivered", pending, f"units of {tenant_id} are not at Stripe yet")
    for state in STUCK:
        if stuck := sum(getattr(each, state) for each in sums):
            text = f"units of {tenant_id} wait for you: see `resmeter deliveries list`"
            yield Missing(state, stuck, text)


def undecided(decided: Iterable[Decided], until_ms: int) -> list[Missing]:
    """Return what the workers have not decided of that which arrived before a time."""
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
        text = "events were deleted before a worker read them: see `resmeter topics acknowledge`"
        missing.append(Missing("lost", lost, text))
    return missing
