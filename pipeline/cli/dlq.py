"""`resmeter dlq`."""

import sys
from collections.abc import Callable
from typing import Any

import click

from pipeline.catalog.topic import current_tenants
from pipeline.cli import FOUND, CommandGroup
from pipeline.cli.options import (
    POSITION,
    TimeRange,
    configured,
    json_option,
    limit_option,
    tenant_option,
    time_range_options,
)
from pipeline.cli.output import progress
from pipeline.cli.views.dlq import (
    position_text,
    print_counts,
    print_counts_as_json,
    print_letter,
    print_redriven,
)
from pipeline.events.model import REASONS
from pipeline.replay.deadletters import (
    Position,
    Selection,
    count_by_reason,
    find_letters,
    read_letters,
)
from pipeline.replay.letters import letters_with_status
from pipeline.replay.redrive import redrive as redrive_letters


@click.group("dlq", cls=CommandGroup)
def command() -> None:
    """List and show dead letters, and redrive those that are accepted now.

    A dead letter keeps a rejected record of the events topic: its bytes, the reason, and where it
    came from. To redrive a dead letter is to send the record to the events topic again, once the
    cause is fixed.

    \b
    Example:
      resmeter dlq list
      resmeter dlq show 0:1742
      resmeter dlq redrive --reason unknown_type          # what would be sent
      resmeter dlq redrive --reason unknown_type --apply
    """


_reason_option: Callable[[Any], Any] = click.option(
    "--reason",
    "reasons",
    multiple=True,
    type=click.Choice(REASONS),
    metavar="REASON",
    help="Only this reason, as `resmeter dlq list` names it. Can be repeated.",
)


_source_option = click.option(
    "--source", metavar="SOURCE", help="Only events with this `source`, where it can be read."
)


@command.command("list")
@_reason_option
@tenant_option("Only of this tenant, as the event or its key names it.")
@_source_option
@time_range_options("dead letters written")
@click.option("--open", "only_open", is_flag=True, help="Only those that nobody has dealt with.")
@click.option(
    "--status",
    "with_status",
    is_flag=True,
    help="Count those that are open, redriven and accepted.",
)
@json_option("Print one JSON object a line.")
def list_(
    reasons: tuple[str, ...],
    tenant_id: str | None,
    source: str | None,
    time_range: TimeRange,
    *,
    only_open: bool,
    with_status: bool,
    as_json: bool,
) -> None:
    """Count dead letters by reason, and show the newest of each.

    A dead letter is redriven if its record was sent again, and accepted if an event with the same
    tenant, source and id was accepted. All others are open. With --status or --open, the command
    reads the events topic to find out, from the arrival of the first of these dead letters on. On a
    large topic that takes long: choose fewer dead letters, for example with --from.

    \b
    Example:
      resmeter dlq list --open --tenant acme
      resmeter dlq list --status --from 2026-11-26
      resmeter dlq list --json | jq 'select(.letters > 100)'
    """
    settings = configured()
    topic = settings.topics.dead_letters
    with progress(f"reading {topic}") as on_record:
        selection = Selection(frozenset(reasons), *time_range, tenant_id, source)
        with_status = with_status or only_open
        if with_status:
            letters, statuses = letters_with_status(settings, selection, on_record)
        else:
            letters = list(read_letters(settings, selection, on_record))
            statuses = ["open"] * len(letters)
    if only_open:
        letters = [each for each, status in zip(letters, statuses, strict=True) if status == "open"]
        statuses = ["open"] * len(letters)
    counts = count_by_reason(letters, statuses)
    if as_json:
        print_counts_as_json(counts, with_status=with_status)
        return
    print_counts(counts, with_status=with_status)
    if not counts:
        filtered = only_open or selection != Selection()
        click.echo(f"{topic} has no {'such ' if filtered else ''}dead letter", err=True)


@command.command("show")
@click.argument("positions", nargs=-1, required=True, type=POSITION, metavar="PARTITION:OFFSET...")
@click.option("--raw", is_flag=True, help="Print only the original value, byte for byte.")
def show(positions: tuple[Position, ...], *, raw: bool) -> None:
    """Show dead letters: the reason, the origin and the original bytes.

    The bytes may contain what customers wrote. PARTITION:OFFSET is a place in the dead-letter
    topic; `resmeter dlq list` names the newest of each reason.

    \b
    Example:
      resmeter dlq show 0:1742
      resmeter dlq show 0:1742 --raw | jq .
    """
    settings = configured()
    for position, letter in find_letters(settings, positions):
        if letter is None:
            raise click.UsageError(
                f"{settings.topics.dead_letters} has no record at {position_text(position)}"
            )
        if raw:
            sys.stdout.buffer.write(letter.value or b"")
        else:
            print_letter(letter)


@command.command("redrive")
@_reason_option
@tenant_option("Only of this tenant, as the event or its key names it.")
@_source_option
@time_range_options("dead letters written")
@click.option(
    "--rate",
    default=1_000.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    metavar="NUMBER",
    help="Maximum records per second.",
)
@limit_option("Send at most this many.")
@click.option(
    "--origin",
    "origins",
    multiple=True,
    type=POSITION,
    metavar="PARTITION:OFFSET",
    help="Send this record of the events topic again, even if retention has deleted its dead "
    "letter. Can be repeated.",
)
@click.option("--apply", is_flag=True, help="Send them. Without --apply, nothing is sent.")
def redrive(
    reasons: tuple[str, ...],
    tenant_id: str | None,
    source: str | None,
    origins: tuple[Position, ...],
    time_range: TimeRange,
    rate: float,
    limit: int | None,
    *,
    apply: bool,
) -> None:
    """Send dead letters to the events topic again, once their cause is fixed.

    A record keeps its key, value and headers, and arrives now. Dead letters that today's rules
    would reject again are left. You can safely repeat the command: an event that was already
    accepted counts once. Exit status 3: some dead letters are left.

    \b
    Example:
      resmeter dlq redrive --reason unknown_type          # what would be sent
      resmeter dlq redrive --reason unknown_type --apply --rate 200
      resmeter dlq redrive --origin 3:90211 --apply     # its dead letter is gone
    """
    selection = Selection(frozenset(reasons), *time_range, tenant_id, source)
    if origins and selection != Selection():
        raise click.UsageError("--origin names the records: give no --reason, --tenant or time")
    settings = configured()
    with progress("redriving") as on_record:
        result = redrive_letters(
            settings,
            current_tenants(settings),
            selection,
            origins=origins,
            records_per_second=rate,
            limit=limit,
            apply=apply,
            on_record=on_record,
        )
    print_redriven(result, settings.topics.events, apply=apply)
    if not result.is_complete:
        sys.exit(FOUND)
