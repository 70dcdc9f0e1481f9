"""Keep the decoded history of one conversation in memory while a batch is applied. Pure.

A history is stored as bytes, which a worker searches and appends to. That is fast for the few events
that a conversation usually has. But a producer may send thousands of events of one conversation again
or in reverse order, and searching and folding all bytes for each of them would take minutes. So after
many searches, or at the first late event, the history is decoded once. `Recall` then finds events by
their identity and applies late events.

**Blocks.** The events are in order of time, in blocks of about 32. Each block has a checkpoint: the
fold before its first event. A late event is inserted into its block, and the block is folded again
from its checkpoint. If the result equals the next checkpoint, no later block changes, and the work is
done. Otherwise the next block is folded again too. The result is the one that `fold_history` gives
for the whole history.

A late event may change two times for all that follows: that of the first message, at which a window may
start, and that of the charge, which may be the end of that window. So both are kept beside the
checkpoint. Each block knows with which of these times it does what it did, and is folded again only
with others.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from pipeline.events.model import Event
from pipeline.resolve.machine import Fold
from pipeline.resolve.policy import Timeline
from pipeline.resolve.values import Transition

_BLOCK_EVENTS = 32
_FAR = 2**62

# Decoding a history once takes about as long as 128 searches in its bytes. Reading the offsets from
# its bytes takes about as long as 32 searches.
_SEARCHES_MAX = 128
OFFSETS_COST = 32

_encode = msgspec.msgpack.Encoder().encode
_decode_fold = msgspec.msgpack.Decoder(Fold).decode


class Recall:
    """A history in memory. It is empty before `load` and after `clear`."""

    __slots__ = (
        "_block_events",
        "_entries",
        "_folds",
        "_identities",
        "_offsets",
        "_searches_left",
        "is_loaded",
    )

    def __init__(
        self, block_events: int = _BLOCK_EVENTS, searches_max: int = _SEARCHES_MAX
    ) -> None:
        self._block_events = block_events
        self._searches_left = searches_max  # in the bytes, before the history is loaded
        self.clear()

    def clear(self) -> None:
        self.is_loaded = False
        self._entries: list[tuple[int, Event]] = []
        self._identities: dict[tuple[str, str], Event] | None = None
        self._offsets: dict[str, int] | None = None
        self._folds: _Folds | None = None

    def is_worthwhile(self, cost: int = 1) -> bool:
        """Count a search, and return whether to load the history instead of searching its bytes."""
        self._searches_left -= cost
        return self.is_loaded or self._searches_left < 0

    def load(self, read: Callable[[], list[tuple[int, Event]]]) -> None:
        """Load the history that `read` returns, unless one is loaded.

        Args:
            read: returns a new list of the whole history: offset and event, in order of arrival.
        """
        if not self.is_loaded:
            self.is_loaded = True
            self._entries = read()

    def find(self, event: Event) -> Event | None:
        """Return the event of the history that has the same source and id, or None."""
        if self._identities is None:
            self._identities = {(known.source, known.id): known for _, known in self._entries}
        return self._identities.get((event.source, event.id))

    def offsets(self) -> dict[str, int]:
        """Return the offset of the first arrival of each event, by the event's id."""
        if self._offsets is None:
            self._offsets = {}
            for offset, event in self._entries:
                self._offsets.setdefault(event.id, offset)
        return self._offsets

    def add(self, offset: int, event: Event, state: Fold) -> None:
        """Add an event that is newer than all others; `state` is the fold before it."""
        if self.is_loaded:
            self._note(offset, event)
            if self._folds is not None:
                self._folds.add(event, state)

    def decide_with(
        self, offset: int, event: Event, state: Fold, timeline: Timeline, sealed: bytes | None
    ) -> Fold:
        """Add an event that may be late; return the fold of the whole history with it.

        Args:
            offset: the record's offset.
            event: any event that the history does not have.
            state: the fold of the history without it; it may be changed and returned.
            timeline: the versions of the tenant's policy.
            sealed: the encoded fold of the sealed part, on which the history continues.
        """
        self._note(offset, event)
        if self._folds is not None:
            return self._folds.insert(event, state)
        self._folds = _Folds(timeline, sealed, self._block_events)
        return self._folds.fold_all([known for _, known in self._entries])

    def _note(self, offset: int, event: Event) -> None:
        self._entries.append((offset, event))
        if self._identities is not None:
            self._identities[event.source, event.id] = event
        if self._offsets is not None:
            self._offsets.setdefault(event.id, offset)


class _Carried(NamedTuple):
    """Two times that most events neither read nor change, and that a late event may change for all."""

    first_message: int | None
    charge: int | None


class _Block:
    """Events in order of time, the fold before the first of them, and their transitions.

    `first_messages` and `charges` are the times that `entry` may have without a change of what the
    block does: the least and the greatest. `carries` says whether the fold after the block still has
    the entry's times.
    """

    __slots__ = (
        "carries",
        "charges",
        "checkpoint",
        "entry",
        "events",
        "first_messages",
        "is_folded",
        "transitions",
    )

    def __init__(self, events: list[Event], state: Fold | None) -> None:
        self.events = events
        self.transitions: list[Transition] = []
        self.checkpoint = b""  # without the transitions and what `entry` has; b"" if unknown
        self.entry = _Carried(None, None)
        self.is_folded = False  # the next three hold
        self.first_messages = self.charges = (-_FAR, _FAR)
        self.carries = (True, True)
        if state is not None:
            self.set_checkpoint(_checkpoint(state), _carried(state))

    def set_checkpoint(self, checkpoint: bytes, entry: _Carried) -> None:
        self.checkpoint, self.entry, self.is_folded = checkpoint, entry, False

    def fold(self, timeline: Timeline, *, is_anchored_first: bool) -> Fold:
        """Return the fold after the block; its transitions are those of the block alone."""
        state = _decode_fold(self.checkpoint)
        _set_carried(state, self.entry)
        first, charge = state.first_message_at, state.charge
        self.first_messages = self.charges = (-_FAR, _FAR)
        for event in self.events:
            if is_anchored_first and first is not None and state.first_message_at == first:
                self._limit_first(state, timeline, event.at)
            state.settle(timeline, event.at)
            state.apply(timeline, event)
            if event.at == first:
                # A segment that begins now has the same time, and another first message.
                self.first_messages = (first, first)
        self.carries = (
            first is not None and state.first_message_at == first,
            charge is not None and state.charge is charge,
        )
        if charge is not None:
            # A charge that stands after the block would also stand if it was older: what takes a
            # charge back does so up to an age.
            self.charges = (-_FAR if self.carries[1] else charge.at, charge.at)
        self.transitions = state.transitions
        self.is_folded = True
        return state

    def _limit_first(self, state: Fold, timeline: Timeline, until: int) -> None:
        """Limit the times of the first message to those with which `settle` does the same.

        A due time moves with the first message by as much or less, and never against it.
        """
        due = None if state.charge is not None else state.due_event_ms(timeline)
        if due is None:
            return
        first = state.first_message_at
        assert first is not None
        least, greatest = self.first_messages
        if due > until:
            self.first_messages = (max(least, first - (due - until) + 1), greatest)
            return
        state.first_message_at = -_FAR
        earliest = state.due_event_ms(timeline)
        state.first_message_at = first
        self.first_messages = (first if earliest != due else least, min(greatest, first))

    def does_the_same_with(self, entry: _Carried) -> bool:
        """Return whether the block has the same transitions with these times at its begin."""
        return (
            self.is_folded
            and _fits(entry.first_message, self.entry.first_message, self.first_messages)
            and _fits(entry.charge, self.entry.charge, self.charges)
        )

    def after(self, entry: _Carried, before: _Carried) -> _Carried:
        """Return the times after the block, with others at its begin; so far, these were `before`."""
        carries_first, carries_charge = self.carries
        return _Carried(
            entry.first_message if carries_first else before.first_message,
            entry.charge if carries_charge else before.charge,
        )


class _Folds:
    """A history in blocks. `fold_all` and `insert` return the fold of the whole history."""

    __slots__ = ("_blocks", "_is_anchored_first", "_sealed", "_size", "_timeline")

    def __init__(self, timeline: Timeline, sealed: bytes | None, size: int) -> None:
        self._timeline = timeline
        self._sealed = Fold() if sealed is None else _decode_fold(sealed)
        self._size = size
        self._blocks: list[_Block] = []
        self._is_anchored_first = any(
            policy.window_anchor == "first_message" for policy in timeline.versions
        )

    def fold_all(self, events: list[Event]) -> Fold:
        """Fold events in any order."""
        events.sort(key=_order)
        state = self._sealed
        transitions = list(state.transitions)
        for start in range(0, len(events), self._size):
            block = _Block(events[start : start + self._size], state)
            self._blocks.append(block)
            state = self._fold(block)
            transitions += block.transitions
        state.transitions = transitions
        return state

    def _fold(self, block: _Block) -> Fold:
        return block.fold(self._timeline, is_anchored_first=self._is_anchored_first)

    def add(self, event: Event, state: Fold) -> None:
        """Add an event that is newer than all others; `state` is the fold before it."""
        last = self._blocks[-1]
        if len(last.events) < self._size:
            last.events.append(event)
            last.is_folded = False
        else:
            self._take_over(state)
            self._blocks.append(_Block([event], state))

    def insert(self, event: Event, state: Fold) -> Fold:
        """Add an event anywhere; `state` is the fold without it, and may be changed."""
        blocks = self._blocks
        self._take_over(state)
        first = max(0, bisect_right(blocks, _order(event), key=_order_of_first) - 1)
        insort(blocks[first].events, event, key=_order)
        blocks[first].is_folded = False
        self._split(first)
        transitions = state.transitions
        end = len(self._sealed.transitions) + _count(blocks[:first])
        entry = blocks[first].entry
        reached: Fold | None = None  # the fold after the block before, if that was folded again
        for block, following in pairwise([*blocks[first:], None]):
            assert block is not None
            if reached is not None:
                entry, checkpoint = _carried(reached), _checkpoint(reached)
                if block.checkpoint != checkpoint:
                    block.set_checkpoint(checkpoint, entry)
            start, end = end, end + len(block.transitions)
            if block.does_the_same_with(entry):
                if block.entry == entry:
                    return state  # nothing changes from here on
                before = _carried(state) if following is None else following.entry
                block.entry, entry, reached = entry, block.after(entry, before), None
            else:
                block.entry = entry
                reached = self._fold(block)
                transitions[start:end] = block.transitions
                end = start + len(block.transitions)
        if reached is None:
            _set_carried(state, entry)
            return state
        reached.transitions = transitions
        return reached

    def _take_over(self, state: Fold) -> None:
        """Give the last block the transitions that were added since it was folded."""
        known = len(self._sealed.transitions) + _count(self._blocks[:-1])
        self._blocks[-1].transitions = state.transitions[known:]

    def _split(self, number: int) -> None:
        block = self._blocks[number]
        if len(block.events) > 2 * self._size:
            self._blocks.insert(number + 1, _Block(block.events[self._size :], None))
            del block.events[self._size :]


def _fits(now: int | None, before: int | None, limits: tuple[int, int]) -> bool:
    """Return whether a time is the one from before, or takes its place within the limits."""
    if now == before:
        return True
    return now is not None and before is not None and limits[0] <= now <= limits[1]


def _carried(state: Fold) -> _Carried:
    return _Carried(state.first_message_at, None if state.charge is None else state.charge.at)


def _set_carried(state: Fold, carried: _Carried) -> None:
    state.first_message_at = carried.first_message
    if state.charge is not None and carried.charge is not None:
        state.charge.at = carried.charge


def _checkpoint(state: Fold) -> bytes:
    charge = None if state.charge is None else msgspec.structs.replace(state.charge, at=0)
    return _encode(
        msgspec.structs.replace(state, first_message_at=None, charge=charge, transitions=[])
    )


def _count(blocks: Sequence[_Block]) -> int:
    return sum([len(block.transitions) for block in blocks])


def _order(event: Event) -> tuple[int, str, int, str, str]:
    return event.order


def _order_of_first(block: _Block) -> tuple[int, str, int, str, str]:
    return block.events[0].order
