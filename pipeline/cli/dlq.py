"""`resmeter dlq`."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
import orjson
from confluent_kafka import Message
from rich.table import Table

from pipeline import logs
from pipeline.catalog.producers import load_keys
from pipeline.catalog.tenants import load_tenants
from pipeline.cli import FOUND
from pipeline.cli.decide import Time
from pipeline.cli.output import as_written, print_table, progress, visible
from pipeline.config import Settings, load_settings
from pipeline.events.model import REASONS
from pipeline.events.times import format_time, is_within
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.reader import TopicReader
from pipeline.kafka.writer import TopicWriter
from pipeline.replay.redrive import (
    NOT_LEFT,
    Count,
    Letter,
    counts,
    headers_again,
    judge,
    read_letter,
)

_SHOWN_BYTES_MAX = 2_000
_SHOWN_CHARACTERS_MAX = 80  # of a detail, in the list


@click.group("dlq")
def command() -> None:
    """Look at dead letters, and send again what can be taken by now.

    A dead letter is a record of the events topic that is no event: its bytes, the reason, and
    where it came from.

    \b
    resmeter dlq list
    resmeter dlq show 0:1742
    resmeter dlq redrive --reason unknown_type            # what would be sent
    resmeter dlq redrive --reason unknown_type --apply
    """


def _selection(function: Any) -> Any:
    for option in (
        click.option("--to", "to_ms", type=Time(), help="Written before this time."),
        click.option("--from", "from_ms", type=Time(), help="Written at this time or later."),
        click.option(
            "--reason", "reasons", multiple=True, type=click.Choice(REASONS), help="Of this alone."
        ),
    ):
        function = option(function)
    return function


@command.command("list")
@_selection
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(
    reasons: tuple[str, ...], from_ms: int | None, to_ms: int | None, *, as_json: bool
) -> None:
    """Count dead letters by reason."""
    settings = _settings()
    with _letters(settings, reasons, from_ms, to_ms) as letters:
        found = counts(letters)
    if as_json:
        for reason, count in sorted(found.items()):
            click.echo(
                orjson.dumps(
                    {
                        "reason": reason,
                        "letters": count.letters,
                        "first": format_time(count.first),
                        "last": format_time(count.last),
                        "tenants": sorted(count.tenants),
                        "example": count.example,
                        "place": _told_place(count.place),
                    }
                )
            )
        return
    print_table(counted(found))
    if not found:
        click.echo(f"{settings.topics.dead_letters} holds no such dead letter", err=True)


def counted(found: Mapping[str, Count]) -> Table:
    """Return a row for each reason, those with the most letters first."""
    table = Table(box=None, pad_edge=False)
    for name in ("reason", "letters", "first", "last", "tenants", "newest", "which says"):
        table.add_column(name, justify="right" if name == "letters" else "left")
    for reason, count in sorted(found.items(), key=lambda item: -item[1].letters):
        table.add_row(
            reason,
            str(count.letters),
            format_time(count.first),
            format_time(count.last),
            str(len(count.tenants)),
            _told_place(count.place),
            as_written(count.example[:_SHOWN_CHARACTERS_MAX]),
        )
    return table


def _told_place(place: tuple[int, int]) -> str:
    return f"{place[0]}:{place[1]}"


class _Place(click.ParamType):
    name = "partition:offset"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        partition, _, offset = str(value).partition(":")
        if not (partition.isdecimal() and offset.isdecimal()):
            self.fail(f"{value} is not PARTITION:OFFSET such as 0:1742", param, ctx)
        return int(partition), int(offset)


@command.command("show")
@click.argument("places", nargs=-1, required=True, type=_Place(), metavar="PARTITION:OFFSET...")
@click.option("--raw", is_flag=True, help="The original value alone, byte for byte.")
def show(places: tuple[tuple[int, int], ...], *, raw: bool) -> None:
    """Show dead letters whole: why, where from, and the original bytes.

    They may hold what customers said. PARTITION:OFFSET is the place in the dead-letter topic;
    `resmeter dlq list` names the newest of each reason.
    """
    settings = _settings()
    source = TopicReader(librdkafka_options(settings.kafka), settings.topics.dead_letters)
    try:
        for place in places:
            letter = _letter_at(source, place)
            if letter is None:
                raise click.UsageError(
                    f"{settings.topics.dead_letters} has nothing at {place[0]}:{place[1]}"
                )
            if raw:
                sys.stdout.buffer.write(letter.value or b"")
            else:
                _show(letter)
    finally:
        source.close()


def _letter_at(source: TopicReader, place: tuple[int, int]) -> Letter | None:
    low, high = source.bounds.get(place[0], (0, 0))
    if not low <= place[1] < high:
        return None
    message = next(source.records({place[0]: place[1]}), None)
    return None if message is None or message.offset() != place[1] else _letter(message)


def _show(letter: Letter) -> None:
    click.echo(f"dead letter  {letter.place[0]}:{letter.place[1]}, {format_time(letter.at)}")
    click.echo(f"reason       {letter.reason or 'unknown'}: {visible(letter.detail)}")
    if letter.origin is not None:
        topic, partition, offset = letter.origin
        arrived = "" if letter.arrived is None else f", arrived {format_time(letter.arrived)}"
        click.echo(f"origin       {topic}[{partition}] offset {offset}{arrived}")
    click.echo(f"key          {'absent' if letter.key is None else _shown(letter.key)}")
    for name, content in letter.headers:
        click.echo(f"header       {visible(name)}: {_shown(content or b'')}")
    if letter.redrives:
        click.echo(f"sent again   {letter.redrives} times")
    if letter.cut:
        click.echo(f"cut          {letter.cut} bytes in the events topic")
    click.echo(f"value        {'absent' if letter.value is None else _shown(letter.value)}")
    click.echo()


def _shown(content: bytes) -> str:
    text = visible(content[:_SHOWN_BYTES_MAX].decode("utf-8", "backslashreplace"))
    left = len(content) - _SHOWN_BYTES_MAX
    return f"{text} ... and {left} bytes (--raw shows all)" if left > 0 else text


@command.command("redrive")
@_selection
@click.option(
    "--rate", default=1_000.0, show_default=True, type=click.FloatRange(min=0.1), help="A second."
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--apply", is_flag=True, help="Send; without it, nothing is sent.")
def redrive(
    reasons: tuple[str, ...],
    from_ms: int | None,
    to_ms: int | None,
    rate: float,
    limit: int | None,
    *,
    apply: bool,
) -> None:
    """Send dead letters again, once their cause is gone.

    They go into the events topic the normal way: key, bytes and headers as they were, arriving now.
    What the present rules would refuse again is left. To repeat it is safe: an event that is there
    already counts once. Exit status 3: some are left.
    """
    settings = _settings()
    keys = load_keys(load_tenants(settings.config).producers)
    now = int(time.time() * 1000)
    verdicts: Counter[str] = Counter()
    chosen: list[Letter] = []
    with _letters(settings, (), from_ms, to_ms) as letters:
        for verdict in judge(letters, frozenset(reasons), now, keys):
            if not verdict.why_not and (limit is None or len(chosen) < limit):
                chosen.append(verdict.letter)
            else:
                verdicts[verdict.why_not or "beyond --limit"] += 1
    if apply:
        _send(settings, chosen, rate)
    done = f"sent to {settings.topics.events}" if apply else "would be sent; --apply sends"
    click.echo(f"{len(chosen)} {done}")
    for why, number in verdicts.most_common():
        click.echo(f"{number} left: {why}")
    if verdicts.keys() - NOT_LEFT:
        sys.exit(FOUND)


def _send(settings: Settings, letters: list[Letter], rate: float) -> None:
    topic = settings.topics.events
    began = time.monotonic()
    with (
        progress(f"to {topic}", len(letters)) as advance,
        TopicWriter(librdkafka_options(settings.kafka), topic) as writer,
    ):
        for number, letter in enumerate(letters):
            # No timestamp of old: it arrives when it arrives, or a window that is long over
            # would be counted by a clock that has moved on.
            if not writer.write(letter.key, letter.value, headers_again(letter)):
                return
            writer.poll(max(0.0, number / rate - (time.monotonic() - began)))
            advance()


# --- reading --------------------------------------------------------------------------------------


def _settings() -> Settings:
    settings = load_settings()
    logs.configure(settings.log)
    return settings


@contextmanager
def _letters(
    settings: Settings, reasons: tuple[str, ...], from_ms: int | None, to_ms: int | None
) -> Iterator[Iterator[Letter]]:
    source = TopicReader(librdkafka_options(settings.kafka), settings.topics.dead_letters)
    try:
        with progress(f"reading {source.topic}", source.size) as advance:
            yield (
                letter
                for letter in map(_letter, _told(source.records(), advance))
                if (not reasons or letter.reason in reasons)
                and is_within(letter.at, from_ms, to_ms)
            )
    finally:
        source.close()


def _letter(message: Message) -> Letter:
    headers: Any = message.headers() or []
    return read_letter(
        (message.partition() or 0, message.offset() or 0),
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers,
    )


def _told(messages: Iterator[Message], advance: Any) -> Iterator[Message]:
    for message in messages:
        advance()
        yield message
