"""This file shows things on a terminal, and makes the text of others safe for it.

Ids and outcomes are chosen by chat services: an escape sequence in one would rewrite what stands
above it, and a bill would read as somebody else wishes.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

_COLUMNS_MAX = 10_000
# C0, delete and C1; then what turns the direction of writing.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Return the text with every control character as `\u001b`; that is valid in JSON too."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_written(text: str) -> Text:
    """Return the text as a cell that shows it all: in a plain one, `[/]` is rich's own markup."""
    return Text(visible(text))


def print_table(table: Table) -> None:
    """Print a table at the width that it needs, and at that of the terminal where this is more.

    A narrow terminal breaks the lines; rich would cut figures and drop columns instead.
    """
    terminal = Console()
    unbounded = terminal.options.update(max_width=_COLUMNS_MAX)
    needed = Measurement.get(terminal, unbounded, table).maximum
    Console(width=max(terminal.width, needed)).print(table)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal; what is yielded moves it by one."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as shown:
        task = shown.add_task(what, total=total)
        yield lambda: shown.advance(task)
