"""`resmeter explain`."""

import shutil

import click
import msgspec

from pipeline.cli import FAILED
from pipeline.cli.options import json_option, opened
from pipeline.cli.output import visible
from pipeline.cli.views.explain import receipt_lines
from pipeline.ledger import reports
from pipeline.ledger.receipt import explain


@click.command("explain")
@click.argument("tenant_id", metavar="TENANT")
@click.argument("conversation", metavar="CONVERSATION")
@json_option("Print one JSON object.")
@click.pass_context
def command(ctx: click.Context, tenant_id: str, conversation: str, *, as_json: bool) -> None:
    """Show the receipt of one conversation: every charge and correction, and why.

    For each, the receipt shows the evidence, the policy, the place in Kafka, and how it reached
    Stripe.

    \b
    Example:
      resmeter explain acme c-1042
      resmeter explain acme c-1042 --json | jq '.records[].reason'
    """
    with opened() as (_, tenants, ledger):
        receipts = reports.receipts(ledger, tenant_id, conversation)
    if not receipts:
        click.echo(
            f"error: the ledger {ledger.redacted_url} has no usage record of conversation "
            f"{conversation!r} of tenant {tenant_id!r}: it has not been charged, or the sink has "
            "not read the record yet",
            err=True,
        )
        ctx.exit(FAILED)
    explanation = explain(receipts, tenants)
    if as_json:
        click.echo(visible(msgspec.json.encode(explanation).decode()))
    else:
        for line in receipt_lines(explanation, shutil.get_terminal_size().columns):
            click.echo(line)
