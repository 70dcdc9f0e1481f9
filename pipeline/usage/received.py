"""What a conversation takes in, and what comes of it. Pure."""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import msgspec

from pipeline.events.model import (
    CLOSED,
    DELETED,
    MERGED,
    REDACTED,
    REOPENED,
    SPAM_FLAGGED,
    STARTED,
    Event,
)
from pipeline.usage.record import UsageRecord

Arrived: TypeAlias = tuple[int, int, Event]  # the record's offset and timestamp (ms), and its event

# In the live environment, only the time of these events affects a decision.
INERT = frozenset({STARTED, CLOSED, REOPENED, REDACTED, DELETED})
_ENDING = frozenset({MERGED, SPAM_FLAGGED})


class Reused(NamedTuple):
    """An event with the source and id of another one: it counts as a duplicate, and is lost."""

    offset: int
    event: Event
    first: Event


class Received(msgspec.Struct):
    """The result of receiving a batch of events.

    The last three members are mistakes of a producer. They change nothing about what is owed.
    """

    records: list[UsageRecord] = []  # in the order in which they were emitted
    offsets: tuple[tuple[int, ...], ...] = ()  # of each record's evidence: its first arrivals
    duplicates: int = 0
    too_long: tuple[Arrived, ...] = ()  # rejected: the conversation is full
    too_late: tuple[Arrived, ...] = ()  # rejected: not newer than the sealed history
    sealed: int = 0  # how many histories were sealed because of a record's timestamp
    reused: tuple[Reused, ...] = ()
    after_end: int = 0  # events that arrived after a merge or a spam flag, and so decide nothing
    same_millisecond: int = 0  # events whose order to the newest event is that of their types
    repeated: tuple[int, ...] = ()  # offsets of duplicates

    def note_repeated(self, offset: int, event: Event, first: Event) -> None:
        """Count an event whose source and id are those of an event that came first."""
        self.duplicates += 1
        self.repeated += (offset,)
        if event is not first and event != first:
            self.reused += (Reused(offset, event, first),)

    def note_tie(self, event: Event, newest: tuple[int, str, int]) -> None:
        """Count an event if nothing but its type or id says whether it came after the newest event.

        `newest` has the time, sequence and rank of the newest event.
        """
        at, sequence, rank = newest
        is_tie = event.at == at and not event.sequence and not sequence
        if is_tie and event.rank not in INERT and rank not in INERT:
            self.same_millisecond += 1

    def note_end(self, batch: Iterable[Arrived]) -> None:
        """Count the events of a batch that arrived after the conversation had ended.

        Call this if it has ended by now.
        """
        left_out = {*self.repeated, *(arrived[0] for arrived in self.too_long + self.too_late)}
        after = 0
        for offset, _, event in batch:
            if event.rank == SPAM_FLAGGED or (event.rank == MERGED and event.secondary):
                after = 0
            elif event.rank not in INERT and event.rank not in _ENDING and offset not in left_out:
                after += 1
        self.after_end = after
