"""Print what an account carries, its credit notes and its final invoices."""

from collections.abc import Sequence

import click
from rich.table import Table
from rich.text import Text

from pipeline.billing.money import amount_text
from pipeline.cli.output import print_table, visible
from pipeline.events.times import format_time
from pipeline.ledger.carrying import Carried
from pipeline.sink.crediting import FinalInvoice, Result

_WORDS = {
    "missing": "not at Stripe: add --apply",
    "void": "void at Stripe: add --apply",
    "found": "at Stripe",
}


def print_credits(
    carried: Carried, results: Sequence[Result], invoices: Sequence[FinalInvoice]
) -> None:
    """Print them on 80 columns."""
    currency = carried.currency
    money = f"{amount_text(carried.amount, currency)} {currency.upper()}"
    closed = "no period is closed" if carried.period is None else f"since {carried.period.name}"
    click.echo(f"{visible(carried.account)} carries {money} ({closed})")
    if results:
        click.echo()
        table = Table(box=None, pad_edge=False)
        for name in ("credit note on", "amount", "state"):
            table.add_column(name, justify="right" if name == "amount" else "left")
        for each in results:
            amount = amount_text(each.note.amount, currency)
            table.add_row(Text(each.note.invoice), amount, _WORDS.get(each.state, each.state))
        print_table(table)
    if invoices:
        click.echo()
        table = Table(box=None, pad_edge=False)
        for name in ("invoice", "number", "made", "state", "to credit"):
            table.add_column(name, justify="right" if name == "to credit" else "left")
        for invoice in invoices:
            table.add_row(
                Text(visible(invoice.id)),
                Text(visible(invoice.number)),
                format_time(invoice.created * 1000)[:10],
                f"{invoice.status}{', has tax' if invoice.is_taxed else ''}",
                amount_text(invoice.left, currency),
            )
        print_table(table)
