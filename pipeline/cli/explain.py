"""`resmeter explain`."""

import shutil
import textwrap
from collections.abc import Iterator

import click
import msgspec

from pipeline import logs
from pipeline.catalog.tenants import load_tenants
from pipeline.cli import FAILED
from pipeline.cli.output import visible
from pipeline.config import load_settings
from pipeline.ledger import open_ledger, reports
from pipeline.ledger.receipt import Explanation, explain
from pipeline.ledger.receipt_text import render

COLUMNS_MIN = 60
LABEL_COLUMNS = 13


@click.command("explain")
@click.argument("tenant_id", metavar="TENANT")
@click.argument("conversation", metavar="CONVERSATION")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def command(ctx: click.Context, tenant_id: str, conversation: str, *, as_json: bool) -> None:
    """Show the receipt of one conversation: every charge and correction, and why.

    Each with its evidence, its policy, where it lies in Kafka, and how it reached Stripe.

    \b
    resmeter explain acme c-1042
    resmeter explain acme c-1042 --json | jq '.records[].reason'
    """
    settings = load_settings()
    logs.configure(settings.log)
    tenants = load_tenants(settings.config)
    ledger = open_ledger(settings.ledger.url)
    try:
        receipts = reports.receipts(ledger, tenant_id, conversation)
    finally:
        ledger.close()
    if not receipts:
        click.echo(
            f"error: the ledger {ledger.redacted_url} holds no usage record of conversation "
            f"{conversation!r} of tenant {tenant_id!r}: nothing of it has been charged so far, or "
            "the sink has not read it yet",
            err=True,
        )
        ctx.exit(FAILED)
    explanation = explain(receipts, tenants)
    if as_json:
        click.echo(visible(msgspec.json.encode(explanation).decode()))
    else:
        for line in laid_out(explanation, shutil.get_terminal_size().columns):
            click.echo(line)


def laid_out(explanation: Explanation, columns: int) -> Iterator[str]:
    """Yield the lines of the receipt, broken to fit and to stay below their labels."""
    for line in render(explanation):
        yield textwrap.fill(
            visible(line),
            max(columns, COLUMNS_MIN),
            subsequent_indent=" " * LABEL_COLUMNS,
            break_long_words=False,
            break_on_hyphens=False,
        )
