"""Compare dated names in files with those in the catalog: policies, contracts, accounts. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.catalog.dated import Named
from pipeline.catalog.entry import Dated
from pipeline.catalog.value import DatedAssignment, when


class Dates(NamedTuple):
    """What is dated before `earliest_ms` comes too late; what has no date begins at `from_ms`."""

    earliest_ms: int
    from_ms: int


class Refused(NamedTuple):
    """Why what the files say is refused."""

    problems: list[str]
    late_ms: tuple[int | None, ...] = ()  # from when on what comes too late would be in force


def missing(
    whose: str,
    known: tuple[DatedAssignment, ...],
    declared: Sequence[Named],
    default: str,
    dates: Dates,
) -> list[Dated] | Refused:
    """Return the assignments that a catalog lacks.

    Args:
        whose: what errors begin with.
        known: those in the catalog.
        declared: those in the files, in the order of their dates; the first has none.
        default: what is in force where the catalog has nothing.
        dates: which dates are possible.
    """
    first, *dated = declared
    of_files = {(each.name, each.from_ms) for each in dated}
    next_ms = dated[0].from_ms if dated else None
    others = [each for each in known if (each.name, each.from_ms) not in of_files]
    before = [e for e in others if next_ms is None or (e.from_ms or 0) < next_ms]
    of_catalog = {(each.name, each.from_ms) for each in known}
    added = [Dated(e.name, e.from_ms) for e in dated if (e.name, e.from_ms) not in of_catalog]
    current = before[-1].name if before else default
    if current != first.name:
        if next_ms is not None and next_ms <= dates.from_ms:
            problem = (
                f"{whose}: the file begins with {_named(first.name)}, and the catalog has "
                f"{_named(current)}: begin with what the catalog has, and give each change its date"
            )
            return Refused([problem])
        added.insert(0, Dated(first.name, dates.from_ms))
    matched = before[-1] if before and current == first.name else None
    for waits in others:
        if waits != matched and (waits.from_ms or 0) >= dates.earliest_ms:
            problem = (
                f"{whose}: {_named(waits.name)} waits in the catalog for {when(waits.from_ms)}, and "
                f"the file does not have it: add it, or `resmeter catalog withdraw {waits.number}`"
            )
            return Refused([problem])
    late = [each for each in added if (each.from_ms or 0) < dates.earliest_ms]
    if late:
        earliest = f"{when(dates.earliest_ms)} is the earliest date"
        return Refused(
            [
                f"{whose}: {_named(each.name)} from {when(each.from_ms)} would change the past: "
                f"{earliest}"
                for each in late
            ],
            tuple(each.from_ms for each in late),
        )
    return added


def _named(name: str) -> str:
    return name or "nothing"
