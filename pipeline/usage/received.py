"""What a conversation takes in, and what comes of it. Pure."""

from typing import TypeAlias

import msgspec

from pipeline.events.model import Event
from pipeline.usage.record import UsageRecord

Arrived: TypeAlias = tuple[int, int, Event]  # the record's offset and timestamp (ms), and its event


class Received(msgspec.Struct):
    """What came of a batch of arrivals."""

    records: list[UsageRecord] = []  # what is owed, in the order in which it was emitted
    offsets: tuple[tuple[int, ...], ...] = ()  # of each record's evidence: its first arrivals
    duplicates: int = 0
    too_long: tuple[Arrived, ...] = ()  # not taken in: the conversation is full
    too_late: tuple[Arrived, ...] = ()  # not taken in: not newer than what has been sealed
    sealed: int = 0  # histories that a record's timestamp sealed
