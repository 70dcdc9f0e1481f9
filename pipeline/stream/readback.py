"""How far a worker knows the changelog of a partition without reading it back. Pure."""


def known_after(known: int | None, written: range) -> int | None:
    """Return the last offset of the changelog whose states are known, after we wrote some.

    `known` was the last one before, None if there is none. Only states that follow it directly move
    it: other offsets in between may hold another owner's states, which a recovery must read.
    """
    if written and (-1 if known is None else known) == written.start - 1:
        return written.stop - 1
    return known
