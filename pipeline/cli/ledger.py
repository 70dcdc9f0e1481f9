"""`resmeter ledger`."""

import click

from pipeline import logs
from pipeline.config import load_settings
from pipeline.ledger import open_ledger, redacted, upgrade


@click.group("ledger")
def command() -> None:
    """Create or upgrade the ledger's tables.

    RESMETER_LEDGER__URL says where the ledger is: SQLite by default, PostgreSQL by
    postgresql+psycopg://USER@HOST/DB.
    """


@command.command("upgrade")
def _upgrade() -> None:
    """Bring the tables to this version; does nothing where they are.

    \b
    Run it before a new version of worker and sink starts:
      resmeter ledger upgrade
    """
    settings = load_settings()
    logs.configure(settings.log)
    upgrade(settings.ledger.url)
    click.echo(f"the ledger {redacted(settings.ledger.url)} is ready")


@command.command("check")
def _check() -> None:
    """Check that the ledger is there, with the tables of this version."""
    settings = load_settings()
    logs.configure(settings.log)
    ledger = open_ledger(settings.ledger.url)
    ledger.close()
    click.echo(f"the ledger {ledger.redacted_url} is ready")
