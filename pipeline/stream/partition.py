"""Apply a batch of records to one partition's conversations, in memory. Pure.

A partition holds the state of each of its conversations in its stored form. It returns what must be
written (`BatchResult`), and the runner writes it.

A record can still be rejected after its event was read:

==============  ============================================  =============================
by              because                                       reason
==============  ============================================  =============================
`verify`        the signature is missing or wrong, or its     `not_authorized`
                key is not valid for the tenant
`check_record`  the key or timestamp contradicts the event    `key_mismatch`, `future_time`
`KeyCheck`      the topic's partitioner puts it elsewhere     `wrong_partition`
`Conversation`  the conversation takes no more events         `conversation_too_long`
`Conversation`  the event is not after the sealed history     `too_late`
==============  ============================================  =============================
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import cache
from itertools import islice

from pipeline.events.model import Rejected
from pipeline.events.signature import KeyRing, signer_of, verify
from pipeline.events.wire import check_record, read_event
from pipeline.kafka.headers import OTHER_SOURCE, DeadLetter
from pipeline.kafka.partitioners import KeyCheck
from pipeline.resolve.policy import Timeline
from pipeline.stream.basis import NO_PROMISE, Basis, Promise
from pipeline.stream.batch import BatchResult, Output, PendingConversation, Record, in_parts
from pipeline.stream.due_queue import DueQueue, SealTimes
from pipeline.stream.recovery import Recovery
from pipeline.stream.state import (
    decode_state,
    due_arrival_ms_of,
    encode_state,
    is_sealed,
    last_arrival_ms_of,
    next_offset_of,
)
from pipeline.usage.conversation import SEAL_AFTER_MS, Conversation
from pipeline.usage.recall import Recall
from pipeline.usage.received import Arrived, Received
from pipeline.usage.record import UsageRecord

# A conversation that is decided before its window ends leaves a stale entry in the due queue. The
# queue is rebuilt when it may have more stale entries than this number plus this part (an eighth)
# of the conversations.
_STALE_ENTRIES_MAX, _STALE_ENTRIES_PART = 1_000, 8

_TOO_LONG = Rejected(
    "conversation_too_long", "subject: the conversation has 10,000 events, or 3 MiB of them"
)
_TOO_LATE = Rejected(
    "too_late", "time: is not after the newest event of the conversation's sealed history"
)

TimelineFor = Callable[[str], Timeline]

# What one step of `applying` does at most, in about ten milliseconds. An event may be late.
_STEP_RECORDS, _STEP_CONVERSATIONS, _STEP_EVENTS = 1_000, 100, 32


class Partition:
    """The conversations of one partition of the events topic."""

    def __init__(
        self,
        topic: str,
        number: int,
        timeline_for: TimelineFor,
        keys: KeyRing | None = None,
        seal_after_ms: int = SEAL_AFTER_MS,
        key_check: KeyCheck | None = None,
    ) -> None:
        self.topic = topic
        self.number = number
        self.states: dict[bytes, bytes] = {}
        self.due_queue = DueQueue()
        self.open_conversations = 0  # those whose window has not ended
        self.is_recovered = False
        self.basis: Basis | None = None  # what the states were made from
        self._seal_after_ms = seal_after_ms
        self._seal_times = SealTimes(seal_after_ms)
        self.seal_queue = self._seal_times.new_queue()  # each conversation with a history once
        self._key_check = key_check  # None: keys are on the right partition
        self._recovery = Recovery()
        self.step_overs = self._recovery.step_overs
        self.follow(timeline_for, keys)

    def follow(self, timeline_for: TimelineFor, keys: KeyRing | None) -> None:
        """Decide by these policies and keys from now on. Without keys, every record is trusted."""
        self._timeline = cache(timeline_for)
        self._keys = keys if keys is not None and keys.requires_signatures else None

    @property
    def promise(self) -> Promise:
        """The silence that timers have promised to settle."""
        return NO_PROMISE if self.basis is None else self.basis.promise

    # --- recovery ---------------------------------------------------------------------------------

    def restore(self, records: Iterable[Record]) -> None:
        """Restore states from records of the changelog; keep the newest version of each.

        Raises:
            UnknownStateError: a newer version of resmeter wrote one of the states, or no worker did.
        """
        self.basis = self._recovery.read(records, self.states, self.basis)

    def take_behind(self) -> BatchResult:
        """Return the states that must be written again, because an older version follows them."""
        return self._recovery.take_behind(self.states, self.basis)

    def schedule_all(self) -> None:
        """Mark the partition as recovered, and fill both queues from its states."""
        self.is_recovered = True
        self.due_queue = DueQueue()
        self.seal_queue = self._seal_times.new_queue()
        for key, stored in self.states.items():
            due_ms = due_arrival_ms_of(stored)
            if due_ms is not None:
                self.due_queue.add(key, due_ms)
            if not is_sealed(stored):
                self.seal_queue.add(
                    key, self._seal_times.droppable_at_ms(last_arrival_ms_of(stored))
                )
        self.open_conversations = len(self.due_queue)

    # --- records ----------------------------------------------------------------------------------

    def apply(self, records: Iterable[Record]) -> BatchResult:
        """Apply records in the order of their offsets: all the steps of `applying` at once."""
        steps = self.applying(records)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: BatchResult = end.value
                return result

    def applying(self, records: Iterable[Record]) -> Generator[None, None, BatchResult]:
        """Apply records in the order of their offsets, in short steps; return the result.

        Between two steps the caller may let other work run, but must not use the partition.
        `records` may be a generator: a record is kept only while it may still become a dead letter.
        The outputs of one conversation are in order; those of two conversations may come in any
        order.

        Raises:
            BrokenInvariantError: an assumption does not hold. Bad input never raises.
        """
        result = BatchResult()
        batch: dict[bytes, PendingConversation] = {}
        unread = iter(records)
        read_before = -1
        while read_before < result.records_read:
            read_before = result.records_read
            self._read(islice(unread, _STEP_RECORDS), batch, result)
            yield
        promise = self.promise
        for number, (key, pending) in enumerate(batch.items()):
            arrived = pending.arrived
            if len(arrived) > _STEP_EVENTS or (arrived and pending.is_promised(promise)):
                yield from self._receive_in_steps(result, key, pending)
            elif arrived:
                self._receive(result, key, pending)
            arrived.clear()  # free the events while they are in the processor's cache
            if number % _STEP_CONVERSATIONS == 0:
                yield
        stale_max = len(self.states) // _STALE_ENTRIES_PART + _STALE_ENTRIES_MAX
        if len(self.due_queue) > 2 * self.open_conversations + stale_max:
            self.schedule_all()  # the partition is behind, so no timer has run for a long time
        return result

    def _read(
        self,
        records: Iterable[Record],
        batch: dict[bytes, PendingConversation],
        result: BatchResult,
    ) -> None:
        """Read records; add each event to its conversation, or make a dead letter."""
        ring = self._keys
        for record in records:
            result.records_read += 1
            key, offset, timestamp = record.key, record.offset, record.timestamp
            addressed = read_event(record.value, record.headers)
            if type(addressed) is Rejected:
                self._reject(result, record, addressed)
                continue
            tenant_id, conversation_id = addressed.tenant_id, addressed.conversation_id
            event = addressed.event
            keys = None if ring is None else ring.at(timestamp)
            if keys is not None:
                forged = verify(keys, tenant_id, key, record.value, record.headers)
                if forged is not None:
                    self._reject(result, record, forged)
                    continue
            pending = None if key is None else batch.get(key)
            if (
                pending is None
                or pending.conversation_id != conversation_id
                or pending.tenant_id != tenant_id
                or event.at > timestamp
                or timestamp < 0
                or event.last_answer_at is not None
            ):
                rejected = check_record(addressed, key, timestamp)
                if rejected is not None:
                    self._reject(result, record, rejected)
                    continue
                if pending is None:
                    assert key is not None
                    stored = self.states.get(key)
                    pending = PendingConversation(
                        tenant_id, conversation_id, stored, timestamp, self._seal_after_ms
                    )
                    if self._key_check is not None:
                        rejected = self._key_check.check(key, result.mistakes.keys, stored is None)
                    if rejected is None:
                        batch[key] = pending
                    elif offset >= pending.next_offset:
                        self._reject(result, record, rejected)
                        continue
            if offset < pending.next_offset:
                result.redelivered += 1
                continue
            arrived = pending.arrived
            if (
                timestamp >= pending.rejectable_from_ms
                or len(arrived) >= pending.rejectable_from_count
            ):
                pending.keep(record)
            arrived.append((offset, timestamp, event))
            result.events_by_type[event.rank] += 1

    def _receive(self, result: BatchResult, key: bytes, pending: PendingConversation) -> None:
        """Apply its events to a conversation, emit the usage records, and store its state."""
        conversation = pending.conversation()
        timeline = self._timeline(pending.tenant_id)
        next_offset = self._take_in(result, conversation, pending, pending.arrived, timeline)
        if next_offset:
            self._store(result, key, conversation, next_offset, timeline)

    def _receive_in_steps(
        self, result: BatchResult, key: bytes, pending: PendingConversation
    ) -> Generator[None, None, None]:
        """Do what `_receive` does, a part of the events at a time, and settle promised silence."""
        conversation = pending.conversation()
        timeline = self._timeline(pending.tenant_id)
        recall = Recall()
        next_offset = 0
        at, until_ms = self.promise
        is_kept = pending.next_offset > at
        for part in in_parts(pending.arrived, _STEP_EVENTS, at):
            if not is_kept and part[0][0] >= at:
                is_kept = True
                names = pending.tenant_id, pending.conversation_id
                if records := conversation.settle(*names, until_ms, timeline):
                    self._emit(result, records, conversation.offsets_of(records))
                    next_offset = max(next_offset, pending.next_offset)
            accepted = self._take_in(result, conversation, pending, part, timeline, recall)
            next_offset = max(next_offset, accepted)
            yield
        if next_offset:
            self._store(result, key, conversation, next_offset, timeline)

    def _take_in(
        self,
        result: BatchResult,
        conversation: Conversation,
        pending: PendingConversation,
        part: Sequence[Arrived],
        timeline: Timeline,
        recall: Recall | None = None,
    ) -> int:
        """Apply events to a conversation, and emit the usage records or make dead letters.

        Return the offset after the last event that was accepted; 0 if none was.
        """
        tenant_id, conversation_id = pending.tenant_id, pending.conversation_id
        received = conversation.receive(
            tenant_id, conversation_id, part, timeline, self._seal_after_ms, recall
        )
        if received.records:
            self._emit(result, received.records, received.offsets)
        if received.duplicates or received.after_end or received.same_millisecond:
            result.duplicates += received.duplicates
            result.mistakes.add(tenant_id, conversation_id, received)
        result.histories_sealed += received.sealed
        if received.too_long or received.too_late:
            rejected = self._reject_arrived(result, pending, received)
            part = [arrived for arrived in part if arrived[0] not in rejected]
        return part[-1][0] + 1 if part else 0

    def _reject_arrived(
        self, result: BatchResult, pending: PendingConversation, received: Received
    ) -> set[int]:
        """Make dead letters of the events that a conversation rejected; return their offsets."""
        offsets: set[int] = set()
        for arrived, rejected in ((received.too_long, _TOO_LONG), (received.too_late, _TOO_LATE)):
            for offset, _, event in arrived:
                self._reject(result, pending.rejectable[offset], rejected)
                result.events_by_type[event.rank] -= 1
                offsets.add(offset)
        return offsets

    def _reject(self, result: BatchResult, record: Record, rejected: Rejected) -> None:
        keys = None if self._keys is None else self._keys.at(record.timestamp)
        source = signer_of(keys, record.key, record.value, record.headers) or OTHER_SOURCE
        letter = DeadLetter.of(record, self.topic, self.number, rejected, source)
        result.dead_letters.append(letter)

    # --- timers -----------------------------------------------------------------------------------

    def earliest_ms(self, *, seals: bool) -> int | None:
        """Return an arrival time before which `settle`, and `seal` if `seals`, do nothing."""
        due_ms = self.due_queue.earliest()
        seal_ms = self.seal_queue.earliest() if seals else None
        return min((at for at in (due_ms, seal_ms) if at is not None), default=None)

    def settle(self, clock_ms: int, limit: int) -> BatchResult:
        """Settle conversations whose silence is complete at `clock_ms`, about `limit` at most.

        All earlier records must be applied, and the promise to settle written (`stream.basis`).
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
            timeline = self._timeline(tenant_id)
            records = conversation.settle(tenant_id, conversation_id, clock_ms, timeline)
            self._emit(result, records, conversation.offsets_of(records))
            self._store(result, key, conversation, next_offset_of(stored), timeline)
        return result

    def seal(self, clock_ms: int, limit: int) -> BatchResult:
        """Seal conversations that have been quiet for `seal_after_ms`; decide nothing.

        Call this only if the broker sets the timestamps of records. If producers set them, a record
        may still arrive with a timestamp at which the conversation was not sealed yet.
        """
        result = BatchResult()
        for key in self.seal_queue.take(clock_ms, limit):
            stored = self.states.get(key)
            if stored is None or is_sealed(stored):
                continue
            droppable_at_ms = self._seal_times.droppable_at_ms(last_arrival_ms_of(stored))
            if droppable_at_ms > clock_ms:
                self.seal_queue.add(key, droppable_at_ms)
                continue
            conversation = decode_state(stored)
            result.histories_sealed += conversation.seal()
            timeline = self._timeline(key.partition(b":")[0].decode())
            self._store(result, key, conversation, next_offset_of(stored), timeline)
        return result

    # --- records and timers -----------------------------------------------------------------------

    def _emit(
        self,
        result: BatchResult,
        records: Sequence[UsageRecord],
        offsets: Sequence[tuple[int, ...]],
    ) -> None:
        for each in zip(records, offsets, strict=True):
            result.outputs.append(Output.of(self.topic, self.number, *each))

    def _store(
        self,
        result: BatchResult,
        key: bytes,
        conversation: Conversation,
        next_offset: int,
        timeline: Timeline,
    ) -> None:
        due_ms = conversation.due_arrival_ms
        stored = encode_state(next_offset, conversation, conversation.rules(timeline))
        before = self.states.get(key)
        if before is None:
            known_due_ms, was_sealed = None, True
        else:
            known_due_ms, was_sealed = due_arrival_ms_of(before), is_sealed(before)
        self.open_conversations += (due_ms is not None) - (known_due_ms is not None)
        if due_ms is not None and (known_due_ms is None or known_due_ms > due_ms):
            self.due_queue.add(key, due_ms)
        if was_sealed and not conversation.is_sealed:
            self.seal_queue.add(key, self._seal_times.droppable_at_ms(conversation.arrival_ms))
        self.states[key] = stored
        result.states.append((key, stored))
