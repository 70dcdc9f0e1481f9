"""`resmeter statement`."""

import sys
import time
from pathlib import Path

import click

from pipeline.billing.run import Stated
from pipeline.catalog.accounts import account_of
from pipeline.catalog.toml_values import parse_duration
from pipeline.cli import FOUND
from pipeline.cli.files import read_lines
from pipeline.cli.options import TEXT, TIME, json_option, opened, tenants_alone
from pipeline.cli.output import print_text
from pipeline.cli.views.statement import print_csv, print_json, print_statement
from pipeline.errors import ConfigurationError
from pipeline.ledger.statements import check_accounts, state_account
from pipeline.replay.statement_files import Lines, StatementFiles, state_files

_CLOSE_AFTER = "45m"


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
    metavar="FILE",
    help="Read no ledger, but usage records of one account, one JSON object a line, in the order in "
    "which they were stored. `-` is standard input; .gz and .zst are unpacked.",
)
@click.option(
    "--contract",
    "contracts",
    multiple=True,
    metavar="FILE",
    help="With --records: a TOML file with the account's contract; give it once for each version. "
    "Without it, the policies' prices hold.",
)
@click.option(
    "--grants",
    multiple=True,
    metavar="FILE",
    help="With --records: packs, credits and voids, one a line.",
)
@click.option(
    "--period",
    metavar="DATE",
    help="The date on which the period begins: 2026-11-01, or 2026-11 if only one begins then. "
    "The current one if not set.",
)
@click.option(
    "--as-of",
    type=TIME,
    metavar="TIME",
    help="The time of which the statement speaks: 2026-12-02, or an RFC 3339 time. Now if not set.",
)
@click.option(
    "--close-after",
    type=_Duration(),
    metavar="DURATION",
    help=f"With --records: how long after its end a period is closed. {_CLOSE_AFTER} if not set.",
)
@click.option("--units", "with_units", is_flag=True, help="Add a line for each unit.")
@json_option("Print one JSON object; so does a command whose output is no terminal.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a row for each line, for a spreadsheet.")
def command(
    account: str | None,
    records: tuple[str, ...],
    contracts: tuple[str, ...],
    grants: tuple[str, ...],
    period: str | None,
    as_of: int | None,
    close_after: int | None,
    *,
    with_units: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show what an account owes for a period, and what changed in earlier ones since their statements.

    A statement is final once its period is closed: what is stored later is on a later statement.
    ACCOUNT is an account of the catalog, or a tenant that is an account of its own; with --records it
    may be left out if the records are of one tenant. Exit status 3 says that units have no price, so
    they are not billed, or that the name of an outcome seems to be misspelt: a warning names it.

    \b
    Example:
      resmeter statement acme --period 2026-11
      resmeter statement --records usage.ndjson --contract acme.toml \\
          --grants grants.ndjson --period 2026-11 --as-of 2026-12-02
    """
    if as_json and as_csv:
        raise click.UsageError("give --json or --csv, but not both")
    if records:
        if period is None or as_of is None:
            raise click.UsageError("with --records, give --period and --as-of")
        files = StatementFiles(
            records=_labelled(records),
            contract={path: _read(path) for path in contracts},
            grants=_labelled(grants),
            account=account,
        )
        close_after_ms = parse_duration(_CLOSE_AFTER) if close_after is None else close_after
        stated = state_files(files, period, as_of, close_after_ms, tenants_alone())
    elif account is None:
        raise click.UsageError("name the ACCOUNT, or give --records")
    elif contracts or grants or close_after is not None:
        raise click.UsageError("--contract, --grants and --close-after need --records")
    else:
        now_ms = int(time.time() * 1000)
        stated = _of_ledger(account, period, now_ms if as_of is None else as_of)
    units = stated.units if with_units else ()
    if as_csv:
        print_csv(stated.account, stated.statement, units if with_units else None)
    elif as_json or not sys.stdout.isatty():
        print_json(stated.account, stated.statement, units)
    else:
        print_statement(stated.account, stated.statement, units)
    for text in (*stated.missing, *stated.doubts):
        print_text(f"warning: {text}", err=True)
    if stated.missing or stated.doubts:
        sys.exit(FOUND)


def _of_ledger(account: str, period: str | None, as_of: int) -> Stated:
    with opened() as (_, tenants, ledger):
        check_accounts(ledger, tenants, [account])
        stated = state_account(ledger, account_of(tenants, account), tenants, period, as_of)
        pays = tenants.catalog.account_of(account, as_of)
        if pays != account and not stated.statement.counts.known:
            print_text(f"note: tenant {account} is in account {pays}; see its statement", err=True)
        return stated


def _labelled(paths: tuple[str, ...]) -> Lines:
    return ((f"{path}: line {number}", line) for path, number, line in read_lines(paths))


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"--contract {path}: cannot be read: {error}"]) from None
