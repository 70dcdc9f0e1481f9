"""Read the states of a partition back from its changelog. Pure.

Two owners may have written in the wrong order: a worker that was paused can append an older state
after a newer one, until a new owner fences the partition. The newest version of each key counts, but
compaction keeps the last one. So a key whose newest version is not its last is written again.
"""

from collections.abc import Iterable

from pipeline.kafka.stepover import StepOvers
from pipeline.stream.basis import Basis, encode_basis, newest_basis
from pipeline.stream.batch import BatchResult, Record
from pipeline.stream.state import check_form, newest

_CLOCK_KEY = b""


class Recovery:
    """What was read back of a partition, and what of it compaction could take away."""

    def __init__(self) -> None:
        self.step_overs = StepOvers()
        self._behind: set[bytes] = set()  # keys whose newest version is not the last

    def read(
        self, records: Iterable[Record], states: dict[bytes, bytes], basis: Basis | None
    ) -> Basis | None:
        """Add records of the changelog to the states, in the order of their offsets.

        Returns:
            The newest basis in the records and the one given.

        Raises:
            UnknownStateError: a newer version of resmeter wrote one of the states, or no worker did.
        """
        behind = self._behind
        for record in records:
            key, stored = record.key, record.value
            if not key:  # a clock record
                basis = newest_basis(stored, basis)
                if basis is not None and encode_basis(basis) != stored:
                    behind.add(_CLOCK_KEY)
                else:
                    behind.discard(_CLOCK_KEY)
            elif self.step_overs.take(key, stored):
                continue
            elif stored is None:  # a fence record, or a state that somebody deleted
                states.pop(key, None)
                behind.discard(key)
            else:
                check_form(stored, key)
                states[key] = newer = newest(stored, states.get(key))
                if newer == stored:
                    behind.discard(key)
                else:
                    behind.add(key)
        return basis

    def take_behind(self, states: dict[bytes, bytes], basis: Basis | None) -> BatchResult:
        """Return what must be written again, once."""
        result = BatchResult()
        if _CLOCK_KEY in self._behind and basis is not None:
            result.states.append((_CLOCK_KEY, encode_basis(basis)))
        result.states += [(key, states[key]) for key in sorted(self._behind) if key]
        self._behind.clear()
        return result
