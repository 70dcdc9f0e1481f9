"""Keep the state of one conversation and compute its usage: docs/reference/outcomes.md §4. Pure.

`Conversation.receive` takes events in order of arrival. Most events are newer than all earlier
ones, and each of these advances the decision by one step. The others (late events, events outside
the live environment, possible duplicates) take the slow path, which decides the whole history again
if necessary. Both paths emit the records that §4.1 defines, for any order of arrival and any size of
batch.

**Sealing** (§4.3). A conversation without a record for `seal_after_ms` (45 days by default) is
sealed: its history is dropped and its decision is kept. Only the timestamps of records matter, not a
clock. A record finds its conversation sealed if its timestamp is at least `seal_after_ms` after the
newest timestamp of the conversation. Then:

1. If the event is newer than every event of the conversation, by (time, sequence, type), it is
   accepted and begins a new history. From then on, any event that is not newer than the sealed
   history is too late, no matter how soon it arrives.
2. Otherwise the event is too late. It is rejected and changes nothing, not even the conversation's
   newest timestamp. This includes an event that arrives again after the pause: its id is no longer
   known.

An event that is already in the current history is a duplicate, whatever its time. Events that are
not too late yield the same records as without sealing. The limit of 10,000 events applies to the
current history.

A timer calls `seal` to free memory before the next event arrives. The timer waits until every record
still to come would find the conversation sealed, so `seal` changes no decision.
"""

from collections.abc import Sequence

import msgspec

from pipeline.events.model import Event
from pipeline.resolve.machine import Fold
from pipeline.resolve.policy import Timeline
from pipeline.resolve.values import Transition
from pipeline.usage.emission import Emission, StandingCharge
from pipeline.usage.history import (
    ALWAYS_FIT_EVENTS,
    bit_of,
    capacity_of,
    decode_entries,
    encode_entries,
    has_same,
    is_full,
    may_have,
    offsets_by_id,
)
from pipeline.usage.recall import OFFSETS_COST, Recall
from pipeline.usage.received import INERT, Arrived, Received
from pipeline.usage.record import UsageRecord
from pipeline.usage.seal import Seal

SEAL_AFTER_MS = 45 * 86_400_000

_encode = msgspec.msgpack.Encoder().encode
_decode_fold = msgspec.msgpack.Decoder(Fold).decode


class Conversation(msgspec.Struct, array_like=True, gc=False):
    """The state of a conversation. It is stored as an array: never reorder the members."""

    arrival_ms: int = 0  # the newest record timestamp
    newest_at: int = -(2**62)  # this and the next two: the newest event
    newest_sequence: str = ""
    newest_rank: int = -1
    events: int = 0
    seen: int = 0  # a set of 64 bits: `bit_of` the id of each event
    history: bytes = b""
    fold: Fold = msgspec.field(default_factory=Fold)
    settled: bool = False  # the record for silence is emitted, but `fold` does not count it yet
    due_arrival_ms: int | None = None  # when silence is settled: after window and grace period
    emitted: int = 0
    charges: list[StandingCharge] = []
    seal_mark: Seal | None = None
    source: str = ""  # of the first event; `history` leaves it out

    @property
    def is_sealed(self) -> bool:
        """Return whether the history has been dropped and no new one has begun."""
        return self.seal_mark is not None and not self.events

    def rules(self, timeline: Timeline) -> bytes:
        """Name the rules that the due time, or the settled silence, rests on (`rules_id`)."""
        if self.due_arrival_ms is None and not self.settled:
            return b""
        standing = self.fold.standing
        return b"" if standing is None else timeline.rules_at(standing.at)

    def due_now(self, timeline: Timeline) -> int | None:
        """Return what `due_arrival_ms` would be if it were derived now."""
        return None if self.fold.excluded else _due_arrival_ms(self.fold, timeline)

    def entries(self) -> list[tuple[int, Event]]:
        """Return (offset, event) for each event of the current history, in order of arrival."""
        return decode_entries(self.history, self.events, self.source)

    def offsets_of(
        self, records: Sequence[UsageRecord], recall: Recall | None = None
    ) -> tuple[tuple[int, ...], ...]:
        """Return for each record the offsets at which its evidence first arrived."""
        if not records:
            return ()
        known = self._offsets(recall)
        return tuple([tuple([known[event_id] for event_id in one.evidence]) for one in records])

    def _offsets(self, recall: Recall | None = None) -> dict[str, int]:
        if recall is not None and recall.is_worthwhile(OFFSETS_COST):
            recall.load(self.entries)
            offsets = recall.offsets()
        else:
            offsets = offsets_by_id(self.history, self.events)
        if self.seal_mark is not None and self.seal_mark.answer_offset is not None:
            # Of a sealed history, later transitions can name only the standing answer as evidence.
            sealed = _decode_fold(self.seal_mark.fold) if self.events else self.fold
            assert sealed.standing is not None
            offsets[sealed.standing.event_id] = self.seal_mark.answer_offset
        return offsets

    # --- events -----------------------------------------------------------------------------------

    def receive(
        self,
        tenant_id: str,
        conversation_id: str,
        batch: Sequence[Arrived],
        timeline: Timeline,
        seal_after_ms: int = SEAL_AFTER_MS,
        recall: Recall | None = None,
    ) -> Received:
        """Apply events in order of arrival; return the usage records and the rejected events.

        Invariants, before and after each event: `fold` is the decision up to the newest event.
        `due_arrival_ms` is when the silence after the standing answer will be settled. `history`
        followed by `pending` has every event of the current history, in order of arrival.

        Args:
            tenant_id: the conversation's tenant.
            conversation_id: the conversation's id.
            batch: offset, timestamp and event of each record.
            timeline: the tenant's policy.
            seal_after_ms: a pause of this length between two records seals the conversation.
            recall: shared by the calls for the parts of one batch, and new for the first of them.
        """
        received = Received()
        emission = Emission(tenant_id, conversation_id, self.charges, self.emitted)
        pending: list[tuple[int, Event]] = []
        all_fit = self.events + len(batch) <= ALWAYS_FIT_EVENTS
        for arrived in batch:
            offset, timestamp, event = arrived
            # 1. After a long pause, the record finds the conversation sealed.
            if self.events or pending:
                finds_sealed = timestamp >= self.arrival_ms + seal_after_ms
            else:
                finds_sealed = self.seal_mark is not None
            if finds_sealed:
                self._append(pending)
                if not self._is_newest(event) or timestamp < self.arrival_ms + seal_after_ms:
                    # A timer seals only when every new record must have a later timestamp. So a
                    # record with an earlier timestamp was rejected before, and is read again.
                    received.too_late += (arrived,)
                    continue
                self._note_offsets(emission, received, recall)
                received.sealed += self._begin_new_history()
                if recall is not None:
                    recall.clear()
            # 2. The event can be a duplicate only if the bit of its id is set.
            bit = bit_of(event.id)
            known = None
            if self.seen & bit:
                recall = recall or Recall()
                known = self._find(event, pending, recall)
            arrival_ms = max(self.arrival_ms, timestamp)
            # 3. The fast path: the newest event advances the decision by one step.
            if (
                known is None
                and not (self.settled or self.fold.excluded)
                and event.is_live
                and (event.at > self.newest_at or self._is_next(event, received))
                and (self.due_arrival_ms is None or self.due_arrival_ms > arrival_ms)
                and (all_fit or self._fits(len(pending)))
            ):
                self.arrival_ms = arrival_ms
                pending.append((offset, event))
                if recall is not None:
                    recall.add(offset, event, self.fold)
                self._advance(event, bit, timeline, emission)
                continue
            # 4. The slow path: any other event may change an earlier decision.
            if known is not None:
                self._receive_again(timestamp, timeline, emission)
                received.note_repeated(offset, event, known)
                continue
            recall = recall or Recall()
            self._receive_unusual(arrived, bit, pending, timeline, emission, received, recall)
        self._append(pending)
        if self.fold.ended:
            received.note_end(batch)
        if emission.records:
            self._note_offsets(emission, received, recall)
            self.emitted = emission.emitted
            received.records = emission.records
        return received

    def settle(
        self, tenant_id: str, conversation_id: str, clock_ms: int, timeline: Timeline
    ) -> list[UsageRecord]:
        """Settle silence up to the arrival time `clock_ms`; return the usage records."""
        emission = Emission(tenant_id, conversation_id, self.charges, self.emitted)
        if self.due_arrival_ms is not None and self.due_arrival_ms <= clock_ms:
            self._settle(timeline, emission)
        self.emitted = emission.emitted
        return emission.records

    def _advance(self, event: Event, bit: int, timeline: Timeline, emission: Emission) -> None:
        """Advance the decision by an event that is newer than all earlier ones."""
        self.seen |= bit
        self.newest_at, self.newest_sequence = event.at, event.sequence
        self.newest_rank = event.rank
        is_inert = event.rank in INERT
        if is_inert and self.due_arrival_ms is None:
            return
        state = self.fold
        decided = len(state.transitions)
        state.settle(timeline, event.at)
        if not is_inert:
            state.apply(timeline, event)
        if len(state.transitions) > decided:
            for transition in state.transitions[decided:]:
                emission.emit(transition)
        if state.standing is None or state.charge is not None:  # as most often: nothing is due
            self.due_arrival_ms = None
            return
        self.due_arrival_ms = _due_arrival_ms(state, timeline)
        if self.due_arrival_ms is not None and self.due_arrival_ms <= self.arrival_ms:
            self._settle(timeline, emission)

    def _receive_again(self, timestamp: int, timeline: Timeline, emission: Emission) -> None:
        """Apply the arrival of a record whose event changes nothing by itself."""
        self.arrival_ms = max(self.arrival_ms, timestamp)
        if self.due_arrival_ms is not None and self.due_arrival_ms <= self.arrival_ms:
            self._settle(timeline, emission)

    def _receive_unusual(
        self,
        arrived: Arrived,
        bit: int,
        pending: list[tuple[int, Event]],
        timeline: Timeline,
        emission: Emission,
        received: Received,
        recall: Recall,
    ) -> None:
        """Apply a new event that the fast path does not handle."""
        offset, timestamp, event = arrived
        if self.seal_mark is not None and _order(event) <= self.seal_mark.newest:
            received.too_late += (arrived,)
            return
        if not self._fits(len(pending)):
            self._append(pending)
            if is_full(self.history, self.events):
                received.too_long += (arrived,)
                return
        self._receive_again(timestamp, timeline, emission)
        if self._is_newest(event):
            self.newest_at, self.newest_sequence, self.newest_rank = _order(event)
        self.seen |= bit
        recall.load(lambda: self.entries() + pending)
        pending.append((offset, event))
        self._decide_again(offset, event, timeline, emission, recall)

    def _decide_again(
        self, offset: int, event: Event, timeline: Timeline, emission: Emission, recall: Recall
    ) -> None:
        """Decide the whole history again and emit what the new decision changes (§4.1)."""
        before = [] if self.fold.excluded else list(self.fold.transitions)
        arrival_ms = self.arrival_ms
        is_comparable = True
        if self.settled:
            due_event_ms = self.fold.due_event_ms(timeline)
            # A state of a version that stored no rules may have been settled under other rules, by
            # which silence billed. Then only the units can be compared.
            is_comparable = due_event_ms is not None
            if due_event_ms is not None:
                before.append(self.fold.silence_transition(timeline, due_event_ms))
                # A timer may have settled the silence. Arrival time has then come this far, even if
                # no record shows it.
                arrival_ms = max(arrival_ms, due_event_ms + self.fold.grace_ms(timeline))

        sealed = None if self.seal_mark is None else self.seal_mark.fold
        self.fold = recall.decide_with(offset, event, self.fold, timeline, sealed)
        after = [] if self.fold.excluded else list(self.fold.transitions)
        self.settled = False
        self.due_arrival_ms = self.due_now(timeline)
        if self.due_arrival_ms is not None and self.due_arrival_ms <= arrival_ms:
            after.append(self._settled_transition(timeline))

        if is_comparable and _is_prefix(before, after):
            for transition in after[len(before) :]:
                emission.emit(transition)
        else:
            policy = self.fold.policy_for(timeline, event.at)
            emission.correct(after, self.fold.charge, event.id, self.arrival_ms, policy)

    def _settle(self, timeline: Timeline, emission: Emission) -> None:
        emission.emit(self._settled_transition(timeline))

    def _settled_transition(self, timeline: Timeline) -> Transition:
        """Mark the silence that is due as settled, and return its transition."""
        assert self.due_arrival_ms is not None
        due_event_ms = self.due_arrival_ms - self.fold.grace_ms(timeline)
        self.settled = True
        self.due_arrival_ms = None
        return self.fold.silence_transition(timeline, due_event_ms)

    # --- the newest event and the history ---------------------------------------------------------

    def _find(self, event: Event, pending: list[tuple[int, Event]], recall: Recall) -> Event | None:
        """Return the event of the same source and id that came before."""
        if not recall.is_worthwhile():
            self._append(pending)
            if not may_have(self.history, self.source, event):
                return None
            if has_same(self.history, self.source, event):
                return event
        recall.load(lambda: self.entries() + pending)
        return recall.find(event)

    def _note_offsets(self, emission: Emission, received: Received, recall: Recall | None) -> None:
        """Note the offsets of the evidence of the records that were emitted since the last call."""
        fresh = emission.records[len(received.offsets) :]
        received.offsets += self.offsets_of(fresh, recall)

    def _is_next(self, event: Event, received: Received) -> bool:
        received.note_tie(event, (self.newest_at, self.newest_sequence, self.newest_rank))
        return self._is_newest(event)

    def _is_newest(self, event: Event) -> bool:
        return _order(event) > (self.newest_at, self.newest_sequence, self.newest_rank)

    def _append(self, pending: list[tuple[int, Event]]) -> None:
        """Move the pending events to the end of the history."""
        if pending:
            if not self.source:
                self.source = pending[0][1].source
            self.history += encode_entries(pending, self.source)
            self.events += len(pending)
            pending.clear()

    def _fits(self, pending: int) -> bool:
        """Return whether one more event is sure to fit after the pending ones, however long it is."""
        return self.events + pending < ALWAYS_FIT_EVENTS or pending < capacity_of(
            self.history, self.events
        )

    # --- sealing ----------------------------------------------------------------------------------

    def seal(self) -> bool:
        """Drop the history and keep the fold; return False if the history is dropped already.

        Call this only if every record still to come would find the conversation sealed anyway.
        """
        if self.is_sealed:
            return False
        standing = self.fold.standing
        self.seal_mark = Seal(None if standing is None else self._offsets()[standing.event_id])
        self.fold.drop_transitions()
        self.history = b""
        self.events = self.seen = 0
        return True

    def _begin_new_history(self) -> bool:
        """Seal, and store where the history ended; return False if it was sealed already."""
        sealed_now = self.seal()
        assert self.seal_mark is not None
        self.seal_mark = Seal(
            self.seal_mark.answer_offset,
            self.newest_at,
            self.newest_sequence,
            self.newest_rank,
            _encode(self.fold),
        )
        return sealed_now


def _is_prefix(before: Sequence[Transition], after: Sequence[Transition]) -> bool:
    # Most lists share their transitions: they are compared at once.
    return len(before) <= len(after) and (
        before == after[: len(before)]
        or all(old.same_as(new) for old, new in zip(before, after, strict=False))
    )


def _order(event: Event) -> tuple[int, str, int]:
    return (event.at, event.sequence, event.rank)


def _due_arrival_ms(state: Fold, timeline: Timeline) -> int | None:
    due_event_ms = state.due_event_ms(timeline)
    return None if due_event_ms is None else due_event_ms + state.grace_ms(timeline)
