"""`resmeter ledger`."""

import getpass
import sys
import time

import click
from rich.table import Table

from pipeline.cli import FOUND, CommandGroup
from pipeline.cli.options import configured
from pipeline.cli.output import count_of, print_table
from pipeline.events.times import format_time
from pipeline.ledger import holds, open_ledger, redacted, upgrade
from pipeline.ledger.holds import Answer, Hold


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


@command.command("resume")
@click.option(
    "--never-sent",
    "said",
    flag_value="never_sent",
    help="What this ledger does not know as delivered was never sent: send all of it.",
)
@click.option("--reason", metavar="TEXT", help="Why you know; the ledger keeps it.")
@click.option("--who", metavar="NAME", help="Who says so. Default: your user name.")
def _resume(said: Answer | None, reason: str | None, who: str | None) -> None:
    """Resume deliveries that are held because the ledger is outdated.

    A sink holds all deliveries if its ledger is behind the offsets that its group committed: a
    backup was restored, a replica that lagged took over, or RESMETER_LEDGER__URL names another
    database. What the newer ledger sent is unknown to this one, and sending it again would bill
    twice. If the newer ledger still exists, point RESMETER_LEDGER__URL to it: then this command is
    not needed.

    Without options, the command shows what is held and changes nothing. The exit status is 3 while
    deliveries are held.

    \b
    Examples:
      resmeter ledger resume
      resmeter ledger resume --never-sent --reason "offsets were copied"
    """
    settings = configured()
    ledger = open_ledger(settings.ledger.url)
    try:
        held = holds.open_holds(ledger)
        if not held:
            click.echo(f"the ledger {ledger.redacted_url} holds no deliveries", err=True)
            return
        if said is None:
            print_table(_table_of(held))
            click.echo(
                f"deliveries are held: {ledger.redacted_url} is behind what the sinks have stored. "
                "See `resmeter ledger resume --help`",
                err=True,
            )
            sys.exit(FOUND)
        if not reason:
            raise click.UsageError("say why with --reason: the ledger keeps it for audits")
        holds.answer(
            ledger,
            said,
            who=who or getpass.getuser(),
            reason=reason,
            now_ms=int(time.time() * 1000),
        )
        click.echo(f"deliveries resume: {count_of(len(held), 'partition')} answered", err=True)
    finally:
        ledger.close()


def _table_of(held: list[Hold]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("topic", no_wrap=True)
    for name in ("partition", "this ledger", "stored before", "held since"):
        table.add_column(name, justify="right", no_wrap=True)
    for hold in held:
        table.add_row(
            hold.topic,
            str(hold.partition),
            "nothing" if hold.ledger_offset is None else f"{hold.ledger_offset:,}",
            f"{hold.reached_offset:,}",
            format_time(hold.noticed_at),
        )
    return table
