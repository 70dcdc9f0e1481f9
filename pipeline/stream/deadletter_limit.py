"""Watch the share of dead letters: alarm when a producer breaks, or end the worker if asked to. Pure."""

from collections import Counter, deque
from collections.abc import Iterable
from typing import TypeAlias

from pipeline.events.model import Reason
from pipeline.events.signature import KeyRing
from pipeline.kafka.headers import OTHER_SOURCE

_RECORDS_MIN = 1_000  # the share of fewer records says little

Letter: TypeAlias = tuple[str, Reason]  # source and reason


class DeadLetterLimit:
    """The share of dead letters among the latest records of all partitions of a process.

    Args:
        window: the number of records that the share covers, rounded up to whole batches.
        share_max: the limit; 1 disables it.
        signed_only: leave out dead letters without a valid signature: anybody who may write to the
            topic can make those. True where producers sign their events.
    """

    def __init__(self, window: int, share_max: float, *, signed_only: bool = False) -> None:
        self._window = window
        self._share_max = share_max
        self.signed_only = signed_only
        self._batches: deque[tuple[int, Counter[Letter]]] = deque()
        self._records = 0
        self._letters: Counter[Letter] = Counter()

    def follow(self, keys: KeyRing) -> None:
        """Count only signed dead letters from now on, if these keys require signatures."""
        self.signed_only = keys.requires_signatures

    @property
    def share(self) -> float:
        return self._letters.total() / self._records if self._records else 0.0

    def count(self, events: int, letters: Iterable[Letter]) -> None:
        """Count a batch: its number of accepted events, and each rejected record."""
        rejected = Counter(
            letter for letter in letters if not self.signed_only or letter[0] != OTHER_SOURCE
        )
        self._batches.append((events + rejected.total(), rejected))
        self._records += events + rejected.total()
        self._letters += rejected
        while self._batches and self._records - self._batches[0][0] >= self._window:
            records, old = self._batches.popleft()
            self._records -= records
            self._letters -= old

    @property
    def is_exceeded(self) -> bool:
        """Whether the share is above the limit."""
        least = min(_RECORDS_MIN, self._window)
        return self._share_max < 1 and self._records >= least and self.share > self._share_max

    @property
    def message(self) -> str:
        """The share, and its most frequent sources and reasons."""
        found = ", ".join(
            f"{count} {reason} of {source}"
            for (source, reason), count in self._letters.most_common(5)
        )
        return (
            f"{self.share:.0%} of the last {self._records} records were rejected ({found}); the "
            f"limit is {self._share_max:.0%}: fix the producer; `resmeter dlq list` shows the records"
        )

    @property
    def warnings(self) -> list[str]:
        """The message, if the limit is exceeded."""
        return [self.message] if self.is_exceeded else []

    @property
    def message_at_end(self) -> str:
        """What an operator must do after the worker has ended because of the limit."""
        return (
            f"{self.message} rejected before. To process these as dead letters, unset "
            "RESMETER_WORKER__DEAD_LETTERS_END_WORKER until the worker has passed them"
        )
