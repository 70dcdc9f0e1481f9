"""Print a statement: as JSON, as CSV, or as a table with what it leaves."""

import csv
import io
import re
from collections.abc import Iterable

import click
import orjson
from rich.table import Table
from rich.text import Text

from pipeline.billing.money import amount_text, price_text
from pipeline.billing.statement import (
    Line,
    PlacedUnit,
    Statement,
    line_members,
    statement_object,
    unit_object,
)
from pipeline.cli.output import print_table, print_text, visible

_LINE_COLUMNS = ("kind", "period", "outcome", "quantity", "price", "grant", "amount")
_FORMULA = re.compile(r"[=+@\t\r]|-(?!\d+(\.\d+)?$)")  # an amount may be below zero
_UNIT_COLUMNS = ("id", "period", "state", "grant", "price", "adjusted")


def print_json(account: str, statement: Statement, units: Iterable[PlacedUnit]) -> None:
    """Print the statement as one JSON object, then each unit as another."""
    click.echo(orjson.dumps(statement_object(account, statement)))
    for unit in units:
        click.echo(orjson.dumps(unit_object(unit)))


def print_csv(account: str, statement: Statement, units: Iterable[PlacedUnit] | None) -> None:
    """Print a row for each line of the statement, or for each unit if there are any to print."""
    if units is not None:
        _print_rows([_UNIT_COLUMNS, *(unit_object(unit).values() for unit in units)])
        return
    head = (account, statement.period.name, _state(statement), statement.currency)
    rows = [("account", "statement", "state", "currency", *_LINE_COLUMNS)]
    for line in statement.lines:
        members = dict(line_members(line, statement.currency))
        rows.append((*head, *(members.get(column, "") for column in _LINE_COLUMNS)))
    _print_rows(rows)


def _print_rows(rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(_cells, rows))
    click.echo(text.getvalue(), nl=False)


def _cells(row: Iterable[object]) -> list[object]:
    """Return a row in which a spreadsheet takes no name for a formula."""
    return [f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell for cell in row]


def print_statement(account: str, statement: Statement, units: Iterable[PlacedUnit]) -> None:
    """Print the statement for people, on 80 columns for names of usual length."""
    currency = statement.currency
    click.echo(
        f"{visible(account)}, {statement.period.name}: {_state(statement)}, in {currency.upper()}\n"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("quantity", "price", "amount"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in statement.lines:
        table.add_row(
            Text(visible(_label(line))),
            "" if line.quantity is None else f"{line.quantity:,}",
            "" if line.price is None else price_text(line.price),
            amount_text(line.amount, currency),
        )
    table.add_section()
    total = amount_text(statement.total, currency)
    table.add_row(Text("total"), "", "", total, style="bold")
    print_table(table)
    click.echo()
    for text in (*_units(statement), *_left(statement)):
        print_text(text, "  ")
    for unit in units:
        click.echo(_unit(unit))


def _state(statement: Statement) -> str:
    return "final" if statement.is_final else "open"


def _label(line: Line) -> str:
    what = {
        "carried": "carried from the statement before",
        "carried_forward": "carried to the next statement",
        "minimum": "minimum",
        "waived": "waived",
        "credit_note": "given back by credit note",
        "credit": f"credit {line.grant}",
    }.get(line.kind, line.outcome or "")
    if line.period is None:
        return what
    return f"{what} of {line.period}" if line.kind == "waived" else f"{what}, adjusts {line.period}"


def _units(statement: Statement) -> Iterable[str]:
    counts = statement.counts
    parts = [
        f"{number:,} {name}"
        for name, number in (
            ("included", counts.included),
            ("from packs", counts.pack),
            ("charged", counts.metered),
            ("over the cap", counts.over_cap),
            ("taken back", counts.taken_back),
            ("without a price", counts.unpriced),
        )
        if number
    ]
    yield f"units: {counts.known:,}" + (f" ({', '.join(parts)})" if parts else "")
    if counts.late:
        yield f"records that came after their period's close: {counts.late:,}"
    if counts.unmatched:
        yield f"reversals whose charge is not known: {counts.unmatched:,}"


def _left(statement: Statement) -> Iterable[str]:
    currency, closing = statement.currency, statement.closing
    if closing.carried:
        yield f"carried: {amount_text(closing.carried, currency)}"
    for grant, units in closing.packs.items():
        yield f"left of pack {grant}: {units:,}"
    for grant, amount in closing.credits.items():
        yield f"left of credit {grant}: {amount_text(amount, currency)}"


def _unit(unit: PlacedUnit) -> str:
    placed = unit.placed
    parts = [unit.id, placed.state.replace("_", " ")]
    if placed.grant is not None:
        parts.append(placed.grant)
    if placed.price is not None:
        parts.append(price_text(placed.price))
    if unit.adjusted is not None:
        parts.append(f"adjusted {unit.adjusted}")
    return visible("  ".join(parts))
