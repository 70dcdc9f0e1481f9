"""The callback by which a long operation reports its progress."""

from collections.abc import Callable
from typing import TypeAlias

# Called after each record with the number of records done and their total; None if unknown.
OnRecord: TypeAlias = Callable[[int, int | None], object]


def ignore_progress(done: int, total: int | None) -> None:
    """Report nothing."""
