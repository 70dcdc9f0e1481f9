"""`resmeter usage`."""

from decimal import Decimal

import click
import orjson
from rich.table import Table

from pipeline import logs
from pipeline.catalog.tenants import load_tenants
from pipeline.cli.output import as_written, print_table
from pipeline.config import load_settings
from pipeline.events.times import parse_time
from pipeline.ledger import open_ledger, reports
from pipeline.ledger.pricing import PricedUsage, price_usage


class _Time(click.ParamType):
    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        try:
            return parse_time(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("usage")
@click.option("--tenant", "tenant_id", metavar="TENANT", help="This tenant alone.")
@click.option("--from", "from_ms", type=_Time(), help="What occurred at this time or later.")
@click.option("--to", "to_ms", type=_Time(), help="What occurred before this time.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(
    tenant_id: str | None, from_ms: int | None, to_ms: int | None, *, as_json: bool
) -> None:
    """Show what the ledger says is owed, billed and pending, by tenant and outcome.

    A unit taken back counts where it was charged: under the same kind and the same price. Pending
    is what is not at Stripe: not sent yet, refused, or a negative sum that is carried forward.

    \b
    resmeter usage
    resmeter usage --tenant acme --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z
    resmeter usage --json | jq -s 'map(.quantity) | add'
    """
    settings = load_settings()
    logs.configure(settings.log)
    tenants = load_tenants(settings.config)
    ledger = open_ledger(settings.ledger.url)
    try:
        sums = reports.usage(ledger, tenant_id=tenant_id, from_ms=from_ms, to_ms=to_ms)
    finally:
        ledger.close()
    lines = price_usage(sums, tenants)
    if as_json:
        for line in lines:
            click.echo(orjson.dumps(line))
    else:
        print_table(_table(lines))
        if not lines:
            click.echo("the ledger holds no usage here", err=True)
    for outcome in sorted({line["outcome"] for line in lines if line["amount"] is None}):
        click.echo(f"warning: no policy names a price for {outcome}", err=True)


def _table(lines: list[PricedUsage]) -> Table:
    table = Table(box=None, pad_edge=False, show_footer=False)
    table.add_column("tenant", style="bold", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for name in ("quantity", "confirmed", "assumed", "amount"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("currency")
    for name in ("delivered", "pending"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            *(as_written("-" if value is None else str(value)) for value in line.values())
        )
    if lines:
        table.add_section()
    for currency in sorted({line["currency"] or "" for line in lines}):
        of_currency = [line for line in lines if (line["currency"] or "") == currency]
        amount = sum((Decimal(line["amount"] or 0) for line in of_currency), Decimal(0))
        table.add_row(
            "total",
            "",
            str(sum(line["quantity"] for line in of_currency)),
            str(sum(line["confirmed"] for line in of_currency)),
            str(sum(line["assumed"] for line in of_currency)),
            format(amount, "f") if currency else "-",
            currency or "-",
            str(sum(line["delivered"] for line in of_currency)),
            str(sum(line["pending"] for line in of_currency)),
            style="bold",
        )
    return table
