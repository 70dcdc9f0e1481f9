"""Say what people approve or reject before periods are closed, and prepare what they say.

docs/reference/money.md §4.5. What a person says counts once the journal has it.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

from sqlalchemy import select

from pipeline.billing.approvals import Approvable, Verdict, approvables
from pipeline.billing.contract import BilledAccount
from pipeline.billing.reckoning import Placed
from pipeline.billing.statement import PlacedUnit
from pipeline.billing.units import Entered
from pipeline.catalog.prices import Prices
from pipeline.errors import ConfigurationError
from pipeline.ledger import months
from pipeline.ledger.account_history import History, read_history
from pipeline.ledger.database import Ledger
from pipeline.ledger.month_entries import Approval
from pipeline.ledger.statements import state_history
from pipeline.ledger.tables import usage_record

# Why a charge changed: its record came late, it was taken back, or other units moved it to another
# price or cover.
Why = Literal["late", "reversed", "moved"]
_IDS_MAX = 500  # in one query


class Waiting(NamedTuple):
    """What people may decide about the next statement of an account that is closed."""

    account: str
    currency: str
    found: tuple[Approvable, ...]
    said: dict[str, Approval]  # by id
    history: History
    adjusted: tuple[PlacedUnit, ...]  # the units whose charge the statement changes


class Change(NamedTuple):
    """A unit whose charge an adjustment changes."""

    id: str
    conversation: str
    outcome: str
    occurred_at: int
    why: Why
    reason: str  # of the record that came last: its reversal, else itself
    changed_at: int  # when that record was stored, ms
    placed: Placed  # what covers it now


def waiting(
    ledger: Ledger, account: BilledAccount, prices: Prices, at: int, amount_max: Decimal
) -> Waiting:
    """Return what people may decide about an account: on the statement that is closed next.

    Args:
        ledger: where its records, closings and approvals are.
        account: who is billed.
        prices: what prices a record for which the ledger stored no price.
        at: now, ms.
        amount_max: an adjustment above it needs approval.
    """
    with ledger.reading() as connection:
        history = read_history(connection, account, prices)
        approvals = months.approvals_of(connection, account.name)
    period = history.closes.following or history.next_to_close(at)
    statement = state_history(history, account.name, period, at).statement
    said: dict[str, Approval] = {}
    for approval in approvals:
        said.setdefault(approval.id, approval)
    found = approvables(account.name, statement, amount_max, history.closes.decisions)
    return Waiting(
        account.name, statement.currency, tuple(found), said, history, statement.adjusted
    )


def prepare_approval(
    account: str, found: Approvable, verdict: Verdict, who: str, reason: str, at: int
) -> Approval:
    """Return the journal's item of what a person says.

    Raises:
        ConfigurationError: it cannot be rejected.
    """
    if found.what == "unmatched" and verdict == "rejected":
        problem = (
            f"{found.id}: a reversal whose charge is not known costs nothing, so there is nothing to "
            "reject. Approve it, or find its charge with `resmeter audit`"
        )
        raise ConfigurationError([problem])
    return Approval(
        id=found.id,
        account=account,
        period_start=found.period.start_ms,
        what=found.what,
        of_period=found.of_period.start_ms,
        amount=found.amount,
        verdict=verdict,
        who=who,
        reason=reason,
        at=at,
    )


def changes(ledger: Ledger, waits: Waiting, found: Approvable) -> list[Change]:
    """Return the units that an adjustment is about, or the reversal without a charge, in order."""
    history = waits.history
    if found.reversal is not None:
        records = [record for record in history.records if record.id == found.reversal]
        facts = _facts(ledger, [record.id for record in records])
        return [
            Change(
                record.id,
                facts[record.id].conversation,
                record.outcome,
                record.occurred_at,
                "reversed",
                facts[record.id].reason,
                record.stored_at,
                Placed("taken_back"),
            )
            for record in records
        ]
    of_period = found.of_period
    units = {each.id: each for each in waits.adjusted if each.period == of_period.name}
    charges = {record.id: record for record in history.records if record.id in units}
    reversals = {r.supersedes: r for r in history.records if r.supersedes in units}
    facts = _facts(ledger, [*charges, *(each.id for each in reversals.values())])
    close_ms = history.closes.close_of(of_period)
    return [
        _change(charges[unit_id], reversals.get(unit_id), unit.placed, close_ms, facts)
        for unit_id, unit in units.items()
    ]


class _Facts(NamedTuple):
    """What a bill does not need of a usage record."""

    conversation: str
    reason: str


def _change(
    charge: Entered,
    reversal: Entered | None,
    placed: Placed,
    close_ms: int,
    facts: dict[str, _Facts],
) -> Change:
    why: Why = "moved"
    last = charge
    if reversal is not None:
        why, last = "reversed", reversal
    elif charge.stored_at >= close_ms:
        why = "late"
    return Change(
        charge.id,
        facts[charge.id].conversation,
        charge.outcome,
        charge.occurred_at,
        why,
        facts[last.id].reason,
        last.stored_at,
        placed,
    )


def _facts(ledger: Ledger, ids: Sequence[str]) -> dict[str, _Facts]:
    r = usage_record.c
    found: dict[str, _Facts] = {}
    with ledger.reading() as connection:
        for part in _parts(ids):
            rows = connection.execute(select(r.id, r.conversation, r.reason).where(r.id.in_(part)))
            found |= {row.id: _Facts(row.conversation, row.reason) for row in rows}
    return found


def _parts(ids: Sequence[str]) -> Iterator[Iterable[str]]:
    for start in range(0, len(ids), _IDS_MAX):
        yield ids[start : start + _IDS_MAX]
