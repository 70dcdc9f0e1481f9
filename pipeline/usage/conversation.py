"""This file keeps one conversation and says what it owes: section 4 of the specification. Pure.

`receive` has two ways. Most events are newer than all before them and only move the fold on; what
is out of the ordinary (a late event, one outside `live`) folds the whole history again. Both
emit what the specification's definition does, for every order of arrival: a property test holds
them against it.
"""

from typing import Literal
from zlib import crc32

import msgspec

from pipeline.events.model import EVENTS_IN_CONVERSATION_MAX, Event
from pipeline.resolve.machine import Fold, Transition, fold, net_of
from pipeline.resolve.policy import Policy, Timeline
from pipeline.usage.record import Kind, UsageRecord

Receipt = Literal["applied", "duplicate", "conversation_too_long"]


class Live(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A record of +1 that no other supersedes."""

    outcome: str
    n: int
    kind: Kind
    policy: str
    policy_version: int


class _Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    offset: int
    event: Event


_encode = msgspec.msgpack.Encoder().encode
_decode_entries = msgspec.msgpack.Decoder(list[_Entry]).decode


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

    def entries(self) -> list[tuple[int, Event]]:
        """Return (offset, event) for each event, in order of arrival."""
        header = b"\xdd" + self.events.to_bytes(4, "big")  # msgpack: an array of that many
        return [(entry.offset, entry.event) for entry in _decode_entries(header + self.history)]

    def offsets_of(self, evidence: tuple[str, ...]) -> tuple[int, ...]:
        """Return the offset of the first arrival of each of these events, by id."""
        found: dict[str, int] = {}
        for offset, event in self.entries():
            if event.id in evidence:
                found.setdefault(event.id, offset)
        return tuple(found[identity] for identity in evidence)

    # --- what moves it ----------------------------------------------------------------------------

    def receive(
        self,
        tenantid: str,
        conversation: str,
        event: Event,
        offset: int,
        arrival: int,
        timeline: Timeline,
        out: list[UsageRecord],
    ) -> Receipt:
        """Take in one event of a record; append what is owed now to `out`.

        Args:
            tenantid: with `conversation`, whose conversation this is.
            conversation: its id.
            event: the event.
            offset: the record's offset.
            arrival: the record's timestamp.
            timeline: the tenant's policy.
            out: where usage records go, in their order.
        """
        bit = 1 << (crc32(event.id.encode()) & 63)
        duplicate = self.seen & bit != 0 and self._knows(event)
        if not duplicate and self.events >= EVENTS_IN_CONVERSATION_MAX:
            return "conversation_too_long"
        if arrival > self.arrival:  # noqa: PLR1730 - max() is a call, and this runs for each event
            self.arrival = arrival
        due_at = self.due_at
        if due_at is not None and due_at <= self.arrival:
            self._settle(timeline, _Emission(self, tenantid, conversation, out))
        if duplicate:
            return "duplicate"
        self.seen |= bit
        self.history += _encode((offset, event))
        self.events += 1
        at = event.at
        newer = at > self.newest_at or (at == self.newest_at and self._is_newest(event))
        if newer:
            self.newest_at = at
            self.newest_sequence = event.sequence
            self.newest_rank = event.rank
        fold = self.fold
        if not newer or self.settled or not event.live or fold.excluded:
            self._refold(event, timeline, _Emission(self, tenantid, conversation, out))
            return "applied"
        known = len(fold.transitions)
        if fold.standing is not None and fold.count is None:
            fold.settle(timeline, at)
        fold.apply(timeline, event)
        if len(fold.transitions) > known:
            emit = _Emission(self, tenantid, conversation, out)
            for transition in fold.transitions[known:]:
                emit.transition(transition)
        if fold.standing is None or fold.count is not None:
            self.due_at = None
        else:
            self.due_at = due_at = fold.due(timeline, with_grace=True)
            if due_at is not None and due_at <= self.arrival:
                self._settle(timeline, _Emission(self, tenantid, conversation, out))
        return "applied"

    def settle(
        self,
        tenantid: str,
        conversation: str,
        clock: int,
        timeline: Timeline,
        out: list[UsageRecord],
    ) -> None:
        """Settle silence up to an arrival time that no record has brought: a timer's."""
        if self.due_at is not None and self.due_at <= clock:
            self._settle(timeline, _Emission(self, tenantid, conversation, out))

    def _knows(self, event: Event) -> bool:
        # An id is one run of bytes in its event's encoding. Where the run is not found, the event
        # is new; where it is, it may be another source's or stand in another member's text, so
        # that the events are looked at.
        if b"\xa1i" + _encode(event.id) not in self.history:
            return False
        return any(
            known.id == event.id and known.source == event.source for _, known in self.entries()
        )

    def _is_newest(self, event: Event) -> bool:
        # Among those of one millisecond. Where this cannot tell, the history is folded again,
        # which is right for any order.
        return (event.sequence, event.rank) > (self.newest_sequence, self.newest_rank)

    def _settle(self, timeline: Timeline, emit: "_Emission") -> None:
        assert self.due_at is not None
        due = self.due_at - self._grace(timeline)
        emit.transition(self.fold.silence(timeline, due))
        self.settled = True
        self.due_at = None

    def _grace(self, timeline: Timeline) -> int:
        assert self.fold.standing is not None
        policy = timeline.at(self.fold.standing.at)
        assert policy is not None
        return policy.grace

    def _refold(self, event: Event, timeline: Timeline, emit: "_Emission") -> None:
        """Decide the whole history again, and bring what was emitted in line with it."""
        before = [] if self.fold.excluded else list(self.fold.transitions)
        settled_until = None
        if self.settled:
            settled_until = self.fold.due(timeline)
            assert settled_until is not None
            before.append(self.fold.silence(timeline, settled_until))
        self.fold = fold((known for _, known in self.entries()), timeline)
        after = [] if self.fold.excluded else list(self.fold.transitions)
        self.settled = False
        self.due_at = None
        due = None if self.fold.excluded else self.fold.due(timeline)
        if due is not None and (
            due + self._grace(timeline) <= self.arrival
            or (settled_until is not None and due <= settled_until)
        ):
            after.append(self.fold.silence(timeline, due))
            self.settled = True
        elif due is not None:
            self.due_at = due + self._grace(timeline)
        if len(before) <= len(after) and all(
            old.same_as(new) for old, new in zip(before, after, strict=False)
        ):
            for transition in after[len(before) :]:
                emit.transition(transition)
        else:
            emit.corrections(after, event, self.arrival, self.fold.policy_for(timeline, event.at))


class _Emission:
    """Usage records of one conversation, numbered in their order."""

    __slots__ = ("_conversation", "_out", "_state", "_tenantid")

    def __init__(
        self, state: Conversation, tenantid: str, conversation: str, out: list[UsageRecord]
    ) -> None:
        self._state = state
        self._tenantid = tenantid
        self._conversation = conversation
        self._out = out

    def _id(self, n: int) -> str:
        return f"{self._tenantid}:{self._conversation}:{n}"

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
                tenantid=self._tenantid,
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
