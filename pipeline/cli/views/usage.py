"""Print usage as a table: a group for each tenant, a line for each outcome, totals by currency."""

from decimal import Decimal

from rich.table import Table
from rich.text import Text

from pipeline.cli.output import add_group, add_member, grouped_table, print_table
from pipeline.ledger.pricing import PricedUsage


def print_usage(lines: list[PricedUsage]) -> None:
    """Print the lines, which are ordered by tenant, and a total for each currency."""
    print_table(_table(lines))


def _table(lines: list[PricedUsage]) -> Table:
    figures = ("quantity", "confirmed", "assumed", "amount", "delivered", "pending")
    table = grouped_table("tenant, outcome", figures)
    previous: str | None = None
    for line in lines:
        if line["tenantid"] != previous:
            add_group(table, line["tenantid"])
            previous = line["tenantid"]
        add_member(table, line["outcome"], _figures([line], line["currency"]))
    table.add_section()
    for currency in sorted({line["currency"] or "" for line in lines}):
        of_currency = [line for line in lines if (line["currency"] or "") == currency]
        table.add_row(Text("total"), *_figures(of_currency, currency or None), style="bold")
    return table


def _figures(lines: list[PricedUsage], currency: str | None) -> list[str]:
    amount = sum((Decimal(line["amount"] or 0) for line in lines), Decimal(0))
    return [
        str(sum(line["quantity"] for line in lines)),
        str(sum(line["confirmed"] for line in lines)),
        str(sum(line["assumed"] for line in lines)),
        f"{amount:f} {currency}" if currency else "no price",
        str(sum(line["delivered"] for line in lines)),
        str(sum(line["pending"] for line in lines)),
    ]
