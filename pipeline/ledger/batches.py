"""Cut what a statement of SQL names into parts, because databases limit its parameters. Pure."""

from collections.abc import Collection, Iterator
from typing import TypeVar

_PART_MAX = 500
_T = TypeVar("_T")


def parts(values: Collection[_T]) -> Iterator[list[_T]]:
    """Yield the values in parts of at most 500, in their order."""
    ordered = list(values)
    for start in range(0, len(ordered), _PART_MAX):
        yield ordered[start : start + _PART_MAX]
