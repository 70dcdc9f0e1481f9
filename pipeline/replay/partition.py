"""Replay one partition of the events topic through the pure stages. Pure.

Only the stages `events`, `resolve` and `usage`, which define what an event means, run here. The code
of the worker and the sink does not, so that their mistakes cannot hide.
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeAlias

import msgspec

from pipeline.events.model import Addressed, Event, Reason, Rejected
from pipeline.events.signature import KeyRing, verify
from pipeline.events.times import format_time
from pipeline.events.wire import read_record
from pipeline.kafka.partitioners import KeyCheck
from pipeline.ledger.findings import Finding
from pipeline.resolve.policy import Timeline
from pipeline.usage.conversation import SEAL_AFTER_MS, Conversation
from pipeline.usage.received import Reused
from pipeline.usage.record import UsageRecord

TimelineFor: TypeAlias = Callable[[str], Timeline]
Place: TypeAlias = tuple[str, str]  # tenant and conversation


class Timelines(NamedTuple):
    """Of a tenant: what its worker decides by, and what is owed by, as rebill plans amended it."""

    decided: Timeline
    owed: Timeline


class ReplayedConversation(msgspec.Struct):
    """A conversation after its last event in the log.

    The first `owed_count` records of `emitted` follow from events that the worker has committed:
    the ledger must have them. The others are optional: the worker may or may not have written them.
    """

    tenant_id: str
    conversation_id: str
    conversation: Conversation
    emitted: list[UsageRecord]
    owed_count: int = 0
    is_committed: bool = True  # the worker has committed its last event
    sealed: list[tuple[int, Event]] = []  # offset and event, of sealed histories
    late: list[tuple[int, Event]] = []  # offset and event, of events that came too late

    @property
    def place(self) -> Place:
        return (self.tenant_id, self.conversation_id)

    def entries(self) -> list[tuple[int, Event]]:
        """Return offset and event of all applied events, in order of arrival."""
        return self.sealed + self.conversation.entries()

    @property
    def is_judged_as_a_whole(self) -> bool:
        """Whether the whole history decides what is owed, instead of what the worker emitted.

        A worker leaves out events that came too late. It also applies an event a second time if a
        seal has dropped the history with the first.
        """
        if self.late or not self.sealed:
            return bool(self.late)
        entries = self.entries()
        return len({(event.source, event.id) for _, event in entries}) < len(entries)

    def whole_history(self) -> list[Event]:
        """Return every event of the log, including those that came too late, one per identity.

        The first arrival of an identity counts (docs/reference/outcomes.md §1.2).
        """
        first: dict[tuple[str, str], Event] = {}
        for _, event in sorted(self.entries() + self.late, key=lambda entry: entry[0]):
            first.setdefault((event.source, event.id), event)
        return list(first.values())

    def add_late(self, offset: int, event: Event) -> None:
        """Remember an event that came too late, unless it is a duplicate."""
        identity = (event.source, event.id)
        if all((known.source, known.id) != identity for _, known in self.entries() + self.late):
            self.late.append((offset, event))

    def settled(self, timeline: Timeline, now: int) -> "ReplayedConversation":
        """Return a copy in which the windows that have ended by `now` are settled."""
        due = self.conversation.due_arrival_ms
        if due is None or due > now:
            return self
        conversation, emitted = copy.deepcopy(self.conversation), list(self.emitted)
        emitted += conversation.settle(self.tenant_id, self.conversation_id, now, timeline)
        return msgspec.structs.replace(self, conversation=conversation, emitted=emitted)


class PartitionReplay:
    """The decisions of one partition. Call `take` with each record, in the order of the offsets.

    Args:
        committed: the worker's committed offset.
        timeline_for: the policies of a tenant, as a worker decides by them.
        keys: keys of the producers, if the catalog has any.
        seal_after_ms: the worker's setting.
        is_whole: retention has not deleted the partition's first record yet.
        unauthorized_offsets: records with a dead letter `not_authorized`. The worker's decision
            is final, even if today's keys differ.
        misplaced_offsets: records with a dead letter `wrong_partition`, likewise.
        dead_letters_are_whole: retention has not deleted any dead letter yet. If it may have, a
            conversation is uncertain when one of its events fits none of today's keys.
        key_check: where the key of a record belongs.
        owed_timeline_for: the policies of a tenant as rebill plans amended them, if any did.
    """

    def __init__(
        self,
        committed: int,
        timeline_for: TimelineFor,
        keys: KeyRing | None = None,
        seal_after_ms: int = SEAL_AFTER_MS,
        *,
        is_whole: bool = True,
        unauthorized_offsets: AbstractSet[int] = frozenset(),
        misplaced_offsets: AbstractSet[int] = frozenset(),
        dead_letters_are_whole: bool = True,
        key_check: KeyCheck | None = None,
        owed_timeline_for: TimelineFor | None = None,
    ) -> None:
        self._timeline_for = timeline_for
        self._owed_timeline_for = owed_timeline_for or timeline_for
        self.is_whole = is_whole
        self.read = 0
        self.dead_letters = 0
        self.rejected: dict[int, Reason] = {}  # offset → why, of committed records
        self.events: Counter[str] = Counter()  # by tenant
        self.duplicates: Counter[str] = Counter()
        self.uncertain: set[Place] = set()
        self.reused_ids: list[Finding] = []  # in the order of the offsets
        self._left_out: dict[Place, set[str]] = {}  # ids of valid events that were rejected
        self._conversations: dict[bytes, ReplayedConversation] = {}
        self._committed = committed
        self._keys = keys
        self._seal_after_ms = seal_after_ms
        self._unauthorized_offsets = unauthorized_offsets
        self._misplaced_offsets = misplaced_offsets
        self._dead_letters_are_whole = dead_letters_are_whole
        self._key_check = key_check

    def conversations(self) -> Sequence[ReplayedConversation]:
        """Return all conversations of the partition, in order of their first event."""
        return list(self._conversations.values())

    def timelines(self, tenant_id: str) -> Timelines:
        return Timelines(self._timeline_for(tenant_id), self._owed_timeline_for(tenant_id))

    def shown(self, place: Place) -> set[str]:
        """Return the ids of a conversation's events in the log, accepted or not."""
        ids = self._left_out.get(place, set())
        replayed = self._conversations.get(":".join(place).encode())
        if replayed is None:
            return ids
        return ids | {event.id for _, event in replayed.entries() + replayed.late}

    def take(
        self,
        offset: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> None:
        """Apply a record of the events topic."""
        self.read += 1
        valid = addressed = read_record(value, key, timestamp, headers)
        if not isinstance(addressed, Rejected):
            addressed = self._authorized(offset, timestamp, addressed, key, value, headers)
        if not isinstance(addressed, Rejected):
            addressed = self._placed(offset, addressed, key)
        if isinstance(addressed, Rejected):
            if not isinstance(valid, Rejected):
                self._leave_out((valid.tenant_id, valid.conversation_id), valid.event)
            self._reject(offset, addressed.reason)
            return
        assert key is not None
        replayed = self._conversations.get(key)
        if replayed is None:
            replayed = ReplayedConversation(
                addressed.tenant_id, addressed.conversation_id, Conversation(), []
            )
            self._conversations[key] = replayed
        replayed.is_committed = offset < self._committed
        self._apply(replayed, offset, timestamp, addressed.event)

    def _apply(
        self, replayed: ReplayedConversation, offset: int, timestamp: int, event: Event
    ) -> None:
        conversation = replayed.conversation
        is_quiet = timestamp >= conversation.arrival_ms + self._seal_after_ms
        history = conversation.entries() if is_quiet else []
        received = conversation.receive(
            replayed.tenant_id,
            replayed.conversation_id,
            [(offset, timestamp, event)],
            self._timeline_for(replayed.tenant_id),
            self._seal_after_ms,
        )
        replayed.emitted += received.records
        if received.sealed:
            replayed.sealed += history
        if received.too_late:
            replayed.add_late(offset, event)
            self._reject(offset, "too_late")
        elif received.too_long:
            self._leave_out(replayed.place, event)
            self._reject(offset, "conversation_too_long")
        else:
            for reused in received.reused:
                self._note_reused(replayed, reused)
            if replayed.sealed or replayed.late:
                self._compare_with_sealed(replayed, offset, event)
            self.events[replayed.tenant_id] += 1
            self.duplicates[replayed.tenant_id] += received.duplicates
            if offset < self._committed:
                replayed.owed_count = len(replayed.emitted)

    def _compare_with_sealed(
        self, replayed: ReplayedConversation, offset: int, event: Event
    ) -> None:
        """Note an event whose id another event had before a seal: the worker has forgotten it."""
        for _, known in replayed.sealed + replayed.late:
            if (known.source, known.id) == (event.source, event.id) and known != event:
                self._note_reused(replayed, Reused(offset, event, known))
                return

    def _note_reused(self, replayed: ReplayedConversation, reused: Reused) -> None:
        event, first = reused.event, reused.first
        detail = (
            f"offset {reused.offset}: {event.source} {event.id} is {event.type} of "
            f"{format_time(event.at)}, and was {first.type} of {format_time(first.at)} before: only "
            "the first event counts; give each event an id of its own"
        )
        self.reused_ids.append(Finding("reused_id", *replayed.place, detail, event.at))

    def _authorized(
        self,
        offset: int,
        timestamp: int,
        addressed: Addressed,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> Addressed | Rejected:
        is_committed = offset < self._committed
        if is_committed and offset in self._unauthorized_offsets:
            return Rejected("not_authorized", "")
        keys = None if self._keys is None else self._keys.at(timestamp)
        if keys is None:
            return addressed
        rejected = verify(keys, addressed.tenant_id, key, value, headers)
        if rejected is None or not is_committed:
            return rejected or addressed
        # The worker accepted it: the keys were different then, or no signature was required.
        if not self._dead_letters_are_whole:
            self.uncertain.add((addressed.tenant_id, addressed.conversation_id))
        return addressed

    def _placed(self, offset: int, addressed: Addressed, key: bytes | None) -> Addressed | Rejected:
        """Check the record's partition. The worker's decision stands, whatever the setting is today."""
        is_committed = offset < self._committed
        if is_committed and offset in self._misplaced_offsets:
            return Rejected("wrong_partition", "")
        if self._key_check is None or key is None:
            return addressed
        rejected = self._key_check.misplaced(key)
        if rejected is None or not is_committed:
            return rejected or addressed
        if not self._dead_letters_are_whole:
            self.uncertain.add((addressed.tenant_id, addressed.conversation_id))
        return addressed

    def _leave_out(self, place: Place, event: Event) -> None:
        self._left_out.setdefault(place, set()).add(event.id)

    def _reject(self, offset: int, reason: Reason) -> None:
        self.dead_letters += 1
        if offset < self._committed:
            self.rejected[offset] = reason
