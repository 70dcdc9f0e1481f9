"""Keep the index of usage records without a meter event: each is filed under the time of its unit.

docs/reference/money.md §1.4: a -1 belongs to the period of the +1 that it takes back. So its key has the
time of that +1, once the ledger has it. Until then the row names what is missing, and nothing is planned
for it.
"""

from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    and_,
    bindparam,
    delete,
    func,
    select,
    update,
)

from pipeline.ledger.database import Ledger
from pipeline.ledger.tables import pending_record, usage_record

_LOOKUP_IDS_MAX = 500
COLUMNS = "tenantid, outcome, occurred_at, seq, quantity, stored_at, missing_charge"
# How a new record is filed; `match_reversals` follows. "": the -1 names no charge.
MISSING_CHARGE = "CASE WHEN quantity < 0 THEN coalesce(supersedes, '') END"


def takes_back(record: FromClause, charge: FromClause) -> ColumnElement[bool]:
    """Return whether a record takes a charge back: it names it, and is of the same usage."""
    r, c = record.c, charge.c
    return and_(
        r.quantity < 0,
        c.id == r.supersedes,
        c.quantity > 0,
        c.tenant_id == r.tenant_id,
        c.outcome == r.outcome,
    )


def time_of_unit(record: FromClause, charge: FromClause) -> ColumnElement[int]:
    """Return the time of a record's unit; `charge` is outer-joined by `takes_back`."""
    return func.coalesce(charge.c.occurred_at, record.c.occurred_at)


def has_unmatched(connection: Connection) -> bool:
    """Return whether the charge of any pending -1 was missing when it was last looked for."""
    p = pending_record.c
    query = select(p.seq).where(p.missing_charge.is_not(None)).limit(1)
    return connection.scalar(query) is not None


def match_reversals(connection: Connection, charges: Collection[str] | None = None) -> None:
    """File each pending -1 under the time of its charge, where the ledger has that now.

    `charges` are the ids of those that may be new, for the ledger or for their -1; None: any.
    """
    p, c = pending_record.c, usage_record.c
    move = (
        update(pending_record)
        .where(
            c.id == p.missing_charge,
            c.quantity > 0,
            c.tenant_id == p.tenant_id,
            c.outcome == p.outcome,
        )
        .values(occurred_at=c.occurred_at, missing_charge=None)
    )
    if charges is None:
        connection.execute(move.where(p.missing_charge.is_not(None)))
        return
    ids = list(charges)
    for start in range(0, len(ids), _LOOKUP_IDS_MAX):
        connection.execute(move.where(p.missing_charge.in_(ids[start : start + _LOOKUP_IDS_MAX])))


def match_all(ledger: Ledger) -> None:
    """File every pending -1 whose charge the ledger has, under the time of the charge.

    On PostgreSQL, two sinks may have stored the two at the same moment.
    """
    with ledger.reading() as connection:
        if not has_unmatched(connection):
            return
    with ledger.writing() as connection:
        match_reversals(connection)


def delete_pending(connection: Connection, stored: Iterable[Any]) -> int:
    """Take records off pending; return how many were. They have the columns of the primary key."""
    p = pending_record.c
    statement = delete(pending_record).where(
        p.tenant_id == bindparam("tenant_id_"),
        p.outcome == bindparam("outcome_"),
        p.occurred_at == bindparam("occurred_at_"),
        p.seq == bindparam("seq_"),
    )
    rows = [
        {
            "tenant_id_": each.tenant_id,
            "outcome_": each.outcome,
            "occurred_at_": each.occurred_at,
            "seq_": each.seq,
        }
        for each in stored
    ]
    return connection.execute(statement, rows).rowcount
