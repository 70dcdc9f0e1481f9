"""`resmeter statement`."""

import sys
from pathlib import Path

import click

from pipeline.catalog.toml_values import parse_duration
from pipeline.cli import FOUND
from pipeline.cli.files import read_lines
from pipeline.cli.options import TEXT, TIME, json_option, tenants_alone
from pipeline.cli.output import print_text
from pipeline.cli.views.statement import print_csv, print_json, print_statement
from pipeline.errors import ConfigurationError
from pipeline.replay.statement_files import Lines, StatementFiles, state_files


class _Duration(click.ParamType):
    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("statement")
@click.argument("account", required=False, type=TEXT)
@click.option(
    "--records",
    multiple=True,
    required=True,
    metavar="FILE",
    help="Usage records of one account, one JSON object a line, in the order in which they were "
    "stored. `-` is standard input; .gz and .zst are unpacked.",
)
@click.option(
    "--contract",
    "contracts",
    multiple=True,
    metavar="FILE",
    help="A TOML file with the account's contract; give it once for each version. Without it, the "
    "policies' prices hold.",
)
@click.option(
    "--grants", multiple=True, metavar="FILE", help="Packs, credits and voids, one a line."
)
@click.option(
    "--period",
    required=True,
    metavar="DATE",
    help="The date on which the period begins: 2026-11-01, or 2026-11 if only one begins then.",
)
@click.option(
    "--as-of",
    type=TIME,
    required=True,
    metavar="TIME",
    help="The time of which the statement speaks: 2026-12-02, or an RFC 3339 time.",
)
@click.option(
    "--close-after",
    type=_Duration(),
    default="45m",
    show_default=True,
    metavar="DURATION",
    help="How long after its end a period is closed.",
)
@click.option("--units", "with_units", is_flag=True, help="Add a line for each unit.")
@json_option("Print one JSON object; so does a command whose output is no terminal.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a row for each line, for a spreadsheet.")
def command(
    account: str | None,
    records: tuple[str, ...],
    contracts: tuple[str, ...],
    grants: tuple[str, ...],
    period: str,
    as_of: int,
    close_after: int,
    *,
    with_units: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show what an account owes for a period, and what changed in earlier ones since their statements.

    A statement is final once its period is closed: what is stored later is on a later statement.
    ACCOUNT names the account; if not set, the contract or the grants name it, or it is the tenant.
    Exit status 3 says that units have no price: they are not billed, and a warning names what is missing.

    \b
    Example:
      resmeter statement --records usage.ndjson --contract acme.toml \\
          --grants grants.ndjson --period 2026-11 --as-of 2026-12-02
    """
    if as_json and as_csv:
        raise click.UsageError("give --json or --csv, but not both")
    stated = state_files(
        StatementFiles(
            records=_labelled(records),
            contract={path: _read(path) for path in contracts},
            grants=_labelled(grants),
            account=account,
        ),
        period,
        as_of,
        close_after,
        tenants_alone(),
    )
    units = stated.units if with_units else ()
    if as_csv:
        print_csv(stated.account, stated.statement, units if with_units else None)
    elif as_json or not sys.stdout.isatty():
        print_json(stated.account, stated.statement, units)
    else:
        print_statement(stated.account, stated.statement, units)
    for text in stated.missing:
        print_text(f"warning: {text}", err=True)
    if stated.missing:
        sys.exit(FOUND)


def _labelled(paths: tuple[str, ...]) -> Lines:
    return ((f"{path}: line {number}", line) for path, number, line in read_lines(paths))


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"--contract {path}: cannot be read: {error}"]) from None
