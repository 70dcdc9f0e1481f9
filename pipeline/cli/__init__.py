"""The command line, `resmeter`: one module for each command.

A command reads its options, makes one call, and prints the result as a table, as JSON or as a
sentence. The work is done elsewhere (`replay`, `ledger`, `kafka`, `stream`, `sink`, `dev`), by
functions that take values and return values, so that other programs can call them too.

What all commands have in common:

1. Data goes to standard output, as a table or as one JSON object per line. Progress, notes and
   errors go to standard error, so that they never end up in a pipe.
2. The exit status is 0 for done, 1 for failed, 2 for bad usage or configuration, and 3 if the
   command found something: rejected lines, findings, a plan that is not empty.
3. You can see a change of a bill before you make it: `rebill plan`, and `dlq redrive` without
   --apply.
4. Tables fit 80 columns for names of usual length. Longer lines wrap; no figure is cut.
5. Ids and outcomes come from other programs: `output.visible` makes them safe to print.

`views` has what each command prints, `output` what all views use. `options` has the options that
several commands share, `files` reads the files that a user names. A command's module is imported
when the command is called, so that `resmeter decide` does not wait for Faust.

The package holds no rules and no queries. Only `pipeline.__main__` imports it.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click
from click import Command, Context, Group

from pipeline import __version__
from pipeline.errors import ConfigurationError, ResmeterError

# Commands by the people who use them, in the order in which a newcomer needs them.
SECTIONS = {
    "Chat services": {
        "produce": "Write events from files to the events topic.",
        "decide": "Decide over events in files, without Kafka.",
        "dlq": "List, show and redrive dead letters: events that were rejected.",
    },
    "Operators": {
        "settings": "List every setting: variable, default, meaning.",
        "topics": "Create or check the Kafka topics.",
        "catalog": "Plan, publish and show who is billed, under which policy, from when.",
        "ledger": "Create, upgrade or check the ledger's tables.",
        "stripe": "Create at Stripe what the catalog's prices need.",
        "check": "Check settings, tenants, broker, ledger and Stripe key at once.",
        "health": "Ask a worker or a sink on this machine whether it is ready.",
        "worker": "Run a worker: read events, decide, write usage records.",
        "sink": "Run a sink: store usage records in the ledger, deliver to Stripe.",
    },
    "Billing": {
        "usage": "Show what is owed, billed and pending.",
        "statement": "Show what an account owes for a period, line by line.",
        "explain": "Show the receipt of one conversation, or why nothing is billed.",
        "close": "Close a period and complete its invoices, or say what is missing.",
        "corrections": "List, show, approve, reject and credit corrections of earlier periods.",
        "deliveries": "List, show, release and settle meter events that wait for you.",
        "audit": "Recompute every decision and compare it with the ledger and Stripe.",
        "rebill": "Plan corrections of the ledger, and apply a plan.",
    },
    "Development": {
        "demo": "Run everything once, on 200 sample support conversations.",
        "emulator": "Run a stand-in for Stripe's billing API.",
        "kafka": "Run a real Kafka broker, without Docker or Java.",
    },
}
COMMANDS = {name: text for section in SECTIONS.values() for name, text in section.items()}

DONE, FAILED, MISUSED, FOUND = 0, 1, 2, 3


class CommandGroup(Group):
    """A group that lists its commands with whole sentences, even on a narrow terminal."""

    def format_commands(self, ctx: Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None:
                rows.append((name, command.get_short_help_str(limit=1_000)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


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
        width = max(map(len, COMMANDS))
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])


_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(
    cls=_Commands,
    context_settings=_CONTEXT,
    epilog="Exit status: 0 done, 1 failed, 2 bad usage or configuration, 3 found something.",
)
@click.version_option(__version__, prog_name="resmeter")
def cli() -> None:
    """Meter resolved conversations: from Kafka events to usage records, a ledger and Stripe.

    \b
    First time:            resmeter demo
    Set it up:             resmeter topics create; resmeter ledger upgrade;
                           resmeter check
    Run it:                resmeter worker; resmeter sink
    Why billed? Why not?   resmeter explain TENANT CONVERSATION
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; turn every known error into a message and an exit status."""
    try:
        cli(arguments, standalone_mode=True)
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(MISUSED)
    except ResmeterError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(FAILED)
