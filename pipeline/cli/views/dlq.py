"""Print dead letters: the list by reason, a single dead letter, the result of a redrive."""

from collections.abc import Iterator, Mapping

import click
import orjson

from pipeline.cli.output import count_of, print_text, visible
from pipeline.events.model import REASONS
from pipeline.events.times import format_time
from pipeline.replay.deadletters import Letter, Position, ReasonCount
from pipeline.replay.redrive import Redriven

_CONTENT_BYTES_MAX = 2_000
_REASON_COLUMNS = max(map(len, REASONS))


def print_counts_as_json(counts: Mapping[str, ReasonCount], *, with_status: bool) -> None:
    """Print one JSON object for each reason, ordered by reason."""
    for reason, count in sorted(counts.items()):
        by_status = {
            "open": count.open,
            "redriven": count.redriven,
            "accepted": count.accepted,
        }
        members = {
            "reason": reason,
            "letters": count.letters,
            **(by_status if with_status else {}),
            "first": format_time(count.first),
            "last": format_time(count.last),
            "tenants": sorted(count.tenants),
            "example": count.example,
            "place": position_text(count.position),
        }
        click.echo(orjson.dumps(members))


def print_counts(counts: Mapping[str, ReasonCount], *, with_status: bool) -> None:
    """Print the lines of `count_lines`, wrapped to the terminal."""
    for line in count_lines(counts, with_status=with_status):
        print_text(line, "    ")


def count_lines(counts: Mapping[str, ReasonCount], *, with_status: bool) -> Iterator[str]:
    """Yield a header and, for each reason, its figures and its newest dead letter.

    The most frequent reason comes first.
    """
    if counts:
        yield f"{'reason':<{_REASON_COLUMNS}}  letters  {'first':<20}  last"
    for reason, count in sorted(counts.items(), key=lambda item: -item[1].letters):
        first, last = _seconds(count.first), _seconds(count.last)
        yield f"{reason:<{_REASON_COLUMNS}}  {count.letters:>7}  {first}  {last}"
        tenants = count_of(len(count.tenants), "tenant")
        by_status = f"{count.open} open, {count.redriven} redriven, {count.accepted} accepted; "
        yield f"    {by_status if with_status else ''}{tenants}"
        yield f"    newest {position_text(count.position)}: {count.example}"


def print_letter(letter: Letter) -> None:
    """Print a dead letter: where it is, its reason, its origin and its content."""
    click.echo(f"dead letter  {position_text(letter.position)}, {format_time(letter.at)}")
    print_text(f"reason       {letter.reason or 'unknown'}: {letter.detail}", " " * 13)
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


def print_redriven(result: Redriven, topic: str, *, apply: bool) -> None:
    """Print how many dead letters were sent to `topic`, or would be, and why others are left."""
    done = f"sent to {topic}" if apply else "would be sent; --apply sends"
    click.echo(f"{result.sent:,} {done}")
    for why, number in result.left.most_common():
        click.echo(f"{number:,} left: {why}")


def position_text(position: Position) -> str:
    """Return `PARTITION:OFFSET`, as `resmeter dlq show` reads it."""
    return f"{position[0]}:{position[1]}"


def _seconds(ms: int) -> str:
    return f"{format_time(ms)[:19]}Z"


def _content(content: bytes | None) -> str:
    if content is None:
        return "absent"
    text = visible(content[:_CONTENT_BYTES_MAX].decode("utf-8", "backslashreplace"))
    more = len(content) - _CONTENT_BYTES_MAX
    return f"{text} ... and {more} more bytes (--raw prints all)" if more > 0 else text
