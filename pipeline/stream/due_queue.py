"""This file knows when conversations fall due: a wheel of buckets, of one minute mostly. Pure.

An entry that finds its deadline moved is put back by whoever asks, so that a conversation needs
no entry of its own for every answer: one at or before its deadline is enough.
"""

import heapq

BUCKET_MS = 60_000


class Wheel:
    """Keys by the bucket, a minute unless told, in which they fall due."""

    __slots__ = ("_bucket_ms", "_buckets", "_keys", "_numbers")

    def __init__(self, bucket_ms: int = BUCKET_MS) -> None:
        self._bucket_ms = bucket_ms
        self._buckets: dict[int, list[bytes]] = {}
        self._numbers: list[int] = []
        self._keys = 0

    def add(self, key: bytes, due: int) -> None:
        self._keys += 1
        number = due // self._bucket_ms
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = [key]
            heapq.heappush(self._numbers, number)
        else:
            bucket.append(key)

    def earliest(self) -> int | None:
        """Return a time at or before the earliest deadline, or None where there is none."""
        return self._numbers[0] * self._bucket_ms if self._numbers else None

    def take(self, clock: int, most: int) -> list[bytes]:
        """Remove and return keys whose bucket has begun at `clock`, in order, about `most`.

        Some of them may not be due yet: the caller adds those again.
        """
        taken: list[bytes] = []
        numbers = self._numbers
        while numbers and numbers[0] * self._bucket_ms <= clock and len(taken) < most:
            taken.extend(self._buckets.pop(heapq.heappop(numbers)))
        self._keys -= len(taken)
        return taken

    def count_until(self, clock: int) -> int:
        """Return how many keys stand in buckets that had ended at `clock`."""
        current = clock // self._bucket_ms
        return sum(len(keys) for number, keys in self._buckets.items() if number < current)

    def __len__(self) -> int:
        return self._keys
