"""`resmeter topics`."""

import sys

import click

from pipeline.cli import MISUSED
from pipeline.config import load_settings


@click.group("topics")
def command() -> None:
    """Create or check the Kafka topics of these settings."""


@command.command("create")
def create() -> None:
    """Make the topics that are not there, then check all.

    Safe to run again.
    """
    from pipeline.kafka.topics import TopicAdmin, wanted_topics

    settings = load_settings()
    admin = TopicAdmin(settings)
    made = set(admin.create())
    for topic in wanted_topics(settings):
        told = "made" if topic.name in made else "is there"
        click.echo(f"{topic.name}: {told}, {topic.partitions} partitions", err=True)
    _report(admin.problems())


@command.command("check")
def check() -> None:
    """Check that the topics are as they must be.

    Exit status 2: they are not.
    """
    from pipeline.kafka.topics import TopicAdmin

    _report(TopicAdmin(load_settings()).problems())


def _report(problems: list[str]) -> None:
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        sys.exit(MISUSED)
    click.echo("topics: as they must be", err=True)
