"""This file knows when conversations fall due: a wheel of one-minute buckets. Pure.

An entry that finds its deadline moved is put back by whoever asks, so that a conversation needs
no entry of its own for every answer: one at or before its deadline is enough.
"""

import heapq

BUCKET_MS = 60_000


class Wheel:
    """Keys by the minute in which they fall due."""

    __slots__ = ("_buckets", "_minutes")

    def __init__(self) -> None:
        self._buckets: dict[int, list[bytes]] = {}
        self._minutes: list[int] = []

    def add(self, key: bytes, due: int) -> None:
        minute = due // BUCKET_MS
        bucket = self._buckets.get(minute)
        if bucket is None:
            self._buckets[minute] = [key]
            heapq.heappush(self._minutes, minute)
        else:
            bucket.append(key)

    def earliest(self) -> int | None:
        """Return a time at or before the earliest deadline, or None where there is none."""
        return self._minutes[0] * BUCKET_MS if self._minutes else None

    def take(self, clock: int, most: int) -> list[bytes]:
        """Remove and return keys whose bucket has begun at `clock`, in order, about `most`.

        Some of them may not be due yet: the caller adds those again.
        """
        taken: list[bytes] = []
        while self._minutes and self._minutes[0] * BUCKET_MS <= clock and len(taken) < most:
            taken.extend(self._buckets.pop(heapq.heappop(self._minutes)))
        return taken

    def count_until(self, clock: int) -> int:
        """Return how many keys stand in buckets that had ended at `clock`."""
        minute = clock // BUCKET_MS
        return sum(len(keys) for began, keys in self._buckets.items() if began < minute)

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))
