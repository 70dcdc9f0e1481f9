"""What goes into a batch of one partition, and what comes out of it. Pure."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from pipeline.events.model import TYPES, Event
from pipeline.kafka.headers import DeadLetter
from pipeline.stream.state import HAS_SEAL, PACKED, header_of
from pipeline.usage.conversation import Arrived
from pipeline.usage.history import ALWAYS_FIT_EVENTS
from pipeline.usage.record import UsageRecord

_ALWAYS = -(2**62)


class Record(Protocol):
    """What a partition reads of a Kafka record; aiokafka's `ConsumerRecord` has it."""

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


class BatchResult(msgspec.Struct):
    """What a batch leaves to be written, and what it counted."""

    outputs: list[Output] = []
    dead_letters: list[DeadLetter] = []
    states: list[tuple[bytes, bytes]] = []  # key and stored state
    records_read: int = 0  # what the counts below must add up to, with the dead letters
    events_by_type: list[int] = msgspec.field(default_factory=lambda: [0] * len(TYPES))
    duplicates: int = 0
    redelivered: int = 0
    histories_sealed: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.outputs or self.dead_letters or self.states)


class PendingConversation:
    """A conversation that a batch changes: its stored state, and the events that came for it."""

    __slots__ = (
        "arrived",
        "conversation_id",
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
        # The records that the conversation may still reject, by offset: those after so many that the
        # history may become too long, and all from a time on at which they may find it sealed. From
        # that time on, records are received one by one.
        self.rejectable: dict[int, Record] = {}
        if stored is None:
            self.next_offset, form = 0, 0
            self.rejectable_from_ms = timestamp + seal_after_ms
        else:
            header = header_of(stored)
            self.next_offset, form = header.next_offset, header.form
            self.rejectable_from_ms = (
                _ALWAYS if form & HAS_SEAL else header.last_arrival_ms + seal_after_ms
            )
        self.rejectable_from_count = 0 if form & PACKED else ALWAYS_FIT_EVENTS

    @property
    def may_be_sealed(self) -> bool:
        """Say whether one of the records may find a sealed history, or seal one."""
        return self.rejectable_from_ms == _ALWAYS

    def add(self, record: Record, event: Event) -> None:
        timestamp = record.timestamp
        if timestamp >= self.rejectable_from_ms:
            self.rejectable_from_ms = _ALWAYS
            self.rejectable[record.offset] = record
        elif len(self.arrived) >= self.rejectable_from_count:
            self.rejectable[record.offset] = record
        self.arrived.append((record.offset, timestamp, event))
