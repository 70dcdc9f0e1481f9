"""The identifiers under which the units of a meter event are sent, one after another. Pure."""

import re

_SUFFIX = re.compile(r"_r([1-9][0-9]*)$")


def next_identifier(identifier: str) -> str:
    """Return the identifier under which a meter event is sent again: `rm_1`, `rm_1_r1`, `rm_1_r2`."""
    found = _SUFFIX.search(identifier)
    if found is None:
        return f"{identifier}_r1"
    return f"{identifier[: found.start()]}_r{int(found[1]) + 1}"


def lineage(identifier: str) -> list[str]:
    """Return the identifiers that the units of a meter event have had, oldest first."""
    found = _SUFFIX.search(identifier)
    if found is None:
        return [identifier]
    first = identifier[: found.start()]
    return [first, *(f"{first}_r{n}" for n in range(1, int(found[1]) + 1))]
