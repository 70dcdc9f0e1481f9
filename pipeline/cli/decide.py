"""`resmeter decide`."""

import sys
from pathlib import Path

import click

from pipeline.catalog.policies import DEFAULT, PRESETS, preset, read_policies
from pipeline.cli import FOUND
from pipeline.cli.files import read_lines
from pipeline.cli.options import TIME
from pipeline.cli.output import print_rejected
from pipeline.errors import ConfigurationError
from pipeline.replay.decide import Histories, decide_line
from pipeline.resolve.policy import Timeline


@click.command("decide")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--policy",
    default=DEFAULT,
    show_default=True,
    metavar="NAME_OR_FILE",
    help=f"A preset ({', '.join(PRESETS)}) or a TOML file; {DEFAULT} decides until it takes effect.",
)
@click.option(
    "--as-of",
    type=TIME,
    required=True,
    metavar="TIME",
    help="The time up to which silence counts: 2026-06-13, or an RFC 3339 time.",
)
def command(files: tuple[str, ...], policy: str, as_of: int) -> None:
    """Decide over events in files, without Kafka: read one event per line, print one conversation per line.

    FILE may be `-` (standard input), a .gz or a .zst file. Standard error lists the lines that are
    not valid events, with the reason; the exit status is then 3.

    \b
    Example:
      resmeter decide events.ndjson --as-of 2026-06-13T09:00:00Z
      cat old.ndjson | resmeter decide - --policy zendesk-2026 --as-of 2026-06-13
    """
    timeline = read_timeline(policy)
    histories = Histories()
    rejected = 0
    for path, number, line in read_lines(files):
        reason = histories.add(line)
        if reason is not None:
            rejected += 1
            print_rejected(path, number, reason, named=len(files) > 1)
    out = sys.stdout.buffer
    for tenant_id, conversation_id, history in histories:
        out.write(decide_line(tenant_id, conversation_id, history, timeline, as_of) + b"\n")
    out.flush()
    if rejected:
        sys.exit(FOUND)


def read_timeline(policy: str) -> Timeline:
    """Return the timeline of one policy, which is the name of a preset or a file.

    Raises:
        ConfigurationError: there is no such policy, or it is not valid.
    """
    if policy in PRESETS:
        return Timeline([preset(policy)])
    try:
        text = Path(policy).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            [f"policy: {policy!r} is neither a preset ({', '.join(PRESETS)}) nor a file: {error}"]
        ) from None
    return Timeline(read_policies({policy: text}), before=Timeline([preset(DEFAULT)]))
