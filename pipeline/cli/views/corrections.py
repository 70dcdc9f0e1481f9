"""Print what people approve or reject."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import click
import orjson
from rich.table import Table
from rich.text import Text

from pipeline.billing.approvals import Approvable
from pipeline.billing.money import amount_text, price_text
from pipeline.cli.output import print_table, print_text, visible
from pipeline.events.times import format_time
from pipeline.ledger.approving import Change, Waiting, Why
from pipeline.ledger.month_entries import Approval

_WHY: dict[Why, str] = {
    "late": "came late",
    "reversed": "taken back",
    "moved": "price or cover changed",
}
Found = tuple[Waiting, Approvable]


def print_list(found: Sequence[Found]) -> None:
    """Print a table on 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True)
    table.add_column("account", overflow="fold")
    table.add_column("statement", no_wrap=True)
    table.add_column("adjusts", no_wrap=True)
    table.add_column("amount", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for waits, each in found:
        table.add_row(
            each.id,
            Text(visible(waits.account)),
            each.period.name,
            "unmatched" if each.what == "unmatched" else each.of_period.name,
            _amount(waits, each),
            _state(each),
        )
    print_table(table)


def print_list_as_json(found: Sequence[Found]) -> None:
    """Print one JSON object a line."""
    for waits, each in found:
        click.echo(orjson.dumps(_members(waits, each)))


def _members(waits: Waiting, each: Approvable) -> dict[str, Any]:
    said = waits.said.get(each.id)
    return {
        "id": each.id,
        "account": waits.account,
        "period": each.period.name,
        "what": each.what,
        "adjusted_period": each.of_period.name if each.adjustment else None,
        "reversal": each.reversal,
        "currency": waits.currency,
        "amount": amount_text(each.amount, waits.currency),
        "state": _state(each),
        "who": said.who if said else None,
        "reason": said.reason if said else None,
        "at": format_time(said.at) if said else None,
    }


def _state(each: Approvable) -> str:
    if each.verdict is not None:
        return each.verdict
    return "waits" if each.needs_approval else "below limit"


def _amount(waits: Waiting, each: Approvable) -> str:
    if each.adjustment is None:
        return ""
    return f"{amount_text(each.amount, waits.currency)} {waits.currency.upper()}"


def print_one(
    waits: Waiting, each: Approvable, changes: Sequence[Change], amount_max: Decimal, limit: int
) -> None:
    """Print what a person decides about: lines, causes, and units with their conversations."""
    account = visible(waits.account)
    if each.adjustment is None:
        title = (
            f"{account}: the reversal {visible(each.reversal or '')} names no charge that is known"
        )
    else:
        title = (
            f"{account}: the statement of {each.period.name} adjusts {each.of_period.name} by "
            f"{_amount(waits, each)}"
        )
    print_text(title, "  ")
    print_text(f"state: {_why_it_waits(waits, each, amount_max)}", "  ")
    click.echo()
    if each.adjustment is not None:
        _print_lines(waits, each)
        counts = Counter(change.why for change in changes)
        causes = ", ".join(f"{counts[why]:,} {text}" for why, text in _WHY.items() if counts[why])
        print_text(f"units: {causes or 'none changed its charge'}", "  ")
        click.echo()
    for change in changes[:limit]:
        _print_change(change)
    if len(changes) > limit:
        print_text(f"and {len(changes) - limit:,} more: add --limit {len(changes)}", "  ")


def _why_it_waits(waits: Waiting, each: Approvable, amount_max: Decimal) -> str:
    said = waits.said.get(each.id)
    if said is not None:
        return words(said)
    if each.adjustment is None:
        return "waits; approve it, or find its charge with `resmeter audit`"
    if not each.needs_approval:
        return f"charged without approval, up to {amount_max} {waits.currency.upper()}"
    return "waits for `resmeter corrections approve` or `reject`"


def words(said: Approval) -> str:
    """Say who decided what, when and why."""
    return f"{said.verdict} by {said.who} at {format_time(said.at)}: {said.reason}"


def _print_lines(waits: Waiting, each: Approvable) -> None:
    assert each.adjustment is not None
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("quantity", "price", "amount"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in each.adjustment.lines:
        table.add_row(
            Text(visible(line.outcome or line.kind)),
            "" if line.quantity is None else f"{line.quantity:,}",
            "" if line.price is None else price_text(line.price),
            amount_text(line.amount, waits.currency),
        )
    print_table(table)
    click.echo()


def _print_change(change: Change) -> None:
    placed = change.placed
    price = "" if placed.price is None else f" at {price_text(placed.price)}"
    now = placed.state.replace("_", " ") + (f" ({placed.grant})" if placed.grant else "") + price
    print_text(f"{visible(change.id)}  {visible(change.outcome)}: {now}", "    ")
    when = f"{_short(change.occurred_at)}, conversation {visible(change.conversation)}"
    why = f"{_WHY[change.why]} {_short(change.changed_at)} ({visible(change.reason)})"
    print_text(f"  {when}", "    ")
    print_text(f"  {why}", "    ")


def _short(ms: int) -> str:
    return format_time(ms)[:16].replace("T", " ")
