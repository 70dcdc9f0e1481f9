"""`resmeter rebill`."""

import os
import sys
from decimal import Decimal
from pathlib import Path

import click

from pipeline.cli import FOUND, CommandGroup
from pipeline.cli.options import (
    TimeRange,
    opened,
    tenant_option,
    time_range_options,
    wait_option,
)
from pipeline.cli.output import (
    add_group,
    add_member,
    count_of,
    grouped_table,
    print_table,
    print_text,
    progress,
    visible,
)
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.replay.corrections import Correctable
from pipeline.replay.planfile import Header, RebillPlan, Total, decode_plan
from pipeline.replay.rebill import AppliedPlan, apply_plan, make_plan

_CONVERSATIONS_SHOWN_MAX = 20
_PLAN_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("rebill", cls=CommandGroup)
def command() -> None:
    """Correct the ledger where it is not what the event log says.

    A plan is the difference between the ledger and the log, in a file that you can read, pass on
    and keep. Applying a plan writes usage records that correct the ledger; nothing is changed in
    place. Applying a plan twice has the same effect as applying it once.

    \b
    Example:
      resmeter rebill plan --month 2026-11 --out plan.ndjson
      resmeter rebill show plan.ndjson
      resmeter rebill apply plan.ndjson
    """


@command.command("plan")
@tenant_option("Correct this tenant only.")
@time_range_options("charges that occurred")
@wait_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    required=True,
    help="The file to write. It must not exist yet.",
)
def plan(tenant_id: str | None, time_range: TimeRange, wait_seconds: float, out: Path) -> None:
    """Recompute every decision from the event log and write down what to correct.

    Events that came too late for the worker count here: a plan is how they are billed. A
    conversation that a worker is not done with is left out and counted. Exit status 3: there is
    something to correct.

    \b
    Example:
      resmeter rebill plan --tenant acme --month 2026-11 --out acme.ndjson
    """
    _check_out(out)
    with opened() as (settings, tenants, ledger), progress("reading the log") as on_record:
        made = make_plan(
            settings,
            tenants,
            ledger,
            tenant_id=tenant_id,
            from_ms=time_range.from_ms,
            to_ms=time_range.to_ms,
            wait_seconds=wait_seconds,
            on_record=on_record,
        )
    if tenant_id is not None and tenant_id not in made.tenants:
        click.echo(f"{settings.topics.events} has no event of {visible(tenant_id)}", err=True)
    try:
        out.write_bytes(made.content)
    except OSError as error:
        raise UnavailableError(f"the plan cannot be written to {out}: {error.strerror}") from error
    _print_plan(made.plan)
    identity = made.plan.header.id
    if made.plan.conversations:
        click.echo(f"plan {identity} is in {out}; to apply it: resmeter rebill apply {out}")
        sys.exit(FOUND)
    click.echo(f"nothing to correct; the empty plan {identity} is in {out}", err=True)


def _check_out(out: Path) -> None:
    # Before the log is read, which may take an hour.
    if out.exists():
        raise ConfigurationError(
            [f"{out} already exists; plans are never overwritten. Choose another file name."]
        )
    if not out.parent.is_dir():
        raise ConfigurationError([f"{out.parent} is not a folder: no plan can be written there"])
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            [f"the folder {out.parent} is not writable: no plan can be written there"]
        )


@command.command("show")
@click.argument("file", type=_PLAN_FILE)
def show(file: Path) -> None:
    """Show what a plan would correct.

    \b
    Example:
      resmeter rebill show plan.ndjson
    """
    found = decode_plan(str(file), file.read_bytes())
    _print_plan(found)
    if not found.conversations and not found.header.totals:
        click.echo("there is nothing to correct", err=True)


@command.command("apply")
@click.argument("file", type=_PLAN_FILE)
@wait_option
def apply(file: Path, wait_seconds: float) -> None:
    """Write a plan's corrections, and wait until the ledger has them.

    Corrections go to the topic of usage records; the sink stores and delivers them like any other
    usage record. A conversation that has changed since the plan was made is left as it is, and
    named: exit status 3.

    \b
    Example:
      resmeter rebill apply plan.ndjson
    """
    found = decode_plan(str(file), file.read_bytes())
    with opened() as (settings, _, ledger), progress("applying the plan") as on_record:
        applied = apply_plan(
            settings, ledger, found, wait_seconds=wait_seconds, on_record=on_record
        )
    report(applied)


def report(applied: AppliedPlan) -> None:
    """Print what became of a plan; exit with 3 where conversations have changed.

    Raises:
        UnavailableError: the sink has quarantined a correction.
    """
    stored = applied.stored
    click.echo(
        f"{count_of(sum(map(len, stored)), 'correction')} of "
        f"{count_of(len(stored), 'conversation')} {_are(len(stored))} in the ledger"
    )
    if before := len(applied.written_before):
        click.echo(f"{count_of(before, 'conversation')} had been corrected by this plan before")
    for part in applied.changed[:_CONVERSATIONS_SHOWN_MAX]:
        click.echo(f"left: {_name(part)} has changed since the plan was made")
    if left := len(applied.changed):
        click.echo(f"{count_of(left, 'conversation')} {_are(left)} left: make a new plan for them")
    if quarantined := applied.quarantined:
        raise UnavailableError(
            f"the sink has quarantined corrections of {count_of(len(quarantined), 'conversation')}"
            f", the first {_name(quarantined[0])}: see the sink's log"
        )
    if applied.changed:
        sys.exit(FOUND)


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _name(part: Correctable) -> str:
    return visible(f"{part.tenant_id} {part.conversation}")


def _print_plan(found: RebillPlan) -> None:
    header = found.header
    if header.totals:
        _print_totals(header.totals)
    for part in found.conversations[:_CONVERSATIONS_SHOWN_MAX]:
        _print_corrections(part)
    if (more := len(found.conversations) - _CONVERSATIONS_SHOWN_MAX) > 0:
        click.echo(f"and {count_of(more, 'more conversation')}; the file has all")
    if header.unsettled:
        click.echo(
            f"{count_of(header.unsettled, 'conversation')} left out: different from the log, but "
            "the worker is not done with them; plan again later",
            err=True,
        )
    if header.unjudged:
        click.echo(
            f"{count_of(header.unjudged, 'conversation')} left out: different from the log, but "
            "the log no longer shows all of their events: retention has deleted its beginning, its "
            "end is cut, or it is another topic. Nobody can say which is right, so nothing is taken "
            f"back. The log that was read: {_ranges(header)}",
            err=True,
        )


def _ranges(header: Header) -> str:
    return ", ".join(
        f"{header.topic}[{partition}] offsets {first} to {end - 1}"
        if end > first
        else f"{header.topic}[{partition}] nothing"
        for partition, (first, end) in header.log.items()
    )


def _print_totals(totals: tuple[Total, ...]) -> None:
    figures = ("added", "removed", "amount added", "amount removed", "net")
    table = grouped_table("tenant, outcome", figures)
    previous: str | None = None
    for total in totals:
        if total.tenant_id != previous:
            add_group(table, total.tenant_id)
            previous = total.tenant_id
        added = _amount("+", total.amount_added, total.currency)
        removed = _amount("-", total.amount_removed, total.currency)
        units = (_signed(total.added), _signed(-total.removed))
        add_member(
            table, total.outcome, [*units, added, removed, _signed(total.added - total.removed)]
        )
    print_table(table)


def _print_corrections(part: Correctable) -> None:
    print_text(f"{part.tenant_id} {part.conversation}: {part.why}", "  ")
    for correction in part.corrections:
        record = correction.record
        cause = f"reverses {record.supersedes}" if record.supersedes else "for"
        evidence = "" if record.supersedes else f" {', '.join(record.evidence)}"
        click.echo(f"  {record.quantity:+d} {visible(f'{record.outcome} {cause}{evidence}')}")


def _signed(number: int) -> str:
    return f"{number:+d}" if number else "0"


def _amount(sign: str, amount: str | None, currency: str | None) -> str:
    if amount is None:
        return "no price"
    return f"{sign}{amount} {currency}" if Decimal(amount) else f"0.00 {currency}"
