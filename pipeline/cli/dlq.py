"""`resmeter dlq`."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click
import orjson

from pipeline.catalog.tenants import load_tenants
from pipeline.cli import FOUND, CommandGroup
from pipeline.cli.options import (
    TimeRange,
    configured,
    json_option,
    limit_option,
    time_range_options,
)
from pipeline.cli.output import count_of, print_text, progress, visible
from pipeline.events.model import REASONS
from pipeline.events.times import format_time
from pipeline.replay.deadletters import (
    Letter,
    Position,
    ReasonCount,
    Selection,
    count_by_reason,
    find_letters,
    read_letters,
)
from pipeline.replay.redrive import redrive as redrive_letters

_SHOWN_BYTES_MAX = 2_000
_EXAMPLE_CHARACTERS_MAX = 160  # of a detail, in the list
_REASON_COLUMNS = max(map(len, REASONS))


@click.group("dlq", cls=CommandGroup)
def command() -> None:
    """List and show dead letters, and redrive those that are accepted now.

    A dead letter is a record of the events topic that is not a valid event: its bytes, the reason,
    and where it came from. To redrive it is to send it to the events topic again, once its cause is
    fixed.

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
        for reason, count in sorted(counts.items()):
            click.echo(orjson.dumps(_members(reason, count)))
        return
    for line in listed(counts):
        print_text(line, "    ")
    if not counts:
        filtered = bool(reasons) or time_range != (None, None)
        click.echo(f"{topic} has no {'such ' if filtered else ''}dead letter", err=True)


def _members(reason: str, count: ReasonCount) -> dict[str, object]:
    return {
        "reason": reason,
        "letters": count.letters,
        "first": format_time(count.first),
        "last": format_time(count.last),
        "tenants": sorted(count.tenants),
        "example": count.example,
        "place": _position(count.position),
    }


def listed(counts: Mapping[str, ReasonCount]) -> Iterator[str]:
    """Yield a header and, for each reason, its figures and its newest; the most frequent first."""
    if counts:
        yield f"{'reason':<{_REASON_COLUMNS}}  letters  {'first':<20}  last"
    for reason, count in sorted(counts.items(), key=lambda item: -item[1].letters):
        first, last = _seconds(count.first), _seconds(count.last)
        yield f"{reason:<{_REASON_COLUMNS}}  {count.letters:>7}  {first}  {last}"
        tenants = count_of(len(count.tenants), "tenant")
        example = count.example[:_EXAMPLE_CHARACTERS_MAX]
        yield f"    {tenants}; newest {_position(count.position)}: {example}"


def _seconds(ms: int) -> str:
    return f"{format_time(ms)[:19]}Z"


def _position(position: Position) -> str:
    return f"{position[0]}:{position[1]}"


class _PositionType(click.ParamType):
    name = "partition:offset"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Position:
        partition, _, offset = str(value).partition(":")
        if not (partition.isdecimal() and offset.isdecimal()):
            self.fail(f"{value} is not PARTITION:OFFSET such as 0:1742", param, ctx)
        return int(partition), int(offset)


@command.command("show")
@click.argument(
    "positions", nargs=-1, required=True, type=_PositionType(), metavar="PARTITION:OFFSET..."
)
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
                f"{settings.topics.dead_letters} has no record at {_position(position)}"
            )
        if raw:
            sys.stdout.buffer.write(letter.value or b"")
        else:
            _print_letter(letter)


def _print_letter(letter: Letter) -> None:
    click.echo(f"dead letter  {_position(letter.position)}, {format_time(letter.at)}")
    click.echo(f"reason       {letter.reason or 'unknown'}: {visible(letter.detail)}")
    if letter.origin is not None:
        topic, partition, offset = letter.origin
        arrived = "" if letter.arrived is None else f", arrived {format_time(letter.arrived)}"
        click.echo(f"origin       {topic}[{partition}] offset {offset}{arrived}")
    click.echo(f"key          {_content(letter.key)}")
    for name, content in letter.headers:
        click.echo(f"header       {visible(name)}: {_content(content or b'')}")
    if letter.redrives:
        click.echo(f"redriven     {count_of(letter.redrives, 'time')}")
    if letter.cut:
        click.echo(f"truncated    {letter.cut} bytes in the events topic")
    click.echo(f"value        {_content(letter.value)}")
    click.echo()


def _content(content: bytes | None) -> str:
    if content is None:
        return "absent"
    text = visible(content[:_SHOWN_BYTES_MAX].decode("utf-8", "backslashreplace"))
    more = len(content) - _SHOWN_BYTES_MAX
    return f"{text} ... and {more} more bytes (--raw prints all)" if more > 0 else text


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

    Key, bytes and headers are as they were; the record arrives now. Dead letters that today's rules
    would reject again are left. It is safe to repeat: an event that was already accepted counts
    once. Exit status 3: some are left.

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
    done = f"sent to {settings.topics.events}" if apply else "would be sent; --apply sends"
    click.echo(f"{result.sent:,} {done}")
    for why, number in result.left.most_common():
        click.echo(f"{number:,} left: {why}")
    if not result.is_complete:
        sys.exit(FOUND)
