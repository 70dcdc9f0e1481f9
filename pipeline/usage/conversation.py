"""This file keeps one conversation and says what it owes: section 4 of the specification. Pure.

`receive` has two ways. Most events are newer than all before them and only move the fold on, which
its loop does; what is out of the ordinary (a late event, one outside `live`, one that may have come
before) takes its time, and folds the whole history again where it must. Both emit what the
specification's definition does, for every order of arrival and every size of batch: property tests
hold them against it.

**Sealing.** A conversation that nothing was heard of for `seal_after` (45 days unless set) is sealed:
its history is dropped, its fold is kept, and what came before is closed. The rule looks at nothing
but the log. A record finds its conversation sealed if its own timestamp is at least `seal_after`
past the newest timestamp that the conversation has seen. Then,

1. is its event newer than all that the conversation had, by (time, sequence, rank), it is taken in
   as any other, and a new history begins with it; from then on all that is not newer than the old
   history is too late, however soon it comes;
2. is it not, it is too late: it is not taken in and changes nothing at all, its arrival included. An
   event that comes again after that time is one of these, as its id is no longer known.

An event that is known in the present history is a duplicate whatever its time says. So events that
are not too late yield what they would if nothing was ever sealed, and 10,000 of them are a limit of
the present history.

`put_away` is the timer's: it drops the history without an event, once every record that may still
come finds the conversation sealed anyway. It gives memory back and decides nothing.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias
from zlib import crc32

import msgspec

from pipeline.events.model import (
    CLOSED,
    DELETED,
    EVENTS_IN_CONVERSATION_MAX,
    HISTORY_BYTES_MAX,
    REDACTED,
    REOPENED,
    STARTED,
    Event,
)
from pipeline.resolve.machine import Fold, Transition, fold, net_of
from pipeline.resolve.policy import Policy, Timeline
from pipeline.usage.record import Kind, UsageRecord

Arrival: TypeAlias = tuple[int, int, Event]  # the record's offset and timestamp, and its event

SEAL_AFTER_MS = 45 * 86_400_000

# Of these only the time matters, as long as they are `live`.
_INERT = frozenset({STARTED, CLOSED, REOPENED, REDACTED, DELETED})


class Live(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A record of +1 that no other supersedes."""

    outcome: str
    n: int
    kind: Kind
    policy: str
    policy_version: int


class Received(msgspec.Struct, frozen=True):
    """What was out of the ordinary among arrivals: all others were applied."""

    duplicates: int = 0
    too_long: tuple[Arrival, ...] = ()  # not taken in: the conversation is full
    too_late: tuple[Arrival, ...] = ()  # not taken in: older than what has been sealed
    sealed: int = 0  # histories dropped on the way


class Seal(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What stands in for a history that was dropped.

    While no new history has begun, its newest event and its fold are the conversation's own, and
    only `answer_offset` is told here.
    """

    answer_offset: int | None = None  # of the standing answer: later records may rest on it
    newest_at: int = 0  # of the dropped history's newest event, with the two below
    newest_sequence: str = ""
    newest_rank: int = 0
    fold: bytes = b""  # encoded: what comes later is folded upon it

    @property
    def newest(self) -> tuple[int, str, int]:
        return (self.newest_at, self.newest_sequence, self.newest_rank)


class _Identity(msgspec.Struct, frozen=True, gc=False):
    id: str = msgspec.field(name="i")  # as `Event` spells it


class _Place(msgspec.Struct, array_like=True, frozen=True, gc=False):
    offset: int
    event: _Identity


# An event's source is left out of its encoding where it is that of the first. It is found as bytes:
# its name, the head of a short string, and so many ASCII characters. Those cannot be part of a
# number, which has eight bytes, nor of another text, as that head never follows a letter in UTF-8.
_SHARED_MIN, _SHARED_MAX = 8, 31
_ENTRY_BYTES_MAX = 5_000  # four texts of 256 characters, and the rest
ALL_FIT_MAX = HISTORY_BYTES_MAX // _ENTRY_BYTES_MAX - 10  # so many more fit into a short state

ALL_APPLIED = Received()
_ANY_TIME = -(2**62)
_NEVER = 2**62
_BITS = tuple(1 << n for n in range(64))
_encode = msgspec.msgpack.Encoder().encode
_decode_entries = msgspec.msgpack.Decoder(list[tuple[int, Event]]).decode
_decode_places = msgspec.msgpack.Decoder(list[_Place]).decode
_decode_fold = msgspec.msgpack.Decoder(Fold).decode


@lru_cache(1_000)
def _shared_member(source: str) -> bytes | None:
    """Return a source as it stands in an event's encoding, or None where it must stay there."""
    if not (_SHARED_MIN <= len(source) <= _SHARED_MAX and source.isascii()):
        return None
    return b"\xa1s" + _encode(source)


def _encode_entries(entries: list[tuple[int, Event]]) -> bytes:
    # One after the other, without the array's own header.
    return _encode(entries)[1 if len(entries) < 16 else 3 :]


def _order(event: Event) -> tuple[int, str, int]:
    return (event.at, event.sequence, event.rank)


class Conversation(msgspec.Struct, array_like=True, gc=False):
    """What is kept of a conversation.

    `history` is the encoded events one after the other: it is appended to and searched as bytes,
    and decoded only when a late event needs it.
    """

    arrival: int = 0  # the highest record timestamp seen
    newest_at: int = -(2**62)  # of the newest event, with the two below
    newest_sequence: str = ""
    newest_rank: int = -1
    events: int = 0
    seen: int = 0  # a bit for each event's id: where it is not set, the event is new
    history: bytes = b""
    fold: Fold = msgspec.field(default_factory=Fold)
    settled: bool = False  # the standing answer's silence has been accounted for
    due_at: int | None = None  # the arrival time at which it will be: window and grace
    emitted: int = 0
    live: list[Live] = []
    seal: Seal | None = None
    source: str = ""  # of the first event: `history` does not repeat it

    @property
    def is_sealed(self) -> bool:
        """Say whether the history has been dropped and no new one has begun."""
        return self.seal is not None and not self.events

    @property
    def _is_full(self) -> bool:
        return self.events >= EVENTS_IN_CONVERSATION_MAX or len(self.history) >= HISTORY_BYTES_MAX

    def _room(self) -> int:
        """Return how many events are sure to be taken in, however long they are."""
        return min(
            EVENTS_IN_CONVERSATION_MAX - self.events,
            (HISTORY_BYTES_MAX - len(self.history)) // _ENTRY_BYTES_MAX,
        )

    def entries(self) -> list[tuple[int, Event]]:
        """Return (offset, event) for each event since the seal, in order of arrival."""
        return [
            (
                offset,
                event if event.source else msgspec.structs.replace(event, source=self.source),
            )
            for offset, event in _decode_entries(self._entries())
        ]

    def offsets_of(self, evidence: tuple[str, ...]) -> tuple[int, ...]:
        """Return the offset of the first arrival of each of these events, by id."""
        found: dict[str, int] = {}
        if self.seal is not None and self.seal.answer_offset is not None:
            # Of what was sealed, nothing but the answer that stood can be evidence for more.
            sealed = _decode_fold(self.seal.fold) if self.events else self.fold
            assert sealed.standing is not None
            found[sealed.standing.id] = self.seal.answer_offset
        for entry in _decode_places(self._entries()):
            found.setdefault(entry.event.id, entry.offset)
        return tuple([found[identity] for identity in evidence])

    def _entries(self) -> bytes:
        return b"\xdd" + self.events.to_bytes(4, "big") + self.history  # msgpack: an array

    # --- what moves it ----------------------------------------------------------------------------

    def receive(
        self,
        tenant_id: str,
        conversation: str,
        arrivals: Sequence[Arrival],
        timeline: Timeline,
        out: list[UsageRecord],
        seal_after: int = SEAL_AFTER_MS,
    ) -> Received:
        """Take in events in the order in which they arrived; append what is owed to `out`.

        Args:
            tenant_id: with `conversation`, whose conversation this is.
            conversation: its id.
            arrivals: offset and timestamp of each record, and its event.
            timeline: the tenant's policy.
            out: where usage records go, in their order.
            seal_after: how many milliseconds without a record seal the conversation.
        """
        emit = _Emission(self, tenant_id, conversation, out)
        duplicates = sealed = 0
        too_long: list[Arrival] = []
        too_late: list[Arrival] = []
        fold = self.fold
        fresh: list[tuple[int, Event]] = []
        newest: Event | None = None
        newest_at, seen, highest = self.newest_at, self.seen, self.arrival
        due, due_at = self._dues(timeline)
        made = len(fold.transitions)
        room = self._room()
        usual = not (self.settled or fold.excluded)
        # No record before this time can find the conversation sealed. It is not moved on with each
        # record but looked at again once it is reached.
        if self.events:
            seals_at = self.arrival + seal_after
        elif self.seal is None and arrivals:
            seals_at = arrivals[0][1] + seal_after
        else:
            seals_at = _ANY_TIME
        for arrival in arrivals:
            offset, timestamp, event = arrival
            at = event.at
            if timestamp >= seals_at:
                if timestamp >= highest + seal_after or (self.is_sealed and not fresh):
                    self._keep(fresh, newest, seen)
                    fresh, newest = [], None
                    # The first cannot be where histories are dropped in time: the record was refused
                    # before that, and comes again.
                    if timestamp < highest + seal_after or not self._is_newest(event, None):
                        too_late.append(arrival)
                        room = self._room()
                        continue
                    sealed += self.put_away()
                    self._begin_anew()
                    made = len(fold.transitions)
                    seen, room = 0, self._room()
                seals_at = max(highest, timestamp) + seal_after
            known = False
            bit = _BITS[crc32(event.id.encode()) & 63]
            if seen & bit:
                self._keep(fresh, newest, seen)
                fresh, room = [], self._room()
                known = self._knows(event)
            before = highest
            if timestamp > highest:  # noqa: PLR1730 - max() is a call, and this runs for each event
                highest = timestamp
            if (
                usual
                and not known
                and (at > newest_at or self._is_newest(event, newest))
                and due_at > highest
                and event.live
                and len(fresh) < room
            ):
                seen |= bit
                newest_at, newest = at, event
                fresh.append((offset, event))
                if due <= at:
                    fold.settle(timeline, at)
                    due = due_at = _NEVER
                if event.rank not in _INERT:
                    fold.apply(timeline, event)
                    if fold.standing is None or fold.count is not None:
                        due = due_at = _NEVER
                    else:
                        found = fold.due(timeline)
                        if found is None:
                            due = due_at = _NEVER
                        else:
                            due, due_at = found, found + fold.grace(timeline)
                if len(fold.transitions) > made:
                    for transition in fold.transitions[made:]:
                        emit.transition(transition)
                    made = len(fold.transitions)
                if due_at > highest:
                    continue
                self._keep(fresh, newest, seen)
                self._settle(timeline, due_at, emit)
            else:
                self._keep(fresh, newest, seen)
                self.due_at = None if due_at == _NEVER else due_at
                if not known and self.seal is not None and _order(event) <= self.seal.newest:
                    too_late.append(arrival)
                    highest = before
                elif not known and self._is_full:
                    too_long.append(arrival)
                    highest = before
                else:
                    self.arrival = highest
                    if due_at <= highest:
                        self._settle(timeline, due_at, emit)
                    if known:
                        duplicates += 1
                    else:
                        self._receive_unusual(offset, event, bit, timeline, emit)
            fold, fresh, newest = self.fold, [], None
            newest_at, seen = self.newest_at, self.seen
            due, due_at = self._dues(timeline)
            made = len(fold.transitions)
            room = self._room()
            usual = not (self.settled or fold.excluded)
        self._keep(fresh, newest, seen)
        self.arrival = highest
        self.due_at = None if due_at == _NEVER else due_at
        if duplicates or too_long or too_late or sealed:
            return Received(duplicates, tuple(too_long), tuple(too_late), sealed)
        return ALL_APPLIED

    def _dues(self, timeline: Timeline) -> tuple[int, int]:
        """Return when silence is complete, and when that is settled."""
        if self.due_at is None:
            return _NEVER, _NEVER
        due = self.fold.due(timeline)
        assert due is not None
        return due, self.due_at

    def _keep(self, fresh: list[tuple[int, Event]], newest: Event | None, seen: int) -> None:
        """Put down the events that the loop of `receive` holds in its hands."""
        if fresh:
            self.seen = seen
            if not self.source:
                self.source = fresh[0][1].source
            member = _shared_member(self.source)
            encoded = _encode_entries(fresh)
            self.history += encoded if member is None else encoded.replace(member, b"\xa1s\xa0")
            self.events += len(fresh)
        if newest is not None:
            self.newest_at = newest.at
            self.newest_sequence = newest.sequence
            self.newest_rank = newest.rank

    def _receive_unusual(
        self, offset: int, event: Event, bit: int, timeline: Timeline, emit: "_Emission"
    ) -> None:
        """Take in an event that may change what was decided, or comes after that was settled."""
        newer = self._is_newest(event, None)
        self._keep([(offset, event)], event if newer else None, self.seen | bit)
        self._refold(event, timeline, emit)

    def settle(
        self,
        tenant_id: str,
        conversation: str,
        clock: int,
        timeline: Timeline,
        out: list[UsageRecord],
    ) -> None:
        """Settle silence up to an arrival time that no record has brought: a timer's."""
        if self.due_at is not None and self.due_at <= clock:
            self._settle(timeline, self.due_at, _Emission(self, tenant_id, conversation, out))

    # --- sealing ----------------------------------------------------------------------------------

    def put_away(self) -> bool:
        """Drop the history and keep the fold; return False where that was done before.

        Every record that may still come must find the conversation sealed.
        """
        if self.is_sealed:
            return False
        standing = self.fold.standing
        self.seal = Seal(None if standing is None else self.offsets_of((standing.id,))[0])
        self.fold.forget()
        self.history = b""
        self.events = self.seen = 0
        return True

    def _begin_anew(self) -> None:
        """Put down where a sealed history ended, before the first event of the next."""
        assert self.seal is not None
        self.seal = Seal(
            self.seal.answer_offset,
            self.newest_at,
            self.newest_sequence,
            self.newest_rank,
            _encode(self.fold),
        )

    def _knows(self, event: Event) -> bool:
        # An id is one run of bytes in its event's encoding. Where the run is not found, the event
        # is new; where it is, it may be another source's or stand in another member's text, so
        # that the events are looked at.
        if b"\xa1i" + _encode(event.id) not in self.history:
            return False
        return any(
            known.id == event.id and known.source == event.source for _, known in self.entries()
        )

    def _is_newest(self, event: Event, newest: Event | None) -> bool:
        # Among those of one millisecond. Where this cannot tell, the history is folded again,
        # which is right for any order.
        if newest is not None:
            known = (newest.at, newest.sequence, newest.rank)
        else:
            known = (self.newest_at, self.newest_sequence, self.newest_rank)
        return _order(event) > known

    def _settle(self, timeline: Timeline, due_at: int, emit: "_Emission") -> None:
        due = due_at - self.fold.grace(timeline)
        emit.transition(self.fold.silence(timeline, due))
        self.settled = True
        self.due_at = None

    def _refold(self, event: Event, timeline: Timeline, emit: "_Emission") -> None:
        """Decide the whole history again, and bring what was emitted in line with it."""
        before = [] if self.fold.excluded else list(self.fold.transitions)
        arrival = self.arrival
        if self.settled:
            due = self.fold.due(timeline)
            assert due is not None
            before.append(self.fold.silence(timeline, due))
            # Where a timer settled it, arrival time had come so far, whatever records said.
            arrival = max(arrival, due + self.fold.grace(timeline))
        sealed = None if self.seal is None else _decode_fold(self.seal.fold)
        self.fold = fold((known for _, known in self.entries()), timeline, sealed)
        after = [] if self.fold.excluded else list(self.fold.transitions)
        self.settled = False
        self.due_at = None
        due = None if self.fold.excluded else self.fold.due(timeline)
        if due is not None and due + self.fold.grace(timeline) <= arrival:
            after.append(self.fold.silence(timeline, due))
            self.settled = True
        elif due is not None:
            self.due_at = due + self.fold.grace(timeline)
        if len(before) <= len(after) and all(
            old.same_as(new) for old, new in zip(before, after, strict=False)
        ):
            for transition in after[len(before) :]:
                emit.transition(transition)
        else:
            emit.corrections(after, event, self.arrival, self.fold.policy_for(timeline, event.at))


class _Emission:
    """Usage records of one conversation, numbered in their order."""

    __slots__ = ("_conversation", "_out", "_state", "_tenant_id")

    def __init__(
        self, state: Conversation, tenant_id: str, conversation: str, out: list[UsageRecord]
    ) -> None:
        self._state = state
        self._tenant_id = tenant_id
        self._conversation = conversation
        self._out = out

    def _id(self, n: int) -> str:
        return f"{self._tenant_id}:{self._conversation}:{n}"

    def transition(self, transition: Transition) -> None:
        """Emit a transition as it stands."""
        if transition.delta > 0:
            self._add(
                transition.outcome,
                transition.kind,
                transition.reason,
                transition.at,
                transition.evidence,
                transition.policy,
                transition.policy_version,
            )
        else:
            self._take_back(
                transition.outcome,
                transition.kind,
                transition.reason,
                transition.at,
                transition.evidence,
            )

    def corrections(
        self, after: list[Transition], event: Event, arrival: int, policy: Policy | None
    ) -> None:
        """Bring the net emitted to the net decided, one record a unit."""
        net = net_of(after)
        emitted: dict[str, int] = {}
        for live in self._state.live:
            emitted[live.outcome] = emitted.get(live.outcome, 0) + 1

        def order(outcome: str) -> tuple[int, str]:
            return (0 if policy is None else policy.rank_of(outcome), outcome)

        evidence = (event.id,)
        outcomes = sorted({*net, *emitted}, key=order)
        for outcome in outcomes:
            for _ in range(emitted.get(outcome, 0) - net.get(outcome, 0)):
                self._take_back(outcome, None, "late_event", arrival, evidence)
        count = self._state.fold.count
        for outcome in outcomes:
            for _ in range(net.get(outcome, 0) - emitted.get(outcome, 0)):
                rests_on = next(t for t in reversed(after) if t.outcome == outcome and t.delta > 0)
                kind = rests_on.kind
                if count is not None and count.outcome == outcome:
                    kind = count.kind
                self._add(
                    outcome,
                    kind,
                    "late_event",
                    arrival,
                    evidence,
                    rests_on.policy,
                    rests_on.policy_version,
                )

    def _add(
        self,
        outcome: str,
        kind: Kind,
        reason: str,
        at: int,
        evidence: tuple[str, ...],
        policy: str,
        version: int,
    ) -> None:
        state = self._state
        state.emitted += 1
        state.live.append(Live(outcome, state.emitted, kind, policy, version))
        self._record(outcome, 1, kind, reason, at, evidence, policy, version, None)

    def _take_back(
        self,
        outcome: str,
        kind: Kind | None,
        reason: str,
        at: int,
        evidence: tuple[str, ...],
    ) -> None:
        # It carries the policy of the record that it takes back: a unit goes at the price that
        # it came at.
        state = self._state
        place = max(i for i, live in enumerate(state.live) if live.outcome == outcome)
        taken = state.live.pop(place)
        state.emitted += 1
        self._record(
            outcome,
            -1,
            taken.kind if kind is None else kind,
            reason,
            at,
            evidence,
            taken.policy,
            taken.policy_version,
            self._id(taken.n),
        )

    def _record(
        self,
        outcome: str,
        quantity: int,
        kind: Kind,
        reason: str,
        at: int,
        evidence: tuple[str, ...],
        policy: str,
        version: int,
        supersedes: str | None,
    ) -> None:
        self._out.append(
            UsageRecord(
                id=self._id(self._state.emitted),
                tenant_id=self._tenant_id,
                conversation=self._conversation,
                outcome=outcome,
                quantity=quantity,
                kind=kind,
                reason=reason,
                occurred_at=at,
                policy=policy,
                policy_version=version,
                evidence=evidence,
                supersedes=supersedes,
            )
        )
