"""`resmeter ledger`."""

import click

from pipeline.cli import CommandGroup
from pipeline.cli.options import configured
from pipeline.ledger import open_ledger, redacted, upgrade


@click.group("ledger", cls=CommandGroup)
def command() -> None:
    """Create, upgrade or check the ledger's tables.

    RESMETER_LEDGER__URL says where the ledger is: SQLite by default; for PostgreSQL,
    postgresql+psycopg://USER@HOST/DB.

    \b
    Example:
      resmeter ledger upgrade
    """


@command.command("upgrade")
def _upgrade() -> None:
    """Create the tables, or upgrade them to this version. Safe to repeat.

    \b
    Run it before you start a new version of worker and sink:
      resmeter ledger upgrade
    """
    settings = configured()
    upgrade(settings.ledger.url)
    click.echo(f"the ledger {redacted(settings.ledger.url)} is ready")


@command.command("check")
def _check() -> None:
    """Check that the ledger can be opened and has the tables of this version.

    \b
    Example:
      resmeter ledger check && resmeter sink
    """
    settings = configured()
    ledger = open_ledger(settings.ledger.url)
    ledger.close()
    click.echo(f"the ledger {ledger.redacted_url} is ready")
