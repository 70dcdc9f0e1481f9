"""`resmeter audit`."""

import asyncio
import sys
import time

import click
import orjson
from rich.table import Table

from pipeline import logs
from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.cli import FOUND
from pipeline.cli.decide import Time
from pipeline.cli.output import as_written, print_table, progress, visible
from pipeline.config import Settings, load_settings
from pipeline.errors import ResmeterError
from pipeline.events.times import format_time, is_within
from pipeline.ledger import Ledger, open_ledger, reports
from pipeline.ledger.findings import Finding
from pipeline.replay.audit import Tally
from pipeline.replay.reading import Reading

_HOUR_SECONDS = 3600
_SHOWN_MAX = 20


wait_option = click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For the sink to take what has been written.",
)


@click.command("audit")
@click.option("--tenant", "tenant_id", metavar="TENANT", help="Tell of this tenant alone.")
@click.option("--from", "from_ms", type=Time(), help="Tell of units of this time or later.")
@click.option("--to", "to_ms", type=Time(), help="Tell of units before this time.")
@wait_option
@click.option("--stripe", "with_stripe", is_flag=True, help="Ask Stripe for its own sums as well.")
@click.option(
    "--stripe-lag",
    "lag_seconds",
    type=click.FloatRange(min=0),
    default=3600.0,
    show_default=True,
    metavar="SECONDS",
    help="What was delivered within this time may be missing in Stripe's sums.",
)
@click.option("--json", "as_json", is_flag=True, help="Every finding and tally, one a line.")
def command(
    tenant_id: str | None,
    from_ms: int | None,
    to_ms: int | None,
    wait_seconds: float,
    lag_seconds: float,
    *,
    with_stripe: bool,
    as_json: bool,
) -> None:
    """Decide the whole log anew, and hold the ledger and the dead letters against it.

    It reads the events topic from its beginning, and shares no code with worker and sink but
    the rules themselves. What a worker at work may or may not have written yet is pending, and
    neither is wrong. The table counts the whole log, whatever --from and --to ask for. With
    --stripe it also holds Stripe's sums, by customer and meter, against what the ledger has
    delivered. Exit status 3: something differs, and it says what.

    \b
    resmeter audit
    resmeter audit --stripe --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z
    resmeter audit --tenant acme --json | jq 'select(.finding)'
    """
    settings = load_settings()
    logs.configure(settings.log)
    tenants = load_tenants(settings.config)
    ledger = open_ledger(settings.ledger.url)
    unasked: ResmeterError | None = None
    try:
        findings, tallies, letters, read = _audit(settings, tenants, ledger, wait_seconds)
        if with_stripe:
            try:
                findings += _at_stripe(settings, tenants, ledger, (from_ms, to_ms), lag_seconds)
            except ResmeterError as error:
                unasked = error  # what the log says is told all the same
    finally:
        ledger.close()
    if tenant_id is not None:
        findings = [found for found in findings if found.tenant_id in {tenant_id, ""}]
        tallies = {name: tally for name, tally in tallies.items() if name == tenant_id}
        if not tallies:
            click.echo(f"{settings.topics.events} has no event of {visible(tenant_id)}", err=True)
    findings = [
        found for found in findings if found.at is None or is_within(found.at, from_ms, to_ms)
    ]
    if as_json:
        for found in findings:
            click.echo(orjson.dumps({"finding": found.kind, **_named(found)}))
        for name, tally in sorted(tallies.items()):
            fields = {key: getattr(tally, key) for key in Tally.__struct_fields__}
            click.echo(orjson.dumps({"tenantid": name, **fields}))
    else:
        _show(findings, tallies)
        events = sum(tally.events for tally in tallies.values())
        if tenant_id is None:
            click.echo(f"{read} records read: {events} events, {letters} dead letters", err=True)
    if unasked is not None:
        raise unasked
    if findings:
        sys.exit(FOUND)


def _named(found: Finding) -> dict[str, str]:
    return {
        "tenantid": found.tenant_id,
        "conversation": found.conversation,
        "detail": found.detail,
    }


def _audit(
    settings: Settings, tenants: Tenants, ledger: Ledger, wait_seconds: float
) -> tuple[list[Finding], dict[str, Tally], int, int]:
    findings: list[Finding] = []
    tallies: dict[str, Tally] = {}
    rejected = read = 0
    reading = Reading(settings, tenants, ledger, wait_seconds)
    topic = reading.source.topic
    try:
        letters = reading.letters
        if not letters.are_whole:
            click.echo(
                f"{settings.topics.dead_letters} has lost its beginning: dead letters are not held up",
                err=True,
            )
        with progress(f"reading {topic}", reading.source.size) as advance:
            for number, audit in reading.partitions(advance):
                # The ledger is read last: what is missing in it had its time to come.
                rows = reports.decided_from(ledger, topic, number)
                findings += audit.compare(rows, reading.written, int(time.time() * 1000))
                if letters.are_whole:
                    findings += audit.missing_letters(
                        letters.there.get(number, set()), topic, number
                    )
                rejected += audit.letters
                read += audit.read
                _add_tallies(tallies, audit.tallies)
        findings += [
            Finding("unexpected", record.tenant_id, record.conversation, f"{record.id}: no origin")
            for record in reports.decided_from(ledger, topic, None)
        ]
    finally:
        reading.close()
    return findings, tallies, rejected, read


def _at_stripe(
    settings: Settings,
    tenants: Tenants,
    ledger: Ledger,
    window: tuple[int | None, int | None],
    lag_seconds: float,
) -> list[Finding]:
    """Compare in whole hours, as meter events are made by the hour."""
    from pipeline.sink.stripe.reconcile import read_sums, reconcile

    now = time.time()
    first, last = reports.delivered_between(ledger) or (int(now), int(now))
    from_ms, to_ms = window
    start = (first if from_ms is None else from_ms // 1000) // _HOUR_SECONDS * _HOUR_SECONDS
    end = -(-(max(last, int(now)) + 1 if to_ms is None else to_ms // 1000) // _HOUR_SECONDS)
    end *= _HOUR_SECONDS
    certain_until = int((now - lag_seconds) * 1000)
    names = tenants.event_names
    places = {(who, name) for who in tenants.customers.values() for name in names}
    places |= {
        (known.customer, known.event_name)
        for known in reports.delivered_sums(ledger, start, end, certain_until)
    }
    # Stripe first: what it has counted was written down before the call.
    at_stripe = asyncio.run(read_sums(settings.stripe, sorted(places), start, end))
    delivered = reports.delivered_sums(ledger, start, end, certain_until)
    click.echo(
        f"{len(places)} sums of Stripe's held against {sum(known.most for known in delivered)} "
        f"units delivered from {format_time(start * 1000)} to {format_time(end * 1000)}",
        err=True,
    )
    return list(reconcile(delivered, at_stripe))


def _add_tallies(tallies: dict[str, Tally], more: dict[str, Tally]) -> None:
    for name, tally in more.items():
        total = tallies.setdefault(name, Tally())
        for field in Tally.__struct_fields__:
            setattr(total, field, getattr(total, field) + getattr(tally, field))


def _show(findings: list[Finding], tallies: dict[str, Tally]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("tenant", style="bold")
    for name in Tally.__struct_fields__:
        table.add_column(name, justify="right")
    for name, tally in sorted(tallies.items()):
        table.add_row(
            as_written(name), *(str(getattr(tally, key)) for key in Tally.__struct_fields__)
        )
    print_table(table)
    for found in findings[:_SHOWN_MAX]:
        where = f"{found.tenant_id} {found.conversation}".strip()
        click.echo(f"{found.kind}: {visible(where)}{': ' if where else ''}{visible(found.detail)}")
    if len(findings) > _SHOWN_MAX:
        click.echo(f"and {len(findings) - _SHOWN_MAX} more; --json has all")
    if not findings:
        click.echo("nothing differs", err=True)
