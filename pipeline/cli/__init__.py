"""Commands: each builds, runs and reports; none decides.

One file a command. A command's module is imported when the command is called, so that
`resmeter decide` does not pay for Faust.
"""

import importlib
import sys
from collections.abc import Callable, Sequence

import click
from click import Command, Context, Group

from pipeline import __version__
from pipeline.errors import ConfigurationError, ResmeterError

# In the order in which a newcomer meets them.
COMMANDS = {
    "demo": "Run everything once, over 200 real support conversations.",
    "settings": "List the settings: variable, default, meaning.",
    "topics": "Create or check the Kafka topics.",
    "ledger": "Create or upgrade the ledger's tables.",
    "check": "Check settings, policies, broker, ledger and Stripe key, all at once.",
    "produce": "Write events from files to the events topic.",
    "worker": "Decide: read events, write usage records.",
    "sink": "Bill: read usage records, keep the ledger, deliver to Stripe.",
    "health": "Ask a worker or a sink on this machine whether it is ready.",
    "usage": "Show what is owed, billed and pending.",
    "audit": "Hold the ledger against the log, decided anew.",
    "rebill": "Plan corrections of the ledger, and apply a plan.",
    "explain": "Show the receipt of one conversation.",
    "dlq": "List, show and send again the dead letters.",
    "decide": "Decide over files of events, without Kafka.",
    "emulator": "Run a stand-in for Stripe's billing API.",
    "kafka": "Run a real Kafka broker out of wheels, for development.",
}

DONE, FAILED, MISUSED, FOUND = 0, 1, 2, 3


def port_option(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option of a command that listens."""
    return click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=default,
        show_default=True,
        help="0: any free one.",
    )


class _Commands(Group):
    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"pipeline.cli.{cmd_name}").command
        assert isinstance(command, Command)
        return command

    def format_commands(self, ctx: Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 failed, 2 bad usage or configuration, 3 found something.",
)
@click.version_option(__version__, prog_name="resmeter")
def cli() -> None:
    """Meter resolved conversations: from Kafka events to usage records, a ledger and Stripe.

    \b
    First time:            resmeter demo
    Set it up:             resmeter topics create; resmeter ledger upgrade; resmeter check
    Run it:                resmeter worker; resmeter sink
    "Why was I billed?":   resmeter explain TENANT CONVERSATION
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, or these arguments; every known error becomes a clear message and an exit status."""
    try:
        cli(arguments, standalone_mode=True)
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(MISUSED)
    except ResmeterError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(FAILED)
