"""`resmeter catalog`."""

import sys
import time
from contextlib import closing
from pathlib import Path

import click

from pipeline.catalog.declared import CatalogPlan
from pipeline.catalog.entry import entries_of, withdrawal
from pipeline.catalog.exported import decode_export, encode_export
from pipeline.catalog.log import Verdict, problem_of
from pipeline.catalog.planning import plan
from pipeline.catalog.tenants import read_declared
from pipeline.catalog.topic import (
    no_catalog,
    publish,
    read_catalog,
    restore,
    whole_catalog,
)
from pipeline.catalog.value import Catalog, when
from pipeline.cli import FAILED, FOUND, CommandGroup
from pipeline.cli.options import TIME, configured, decision_options, machine_user, tenant_option
from pipeline.cli.output import count_of, print_text
from pipeline.cli.views.catalog import print_catalog, print_log, print_plan
from pipeline.config import Settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.kafka.topics import TopicAdmin

_MARGIN_MS = 3 * 60_000  # between planning and publishing
_MINUTE_MS = 60_000
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_from_option = click.option(
    "--from",
    "from_ms",
    type=TIME,
    metavar="TIME",
    help="The date of what has no date in the files. Ten minutes from now, if not set.",
)


@click.group("catalog", cls=CommandGroup)
def command() -> None:
    """Plan, publish and show who is billed, under which policy, from when.

    The catalog is a log of entries in a Kafka topic. `resmeter topics create` begins it from
    RESMETER_CONFIG. Later, you change the tenant file or its policy files, look at the plan, and
    apply it. What has been in force never changes.

    \b
    Example:
      resmeter catalog plan resmeter.toml
      resmeter catalog apply resmeter.toml --reason "contract of acme"
    """


@command.command("plan")
@click.argument("file", type=_FILE)
@_from_option
def plan_command(file: Path, from_ms: int | None) -> None:
    """Show what a tenant file and its policy files would change; publish nothing.

    Exit status 3: something would change, or is refused.

    \b
    Example:
      resmeter catalog plan resmeter.toml --from 2026-12-01
    """
    settings = configured()
    _, planned = _planned(settings, file, from_ms)
    print_plan(planned, _touched(settings, planned))
    if planned.refused or not planned.additions.is_empty:
        sys.exit(FOUND)


@command.command("apply")
@click.argument("file", type=_FILE)
@_from_option
@decision_options("the catalog", required=True)
def apply(file: Path, from_ms: int | None, who: str | None, reason: str) -> None:
    """Publish what a tenant file and its policy files change, and say whether it is valid.

    Nothing is published if a part is refused. If somebody else publishes at the same moment, one
    of the two entries is void, and the command says so: plan again, and apply again.

    \b
    Example:
      resmeter catalog apply resmeter.toml --reason "contract of acme"
    """
    settings = configured()
    catalog, planned = _planned(settings, file, from_ms)
    print_plan(planned, _touched(settings, planned))
    if planned.refused:
        raise ConfigurationError(["nothing was published: mend what is refused, and apply again"])
    if planned.additions.is_empty:
        return
    values = entries_of(planned.additions, catalog.digest, who or machine_user(), reason)
    _report(publish(settings, values))


@command.command("show")
@click.option("--at", "at_ms", type=TIME, metavar="TIME", help="The time; now, if not set.")
@tenant_option("Show this tenant only, with its past and its future.")
def show(at_ms: int | None, tenant_id: str | None) -> None:
    """Show which policy and which Stripe customer each tenant has at a time.

    \b
    Example:
      resmeter catalog show --at 2026-12-01T00:00:00Z
      resmeter catalog show --tenant acme
    """
    catalog = whole_catalog(configured())
    print_catalog(catalog, _now_ms() if at_ms is None else at_ms, tenant_id)


@command.command("log")
def log() -> None:
    """List the entries, valid and void, with who published them, when and why.

    \b
    Example:
      resmeter catalog log
    """
    _, verdicts = read_catalog(configured())
    print_log(verdicts)


@command.command("withdraw")
@click.argument("number", type=click.IntRange(min=1))
@decision_options("the catalog", required=True)
def withdraw(number: int, who: str | None, reason: str) -> None:
    """Take back what an entry has dated, before any of it is in force.

    NUMBER is the entry's, as in `resmeter catalog log`. Its customers and meters stay.

    \b
    Example:
      resmeter catalog withdraw 7 --reason "wrong price"
    """
    settings = configured()
    catalog = whole_catalog(settings)
    if number > catalog.number:
        raise ConfigurationError(
            [f"the catalog has {count_of(catalog.number, 'valid record')}; see `catalog log`"]
        )
    value = withdrawal(catalog.digest, catalog.digests[number - 1], who or machine_user(), reason)
    if problem := problem_of(catalog, value, _now_ms()):
        raise ConfigurationError([f"nothing was published: {problem}"])
    _report(publish(settings, [value]))


@command.command("export")
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
def export(file: Path) -> None:
    """Write the valid entries to a file, as a backup and for commands without Kafka.

    \b
    Example:
      resmeter catalog export catalog.ndjson
      RESMETER_CATALOG_EXPORT=catalog.ndjson resmeter usage
    """
    settings = configured()
    catalog, verdicts = read_catalog(settings)
    if not catalog.is_whole:
        raise ConfigurationError([no_catalog(settings.topics.catalog)])
    try:
        file.write_bytes(encode_export(verdicts))
    except OSError as error:
        raise UnavailableError(
            f"the export cannot be written to {file}: {error.strerror}"
        ) from error
    click.echo(f"{_head(catalog)} is in {file}", err=True)


@command.command("restore")
@click.argument("file", type=_FILE)
def restore_command(file: Path) -> None:
    """Write an export to a topic that has no catalog; each entry keeps its number and its date.

    The command creates the topics that do not exist, as `resmeter topics create` does.

    \b
    Example:
      resmeter catalog restore catalog.ndjson
    """
    settings = configured()
    catalog, entries = decode_export(str(file), file.read_bytes())
    TopicAdmin(settings).create()
    _report(restore(settings, entries))
    click.echo(f"{_head(catalog)} is in {settings.topics.catalog}", err=True)


def _planned(settings: Settings, file: Path, from_ms: int | None) -> tuple[Catalog, CatalogPlan]:
    catalog = whole_catalog(settings)
    declared, _ = read_declared(file)
    now_ms = _now_ms()
    earliest_ms = now_ms + catalog.lead_ms
    if from_ms is None:
        from_ms = (earliest_ms + _MARGIN_MS) // _MINUTE_MS * _MINUTE_MS
    elif from_ms < earliest_ms:
        raise ConfigurationError(
            [
                (
                    f"--from {when(from_ms)} is too early: what is published now can begin at "
                    f"{when(earliest_ms)}, as workers must know of it before"
                )
            ]
        )
    return catalog, plan(catalog, declared, earliest_ms, from_ms)


def _touched(settings: Settings, planned: CatalogPlan) -> int | None:
    """Return how many conversations the refused changes of the past would touch; None if unknown."""
    if not planned.touched:
        return None
    from pipeline.ledger import open_ledger, priced_under

    try:
        ledger = open_ledger(settings.ledger.url)
    except (ConfigurationError, UnavailableError) as error:
        print_text(f"nobody knows how many conversations that touches: {error}", "  ", err=True)
        return None
    with closing(ledger):
        return priced_under.conversations(ledger, planned.touched)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _report(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        name = f"entry {verdict.number}" if verdict.number else "void"
        why = f": {verdict.reason}" if verdict.reason else " is valid"
        print_text(f"{name} ({verdict.digest[:12]}){why}", "  ", err=True)
    if any(verdict.reason for verdict in verdicts):
        click.echo("error: an entry is void, and changes nothing; run the command again", err=True)
        sys.exit(FAILED)


def _head(catalog: Catalog) -> str:
    return f"the catalog up to entry {catalog.number} ({catalog.digest[:12]})"
