"""`resmeter topics`."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from pipeline.cli import MISUSED, CommandGroup
from pipeline.cli.options import POSITION, TEXT, decision_options, machine_user
from pipeline.cli.output import count_of, progress
from pipeline.config import load_settings

if TYPE_CHECKING:
    from pipeline.kafka.topics import TopicAdmin


@click.group("topics", cls=CommandGroup)
def command() -> None:
    """Create, check or copy the topics, acknowledge lost events, and step over damaged ones.

    \b
    Example:
      resmeter topics create
    """


@command.command("create")
def create() -> None:
    """Create the topics that do not exist, then check all topics. Safe to repeat.

    If there is no catalog yet, the command begins it from RESMETER_CONFIG; without a tenant file,
    every tenant has the policy fin-2026. `resmeter catalog apply` publishes later changes.

    \b
    Example:
      RESMETER_TOPICS__PARTITIONS=32 resmeter topics create
    """
    from pipeline.catalog.topic import begin_catalog
    from pipeline.kafka.topics import TopicAdmin, wanted_topics

    settings = load_settings()
    admin = TopicAdmin(settings)
    created = set(admin.create())
    for topic in wanted_topics(settings):
        state = "created" if topic.name in created else "exists"
        click.echo(f"{topic.name}: {state}, {count_of(topic.partitions, 'partition')}", err=True)
    catalog, has_begun = begin_catalog(settings, "resmeter topics create")
    source = settings.config or "no tenant file: everybody is under fin-2026, nobody is billed"
    begun = f"begun from {source}" if has_begun else f"exists, up to entry {catalog.number}"
    click.echo(f"catalog: {begun} ({catalog.digest[:12]})", err=True)
    _report(admin)


@command.command("check")
def check() -> None:
    """Check that the topics exist with the configuration that resmeter needs, now and later.

    Run it as the worker's user: it also checks that a worker may write as the transactional ids that
    begin with the name of its group. The command lists every problem. Exit status 2: there are
    problems.

    \b
    Example:
      resmeter topics check && resmeter worker
    """
    from pipeline.kafka.fencing import fence_problems
    from pipeline.kafka.topics import TopicAdmin

    settings = load_settings()
    _report(TopicAdmin(settings), fence_problems(settings))


@command.command("copy")
@click.argument("source", type=TEXT)
@click.option(
    "--from-servers",
    "servers",
    metavar="HOST:PORT",
    help="The cluster of SOURCE, if it is another one. It needs the same security settings.",
)
def copy(source: str, servers: str | None) -> None:
    """Copy the events of the topic SOURCE to RESMETER_TOPICS__EVENTS, to change its partitions.

    Each record keeps its key, value, headers and timestamp; its key chooses the new partition. The
    copy must be empty, with RESMETER_TOPICS__EVENTS_TIMESTAMPS=CreateTime. Stop the producers
    before.

    \b
    Example:
      resmeter topics copy conversation.events
    """
    from pipeline.kafka.copying import copy_events

    settings = load_settings()
    with progress(f"events to {settings.topics.events}") as on_record:
        copied = copy_events(settings, source, servers, on_record)
    click.echo(
        f"{count_of(copied, 'event')} copied to {settings.topics.events} and acknowledged", err=True
    )


@command.command("acknowledge")
@click.option(
    "--partition",
    type=click.IntRange(min=0),
    required=True,
    metavar="NUMBER",
    help="The partition of the events topic.",
)
@click.option(
    "--until",
    type=click.IntRange(min=1),
    required=True,
    metavar="OFFSET",
    help="The offset after the last lost record, as in the worker's log (`records_lost`).",
)
@decision_options("the changelog topic", required=True)
def acknowledge(partition: int, until: int, who: str | None, reason: str) -> None:
    """Acknowledge that Kafka deleted events before a worker read them.

    The worker of the partition logs who acknowledged the loss and why, keeps both in the changelog
    topic, and sets `resmeter_events_lost` to 0. Nothing else changes: the lost events are not billed.

    \b
    Example:
      resmeter topics acknowledge --partition 3 --until 52110 \\
        --reason "retention was 1 day; the producer sent them again"
    """
    from pipeline.kafka.positions import acknowledge_loss

    settings = load_settings()
    given = acknowledge_loss(settings, partition, until, who or machine_user(), reason)
    click.echo(
        f"acknowledged: {settings.topics.events}[{partition}] before offset {given.until}, by "
        f"{given.who}; a running worker stores it within seconds",
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
    help="Where workers continue: the offset after the last damaged record.",
)
@decision_options("the changelog topic", required=True)
def step_over(position: tuple[int, int], end_offset: int, who: str | None, reason: str) -> None:
    """Give up damaged records of the events topic, so that their partition continues.

    A worker stops a partition at a damaged batch: its bytes have changed on the broker's disk. First
    try to restore the partition from a replica. The worker's log (`partition_damaged`) and
    /health/ready have PARTITION:OFFSET and --to. Restart the workers afterwards: they read the
    decision when they start. They step over damaged batches only, never over intact ones.

    \b
    Example:
      resmeter topics step-over 3:90211 --to 90480 --reason "bad disk"
    """
    from pipeline.kafka.damage import step_over_damage

    settings = load_settings()
    partition, first_offset = position
    step = step_over_damage(
        settings, partition, first_offset, end_offset, by=who or machine_user(), reason=reason
    )
    lost = count_of(end_offset - first_offset, "offset")
    click.echo(
        f"{settings.topics.events}[{partition}]: workers step over damaged batches in {lost}, "
        f"{first_offset} to {end_offset - 1}, by {step.by}; restart the workers",
        err=True,
    )


def _report(admin: "TopicAdmin", more: Sequence[str] = ()) -> None:
    problems = [*admin.problems(), *more]
    later, warnings = admin.advice()
    for problem in problems + later:
        click.echo(f"error: {problem}", err=True)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if problems or later:
        sys.exit(MISUSED)
    click.echo("topics OK", err=True)
