"""Take usage records off pending that are on a final statement: nothing is sent for them any more.

Which records these are follows from the closings and the records alone. So every ledger that follows
the journal comes to the same, whenever it looks.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select

from pipeline.ledger import months
from pipeline.ledger.batches import parts
from pipeline.ledger.closes import Knowledge
from pipeline.ledger.database import Ledger
from pipeline.ledger.entries import PendingKey
from pipeline.ledger.pending import delete_pending
from pipeline.ledger.tables import closing, pending_record, stated_record, usage_record


class Stating:
    """States pending records; looks again only if there is something new to find.

    `account_of` says who is billed for a tenant's units of a time, ms.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last: int | None = None  # the last closing at the last look; None: look again

    def step(self, account_of: Callable[[str, int], str]) -> int:
        """State what is pending and on a final statement; return the number of records."""
        with self._ledger.reading() as connection:
            last = connection.scalar(select(func.max(closing.c.seq)))
            if last == self._last or last is None:
                return 0
            knowledge = _knowledge(connection)
            rows = _candidates(connection, max(_ends(knowledge)))
        stated = [
            (row, on) for row in rows if (on := _stated_on(row, knowledge, account_of)) is not None
        ]
        moved = sum(_move(self._ledger, part) for part in parts(stated))
        is_behind = any(
            each.reading.is_behind(closed)
            for each in knowledge.values()
            for closed in each.closings
        )
        # A ledger that has not read all that a closing knew will find more.
        self._last = None if is_behind else last
        return moved


def delete_stated(connection: Connection, seqs: Sequence[int]) -> int:
    """Take records off the statements, because a meter event has them; return how many were."""
    s = stated_record.c
    return sum(
        connection.execute(delete(stated_record).where(s.record_seq.in_(part))).rowcount
        for part in parts(seqs)
    )


def _knowledge(connection: Connection) -> dict[str, Knowledge]:
    """Return what the closings of each account knew."""
    accounts = connection.scalars(select(closing.c.account).distinct()).all()
    reading = months.reading(connection)
    return {name: Knowledge(months.closings_of(connection, name), reading) for name in accounts}


def _ends(knowledge: dict[str, Knowledge]) -> list[int]:
    return [each.closings[-1].period_end for each in knowledge.values()]


class _Place(NamedTuple):
    """Where a usage record is."""

    partition: int
    seq: int
    offset: int


class _Candidate(NamedTuple):
    """A pending record, under the time of its unit, with its place."""

    key: PendingKey
    place: _Place
    charge: _Place  # of a charge, its own


def _candidates(connection: Connection, until_ms: int) -> list[_Candidate]:
    """Return the pending records of units from before a time, but no unmatched reversal."""
    record, charge = usage_record.alias("r"), usage_record.alias("c")
    p, r, c = pending_record.c, record.c, charge.c
    query = (
        select(p.tenant_id, p.outcome, p.occurred_at, p.seq)
        .add_columns(r.record_partition, r.record_offset)
        .add_columns(c.record_partition, c.seq, c.record_offset)
        .select_from(pending_record)
        .join(record, r.seq == p.seq)
        .join(charge, c.id == func.coalesce(r.supersedes, r.id))
        .where(p.missing_charge.is_(None), p.occurred_at < until_ms)
    )
    return [_candidate(*row) for row in connection.execute(query)]


def _candidate(*row: Any) -> _Candidate:
    *key, partition, offset, charge_partition, charge_seq, charge_offset = row
    return _Candidate(
        PendingKey(*key),
        _Place(partition, key[3], offset),
        _Place(charge_partition, charge_seq, charge_offset),
    )


def _stated_on(
    row: _Candidate, knowledge: dict[str, Knowledge], account_of: Callable[[str, int], str]
) -> int | None:
    """Return the number of the closing whose statement is the first to have a record."""
    unit_at = row.key.occurred_at
    known = knowledge.get(account_of(row.key.tenant_id, unit_at))
    if known is None:
        return None
    ends = [each.period_end for each in known.closings]
    first = max(
        next((n for n, end in enumerate(ends) if end > unit_at), len(ends)),
        known.first_knowing(*row.place),
        known.first_knowing(*row.charge),
    )
    return known.closings[first].seq if first < len(ends) else None


def _move(ledger: Ledger, part: Sequence[tuple[_Candidate, int]]) -> int:
    """Move records from pending to a statement; leave those that are no longer pending."""
    moved = 0
    with ledger.writing() as connection:
        for row, on in part:
            if delete_pending(connection, [row.key]):
                values = {"record_seq": row.key.seq, "closing_seq": on}
                connection.execute(insert(stated_record).values(values))
                moved += 1
    return moved
