"""This file applies a batch of records to one partition's conversations, in memory. Pure.

It yields what must be written (`Work`) and leaves the writing to others.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from pipeline.events.model import TYPES, Rejected
from pipeline.events.signature import Key, verify
from pipeline.events.wire import check_record, read_event
from pipeline.kafka.headers import DeadLetter
from pipeline.resolve.policy import Timeline
from pipeline.stream.due_queue import Wheel
from pipeline.stream.state import (
    HAS_SEAL,
    PACKED,
    SEALED,
    check_form,
    decode_state,
    due_of,
    encode_state,
    head_of,
    heard_of,
    is_sealed,
    newest,
    next_offset_of,
)
from pipeline.usage.conversation import (
    ALL_APPLIED,
    ALL_FIT_MAX,
    SEAL_AFTER_MS,
    Arrival,
    Conversation,
)
from pipeline.usage.record import Origin, UsageRecord, encode_origin, encode_record

_ANY_TIME = -(2**62)
# Entries of the wheel whose conversation was decided before its window's end.
_STALE_MAX, _STALE_PART = 1_000, 8
# Parts of `seal_after`. A history is dropped only once no broker's clock can be so far behind the
# one that was read that a record still comes with an earlier time: a day after 45 of them.
_SEAL_SLACK_PART = 45
_SEAL_BUCKET_PART = 6480  # ten minutes of 45 days

_TOO_LONG = Rejected(
    "conversation_too_long", "subject: the conversation has 10,000 events, or 3 MiB of them"
)
_TOO_LATE = Rejected(
    "too_late", "time: is not after the newest event of the conversation's sealed history"
)

TimelineFor = Callable[[str], Timeline]


class Record(Protocol):
    """What of a Kafka record is looked at; aiokafka's `ConsumerRecord` has it."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Output(msgspec.Struct, frozen=True):
    """A usage record as it is written: Kafka key, value, origin header."""

    key: bytes
    value: bytes
    origin: bytes
    record: UsageRecord


class Work(msgspec.Struct):
    """What a batch leaves to be written, and what it counted."""

    outputs: list[Output] = []
    dead_letters: list[DeadLetter] = []
    states: list[tuple[bytes, bytes]] = []
    read: int = 0  # records: events, dead letters and redelivered ones
    types: list[int] = msgspec.field(default_factory=lambda: [0] * len(TYPES))
    duplicates: int = 0
    redelivered: int = 0
    sealed: int = 0  # histories dropped

    @property
    def is_empty(self) -> bool:
        return not (self.outputs or self.dead_letters or self.states)


class _Taken:
    """A conversation that a batch changes: its state, and the events that came."""

    __slots__ = (
        "arrivals",
        "kept",
        "kept_from",
        "name",
        "next_offset",
        "seals_at",
        "stored",
        "tenant_id",
    )

    def __init__(
        self, tenant_id: str, name: str, stored: bytes | None, timestamp: int, seal_after: int
    ) -> None:
        self.tenant_id = tenant_id
        self.name = name
        self.stored = stored
        self.arrivals: list[Arrival] = []
        self.kept: dict[int, Record] | None = None
        # Where a conversation may become too long its records are kept: they may be rejected. Nor
        # can a record before `seals_at` be too late or seal what came before: from it on they are
        # kept, and received one by one.
        if stored is None:
            self.next_offset, form = 0, 0
            self.seals_at = timestamp + seal_after
        else:
            self.next_offset, _, _, form, heard = head_of(stored)
            self.seals_at = _ANY_TIME if form & HAS_SEAL else heard + seal_after
        self.kept_from = 0 if form & PACKED else ALL_FIT_MAX

    def keep(self, record: Record) -> None:
        if self.kept is None:
            self.kept = {}
        self.kept[record.offset] = record


class Partition:
    """The conversations of one partition of the events topic."""

    def __init__(
        self,
        topic: str,
        number: int,
        timeline_for: TimelineFor,
        keys: Mapping[str, Key] | None = None,
        seal_after: int = SEAL_AFTER_MS,
    ) -> None:
        self.topic = topic
        self.number = number
        self.states: dict[bytes, bytes] = {}
        self.wheel = Wheel()
        self.open = 0  # conversations with a window ahead
        self.is_recovered = False
        self._seal_after = seal_after
        self._seal_slack = seal_after // _SEAL_SLACK_PART
        self._seal_bucket = max(1, seal_after // _SEAL_BUCKET_PART)
        self.seal_wheel = Wheel(self._seal_bucket)  # each conversation with a history, once
        self._timeline_for = timeline_for
        self._keys = keys or None  # of producers; None: whoever can write events may
        self._timelines: dict[str, Timeline] = {}

    # --- recovery ---------------------------------------------------------------------------------

    def restore(self, records: Iterable[Record]) -> None:
        """Take in records of the changelog; of two versions of a state the newest is kept.

        Raises:
            UnknownStateError: a newer version of resmeter wrote one of the states.
        """
        states = self.states
        for record in records:
            key, stored = record.key, record.value
            if not key:  # a reading of the broker's clock
                continue
            if stored is None:
                states.pop(key, None)
            else:
                check_form(stored, key)
                states[key] = newest(stored, states.get(key))

    def schedule_all(self) -> None:
        """Fill the wheels from the states: when recovery is over."""
        self.is_recovered = True
        self.wheel = Wheel()
        self.seal_wheel = Wheel(self._seal_bucket)
        for key, stored in self.states.items():
            due = due_of(stored)
            if due is not None:
                self.wheel.add(key, due)
            if not is_sealed(stored):
                self.seal_wheel.add(key, self._droppable_at(heard_of(stored)))
        self.open = len(self.wheel)

    # --- records ----------------------------------------------------------------------------------

    def apply(self, records: Iterable[Record]) -> Work:
        """Apply records in the order of their offsets.

        They may be made as they are looped over: none is kept but for a dead letter. What comes of
        a conversation is in order; of two of them, either may stand first.
        """
        work = Work()
        types, keys = work.types, self._keys
        batch: dict[bytes | None, _Taken] = {}
        for record in records:
            key, offset, timestamp = record.key, record.offset, record.timestamp
            found = read_event(record.value, record.headers)
            if type(found) is Rejected:
                self._reject(work, record, found)
                continue
            tenant_id, name, event = found.tenant_id, found.conversation_id, found.event
            if keys is not None:
                forged = verify(keys, tenant_id, key, record.value, record.headers)
                if forged is not None:
                    self._reject(work, record, forged)
                    continue
            taken = batch.get(key)
            if (
                taken is None
                or taken.name != name
                or taken.tenant_id != tenant_id
                or event.at > timestamp
            ):
                rejected = check_record(found, key, timestamp)
                if rejected is not None:
                    self._reject(work, record, rejected)
                    continue
                if taken is None:
                    assert key is not None
                    taken = _Taken(
                        tenant_id, name, self.states.get(key), timestamp, self._seal_after
                    )
                    batch[key] = taken
            if offset < taken.next_offset:
                work.redelivered += 1
                continue
            arrivals = taken.arrivals
            if timestamp >= taken.seals_at:
                taken.seals_at = _ANY_TIME
                taken.keep(record)
            elif len(arrivals) >= taken.kept_from:
                taken.keep(record)
            arrivals.append((offset, timestamp, event))
            types[event.rank] += 1
        work.read = sum(types) + work.redelivered + len(work.dead_letters)
        emitted: list[UsageRecord] = []
        for key, taken in batch.items():
            if taken.arrivals:
                assert key is not None
                self._receive(work, key, taken, emitted)
                taken.arrivals.clear()  # while the processor's cache holds them
        if len(self.wheel) > 2 * self.open + len(self.states) // _STALE_PART + _STALE_MAX:
            # No timer has run for long, as the partition is behind, and what was decided before its
            # window's end was not taken out.
            self.schedule_all()
        return work

    def _receive(self, work: Work, key: bytes, taken: _Taken, emitted: list[UsageRecord]) -> None:
        arrivals, stored, tenant_id = taken.arrivals, taken.stored, taken.tenant_id
        conversation = Conversation() if stored is None else decode_state(stored)
        timeline = self._timeline(tenant_id)
        if taken.seals_at != _ANY_TIME:
            received = conversation.receive(
                tenant_id, taken.name, arrivals, timeline, emitted, self._seal_after
            )
            if emitted:
                self._emit(work, conversation, emitted)
            if received is ALL_APPLIED:
                self._store(work, key, conversation, arrivals[-1][0] + 1)
                return
            parts = [received]
        else:
            # Where a history may be dropped on the way, what is emitted finds the offsets of its
            # evidence only between two records.
            parts = []
            for arrival in arrivals:
                parts.append(
                    conversation.receive(
                        tenant_id, taken.name, [arrival], timeline, emitted, self._seal_after
                    )
                )
                self._emit(work, conversation, emitted)
        refused: set[Arrival] = set()
        for received in parts:
            work.duplicates += received.duplicates
            work.sealed += received.sealed
            for which, rejected in ((received.too_long, _TOO_LONG), (received.too_late, _TOO_LATE)):
                refused.update(which)
                for offset, _, event in which:
                    assert taken.kept is not None
                    self._reject(work, taken.kept[offset], rejected)
                    work.types[event.rank] -= 1
        arrivals = [arrival for arrival in arrivals if arrival not in refused]
        if arrivals:
            self._store(work, key, conversation, arrivals[-1][0] + 1)

    def _reject(self, work: Work, record: Record, rejected: Rejected) -> None:
        work.dead_letters.append(DeadLetter.of(record, self.topic, self.number, rejected))

    # --- timers -----------------------------------------------------------------------------------

    def earliest(self, *, seals: bool) -> int | None:
        """Return a time before which `settle`, and `seal` where asked for, have nothing to do."""
        due = self.wheel.earliest()
        seal = self.seal_wheel.earliest() if seals else None
        return min((at for at in (due, seal) if at is not None), default=None)

    def settle(self, clock: int, most: int) -> Work:
        """Settle the silence that was complete at an arrival time that no record has brought."""
        work = Work()
        emitted: list[UsageRecord] = []
        for key in self.wheel.take(clock, most):
            stored = self.states.get(key)
            due = None if stored is None else due_of(stored)
            if stored is None or due is None:
                continue
            if due > clock:
                self.wheel.add(key, due)
                continue
            tenant_id, _, name = key.decode().partition(":")
            timeline = self._timeline(tenant_id)
            conversation = decode_state(stored)
            conversation.settle(tenant_id, name, clock, timeline, emitted)
            if emitted:
                self._emit(work, conversation, emitted)
            self._store(work, key, conversation, next_offset_of(stored))
        return work

    def seal(self, clock: int, most: int) -> Work:
        """Drop the histories of conversations that were quiet for long. It decides nothing.

        To be called only where record timestamps are the broker's: with other ones a record may
        come whose own finds the conversation not sealed yet.
        """
        work = Work()
        for key in self.seal_wheel.take(clock, most):
            stored = self.states.get(key)
            if stored is None or is_sealed(stored):
                continue
            droppable_at = self._droppable_at(heard_of(stored))
            if droppable_at > clock:
                self.seal_wheel.add(key, droppable_at)
                continue
            conversation = decode_state(stored)
            work.sealed += conversation.put_away()
            self._store(work, key, conversation, next_offset_of(stored))
        return work

    def _droppable_at(self, heard: int) -> int:
        # The end of a bucket, so that none of those taken from it has to be put back into it.
        earliest = heard + self._seal_after + self._seal_slack
        return earliest - earliest % -self._seal_bucket

    # --- both -------------------------------------------------------------------------------------

    def _timeline(self, tenant_id: str) -> Timeline:
        timeline = self._timelines.get(tenant_id)
        if timeline is None:
            timeline = self._timelines[tenant_id] = self._timeline_for(tenant_id)
        return timeline

    def _emit(self, work: Work, conversation: Conversation, emitted: list[UsageRecord]) -> None:
        for record in emitted:
            offsets = conversation.offsets_of(record.evidence)
            origin = encode_origin(Origin(self.topic, self.number, offsets))
            work.outputs.append(
                Output(record.tenant_id.encode(), encode_record(record), origin, record)
            )
        emitted.clear()

    def _store(self, work: Work, key: bytes, conversation: Conversation, next_offset: int) -> None:
        due = conversation.due_at
        stored = encode_state(next_offset, conversation)
        before = self.states.get(key)
        known, form = (0, SEALED) if before is None else head_of(before)[2:4]
        self.open += (due is not None) - (known != 0)
        if due is not None and (not known or known > due):
            self.wheel.add(key, due)
        if form & SEALED and not conversation.is_sealed:
            self.seal_wheel.add(key, self._droppable_at(conversation.arrival))
        self.states[key] = stored
        work.states.append((key, stored))
