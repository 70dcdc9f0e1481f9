"""Print what an audit compared and found."""

import click
import orjson
from rich.table import Table

from pipeline.cli.output import as_written, count_of, print_table, print_text
from pipeline.events.times import format_time
from pipeline.ledger.findings import Finding
from pipeline.replay.audit import AuditResult
from pipeline.replay.comparison import Tallies, Tally

_FINDINGS_SHOWN_MAX = 20
_COLUMNS = ("conversations", "events", "records", "open", "findings")


def print_scope(result: AuditResult, topic: str) -> None:
    """Print to standard error what was compared. `topic`: the topic of the dead letters."""
    if not result.dead_letters_are_whole:
        print_text(
            f"retention has deleted the beginning of {topic}: dead letters were not compared",
            err=True,
        )
    if result.stripe is not None:
        compared = result.stripe
        print_text(
            f"compared {count_of(compared.totals, 'Stripe total')} with "
            f"{count_of(compared.units, 'delivered unit')}, from "
            f"{format_time(compared.start * 1000)} to {format_time(compared.end * 1000)}",
            err=True,
        )
        if compared.recent:
            print_text(
                f"{count_of(compared.recent, 'unit')} may be missing in the totals without being a "
                "finding, because the delivery is too recent: see --stripe-lag",
                err=True,
            )


def print_audit_as_json(result: AuditResult) -> None:
    """Print one JSON object for each finding, then one for each tenant."""
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


def print_audit(result: AuditResult) -> None:
    """Print the counts of each tenant, and the first findings."""
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


def print_read(result: AuditResult) -> None:
    """Print to standard error how many records the audit has read, over all tenants."""
    events = sum(tally.events for tally in result.tallies.values())
    click.echo(
        f"{count_of(result.read, 'record')} read: {count_of(events, 'event')}, "
        f"{count_of(result.dead_letters, 'dead letter')}",
        err=True,
    )


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
