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
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from pipeline.events.model import Event
from pipeline.resolve.machine import Fold
from pipeline.resolve.policy import Timeline
from pipeline.resolve.values import Transition

_BLOCK_EVENTS = 32

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


class _Block:
    """Events in order of time, the fold before the first of them, and their transitions."""

    __slots__ = ("checkpoint", "events", "first_message_at", "transitions")

    def __init__(self, events: list[Event], state: Fold | None) -> None:
        self.events = events
        self.transitions: list[Transition] = []
        self.checkpoint = b""  # without `first_message_at` and the transitions; b"" if unknown
        self.first_message_at: int | None = None
        if state is not None:
            self.set_checkpoint(state)

    def set_checkpoint(self, state: Fold) -> None:
        self.checkpoint = _checkpoint(state)
        self.first_message_at = state.first_message_at

    def fold(self, timeline: Timeline) -> Fold:
        """Return the fold after the block; its transitions are those of the block alone."""
        state = _decode_fold(self.checkpoint)
        state.first_message_at = self.first_message_at
        for event in self.events:
            state.settle(timeline, event.at)
            state.apply(timeline, event)
        self.transitions = state.transitions
        return state


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
            state = block.fold(self._timeline)
            transitions += block.transitions
        state.transitions = transitions
        return state

    def add(self, event: Event, state: Fold) -> None:
        """Add an event that is newer than all others; `state` is the fold before it."""
        last = self._blocks[-1]
        if len(last.events) < self._size:
            last.events.append(event)
        else:
            self._take_over(state)
            self._blocks.append(_Block([event], state))

    def insert(self, event: Event, state: Fold) -> Fold:
        """Add an event anywhere; `state` is the fold without it, and may be changed."""
        blocks = self._blocks
        self._take_over(state)
        first = max(0, bisect_right(blocks, _order(event), key=_order_of_first) - 1)
        insort(blocks[first].events, event, key=_order)
        self._split(first)
        start = len(self._sealed.transitions) + _count(blocks[:first])
        end = start
        changed: list[Transition] = []
        for block, following in pairwise([*blocks[first:], None]):
            assert block is not None
            end += len(block.transitions)
            reached = block.fold(self._timeline)
            changed += block.transitions
            if following is None:
                reached.transitions = state.transitions[:start] + changed
                return reached
            if self._continues(following, reached):
                self._set_first_message(following, reached.first_message_at, state)
                state.transitions[start:end] = changed
                return state
            following.set_checkpoint(reached)
        raise AssertionError("the last block returns")

    def _take_over(self, state: Fold) -> None:
        """Give the last block the transitions that were added since it was folded."""
        known = len(self._sealed.transitions) + _count(self._blocks[:-1])
        self._blocks[-1].transitions = state.transitions[known:]

    def _split(self, number: int) -> None:
        block = self._blocks[number]
        if len(block.events) > 2 * self._size:
            self._blocks.insert(number + 1, _Block(block.events[self._size :], None))
            del block.events[self._size :]

    def _continues(self, following: _Block, reached: Fold) -> bool:
        """Return whether this block and all later ones have the same transitions as before.

        The time of the first message matters only if a window starts at it. Under other policies it
        changes nothing and is only copied, until a new segment starts.
        """
        if following.checkpoint != _checkpoint(reached):
            return False
        before, now = following.first_message_at, reached.first_message_at
        if before == now:
            return True
        return (
            not self._is_anchored_first
            and before is not None
            and now is not None
            # If so, no later segment can start with a message of the same time.
            and following.events[0].at > before
        )

    def _set_first_message(self, first: _Block, now: int | None, state: Fold) -> None:
        """Set the time of the first message in this block and the following ones of its segment."""
        before = first.first_message_at
        if before == now:
            return
        for block in self._blocks[self._blocks.index(first) :]:
            if block.first_message_at != before:
                return
            block.first_message_at = now
        if state.first_message_at == before:
            state.first_message_at = now


def _checkpoint(state: Fold) -> bytes:
    return _encode(msgspec.structs.replace(state, first_message_at=None, transitions=[]))


def _count(blocks: Sequence[_Block]) -> int:
    return sum([len(block.transitions) for block in blocks])


def _order(event: Event) -> tuple[int, str, int, str, str]:
    return event.order


def _order_of_first(block: _Block) -> tuple[int, str, int, str, str]:
    return block.events[0].order
