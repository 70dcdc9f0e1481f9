"""How a long operation reports its progress to a terminal, a web page or a log."""

from collections.abc import Callable
from typing import TypeAlias

# Called after each record with how many are done, and of how many; None: nobody knows.
OnRecord: TypeAlias = Callable[[int, int | None], object]


def ignore_progress(done: int, total: int | None) -> None:
    """Show nothing."""
