"""The input and the result of a batch of one partition. Pure."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, Self

import msgspec

from pipeline.events.model import TYPES
from pipeline.kafka.headers import DeadLetter
from pipeline.kafka.partitioners import Agreement
from pipeline.stream.basis import Promise
from pipeline.stream.state import HAS_SEAL, PACKED, decode_state, header_of
from pipeline.usage.conversation import Conversation
from pipeline.usage.history import ALWAYS_FIT_EVENTS
from pipeline.usage.received import Arrived, Received, Reused
from pipeline.usage.record import Origin, UsageRecord, encode_origin, encode_record

_ALWAYS = -(2**62)


class Record(Protocol):
    """The members of a Kafka record that a partition reads, as in aiokafka's `ConsumerRecord`."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Output(msgspec.Struct, frozen=True):
    """A usage record with the Kafka key, value and origin header to write."""

    key: bytes
    value: bytes
    origin: bytes
    record: UsageRecord

    @classmethod
    def of(cls, topic: str, partition: int, record: UsageRecord, offsets: tuple[int, ...]) -> Self:
        """Return what to write for a record whose evidence has these offsets in a partition."""
        origin = encode_origin(Origin(topic, partition, offsets))
        return cls(record.tenant_id.encode(), encode_record(record), origin, record)


class ReusedId(NamedTuple):
    """An event that was left out, because another event of its conversation has its source and id."""

    tenant_id: str
    conversation_id: str
    reused: Reused


class Mistakes(msgspec.Struct):
    """What producers did wrong in a batch, without breaking the contract of any single record."""

    reused_ids: list[ReusedId] = []
    after_end: int = 0  # events that arrived after their conversation was merged or flagged as spam
    same_millisecond: int = 0  # events that nothing but their types orders
    keys: dict[Agreement, int] = {}  # of new conversations, by the partitioners that put them here

    def add(self, tenant_id: str, conversation_id: str, received: Received) -> None:
        """Add the mistakes in a conversation."""
        self.after_end += received.after_end
        self.same_millisecond += received.same_millisecond
        self.reused_ids += [ReusedId(tenant_id, conversation_id, one) for one in received.reused]


class BatchResult(msgspec.Struct):
    """What must be written for a batch, and its counts."""

    outputs: list[Output] = []
    dead_letters: list[DeadLetter] = []
    states: list[tuple[bytes, bytes]] = []  # key and stored state
    records_read: int = 0  # = all of events_by_type, plus redelivered, plus the dead letters
    events_by_type: list[int] = msgspec.field(default_factory=lambda: [0] * len(TYPES))
    duplicates: int = 0
    redelivered: int = 0
    histories_sealed: int = 0
    mistakes: Mistakes = msgspec.field(default_factory=Mistakes)

    @property
    def is_empty(self) -> bool:
        return not (self.outputs or self.dead_letters or self.states)


class PendingConversation:
    """A conversation that a batch changes: its stored state, and its events in the batch."""

    __slots__ = (
        "arrived",
        "conversation_id",
        "due_arrival_ms",
        "next_offset",
        "rejectable",
        "rejectable_from_count",
        "rejectable_from_ms",
        "stored",
        "tenant_id",
    )

    def __init__(
        self,
        tenant_id: str,
        conversation_id: str,
        stored: bytes | None,
        timestamp: int,
        seal_after_ms: int,
    ) -> None:
        self.tenant_id = tenant_id
        self.conversation_id = conversation_id
        self.stored = stored
        self.arrived: list[Arrived] = []
        # By offset, the records that the conversation may still reject. A record is among them if
        # `rejectable_from_count` others precede it in the batch (the history may become too long),
        # or if its timestamp is `rejectable_from_ms` or later (the history may be sealed by then).
        self.rejectable: dict[int, Record] = {}
        if stored is None:
            self.next_offset = self.due_arrival_ms = form = 0
            self.rejectable_from_ms = timestamp + seal_after_ms
        else:
            self.next_offset, _, self.due_arrival_ms, form, last_arrival_ms = header_of(stored)
            self.rejectable_from_ms = (
                _ALWAYS if form & HAS_SEAL else last_arrival_ms + seal_after_ms
            )
        self.rejectable_from_count = 0 if form & PACKED else ALWAYS_FIT_EVENTS

    def conversation(self) -> Conversation:
        """Return the conversation as it was stored, or a new one."""
        return Conversation() if self.stored is None else decode_state(self.stored)

    def is_promised(self, promise: Promise) -> bool:
        """Return whether the conversation may have silence that was promised to be settled first.

        Its newest events come after the promise, and it has applied none of those before.
        """
        at, until_ms = promise
        return self.next_offset <= at <= self.arrived[-1][0] and (
            0 < self.due_arrival_ms <= until_ms or self.arrived[0][0] < at
        )

    def keep(self, record: Record) -> None:
        """Keep a record that the conversation may still reject."""
        if record.timestamp >= self.rejectable_from_ms:
            self.rejectable_from_ms = _ALWAYS
        self.rejectable[record.offset] = record


def in_parts(arrived: Sequence[Arrived], size: int, at: int) -> Iterator[Sequence[Arrived]]:
    """Cut events into parts of at most `size`, none with events on both sides of the offset `at`."""
    cut = bisect_left(arrived, at, key=lambda one: one[0])
    for begin, end in ((0, cut), (cut, len(arrived))):
        for start in range(begin, end, size):
            yield arrived[start : min(start + size, end)]
