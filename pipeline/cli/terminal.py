"""This file shows things on a terminal, and makes the text of others safe for it.

Ids and outcomes are chosen by chat services: an escape sequence in one would rewrite what stands
above it, and a bill would read as somebody else wishes.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_WIDTH_WHERE_NO_TERMINAL = 160
# C0, delete and C1; then what turns the direction of writing.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Return the text with every control character as `\u001b`; that is valid in JSON too."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def console() -> Console:
    """Return where tables go: as wide as the terminal, wide enough for all where there is none."""
    terminal = Console()
    return Console(width=None if terminal.is_terminal else _WIDTH_WHERE_NO_TERMINAL)


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
