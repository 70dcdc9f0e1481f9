"""Limit the share of dead letters, so that a broken producer stops the worker. Pure."""

from collections import Counter, deque
from collections.abc import Iterable

from pipeline.events.model import Reason

_RECORDS_MIN = 1_000  # the share of fewer records says little


class DeadLetterLimit:
    """The share of dead letters among the latest records of all partitions of a process.

    Args:
        window: the number of records that the share covers, rounded up to whole batches.
        share_max: the limit; 1 disables it.
    """

    def __init__(self, window: int, share_max: float) -> None:
        self._window = window
        self._share_max = share_max
        self._batches: deque[tuple[int, Counter[Reason]]] = deque()
        self._records = 0
        self._reasons: Counter[Reason] = Counter()

    @property
    def share(self) -> float:
        return self._reasons.total() / self._records if self._records else 0.0

    def count(self, events: int, reasons: Iterable[Reason]) -> None:
        """Count a batch: its number of accepted events, and the reason of each rejected record."""
        rejected = Counter(reasons)
        self._batches.append((events + rejected.total(), rejected))
        self._records += events + rejected.total()
        self._reasons += rejected
        while self._batches and self._records - self._batches[0][0] >= self._window:
            records, old = self._batches.popleft()
            self._records -= records
            self._reasons -= old

    @property
    def is_exceeded(self) -> bool:
        """Whether the share is above the limit, so that the worker must stop."""
        least = min(_RECORDS_MIN, self._window)
        return self._share_max < 1 and self._records >= least and self.share > self._share_max

    @property
    def message(self) -> str:
        """The share, its most frequent reasons, and what to do about it."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self._reasons.most_common(5))
        return (
            f"{self.share:.0%} of the last {self._records} records were rejected ({reasons}); the "
            f"limit is {self._share_max:.0%}. Fix the producer; `resmeter dlq list` shows the records "
            "rejected before. To process these as dead letters, set "
            "RESMETER_WORKER__DEAD_LETTER_SHARE_MAX=1 until the worker has passed them"
        )
