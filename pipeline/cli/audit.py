"""`resmeter audit`."""

import sys

import click
import orjson
from rich.table import Table

from pipeline.cli import FOUND
from pipeline.cli.options import (
    TimeRange,
    json_option,
    opened,
    tenant_option,
    time_range_options,
    wait_option,
)
from pipeline.cli.output import as_written, count_of, print_table, print_text, progress, visible
from pipeline.events.times import format_time
from pipeline.ledger.findings import Finding
from pipeline.replay.audit import AuditResult, run_audit
from pipeline.replay.comparison import Tallies, Tally

_FINDINGS_SHOWN_MAX = 20
_COLUMNS = ("conversations", "events", "records", "pending", "findings")


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
    help="Stripe's totals may lack what was delivered within this time.",
)
@json_option("Print every finding and every tenant's counts, one JSON object a line.")
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

    The audit reads the events topic from its beginning and shares no code with worker and sink but
    the rules themselves. What a running worker may or may not have written yet counts as pending,
    not as a finding. The table counts the whole log, whatever time you ask for. With --stripe, the
    audit also compares Stripe's totals, by customer and meter, with what the ledger has delivered.
    Exit status 3: it found something, and says what.

    \b
    Examples:
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
    _print_notes(whole, settings.topics.dead_letters)
    if tenant_id is not None and not result.tallies:
        click.echo(f"{settings.topics.events} has no event of {visible(tenant_id)}", err=True)
    if as_json:
        _print_json(result)
    else:
        _print_tables(result)
        if tenant_id is None:
            events = sum(tally.events for tally in result.tallies.values())
            click.echo(
                f"{count_of(whole.read, 'record')} read: {count_of(events, 'event')}, "
                f"{count_of(whole.dead_letters, 'dead letter')}",
                err=True,
            )
    if result.stripe_error is not None:
        raise result.stripe_error
    if result.findings:
        sys.exit(FOUND)


def _print_notes(result: AuditResult, topic: str) -> None:
    if not result.dead_letters_are_whole:
        click.echo(
            f"retention has deleted the beginning of {topic}: dead letters were not compared",
            err=True,
        )
    if result.stripe is not None:
        compared = result.stripe
        click.echo(
            f"compared {count_of(compared.totals, 'Stripe total')} with "
            f"{count_of(compared.units, 'delivered unit')}, from "
            f"{format_time(compared.start * 1000)} to {format_time(compared.end * 1000)}",
            err=True,
        )


def _print_json(result: AuditResult) -> None:
    for finding in result.findings:
        members = {
            "finding": finding.kind,
            "tenantid": finding.tenant_id,
            "conversation": finding.conversation,
            "detail": finding.detail,
        }
        click.echo(orjson.dumps(members))
    for tenant_id, tally in sorted(result.tallies.items()):
        counts = {name: getattr(tally, name) for name in Tally.__struct_fields__}
        click.echo(orjson.dumps({"tenantid": tenant_id, **counts}))


def _print_tables(result: AuditResult) -> None:
    if result.tallies:
        print_table(_table(result.tallies))
        for tenant_id, tally in sorted(result.tallies.items()):
            if remarks := _remarks(tally):
                print_text(f"{tenant_id}: {remarks}", "  ")
    for finding in result.findings[:_FINDINGS_SHOWN_MAX]:
        _print_finding(finding)
    if (more := len(result.findings) - _FINDINGS_SHOWN_MAX) > 0:
        click.echo(f"and {count_of(more, 'more finding')}; --json prints all")
    if not result.findings:
        click.echo("nothing differs", err=True)


def _table(tallies: Tallies) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("tenant", style="bold")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for tenant_id, tally in sorted(tallies.items()):
        table.add_row(as_written(tenant_id), *(str(getattr(tally, name)) for name in _COLUMNS))
    return table


def _remarks(tally: Tally) -> str:
    """Return the counts that are usually zero, as words."""
    remarks = {
        count_of(tally.duplicates, "duplicate event"): tally.duplicates,
        count_of(tally.corrected, "conversation") + " corrected by a plan": tally.corrected,
        count_of(tally.unjudged, "conversation") + " cannot be judged": tally.unjudged,
    }
    return ", ".join(remark for remark, number in remarks.items() if number)


def _print_finding(finding: Finding) -> None:
    place = f"{finding.tenant_id} {finding.conversation}".strip()
    print_text(": ".join(part for part in (finding.kind, place, finding.detail) if part), "  ")
