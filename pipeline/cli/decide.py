"""`resmeter decide`."""

import sys
from pathlib import Path

import click
import orjson

from pipeline.catalog.policies import DEFAULT, PRESETS, preset, read_policies
from pipeline.cli import FOUND
from pipeline.cli.files import read_lines
from pipeline.cli.output import visible
from pipeline.errors import ConfigurationError
from pipeline.events.times import parse_time
from pipeline.replay.decide import Histories, decide_line
from pipeline.resolve.policy import Timeline


class Time(click.ParamType):
    """An RFC 3339 time, as milliseconds."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_time(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("decide")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--policy",
    default=DEFAULT,
    show_default=True,
    metavar="NAME_OR_FILE",
    help=f"A preset ({', '.join(PRESETS)}) or a TOML file.",
)
@click.option("--as-of", type=Time(), required=True, help="Up to when silence counts (RFC 3339).")
def command(files: tuple[str, ...], policy: str, as_of: int) -> None:
    """Decide over events in files, one JSON object a line; print one a conversation.

    FILE may be `-`, a .gz or a .zst. Lines that are no events go to standard error, each with its
    reason, and the exit status is 3.

    \b
    Example:
      resmeter decide events.ndjson --as-of 2026-06-13T09:00:00Z
      zcat old.gz | resmeter decide - --policy zendesk-2026 --as-of 2026-06-13T09:00:00Z
    """
    timeline = read_timeline(policy)
    histories = Histories()
    rejected = 0
    for path, number, line in read_lines(files):
        found = histories.add(line)
        if found is not None:
            rejected += 1
            report_rejected(path, number, found.reason, found.detail, named=len(files) > 1)
    out = sys.stdout.buffer
    for tenant_id, conversation, history in histories:
        out.write(decide_line(tenant_id, conversation, history, timeline, as_of) + b"\n")
    out.flush()
    if rejected:
        sys.exit(FOUND)


def read_timeline(policy: str) -> Timeline:
    """Return the policy of a preset's name or of a file.

    Raises:
        ConfigurationError: there is no such policy, or it is wrong.
    """
    if policy in PRESETS:
        return Timeline([preset(policy)])
    try:
        text = Path(policy).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            [f"policy: {policy!r} is neither a preset ({', '.join(PRESETS)}) nor a file: {error}"]
        ) from None
    return Timeline(read_policies({policy: text}))


def report_rejected(path: str, number: int, reason: str, detail: str, *, named: bool) -> None:
    """Tell on standard error, as one line of JSON, why a line is no event."""
    line = {"line": number, "reason": reason, "detail": detail}
    if named:
        line = {"file": path, **line}
    click.echo(visible(orjson.dumps(line).decode()), err=True)
