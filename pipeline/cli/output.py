"""Print tables, progress and text from other programs to a terminal, safely.

Chat services choose ids and outcomes. An escape sequence in one of them could rewrite the lines above
it and falsify a bill on the screen.
"""

import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import click
import orjson
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pipeline import logs
from pipeline.config import Settings
from pipeline.errors import ConfigurationError, ResmeterError
from pipeline.events.model import Rejected
from pipeline.progress import OnRecord, ignore_progress

TEXT_COLUMNS_MIN = 60
_TEXT_COLUMNS = 80
_COLUMNS_MAX = 10_000
# C0, delete and C1; then the characters that change the direction of writing.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@contextmanager
def ending_in_the_log(settings: Settings) -> Iterator[None]:
    """Log what ends a worker or sink, if its log is JSON: then every line is.

    Otherwise the command line prints it, as for any command.
    """
    try:
        yield
    except ResmeterError as error:
        if not logs.writes_json(settings.log):
            raise
        problems = error.problems if isinstance(error, ConfigurationError) else (str(error),)
        for problem in problems:
            logs.get_logger("resmeter").error("ended", error=problem)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)  # as for any command


def visible(text: str) -> str:
    r"""Return the text with control characters escaped, as in `\u001b`: valid in JSON too."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def as_written(text: str) -> Text:
    """Return the text as a cell that shows all of it; rich would read `[/]` as markup."""
    return Text(visible(text))


def count_of(number: int, noun: str) -> str:
    """Return `1 event`, `2 events`, `1,000 events`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def print_prices_of_policies(accounts: Sequence[str]) -> None:
    """Say on standard error which accounts owe other amounts, because they have a contract."""
    if accounts:
        print_text(
            "note: amounts are at the prices of the policies. `resmeter statement ACCOUNT` has what "
            f"accounts with a contract owe: {', '.join(accounts)}",
            err=True,
        )


def print_table(table: Table) -> None:
    """Print a table at the width that it needs, or at the terminal's width if that is larger.

    In a narrower terminal, lines wrap; rich would cut figures and drop columns instead.
    """
    terminal = Console()
    unbounded = terminal.options.update(max_width=_COLUMNS_MAX)
    needed = Measurement.get(terminal, unbounded, table).maximum
    Console(width=max(terminal.width, needed)).print(table)


def grouped_table(label: str, figures: Sequence[str]) -> Table:
    """Return an empty table for groups: `add_group` names a group, `add_member` adds its lines.

    Names of tenants are long: on lines of their own, they leave room for the figures in 80
    columns.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column(label, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def add_group(table: Table, name: str) -> None:
    """Add the line that names a group."""
    table.add_row(Text(visible(name), style="bold"))


def add_member(table: Table, name: str, figures: Sequence[str]) -> None:
    """Add a line of figures to the group that was added last."""
    table.add_row(Text(f"  {visible(name)}"), *figures)


def text_columns(stream: IO[str]) -> int:
    """Return how wide text for people may be: the terminal's width, elsewhere 80 columns."""
    if not stream.isatty():
        return _TEXT_COLUMNS
    return max(shutil.get_terminal_size().columns, TEXT_COLUMNS_MIN)


def print_text(text: str, indent: str = "", *, err: bool = False) -> None:
    """Print text from other programs, wrapped to the terminal; lines after the first begin with `indent`.

    A pipe gets one line.
    """
    stream = sys.stderr if err else sys.stdout
    columns = _COLUMNS_MAX
    if stream.isatty():
        columns = max(shutil.get_terminal_size().columns, TEXT_COLUMNS_MIN)
    click.echo(wrapped(text, columns, indent), err=err)


def wrapped(text: str, columns: int, indent: str = "") -> str:
    """Return text from other programs, safe to print, wrapped to `columns`; longer words stay whole."""
    return textwrap.fill(
        visible(text),
        columns,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


@contextmanager
def progress(what: str) -> Iterator[OnRecord]:
    """Show a progress bar on a terminal, and yield its `on_record`; elsewhere show nothing."""
    if not sys.stderr.isatty():
        yield ignore_progress
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def hints_printer(*, is_named: bool) -> Callable[[str, int, str], None]:
    """Return a function that prints to standard error, as a line of JSON, what may be wrong with a line.

    It prints each hint once: a producer that misspells a name does it in every event.
    """
    warned: set[str] = set()

    def print_hint(file: str, number: int, hint: str) -> None:
        if hint not in warned:
            warned.add(hint)
            members: dict[str, object] = {"file": file} if is_named else {}
            members |= {"line": number, "warning": hint}
            click.echo(visible(orjson.dumps(members).decode()), err=True)

    return print_hint


def print_rejected(file: str, number: int, rejected: Rejected, *, named: bool) -> None:
    """Print to standard error, as one line of JSON, why a line of a file is not a valid event."""
    members: dict[str, object] = {"file": file} if named else {}
    members |= {"line": number, "reason": rejected.reason, "detail": rejected.detail}
    click.echo(visible(orjson.dumps(members).decode()), err=True)
