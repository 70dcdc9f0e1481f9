"""Keep what the states of a partition were made from, and check that the log is still the same. Pure.

A state stores the offset up to which it has read. That offset has a meaning only in the topic that
it was read from. So the value of each clock record in the changelog has the topic's id, its number
of partitions, and which records were lost before a worker read them. Workers of older versions skip
clock records, whatever their value, and write them empty.

Before timers settle silence, they promise it in a clock record: up to which time, and before which
offset. If a later record has an earlier timestamp after all, because brokers' clocks differ, every
owner of the partition settles the silence first, and writes the same usage records.
"""

from typing import NamedTuple

import msgspec

from pipeline.decoding import json_decoder
from pipeline.errors import UnknownStateError
from pipeline.kafka.bounds import Acknowledgement, Bounds, TopicFacts

_RANGES_MAX = 20


class Promise(NamedTuple):
    """Silence up to `until_ms` is settled before the record at `offset` is applied."""

    offset: int
    until_ms: int


NO_PROMISE = Promise(-1, 0)


class Basis(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the states of one partition were made from. The highest `changes` is the newest."""

    topic_id: str = ""
    partitions: int = 0
    lost: tuple[tuple[int, int], ...] = ()  # first offset, end: lost and not acknowledged yet
    acknowledged: Acknowledgement | None = None  # the last one
    changes: int = 0
    catalog: tuple[int, str] = (0, "")  # number and digest of the newest entry decided under
    promise: Promise = NO_PROMISE

    @property
    def lost_records(self) -> int:
        """The number of lost offsets that nobody has acknowledged yet."""
        return sum(end - first for first, end in self.lost)

    def on(self, topic: TopicFacts) -> "Basis":
        """Return the basis with the topic as it is, for states that have no such note yet."""
        found = (topic.topic_id or self.topic_id, topic.partitions)
        if found == (self.topic_id, self.partitions):
            return self
        return self._changed(topic_id=found[0], partitions=found[1])

    def under(self, head: tuple[int, str]) -> "Basis":
        """Return the basis of states that may have been decided under this entry of the catalog."""
        return self if head == self.catalog else self._changed(catalog=head)

    def with_loss(self, first: int, end: int) -> "Basis":
        """Add a range of lost records; return this if all of it is known or acknowledged.

        A range is found again if the partition is assigned again before an offset after it is
        committed. The oldest ranges are joined if there are too many.
        """
        if self.acknowledged is not None and self.acknowledged.topic_id == self.topic_id:
            first = max(first, self.acknowledged.until)
        if first >= end:
            return self
        lost = _joined([*self.lost, (first, end)])
        if len(lost) > _RANGES_MAX:
            lost[:2] = [(lost[0][0], lost[1][1])]
        return self if tuple(lost) == self.lost else self._changed(lost=tuple(lost))

    def with_acknowledgement(self, given: Acknowledgement) -> "Basis":
        """Drop the lost ranges that an operator knows of; return this if there are none."""
        left = tuple((first, end) for first, end in self.lost if end > given.until)
        if left == self.lost or given.topic_id != self.topic_id:
            return self
        return self._changed(lost=left, acknowledged=given)

    def with_promise(self, promise: Promise) -> "Basis":
        """Return the basis with a promise; this if it has it."""
        if promise == self.promise:
            return self
        return msgspec.structs.replace(self, promise=promise)

    def _changed(self, **members: object) -> "Basis":
        return msgspec.structs.replace(self, changes=self.changes + 1, **members)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort ranges, and join those that overlap or touch."""
    joined: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return joined


_encode = msgspec.json.Encoder().encode
_decode = json_decoder(Basis)


def encode_basis(basis: Basis) -> bytes:
    return _encode(basis)


def decode_basis(value: bytes) -> Basis:
    """Read the value of a clock record.

    Raises:
        UnknownStateError: no worker wrote it.
    """
    try:
        return _decode(value)
    except ValueError as error:
        raise UnknownStateError(
            f"a record of the changelog without a key is {value[:80]!r}: no worker wrote it ({error})"
        ) from error


def differences(
    place: str, basis: Basis, topic: TopicFacts, bounds: Bounds, read_up_to: int | None
) -> list[str]:
    """Return why the log is not the one that the states were made from; each with what to do.

    A partition count that differs is named even if the id is unknown.

    Args:
        place: the partition, such as `conversation.events[3]`.
        basis: what the states were made from.
        topic: the topic as it is.
        bounds: where the partition begins and ends.
        read_up_to: the offset after the last record read, by the states or the committed offset.
    """
    found = []
    if basis.topic_id and topic.topic_id and basis.topic_id != topic.topic_id:
        found.append(
            f"{place}: the states of its conversations were made from the topic with the id "
            f"{basis.topic_id}, and the topic of this name has the id {topic.topic_id} now. It was "
            "deleted and made again, or copied to another cluster, and its offsets mean other "
            f"records. {_NOTHING_IS_DECIDED} {_OTHER_LOG}"
        )
    elif read_up_to is not None and read_up_to > bounds.high:
        found.append(
            f"{place}: its conversations were read up to offset {read_up_to}, but the log ends at "
            f"offset {bounds.high}: {read_up_to - bounds.high} records are gone from its end. It was "
            "cut by an unclean election of a leader, restored from a backup, or is another topic. "
            f"{_NOTHING_IS_DECIDED} {_OTHER_LOG}"
        )
    if basis.partitions and basis.partitions != topic.partitions:
        found.append(
            f"{place}: the topic had {basis.partitions} partitions when its conversations were "
            f"decided, and has {topic.partitions} now: new events of a conversation may be in another "
            f"partition than its history. {_NOTHING_IS_DECIDED} Stop the producers, and move to a "
            "new topic: see docs/operate/another-log.md"
        )
    return found


def catalog_problem(place: str, basis: Basis, head: tuple[int, str], conversations: int) -> str:
    """Return why a partition must not be decided under a catalog that lacks an entry.

    Args:
        place: the partition.
        basis: what its states were made from.
        head: number and digest of the last entry of the catalog as it is.
        conversations: how many states the partition has.
    """
    number, digest = basis.catalog
    return (
        f"{place}: its conversations were decided under entry {number} ({digest[:12]}) of the "
        f"catalog, {conversations:,} in all, and the catalog of this process does not have it: it ends with entry {head[0]} "
        f"({head[1][:12] or 'none'}). Either RESMETER_TOPICS__CATALOG names another topic, or the "
        f"topic was made again. {_NOTHING_IS_DECIDED} Make it again once more, and run `resmeter "
        "catalog restore FILE` with the newest export: see docs/operate/catalog.md"
    )


_NOTHING_IS_DECIDED = "The worker decides nothing on it."
_OTHER_LOG = (
    "Bring back the topic that the states were made from. If it is gone for good, the states can be "
    "made again from this one, as long as it has every event whose conversation may still change. "
    "For that, stop all workers, set new names in RESMETER_WORKER__GROUP and "
    "RESMETER_TOPICS__CHANGELOG, run `resmeter topics create`, and start again. Usage records that "
    "are emitted a second time have the same ids, and count once. See docs/operate/another-log.md"
)


def lost_range(bounds: Bounds, next_offset: int | None, found: int | None) -> range:
    """Return the offsets that were deleted before anybody read them; often empty.

    Args:
        bounds: where the partition begins and ends.
        next_offset: the offset to read next; None if nothing was read before.
        found: the offset of the record that came instead; None if none came.
    """
    if next_offset is None:
        return range(0)
    end = bounds.low if found is None else min(bounds.low, found)
    return range(next_offset, max(next_offset, end))


def newest_basis(value: bytes | None, known: Basis | None) -> Basis | None:
    """Return the newer of a clock record's basis and the one known, with the later promise.

    A worker of an older version writes its clock records empty, or without a promise.
    """
    if not value:
        return known
    basis = decode_basis(value)
    if known is None:
        return basis
    newer = basis if basis.changes >= known.changes else known
    return newer.with_promise(max(basis.promise, known.promise))
