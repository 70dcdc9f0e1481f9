"""Apply a batch of records to one partition's conversations, in memory. Pure.

A partition holds the state of each of its conversations in its stored form. It returns what must be
written (`BatchResult`); others write it.

When a record can still be rejected after its event was read:

====================  ==================================================  =======================
where                 why                                                 reason
====================  ==================================================  =======================
`verify`              its signature is missing, wrong or not the tenant's  `not_authorized`
`check_record`        its key or its time contradicts its event            `key_mismatch`, `future_time`
`Conversation`        the conversation takes no more events                `conversation_too_long`
`Conversation`        the event is older than a sealed history             `too_late`
====================  ==================================================  =======================
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline.events.model import Rejected
from pipeline.events.signature import Key, verify
from pipeline.events.wire import check_record, read_event
from pipeline.kafka.headers import DeadLetter
from pipeline.resolve.policy import Timeline
from pipeline.stream.batch import BatchResult, Output, PendingConversation, Record
from pipeline.stream.due_queue import DueQueue
from pipeline.stream.state import (
    check_form,
    decode_state,
    due_arrival_ms_of,
    encode_state,
    is_sealed,
    last_arrival_ms_of,
    newest,
    next_offset_of,
)
from pipeline.usage.conversation import SEAL_AFTER_MS, Conversation, Received
from pipeline.usage.record import Origin, UsageRecord, encode_origin, encode_record

# The due queue keeps entries of conversations that were decided before their window's end. It is
# built again when they are more than so many, and more than that part of the conversations.
_STALE_ENTRIES_MAX, _STALE_ENTRIES_PART = 1_000, 8
# Parts of `seal_after_ms`. A history is dropped only once no broker's clock can be so far behind the
# one that was read that a record with an earlier timestamp still comes: a day after 45 of them.
_SEAL_SLACK_PART = 45
_SEAL_BUCKET_PART = 6480  # ten minutes of 45 days

_TOO_LONG = Rejected(
    "conversation_too_long", "subject: the conversation has 10,000 events, or 3 MiB of them"
)
_TOO_LATE = Rejected(
    "too_late", "time: is not after the newest event of the conversation's sealed history"
)

TimelineFor = Callable[[str], Timeline]


class Partition:
    """The conversations of one partition of the events topic."""

    def __init__(
        self,
        topic: str,
        number: int,
        timeline_for: TimelineFor,
        keys: Mapping[str, Key] | None = None,
        seal_after_ms: int = SEAL_AFTER_MS,
    ) -> None:
        self.topic = topic
        self.number = number
        self.states: dict[bytes, bytes] = {}
        self.due_queue = DueQueue()
        self.open_conversations = 0  # those with a window ahead
        self.is_recovered = False
        self._seal_after_ms = seal_after_ms
        self._seal_slack_ms = seal_after_ms // _SEAL_SLACK_PART
        self._seal_bucket_ms = max(1, seal_after_ms // _SEAL_BUCKET_PART)
        self.seal_queue = DueQueue(self._seal_bucket_ms)  # each conversation with a history, once
        self._timeline_for = timeline_for
        self._keys = keys or None  # of producers; None: every record of the topic is trusted
        self._timelines: dict[str, Timeline] = {}

    # --- recovery ---------------------------------------------------------------------------------

    def restore(self, records: Iterable[Record]) -> None:
        """Take in records of the changelog; of two versions of a state the newest is kept.

        Raises:
            UnknownStateError: a newer version of resmeter wrote one of the states.
        """
        states = self.states
        for record in records:
            key, stored = record.key, record.value
            if not key:  # a reading of the broker's clock
                continue
            if stored is None:
                states.pop(key, None)
            else:
                check_form(stored, key)
                states[key] = newest(stored, states.get(key))

    def schedule_all(self) -> None:
        """Fill both queues from the states: when recovery is over."""
        self.is_recovered = True
        self.due_queue = DueQueue()
        self.seal_queue = DueQueue(self._seal_bucket_ms)
        for key, stored in self.states.items():
            due_ms = due_arrival_ms_of(stored)
            if due_ms is not None:
                self.due_queue.add(key, due_ms)
            if not is_sealed(stored):
                self.seal_queue.add(key, self._droppable_at_ms(last_arrival_ms_of(stored)))
        self.open_conversations = len(self.due_queue)

    # --- records ----------------------------------------------------------------------------------

    def apply(self, records: Iterable[Record]) -> BatchResult:
        """Apply records in the order of their offsets.

        The records may be made while they are looped over: none is kept but for a dead letter. The
        outputs of one conversation are in order; those of two conversations may come in any order.

        Raises:
            BrokenInvariantError: never for bad input: that ends in the dead letters.
        """
        result = BatchResult()
        batch: dict[bytes, PendingConversation] = {}
        for record in records:
            result.records_read += 1
            rejected = self._read(record, batch, result)
            if rejected is not None:
                self._reject(result, record, rejected)
        for key, pending in batch.items():
            if pending.arrived:
                self._receive(result, key, pending)
                pending.arrived.clear()  # while the processor's cache holds them
        stale_max = len(self.states) // _STALE_ENTRIES_PART + _STALE_ENTRIES_MAX
        if len(self.due_queue) > 2 * self.open_conversations + stale_max:
            # No timer has run for long, as the partition is behind.
            self.schedule_all()
        return result

    def _read(
        self, record: Record, batch: dict[bytes, PendingConversation], result: BatchResult
    ) -> Rejected | None:
        """Read a record and add its event to its conversation, or say why it is rejected."""
        key, timestamp = record.key, record.timestamp
        found = read_event(record.value, record.headers)
        if type(found) is Rejected:
            return found
        tenant_id, conversation_id, event = found.tenant_id, found.conversation_id, found.event
        if self._keys is not None:
            forged = verify(self._keys, tenant_id, key, record.value, record.headers)
            if forged is not None:
                return forged
        pending = None if key is None else batch.get(key)
        if (
            pending is None
            or pending.conversation_id != conversation_id
            or pending.tenant_id != tenant_id
            or event.at > timestamp
        ):
            rejected = check_record(found, key, timestamp)
            if rejected is not None:
                return rejected
            if pending is None:
                assert key is not None
                stored = self.states.get(key)
                pending = batch[key] = PendingConversation(
                    tenant_id, conversation_id, stored, timestamp, self._seal_after_ms
                )
        if record.offset < pending.next_offset:
            result.redelivered += 1
            return None
        pending.add(record, event)
        result.events_by_type[event.rank] += 1
        return None

    def _receive(self, result: BatchResult, key: bytes, pending: PendingConversation) -> None:
        """Give a conversation its events, emit what it owes, and store it."""
        stored, arrived = pending.stored, pending.arrived
        conversation = Conversation() if stored is None else decode_state(stored)
        timeline = self._timeline(pending.tenant_id)
        # Where a history may be dropped on the way, the offsets of the evidence are known only
        # between two records.
        parts = [[one] for one in arrived] if pending.may_be_sealed else [arrived]
        rejected: set[int] = set()
        for part in parts:
            received = conversation.receive(
                pending.tenant_id, pending.conversation_id, part, timeline, self._seal_after_ms
            )
            if received.records:
                self._emit(result, conversation, received.records)
            result.duplicates += received.duplicates
            result.histories_sealed += received.sealed
            if received.too_long or received.too_late:
                rejected |= self._reject_arrived(result, pending, received)
        if rejected:
            arrived = [one for one in arrived if one[0] not in rejected]
        if arrived:
            self._store(result, key, conversation, arrived[-1][0] + 1)

    def _reject_arrived(
        self, result: BatchResult, pending: PendingConversation, received: Received
    ) -> set[int]:
        """Make dead letters of what a conversation did not take in; return the offsets."""
        offsets: set[int] = set()
        for arrived, rejected in ((received.too_long, _TOO_LONG), (received.too_late, _TOO_LATE)):
            for offset, _, event in arrived:
                self._reject(result, pending.rejectable[offset], rejected)
                result.events_by_type[event.rank] -= 1
                offsets.add(offset)
        return offsets

    def _reject(self, result: BatchResult, record: Record, rejected: Rejected) -> None:
        result.dead_letters.append(DeadLetter.of(record, self.topic, self.number, rejected))

    # --- timers -----------------------------------------------------------------------------------

    def earliest_ms(self, *, seals: bool) -> int | None:
        """Return an arrival time before which `settle`, and `seal` if asked for, do nothing."""
        due_ms = self.due_queue.earliest()
        seal_ms = self.seal_queue.earliest() if seals else None
        return min((at for at in (due_ms, seal_ms) if at is not None), default=None)

    def settle(self, clock_ms: int, limit: int) -> BatchResult:
        """Settle the silence that was complete at an arrival time that no record has brought.

        Args:
            clock_ms: the watermark: no record before this time is still to come.
            limit: about how many conversations to settle at once.
        """
        result = BatchResult()
        for key in self.due_queue.take(clock_ms, limit):
            stored = self.states.get(key)
            due_ms = None if stored is None else due_arrival_ms_of(stored)
            if stored is None or due_ms is None:
                continue
            if due_ms > clock_ms:
                self.due_queue.add(key, due_ms)
                continue
            tenant_id, _, conversation_id = key.decode().partition(":")
            conversation = decode_state(stored)
            records = conversation.settle(
                tenant_id, conversation_id, clock_ms, self._timeline(tenant_id)
            )
            self._emit(result, conversation, records)
            self._store(result, key, conversation, next_offset_of(stored))
        return result

    def seal(self, clock_ms: int, limit: int) -> BatchResult:
        """Drop the histories of conversations that were quiet for long. It decides nothing.

        Call it only where the broker sets the timestamps of records. Where producers set them, a
        record may still come whose own timestamp finds the conversation not sealed yet.
        """
        result = BatchResult()
        for key in self.seal_queue.take(clock_ms, limit):
            stored = self.states.get(key)
            if stored is None or is_sealed(stored):
                continue
            droppable_at_ms = self._droppable_at_ms(last_arrival_ms_of(stored))
            if droppable_at_ms > clock_ms:
                self.seal_queue.add(key, droppable_at_ms)
                continue
            conversation = decode_state(stored)
            result.histories_sealed += conversation.seal()
            self._store(result, key, conversation, next_offset_of(stored))
        return result

    def _droppable_at_ms(self, last_arrival_ms: int) -> int:
        # The end of a bucket, so that nothing taken from a bucket has to be put back into it.
        earliest_ms = last_arrival_ms + self._seal_after_ms + self._seal_slack_ms
        return earliest_ms - earliest_ms % -self._seal_bucket_ms

    # --- records and timers -----------------------------------------------------------------------

    def _timeline(self, tenant_id: str) -> Timeline:
        timeline = self._timelines.get(tenant_id)
        if timeline is None:
            timeline = self._timelines[tenant_id] = self._timeline_for(tenant_id)
        return timeline

    def _emit(
        self, result: BatchResult, conversation: Conversation, records: Sequence[UsageRecord]
    ) -> None:
        for record in records:
            offsets = conversation.offsets_of(record.evidence)
            origin = encode_origin(Origin(self.topic, self.number, offsets))
            result.outputs.append(
                Output(record.tenant_id.encode(), encode_record(record), origin, record)
            )

    def _store(
        self, result: BatchResult, key: bytes, conversation: Conversation, next_offset: int
    ) -> None:
        due_ms = conversation.due_arrival_ms
        stored = encode_state(next_offset, conversation)
        before = self.states.get(key)
        known_due_ms = None if before is None else due_arrival_ms_of(before)
        was_sealed = before is None or is_sealed(before)
        self.open_conversations += (due_ms is not None) - (known_due_ms is not None)
        if due_ms is not None and (known_due_ms is None or known_due_ms > due_ms):
            self.due_queue.add(key, due_ms)
        if was_sealed and not conversation.is_sealed:
            self.seal_queue.add(key, self._droppable_at_ms(conversation.arrival_ms))
        self.states[key] = stored
        result.states.append((key, stored))
