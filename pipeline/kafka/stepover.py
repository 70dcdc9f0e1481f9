"""An operator's decision to step over damaged records, as the changelog keeps it. Pure.

The changelog is read before any record of its partition, is never deleted, and belongs to the same
partition. The key begins with a byte that no conversation's key begins with.
"""

import msgspec

from pipeline.decoding import json_decoder
from pipeline.errors import UnknownStateError

STEP_OVER_PREFIX = b"\x00step-over:"


class StepOver(msgspec.Struct, frozen=True):
    """`first_offset <= offset < end_offset` of a partition are lost, and why somebody says so."""

    first_offset: int
    end_offset: int
    by: str
    reason: str
    decided_ms: int


_decode = json_decoder(StepOver)


def encode_step_over(step: StepOver) -> tuple[bytes, bytes]:
    """Return the key and the value of the changelog's record."""
    return STEP_OVER_PREFIX + str(step.first_offset).encode(), msgspec.json.encode(step)


def decode_step_over(value: bytes) -> StepOver:
    """Return the decision in a value.

    Raises:
        UnknownStateError: a newer version of resmeter wrote it.
    """
    try:
        return _decode(value)
    except ValueError as error:
        raise UnknownStateError(
            f"a decision to step over damage cannot be read: {error}"
        ) from error


class StepOvers:
    """The decisions for one partition."""

    def __init__(self) -> None:
        self._ends: dict[int, int] = {}  # first offset → end offset

    def take(self, key: bytes, value: bytes | None) -> bool:
        """Take a decision from a record of the changelog; return whether the record is one."""
        if not key.startswith(STEP_OVER_PREFIX):
            return False
        step = decode_step_over(value or b"")
        self._ends[step.first_offset] = step.end_offset
        return True

    def end_after(self, offset: int) -> int | None:
        """Return where to continue after damage at an offset; None if nobody has decided."""
        ends = [end for first, end in self._ends.items() if first <= offset < end]
        return max(ends, default=None)
