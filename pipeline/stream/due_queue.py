"""Queue of deadlines in buckets, of one minute by default. Pure.

A conversation needs one entry at or before its deadline. If the deadline moves later, the entry
stays: the caller takes the key, sees that it is not due yet, and adds it again.
"""

import heapq

BUCKET_MS = 60_000


class DueQueue:
    """Keys in buckets of deadlines."""

    __slots__ = ("_bucket_ms", "_buckets", "_keys", "_numbers")

    def __init__(self, bucket_ms: int = BUCKET_MS) -> None:
        self._bucket_ms = bucket_ms
        self._buckets: dict[int, list[bytes]] = {}  # by number: deadline // bucket_ms
        self._numbers: list[int] = []  # the buckets' numbers, as a heap
        self._keys = 0

    def add(self, key: bytes, due_ms: int) -> None:
        self._keys += 1
        number = due_ms // self._bucket_ms
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = [key]
            heapq.heappush(self._numbers, number)
        else:
            bucket.append(key)

    def earliest(self) -> int | None:
        """Return a time (ms) at or before the earliest deadline; None if the queue is empty."""
        return self._numbers[0] * self._bucket_ms if self._numbers else None

    def take(self, clock_ms: int, limit: int) -> list[bytes]:
        """Remove and return keys whose bucket has begun at `clock_ms`, the earliest buckets first.

        Whole buckets are taken until there are at least `limit` keys. Some keys may not be due yet;
        the caller adds those again.
        """
        taken: list[bytes] = []
        numbers = self._numbers
        while numbers and numbers[0] * self._bucket_ms <= clock_ms and len(taken) < limit:
            taken.extend(self._buckets.pop(heapq.heappop(numbers)))
        self._keys -= len(taken)
        return taken

    def until(self, clock_ms: int) -> list[list[bytes]]:
        """Return the buckets that ended at or before `clock_ms`, with their keys."""
        current = clock_ms // self._bucket_ms
        return [keys for number, keys in self._buckets.items() if number < current]

    def __len__(self) -> int:
        return self._keys


class SealTimes:
    """When conversations can be sealed: `seal_after_ms` after their newest record, and a little later."""

    # Parts of `seal_after_ms`. Sealing waits this much longer (a day, after 45 days): another
    # broker's clock may be behind the one that was read, and set an earlier timestamp on the next
    # record.
    _SLACK_PART = 45
    _BUCKET_PART = 6480  # ten minutes of 45 days

    def __init__(self, seal_after_ms: int) -> None:
        self._wait_ms = seal_after_ms + seal_after_ms // self._SLACK_PART
        self._bucket_ms = max(1, seal_after_ms // self._BUCKET_PART)

    def new_queue(self) -> DueQueue:
        """Return an empty queue with buckets of a fitting size."""
        return DueQueue(self._bucket_ms)

    def droppable_at_ms(self, last_arrival_ms: int) -> int:
        """Return when a timer may drop the history of a conversation whose newest record is this old."""
        # Round up to the end of a bucket: then every key of a bucket that is taken can be sealed.
        earliest_ms = last_arrival_ms + self._wait_ms
        return earliest_ms - earliest_ms % -self._bucket_ms
