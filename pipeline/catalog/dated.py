"""The parts of a catalog that have dates: in order, with what entries add. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pipeline.catalog.value import NEVER, START, DatedAssignment, DatedGrant, when

_Dated = TypeVar("_Dated", DatedAssignment, DatedGrant)
_Value = TypeVar("_Value")


class Named(Protocol):
    """A name, and from when it holds, ms; None: from the start."""

    @property
    def name(self) -> str: ...

    @property
    def from_ms(self) -> int | None: ...


def in_order(dated: Iterable[_Dated]) -> tuple[_Dated, ...]:
    """Sort by date; of equal dates the later entry stays behind, and holds."""
    return tuple(sorted(dated, key=lambda each: START if each.from_ms is None else each.from_ms))


def spans(assigned: Sequence[DatedAssignment]) -> Iterator[tuple[str, int, int]]:
    """Yield each name with the times, ms, between which it holds: until the next, or NEVER.

    Of names with the same time, only the last one holds.
    """
    starts = [START if each.from_ms is None else each.from_ms for each in assigned]
    for each, from_ms, to_ms in zip(assigned, starts, [*starts, NEVER][1:], strict=True):
        if from_ms < to_ms:
            yield each.name, from_ms, to_ms


def with_added(
    known: tuple[DatedAssignment, ...], added: Iterable[Named], number: int
) -> tuple[DatedAssignment, ...]:
    """Return the assignments with those of an entry."""
    return in_order((*known, *(DatedAssignment(a.name, a.from_ms, number) for a in added)))


def without(
    known: Mapping[str, tuple[_Dated, ...]], number: int
) -> Mapping[str, tuple[_Dated, ...]]:
    """Return what other entries than one have dated."""
    return merged({}, {key: kept(dated, number) for key, dated in known.items()})


def kept(dated: tuple[_Dated, ...], number: int) -> tuple[_Dated, ...]:
    return tuple(each for each in dated if each.number != number)


def merged(known: Mapping[Any, _Value], changed: Mapping[Any, _Value]) -> Mapping[Any, _Value]:
    """Return a mapping with changes; an empty value removes its key."""
    if not changed:
        return known
    return {key: value for key, value in {**known, **changed}.items() if value}


def changes_the_past(from_ms: int) -> str:
    return f"which changes the past: {when(from_ms)} is the earliest"
