"""`resmeter dlq`."""

import sys
from collections.abc import Callable
from typing import Any

import click

from pipeline.catalog.tenants import load_tenants
from pipeline.cli import FOUND, CommandGroup
from pipeline.cli.options import (
    POSITION,
    TimeRange,
    configured,
    json_option,
    limit_option,
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


@command.command("list")
@_reason_option
@time_range_options("dead letters written")
@json_option("Print one JSON object a line.")
def list_(reasons: tuple[str, ...], time_range: TimeRange, *, as_json: bool) -> None:
    """Count dead letters by reason, and show the newest of each.

    \b
    Example:
      resmeter dlq list --from 2026-11-26
      resmeter dlq list --json | jq 'select(.letters > 100)'
    """
    settings = configured()
    topic = settings.topics.dead_letters
    with progress(f"reading {topic}") as on_record:
        selection = Selection(frozenset(reasons), *time_range)
        counts = count_by_reason(read_letters(settings, selection, on_record))
    if as_json:
        print_counts_as_json(counts)
        return
    print_counts(counts)
    if not counts:
        filtered = bool(reasons) or time_range != (None, None)
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
@click.option("--apply", is_flag=True, help="Send them. Without --apply, nothing is sent.")
def redrive(
    reasons: tuple[str, ...],
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
    """
    settings = configured()
    with progress("redriving") as on_record:
        result = redrive_letters(
            settings,
            load_tenants(settings.config),
            Selection(frozenset(reasons), *time_range),
            records_per_second=rate,
            limit=limit,
            apply=apply,
            on_record=on_record,
        )
    print_redriven(result, settings.topics.events, apply=apply)
    if not result.is_complete:
        sys.exit(FOUND)
