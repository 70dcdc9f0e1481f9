"""`resmeter rebill`."""

import os
import sys
import time
from decimal import Decimal
from pathlib import Path

import click
from rich.table import Table

from pipeline import logs
from pipeline.catalog.tenants import load_tenants
from pipeline.cli import FOUND
from pipeline.cli.audit import wait_option
from pipeline.cli.decide import Time
from pipeline.cli.output import as_written, print_table, progress, visible
from pipeline.config import Settings, load_settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.events.times import format_time, is_within
from pipeline.kafka.headers import ORIGIN_HEADER
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import TopicReader
from pipeline.kafka.writer import TopicWriter
from pipeline.ledger import Ledger, open_ledger, reports
from pipeline.replay.corrections import Correctable, basis_of
from pipeline.replay.planfile import FORM, Header, Plan, bounds, read_plan, totals, write_plan
from pipeline.replay.reading import Reading, await_sink
from pipeline.usage.record import encode_origin, encode_record

_SHOWN_MAX = 20
_PLAN = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("rebill")
def command() -> None:
    """Correct the bill where it is not what the log says.

    A plan is the difference between the ledger and the log, decided anew: a file to be read, sent
    round and kept. Applying it writes usage records that correct; nothing is ever changed in place.
    Applied twice is applied once.

    \b
    resmeter rebill plan --out plan.ndjson
    resmeter rebill show plan.ndjson
    resmeter rebill apply plan.ndjson
    """


@command.command("plan")
@click.option("--tenant", "tenant_id", metavar="TENANT", help="Of this tenant alone.")
@click.option("--from", "from_ms", type=Time(), help="Units that occurred at this time or later.")
@click.option("--to", "to_ms", type=Time(), help="Units that occurred before this time.")
@wait_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    help="The file to write; it must not be there yet.",
)
def plan(
    tenant_id: str | None,
    from_ms: int | None,
    to_ms: int | None,
    wait_seconds: float,
    out: Path,
) -> None:
    """Decide the whole log anew and write down what to correct.

    Conversations of which something is on its way are left out and counted. Events that came too
    late for the worker are decided too: this is their way in. Exit status 3: there is something to
    correct.
    """
    if out.exists():
        raise ConfigurationError([f"{out} is there already: plans are kept; name another file"])
    _check_folder(out.parent)
    settings = load_settings()
    logs.configure(settings.log)
    tenants = load_tenants(settings.config)
    ledger = open_ledger(settings.ledger.url)
    made_at = int(time.time() * 1000)
    found: list[Correctable] = []
    unsettled = unjudged = 0
    known: set[str] = set()
    try:
        reading = Reading(settings, tenants, ledger, wait_seconds)
        topic, read = reading.source.topic, bounds(reading.source.bounds)
        try:
            with progress(f"reading {topic}", reading.source.size) as advance:
                for number, audit in reading.partitions(advance):
                    rows = reports.decided_from(ledger, topic, number)
                    found += [
                        part
                        for part in audit.corrections(
                            rows, reading.written, (topic, number), made_at
                        )
                        if _is_asked_for(part, tenant_id, from_ms, to_ms)
                    ]
                    known.update(audit.tallies)
                    for name, tally in audit.tallies.items():
                        if tenant_id in {None, name}:
                            unsettled += tally.unsettled
                            unjudged += tally.unjudged
        finally:
            reading.close()
    finally:
        ledger.close()
    if tenant_id is not None and tenant_id not in known:
        click.echo(f"{topic} has no event of {visible(tenant_id)}", err=True)
    found.sort(key=lambda part: (part.tenant_id, part.conversation))
    header = Header(
        resmeter_plan=FORM,
        made_at=format_time(made_at),
        tenant=tenant_id,
        from_=None if from_ms is None else format_time(from_ms),
        to=None if to_ms is None else format_time(to_ms),
        topic=topic,
        log=read,
        conversations=len(found),
        unsettled=unsettled,
        unjudged=unjudged,
        totals=totals(found, tenants),
    )
    identity, content = write_plan(header, found, tenants)
    try:
        out.write_bytes(content)
    except OSError as error:
        raise UnavailableError(f"the plan cannot be written to {out}: {error.strerror}") from error
    _show(Plan(header, tuple(found)))
    if found:
        click.echo(f"plan {identity} is in {out}; apply it with: resmeter rebill apply {out}")
        sys.exit(FOUND)
    click.echo(f"nothing to correct; the empty plan {identity} is in {out}", err=True)


def _check_folder(folder: Path) -> None:
    # Before the log is read, which may take an hour.
    if not folder.is_dir():
        raise ConfigurationError([f"{folder} is no folder: no plan can be written there"])
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError([f"{folder} takes no file: no plan can be written there"])


def _is_asked_for(
    part: Correctable, tenant_id: str | None, from_ms: int | None, to_ms: int | None
) -> bool:
    # A conversation is corrected as one: it is in where any of its units is.
    return tenant_id in {None, part.tenant_id} and any(
        is_within(correction.of, from_ms, to_ms) for correction in part.corrections
    )


@command.command("show")
@click.argument("file", type=_PLAN)
def show(file: Path) -> None:
    """Show what a plan would do."""
    found = read_plan(str(file), file.read_bytes())
    _show(found)
    if not found.conversations and not found.header.totals:
        click.echo("there is nothing to correct", err=True)


def _show(found: Plan) -> None:
    header = found.header
    if header.totals:
        table = Table(box=None, pad_edge=False)
        for name in (
            "tenant",
            "outcome",
            "added",
            "removed",
            "amount added",
            "amount removed",
            "net",
        ):
            table.add_column(name, justify="left" if name in {"tenant", "outcome"} else "right")
        for total in header.totals:
            table.add_row(
                as_written(total.tenant_id),
                as_written(total.outcome),
                _signed(total.added),
                _signed(-total.removed),
                _amount("+", total.amount_added, total.currency),
                _amount("-", total.amount_removed, total.currency),
                _signed(total.added - total.removed),
            )
        print_table(table)
    for part in found.conversations[:_SHOWN_MAX]:
        click.echo(f"{visible(part.tenant_id)} {visible(part.conversation)}: {visible(part.why)}")
        for correction in part.corrections:
            record = correction.record
            rests_on = f"takes back {record.supersedes}" if record.supersedes else "for"
            evidence = "" if record.supersedes else f" {', '.join(record.evidence)}"
            click.echo(
                f"  {record.quantity:+d} {visible(f'{record.outcome} {rests_on}{evidence}')}"
            )
    left = len(found.conversations) - _SHOWN_MAX
    if left > 0:
        click.echo(f"and {left} conversations more; the file has all")
    if header.unsettled:
        click.echo(
            f"{header.unsettled} conversations differ and are left out: something of them is on its "
            "way; plan again later",
            err=True,
        )
    if header.unjudged:
        click.echo(
            f"{header.unjudged} conversations differ and cannot be judged: the log has lost its "
            "beginning",
            err=True,
        )


def _signed(number: int) -> str:
    return f"{number:+d}" if number else "0"


def _amount(sign: str, amount: str | None, currency: str | None) -> str:
    if amount is None:
        return "no price"
    return f"{sign}{amount} {currency}" if Decimal(amount) else f"0.00 {currency}"


@command.command("apply")
@click.argument("file", type=_PLAN)
@wait_option
def apply(file: Path, wait_seconds: float) -> None:
    """Write a plan's corrections, and wait until the ledger has them.

    They go to the topic of usage records, and the sink stores and delivers them as any others. A
    conversation that has changed since the plan was made is left as it is, and named: exit status 3.
    """
    settings = load_settings()
    logs.configure(settings.log)
    found = read_plan(str(file), file.read_bytes())
    ledger = open_ledger(settings.ledger.url)
    try:
        fresh, done, stale = _sorted_out(ledger, found)
        _write(settings, fresh)
        _await_sink(settings, ledger, wait_seconds)
        missing = {name for part in fresh for name in _ids(part) - _there(ledger, part)}
    finally:
        ledger.close()
    report(fresh, done, stale, missing)


def report(
    fresh: list[Correctable], done: list[Correctable], stale: list[Correctable], missing: set[str]
) -> None:
    """Say what became of a plan; end the process where that is not all of it.

    Args:
        fresh: what was written now.
        done: what this plan had corrected before.
        stale: what it does not fit any more.
        missing: ids of what was written and is not in the ledger, though the sink has read it.

    Raises:
        UnavailableError: the sink has refused something.
    """
    there = [ids for part in fresh if (ids := _ids(part) - missing)]
    click.echo(
        f"{sum(map(len, there))} corrections of {len(there)} conversations are in the ledger"
    )
    if done:
        click.echo(f"{len(done)} conversations had been corrected by this plan before")
    for part in stale[:_SHOWN_MAX]:
        click.echo(
            f"left: {visible(part.tenant_id)} {visible(part.conversation)} has changed since the plan "
            "was made"
        )
    if stale:
        click.echo(f"{len(stale)} conversations are left: make a new plan for them")
    if refused := [part for part in fresh if _ids(part) & missing]:
        raise UnavailableError(
            f"the sink has refused corrections of {len(refused)} conversations, the first "
            f"{visible(refused[0].tenant_id)} {visible(refused[0].conversation)}: see its log"
        )
    if stale:
        sys.exit(FOUND)


def _sorted_out(
    ledger: Ledger, found: Plan
) -> tuple[list[Correctable], list[Correctable], list[Correctable]]:
    """Return what is to be written, what has been, and what the plan does not fit any more."""
    fresh: list[Correctable] = []
    done: list[Correctable] = []
    stale: list[Correctable] = []
    with progress("looking", len(found.conversations)) as advance:
        for part in found.conversations:
            ours, there = _ids(part), _there(ledger, part)
            if ours <= there:
                done.append(part)
            elif basis_of(there - ours) == part.basis:
                fresh.append(part)  # or some of it is there: what is written again counts once
            else:
                stale.append(part)
            advance()
    return fresh, done, stale


def _ids(part: Correctable) -> set[str]:
    return {correction.record.id for correction in part.corrections}


def _there(ledger: Ledger, part: Correctable) -> set[str]:
    return set(reports.ids_of(ledger, part.tenant_id, part.conversation))


def _write(settings: Settings, parts: list[Correctable]) -> None:
    topic = settings.topics.records
    with (
        progress(f"to {topic}", len(parts)) as advance,
        TopicWriter(librdkafka_options(settings.kafka), topic) as writer,
    ):
        for part in parts:
            for correction in part.corrections:
                record = correction.record
                origin = [(ORIGIN_HEADER, encode_origin(correction.origin))]
                if not writer.write(record.tenant_id.encode(), encode_record(record), origin):
                    return
            advance()


def _await_sink(settings: Settings, ledger: Ledger, seconds: float) -> None:
    written = TopicReader(librdkafka_options(settings.kafka), settings.topics.records)
    written.close()
    if left := await_sink(ledger, written, seconds):
        raise UnavailableError(
            f"the corrections are written, and the sink is {left} usage records behind: see "
            "that it runs, and apply the plan again to see the end"
        )
