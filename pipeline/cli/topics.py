"""`resmeter topics`."""

import sys

import click

from pipeline.cli import MISUSED, CommandGroup
from pipeline.cli.output import count_of
from pipeline.config import load_settings


@click.group("topics", cls=CommandGroup)
def command() -> None:
    """Create or check the Kafka topics that the settings name.

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
    _report(admin.problems())


@command.command("check")
def check() -> None:
    """Check that the topics exist with the configuration that resmeter needs.

    The check lists every problem. Exit status 2: there is a problem.

    \b
    Example:
      resmeter topics check && resmeter worker
    """
    from pipeline.kafka.topics import TopicAdmin

    _report(TopicAdmin(load_settings()).problems())


def _report(problems: list[str]) -> None:
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        sys.exit(MISUSED)
    click.echo("topics OK", err=True)
