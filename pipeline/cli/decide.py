"""`resmeter decide`."""

import sys
from collections.abc import Callable

import click

from pipeline.catalog.policies import DEFAULT, PRESETS, preset, read_policy
from pipeline.cli import FOUND
from pipeline.cli.files import read_lines
from pipeline.cli.options import TIME, catalog_option, tenants_of
from pipeline.cli.output import count_of, hints_printer, print_rejected, visible
from pipeline.events.reader import hints_for
from pipeline.replay.decide import Histories, Totals, encode_decision
from pipeline.resolve.machine import decide
from pipeline.resolve.policy import Timeline


@click.command("decide")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--policy",
    metavar="NAME_OR_FILE",
    help=f"One policy for all tenants: a preset ({', '.join(PRESETS)}) or a TOML file; {DEFAULT} "
    "decides until it takes effect. If not set, each tenant has its policy of the tenant file "
    f"(RESMETER_CONFIG); without that file, {DEFAULT}.",
)
@catalog_option("the tenant file")
@click.option(
    "--as-of",
    type=TIME,
    required=True,
    metavar="TIME",
    help="The time up to which silence counts: 2026-06-13, or an RFC 3339 time.",
)
def command(files: tuple[str, ...], policy: str | None, catalog: str | None, as_of: int) -> None:
    """Decide over events in files, without Kafka: read one event per line, print one conversation per line.

    FILE may be `-` (standard input), a .gz or a .zst file. Standard error lists the lines that are
    not valid events, with the reason; the exit status is then 3. A terminal also gets the totals,
    and a warning for each name that seems to be misspelt.

    \b
    Example:
      resmeter decide events.ndjson --as-of 2026-06-13T09:00:00Z
      cat old.ndjson | resmeter decide - --policy zendesk-2026 --as-of 2026-06-13
    """
    if policy is not None and catalog is not None:
        raise click.UsageError("give --policy or --catalog, but not both")
    timeline_for = (
        tenants_of(catalog).timeline_for if policy is None else _same(read_timeline(policy))
    )
    histories, totals = Histories(), Totals()
    # A program that reads the rejected lines gets nothing else.
    on_hint = hints_printer(is_named=len(files) > 1) if sys.stderr.isatty() else None
    for path, number, line in read_lines(files):
        reason = histories.add(line)
        if reason is not None:
            totals.rejected += 1
            print_rejected(path, number, reason, named=len(files) > 1)
        elif on_hint is not None:
            for hint in hints_for(line):
                on_hint(path, number, hint)
    out = sys.stdout.buffer
    for tenant_id, conversation_id, history in histories:
        decision = decide(history, timeline_for(tenant_id), as_of)
        totals.add(decision)
        out.write(encode_decision(tenant_id, conversation_id, decision) + b"\n")
    out.flush()
    if on_hint is not None:
        click.echo(_summary(totals), err=True)
    if totals.rejected:
        sys.exit(FOUND)


def _same(timeline: Timeline) -> Callable[[str], Timeline]:
    return lambda tenant_id: timeline


def _summary(totals: Totals) -> str:
    units = [f"{count:,} {visible(outcome)}" for outcome, count in sorted(totals.units.items())]
    return (
        f"{count_of(totals.conversations, 'conversation')}, billed: {', '.join(units) or 'nothing'}; "
        f"{totals.excluded:,} excluded, {count_of(totals.rejected, 'line')} rejected"
    )


def read_timeline(policy: str) -> Timeline:
    """Return the timeline of one policy, which is the name of a preset or a file.

    Raises:
        ConfigurationError: there is no such policy, or it is not valid.
    """
    read = read_policy(policy)
    return Timeline([read], before=None if policy in PRESETS else Timeline([preset(DEFAULT)]))
