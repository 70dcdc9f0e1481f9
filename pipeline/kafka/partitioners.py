"""Choose the partition of a key as Kafka's clients do, and check which partition a record is on. Pure.

A conversation stays on one partition only if all producers use the same partitioner. Kafka's Java
clients use murmur2. librdkafka, and therefore `confluent-kafka`, uses CRC-32 by default
(`consistent_random`).
"""

from functools import lru_cache
from struct import unpack_from
from typing import Literal, TypeAlias
from zlib import crc32

from pipeline.events.model import Rejected

Partitioner: TypeAlias = Literal["murmur2", "crc32"]
PARTITIONERS: tuple[Partitioner, ...] = ("murmur2", "crc32")
Agreement: TypeAlias = Literal["murmur2", "crc32", "both", "neither"]
AGREEMENTS: tuple[Agreement, ...] = ("murmur2", "crc32", "both", "neither")

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF

# murmur2 in Python takes microseconds. So check the first 1,000 new conversations of a partition, and
# then one of 64: that is enough to notice a second partitioner.
_CHECKED_FIRST = 1_000
_CHECKED_ONE_OF = 64


def murmur2(key: bytes) -> int:
    """Return the murmur2 hash of a key, 32 bits, as Kafka's Java clients compute it."""
    hashed = _SEED ^ len(key)
    words, rest = divmod(len(key), 4)
    for word in unpack_from(f"<{words}I", key):
        mixed = word * _M & _MASK
        hashed = (hashed * _M & _MASK) ^ ((mixed ^ mixed >> 24) * _M & _MASK)
    if rest:
        hashed = (hashed ^ int.from_bytes(key[-rest:], "little")) * _M & _MASK
    hashed = (hashed ^ hashed >> 13) * _M & _MASK
    return hashed ^ hashed >> 15


def partition_of(key: bytes, partitions: int, partitioner: Partitioner = "murmur2") -> int:
    """Return the partition that a producer chooses for a key, which must not be empty."""
    if partitioner == "crc32":
        return crc32(key) % partitions
    return (murmur2(key) & 0x7FFFFFFF) % partitions


_partition_of = lru_cache(100_000)(partition_of)


def agreement(key: bytes, partition: int, partitions: int) -> Agreement:
    """Return which partitioners put a key into this partition."""
    by_crc32 = partition_of(key, partitions, "crc32") == partition
    if partition_of(key, partitions) == partition:
        return "both" if by_crc32 else "murmur2"
    return "crc32" if by_crc32 else "neither"


class KeyCheck:
    """Checks whether the keys of one partition belong there.

    Args:
        setting: `observe`, or the partitioner that is enforced.
        partition: the partition's number.
        partitions: the number of partitions of the topic.
    """

    def __init__(
        self, setting: Literal["observe"] | Partitioner, partition: int, partitions: int
    ) -> None:
        self._setting = setting
        self._partition = partition
        self._partitions = partitions
        self._new = 0

    def misplaced(self, key: bytes) -> Rejected | None:
        """Return a rejection if a partitioner is enforced and puts the key on another partition."""
        if self._setting == "observe":
            return None
        expected = _partition_of(key, self._partitions, self._setting)
        if expected == self._partition:
            return None
        used = agreement(key, self._partition, self._partitions)
        seen = "" if used == "neither" else f", where {used} puts it"
        return Rejected(
            "wrong_partition",
            f"key: the record is on partition {self._partition}{seen}; {self._setting} puts it on "
            f"partition {expected} of {self._partitions}: set the producer's partitioner to "
            f"{NAMES[self._setting]}",
        )

    def check(self, key: bytes, observed: dict[Agreement, int], is_new: bool) -> Rejected | None:
        """Return a rejection as `misplaced` does; if no partitioner is enforced, count new keys.

        Args:
            key: the key of a record on this partition.
            observed: counts of new conversations, by the partitioners that put their keys here; updated.
            is_new: the key is that of a new conversation.
        """
        if self._setting != "observe":
            return self.misplaced(key)
        if is_new:
            self._new += 1
            if self._new <= _CHECKED_FIRST or not self._new % _CHECKED_ONE_OF:
                used = agreement(key, self._partition, self._partitions)
                observed[used] = observed.get(used, 0) + 1
        return None


# What to set in librdkafka; the Java default.
NAMES: dict[Partitioner, str] = {
    "murmur2": "murmur2 (librdkafka: partitioner=murmur2_random; the default of Java's clients)",
    "crc32": "crc32 (librdkafka: partitioner=consistent_random, its default)",
}
