"""This file watches the share of dead letters: a producer gone wrong must not send all there. Pure."""

from collections import Counter, deque
from collections.abc import Iterable

from pipeline.events.model import Reason

_LEAST_RECORDS = 1_000  # before that a share says little


class DeadLetterShare:
    """The share of dead letters among the last records, over all partitions of a process.

    Args:
        window: how many records it looks back on, whole batches of them.
        share_max: above it the worker ends; 1 switches the limit off.
    """

    def __init__(self, window: int, share_max: float) -> None:
        self._window = window
        self._share_max = share_max
        self._batches: deque[tuple[int, Counter[Reason]]] = deque()
        self._records = 0
        self._letters: Counter[Reason] = Counter()

    @property
    def share(self) -> float:
        return self._letters.total() / self._records if self._records else 0.0

    def take(self, taken: int, letters: Iterable[Reason]) -> None:
        """Take in a batch: how many of its records were events, and why the others were not."""
        rejected = Counter(letters)
        self._batches.append((taken + rejected.total(), rejected))
        self._records += taken + rejected.total()
        self._letters += rejected
        while self._batches and self._records - self._batches[0][0] >= self._window:
            records, old = self._batches.popleft()
            self._records -= records
            self._letters -= old

    @property
    def is_over(self) -> bool:
        """Say whether there are so many that somebody must look before more follow."""
        least = min(_LEAST_RECORDS, self._window)
        return self._share_max < 1 and self._records >= least and self.share > self._share_max

    @property
    def told(self) -> str:
        """What is over the limit, by reason, the most frequent first."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self._letters.most_common(5))
        return (
            f"{self.share:.0%} of the last {self._records} records are no events ({reasons}), and "
            f"{self._share_max:.0%} is the limit: mend the producer; `resmeter dlq list` shows what "
            "came before. To let them pass, set RESMETER_WORKER__DEAD_LETTER_SHARE_MAX=1 until "
            "they are behind"
        )
