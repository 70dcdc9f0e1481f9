"""`resmeter topics`."""

import sys
from typing import TYPE_CHECKING

import click

from pipeline.cli import MISUSED, CommandGroup
from pipeline.cli.options import POSITION
from pipeline.cli.output import count_of
from pipeline.config import load_settings

if TYPE_CHECKING:
    from pipeline.kafka.topics import TopicAdmin


@click.group("topics", cls=CommandGroup)
def command() -> None:
    """Create or check the Kafka topics that the settings name, and acknowledge losses.

    \b
    Example:
      resmeter topics create
    """


@command.command("create")
def create() -> None:
    """Create the topics that do not exist, then check all topics. Safe to repeat.

    \b
    Example:
      RESMETER_TOPICS__PARTITIONS=32 resmeter topics create
    """
    from pipeline.kafka.topics import TopicAdmin, wanted_topics

    settings = load_settings()
    admin = TopicAdmin(settings)
    created = set(admin.create())
    for topic in wanted_topics(settings):
        state = "created" if topic.name in created else "exists"
        click.echo(f"{topic.name}: {state}, {count_of(topic.partitions, 'partition')}", err=True)
    _report(admin)


@command.command("check")
def check() -> None:
    """Check that the topics exist with the configuration that resmeter needs, now and later.

    The check lists every problem. Exit status 2: there is a problem.

    \b
    Example:
      resmeter topics check && resmeter worker
    """
    from pipeline.kafka.topics import TopicAdmin

    _report(TopicAdmin(load_settings()))


@command.command("acknowledge")
@click.option("--partition", type=click.IntRange(min=0), required=True, help="Of the events topic.")
@click.option(
    "--until",
    type=click.IntRange(min=1),
    required=True,
    help="The offset after the last lost record, as the worker's log and alarm name it.",
)
@click.option("--who", required=True, help="Your name: it stays in the changelog.")
@click.option("--reason", required=True, help="What was lost and what became of it.")
def acknowledge(partition: int, until: int, who: str, reason: str) -> None:
    """Acknowledge that records were lost before a worker read them.

    The worker that has the partition logs who did and why, keeps it in the changelog, and sets
    `resmeter_events_lost` back to 0. Nothing else changes: lost records are not billed.

    \b
    Example:
      resmeter topics acknowledge --partition 3 --until 52110 --who ada \\
        --reason "retention was 1 day for an hour; the producer sent them again"
    """
    from pipeline.kafka.positions import acknowledge_loss

    settings = load_settings()
    given = acknowledge_loss(settings, partition, until, who, reason)
    click.echo(
        f"acknowledged: {settings.topics.events}[{partition}] before offset {given.until}, by "
        f"{given.who}; the worker takes it over within seconds",
        err=True,
    )


@command.command("step-over")
@click.argument("position", type=POSITION, metavar="PARTITION:OFFSET")
@click.option(
    "--to",
    "end_offset",
    type=click.IntRange(min=1),
    required=True,
    metavar="OFFSET",
    help="Where workers go on: the offset after the last damaged record.",
)
@click.option("--who", required=True, metavar="NAME", help="Who decides this.")
@click.option("--reason", required=True, metavar="TEXT", help="Why the records are given up.")
def step_over(position: tuple[int, int], end_offset: int, who: str, reason: str) -> None:
    """Give up damaged records of the events topic, so that their partition goes on.

    A worker stops a partition at a batch whose checksum does not match: its disk has changed it.
    First try to restore the partition from a replica. PARTITION:OFFSET and --to are in the worker's
    log (`partition_damaged`) and in its /health/ready. Restart the workers afterwards: they read
    the decision when they start, and pass over damaged batches alone, never over intact ones. The
    decision stays in the changelog topic, with who and why.

    \b
    Example:
      resmeter topics step-over 3:90211 --to 90480 --who ann --reason "bad disk"
    """
    from pipeline.kafka.damage import step_over_damage

    settings = load_settings()
    partition, first_offset = position
    step_over_damage(settings, partition, first_offset, end_offset, by=who, reason=reason)
    lost = count_of(end_offset - first_offset, "offset")
    click.echo(
        f"{settings.topics.events}[{partition}]: workers step over {lost}, {first_offset} to "
        f"{end_offset - 1}, where these are damaged; restart the workers",
        err=True,
    )


def _report(admin: "TopicAdmin") -> None:
    problems = admin.problems()
    later, warnings = admin.advice()
    for problem in problems + later:
        click.echo(f"error: {problem}", err=True)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if problems or later:
        sys.exit(MISUSED)
    click.echo("topics OK", err=True)
