"""Copy a ledger to another database, and compare the two row by row."""

from itertools import zip_longest
from typing import Any

from sqlalchemy import Connection, CursorResult, Table, func, insert, select, text

from pipeline.errors import BrokenInvariantError, UnavailableError
from pipeline.ledger.database import Ledger
from pipeline.ledger.tables import metadata

_ROWS = 5_000


def is_empty(ledger: Ledger) -> bool:
    """Return whether no table has a row."""
    with ledger.reading() as connection:
        return all(
            connection.execute(select(table).limit(1)).first() is None
            for table in metadata.sorted_tables
        )


def copy(source: Ledger, target: Ledger) -> dict[str, int]:
    """Copy every row to an empty ledger, in one transaction; return the number of rows by table.

    Raises:
        UnavailableError: the target has rows already; nothing is changed.
    """
    if not is_empty(target):
        raise UnavailableError(f"the ledger {target.redacted_url} is not empty: move to a new one")
    counts: dict[str, int] = {}
    with source.reading() as reading, target.writing() as writing:
        for table in metadata.sorted_tables:
            counts[table.name] = 0
            with _rows(reading, source, table) as result:
                for rows in result.partitions(_ROWS):
                    writing.execute(insert(table), [dict(row._mapping) for row in rows])
                    counts[table.name] += len(rows)
            if not target.is_sqlite and "seq" in table.c and table.c.seq.identity is not None:
                _continue_numbers(writing, table)
    return counts


def compare(source: Ledger, target: Ledger) -> None:
    """Compare all rows of two ledgers.

    Raises:
        BrokenInvariantError: a row differs, or only one of them has it; the message names it.
    """
    with source.reading() as left, target.reading() as right:
        for table in metadata.sorted_tables:
            with (
                _rows(left, source, table) as rows,
                _rows(right, target, table) as copied,
            ):
                for one, other in zip_longest(map(tuple, rows), map(tuple, copied)):
                    if one != other:
                        raise BrokenInvariantError(
                            f"the ledgers differ in {table.name}: {source.redacted_url} has {one}, "
                            f"{target.redacted_url} has {other}. Delete the new one, make sure that no "
                            "sink and no command uses the old one, and move it again"
                        )


def _rows(connection: Connection, ledger: Ledger, table: Table) -> CursorResult[Any]:
    """Return the rows by primary key, text in the order of its bytes."""
    keys = [
        key.collate("C") if not ledger.is_sqlite and key.type.python_type is str else key
        for key in table.primary_key.columns
    ]
    query = select(*(column.label(column.key) for column in table.c)).order_by(*keys)
    return connection.execution_options(yield_per=_ROWS).execute(query)


def _continue_numbers(connection: Connection, table: Table) -> None:
    highest = connection.scalar(select(func.max(table.c.seq)))
    if highest is not None:
        connection.execute(
            text("SELECT setval(pg_get_serial_sequence(:table, 'seq'), :highest)"),
            {"table": table.name, "highest": highest},
        )
