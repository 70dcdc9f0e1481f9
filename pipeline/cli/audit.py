"""`resmeter audit`."""

import sys

import click

from pipeline.cli import FOUND
from pipeline.cli.options import (
    TimeRange,
    json_option,
    opened,
    tenant_option,
    time_range_options,
    wait_option,
)
from pipeline.cli.output import progress, visible
from pipeline.cli.views.audit import print_audit, print_audit_as_json, print_read, print_scope
from pipeline.replay.audit import run_audit


@click.command("audit")
@tenant_option("Report findings for this tenant only.")
@time_range_options("findings about charges")
@wait_option
@click.option("--stripe", "with_stripe", is_flag=True, help="Compare with Stripe's totals too.")
@click.option(
    "--stripe-lag",
    "lag_seconds",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="Stripe's totals may not include usage that was delivered within this time.",
)
@json_option("Print every finding and every tenant's counts, one JSON object per line.")
def command(
    tenant_id: str | None,
    time_range: TimeRange,
    wait_seconds: float,
    lag_seconds: float,
    *,
    with_stripe: bool,
    as_json: bool,
) -> None:
    """Recompute every decision from the event log and compare it with the ledger and the dead letters.

    The audit reads the events topic from its beginning. It shares its rules with the worker, and no
    other code with the worker or the sink. Usage that a running worker may not have written yet
    is not a finding: its conversation counts as open. The table always counts the whole log, even if you give a
    time range. With --stripe, the audit also compares Stripe's totals, by customer and meter, with
    what the sink has delivered. Exit status 3: the audit found a difference.

    \b
    Example:
      resmeter audit
      resmeter audit --stripe --month 2026-11
      resmeter audit --tenant acme --json | jq 'select(.finding)'
    """
    with opened() as (settings, tenants, ledger), progress("reading the log") as on_record:
        whole = run_audit(
            settings,
            tenants,
            ledger,
            wait_seconds=wait_seconds,
            with_stripe=with_stripe,
            from_ms=time_range.from_ms,
            to_ms=time_range.to_ms,
            stripe_lag_seconds=lag_seconds,
            on_record=on_record,
        )
    result = whole.select(tenant_id, *time_range)
    print_scope(whole, settings.topics.dead_letters)
    if tenant_id is not None and not result.tallies:
        click.echo(f"{settings.topics.events} has no event of {visible(tenant_id)}", err=True)
    if as_json:
        print_audit_as_json(result)
    else:
        print_audit(result)
        if tenant_id is None:
            print_read(whole)
    if result.stripe_error is not None:
        raise result.stripe_error
    if result.findings:
        sys.exit(FOUND)
