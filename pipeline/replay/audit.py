"""This file holds a ledger against the log: what must be in it, and what is. Pure.

A partition is decided anew from its first record, by the pure stages alone: no line of worker or
sink is used. What a conversation must have in the ledger is known from three readings:

- *owed*: what its events up to the worker's committed offset have emitted. It must be there.
- *perhaps*: what follows from events after that offset, and from a window that has ended by now. A
  worker at work may have written it or not yet; both are right.
- anything else must not be there.

As ids count up within a conversation, the ledger's records must be a beginning of *owed* and
*perhaps* in their order, at least as long as *owed*. Each decision is made twice: by the emission,
event by event, and by `decide` over the whole history; where their sums differ, we are wrong, not the
ledger.

A partition whose beginning was deleted by retention cannot be judged where a conversation may
reach back before it: those are counted as unjudged, never as wrong.

`corrections` makes of the same a plan: what to write so that the ledger comes to what is owed. Here
events that came too late for the worker count, as a rebill is their way in. A difference is certain
only where nothing of the conversation is on its way: all its events are committed, no window is open,
and all that the worker may have written has been: it is in the ledger, or was written to the topic of
usage records, which the sink has read. All others are pending, and left out.

Where a plan has corrected a conversation, its records are no beginning of what the worker emits any
more. It is then judged by its units alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from pipeline.events.model import Addressed, Event, Reason, Rejected
from pipeline.events.signature import Key, verify
from pipeline.events.wire import read_record
from pipeline.ledger.findings import Finding
from pipeline.replay.corrections import (
    Charge,
    Correctable,
    Correction,
    balance,
    basis_of,
    correct,
    is_correction,
    live,
    told,
)
from pipeline.resolve.machine import decide, fold
from pipeline.resolve.policy import Timeline
from pipeline.usage.conversation import SEAL_AFTER_MS, Conversation
from pipeline.usage.record import Origin, UsageRecord

_END = 2**62
TimelineFor = Callable[[str], Timeline]


class Tally(msgspec.Struct):
    """Counts of a tenant; `read` of them all adds up with the dead letters to the log."""

    conversations: int = 0
    events: int = 0
    duplicates: int = 0
    records: int = 0  # usage records in the ledger
    pending: int = 0  # conversations with a window ahead, or one that may be settled by now
    unjudged: int = 0
    unsettled: int = 0  # of those that a plan would correct: something is on its way
    corrected: int = 0  # conversations that a plan has brought in line
    findings: int = 0


class _Known(msgspec.Struct):
    tenant_id: str
    name: str
    conversation: Conversation
    emitted: list[UsageRecord]
    owed: int = 0  # how many of them follow from committed events
    is_committed: bool = True
    sealed: list[tuple[int, Event]] = []  # offset, event: of histories that were sealed on the way
    late: list[tuple[int, Event]] = []  # and of what came too late

    def entries(self) -> list[tuple[int, Event]]:
        """Return (offset, event) of all that was taken in, in order of arrival."""
        return self.sealed + self.conversation.entries()

    def hear_late(self, offset: int, event: Event) -> None:
        """Keep an event that came too late, unless it was taken in or kept before."""
        identity = (event.source, event.id)
        if all((e.source, e.id) != identity for _, e in self.entries() + self.late):
            self.late.append((offset, event))


class Audit:
    """One partition.

    Args:
        committed: the worker's committed offset.
        is_whole: the log still has its first record.
        timeline_for: the policies.
        keys: of producers, where signatures are asked for.
        seal_after: as the worker has it, ms.
        refused: offsets that have a dead letter `not_authorized`. What the worker decided then holds,
            whatever keys there are today.
        letters_are_whole: no dead letter has been deleted yet. Where some may have been, a conversation
            with an event that no key of today has signed is not judged.
    """

    def __init__(
        self,
        committed: int,
        timeline_for: TimelineFor,
        keys: Mapping[str, Key] | None = None,
        seal_after: int = SEAL_AFTER_MS,
        *,
        is_whole: bool = True,
        refused: AbstractSet[int] = frozenset(),
        letters_are_whole: bool = True,
    ) -> None:
        self.rejected: dict[int, Reason] = {}  # offset → why, of committed records
        self.tallies: dict[str, Tally] = {}
        self.read = 0
        self._committed = committed
        self._timeline_for = timeline_for
        self._keys = keys or None
        self._seal_after = seal_after
        self._is_whole = is_whole
        self._refused = refused
        self._letters_are_whole = letters_are_whole
        self._uncertain: set[tuple[str, str]] = set()
        self._known: dict[bytes, _Known] = {}
        self.letters = 0

    def take(
        self,
        offset: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> None:
        """Take in a record of the events topic, in the order of the offsets."""
        self.read += 1
        found = read_record(value, key, timestamp, headers)
        if not isinstance(found, Rejected):
            found = self._unless_forged(offset, found, key, value, headers)
        if isinstance(found, Rejected):
            self._reject(offset, found)
            return
        assert key is not None
        known = self._known.get(key)
        if known is None:
            known = _Known(found.tenant_id, found.conversation_id, Conversation(), [])
            self._known[key] = known
        known.is_committed = offset < self._committed
        conversation = known.conversation
        is_quiet = timestamp >= conversation.arrival + self._seal_after
        before = conversation.entries() if is_quiet else []
        received = conversation.receive(
            known.tenant_id,
            known.name,
            [(offset, timestamp, found.event)],
            self._timeline_for(known.tenant_id),
            known.emitted,
            self._seal_after,
        )
        if received.sealed:
            known.sealed += before
        if received.too_long or received.too_late:
            reason: Reason = "conversation_too_long"
            if received.too_late:
                reason = "too_late"
                known.hear_late(offset, found.event)
            self._reject(offset, Rejected(reason, ""))
            return
        tally = self._tally(known.tenant_id)
        tally.events += 1
        tally.duplicates += received.duplicates
        if offset < self._committed:
            known.owed = len(known.emitted)

    def _unless_forged(
        self,
        offset: int,
        found: Addressed,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> Addressed | Rejected:
        is_committed = offset < self._committed
        if is_committed and offset in self._refused:
            return Rejected("not_authorized", "")
        if self._keys is None:
            return found
        forged = verify(self._keys, found.tenant_id, key, value, headers)
        if forged is None or not is_committed:
            return forged or found
        if not self._letters_are_whole:
            self._uncertain.add((found.tenant_id, found.conversation_id))
        return found  # its key was another one then, or none was asked for

    def _reject(self, offset: int, rejected: Rejected) -> None:
        self.letters += 1
        if offset < self._committed:
            self.rejected[offset] = rejected.reason

    def _tally(self, tenant_id: str) -> Tally:
        return self.tallies.setdefault(tenant_id, Tally())

    def compare(
        self, ledger: Iterable[UsageRecord], written: AbstractSet[str], now: int
    ) -> Iterator[Finding]:
        """Yield what differs between the log and the ledger's records of this partition.

        To be called once, after all records.

        Args:
            ledger: its records, in the order in which they came.
            written: ids of all records that were written to the topic of usage records, and that
                the sink has read: they must be there.
            now: the time up to which windows may have been settled, ms.
        """
        stored = _by_conversation(ledger)
        for known in self._known.values():
            place = (known.tenant_id, known.name)
            yield from self._judged(
                place, self._compare(known, stored.pop(place, []), written, now)
            )
        for place, records in stored.items():
            self._tally(place[0]).records += len(records)
            if balance(records) or not any(map(is_correction, records)):
                gone = "the log has no such conversation"
                yield from self._judged(
                    place,
                    [
                        Finding("unexpected", *place, f"{r.id}: {gone}", r.occurred_at)
                        for r in records
                    ],
                )
        counted = sum(tally.events for tally in self.tallies.values())
        assert counted + self.letters == self.read, "each record is an event or a dead letter"

    def _judged(self, place: tuple[str, str], found: list[Finding]) -> Iterator[Finding]:
        tally = self._tally(place[0])
        if place in self._uncertain or (found and not self._is_whole):
            tally.unjudged += 1
            return
        tally.findings += len(found)
        yield from found

    def _compare(
        self, known: _Known, stored: list[UsageRecord], written: AbstractSet[str], now: int
    ) -> list[Finding]:
        timeline = self._timeline_for(known.tenant_id)
        conversation, emitted = known.conversation, known.emitted
        tally = self._tally(known.tenant_id)
        tally.conversations += 1
        tally.records += len(stored)
        is_pending = conversation.due_at is not None or len(emitted) > known.owed
        tally.pending += is_pending
        conversation.settle(known.tenant_id, known.name, now, timeline, emitted)
        place = (known.tenant_id, known.name)
        found = self._decided_twice(known, timeline)
        if any(map(is_correction, stored)):
            owed = self._owed(known, timeline, now)
            if owed is None or Counter(charge.price for charge in owed) == balance(stored):
                tally.corrected += 1
            else:
                detail = told(owed, stored, len(known.late))
                found.append(Finding("unbalanced", *place, detail, stored[-1].occurred_at))
            return found
        by_id = {record.id: record for record in stored}
        for number, record in enumerate(emitted):
            there = by_id.pop(record.id, None)
            if there is None:
                # Those after it must not be there either: they would be `unexpected`.
                at = record.occurred_at
                if number < known.owed or record.id in written:
                    found.append(Finding("missing", *place, f"{record.id}: {_told(record)}", at))
                elif any(later.id in by_id for later in emitted[number + 1 :]):
                    detail = f"{record.id}: a later one is there"
                    found.append(Finding("missing", *place, detail, at))
            elif there != record:
                detail = f"{record.id}: is {_told(there)}; must be {_told(record)}"
                found.append(Finding("differs", *place, detail, record.occurred_at))
        for record in by_id.values():
            detail = f"{record.id}: {_told(record)}"
            found.append(Finding("unexpected", *place, detail, record.occurred_at))
        found += [
            Finding("no_evidence", *place, f"{record.id}: names no event", record.occurred_at)
            for record in stored
            if not record.evidence
        ]
        return found

    def _decided_twice(self, known: _Known, timeline: Timeline) -> list[Finding]:
        conversation = known.conversation
        emitted: Counter[str] = Counter()
        for record in known.emitted:
            emitted[record.outcome] += record.quantity
        history = [event for _, event in known.entries()]
        # Silence that is accounted for is complete; what is still due is not.
        as_of = _END if conversation.due_at is None else conversation.newest_at
        decision = decide(history, timeline, as_of)
        net = {} if decision.excluded else decision.net
        if net == {outcome: units for outcome, units in emitted.items() if units}:
            return []
        detail = f"emitted {dict(emitted)}, decided {net}"
        return [Finding("undecided", known.tenant_id, known.name, detail)]

    # --- a plan -----------------------------------------------------------------------------------

    def corrections(
        self,
        ledger: Iterable[UsageRecord],
        written: AbstractSet[str],
        place: tuple[str, int],
        now: int,
    ) -> Iterator[Correctable]:
        """Yield what to write for each conversation of which the ledger is certainly wrong.

        To be called once, instead of `compare`; it counts what it leaves out in the tallies.

        Args:
            ledger: the records of this partition.
            written: ids of all records that were ever written to the topic of usage records.
            place: topic and partition of the events.
            now: the plan's time, ms.
        """
        stored = _by_conversation(ledger)
        for known in self._known.values():
            whose = (known.tenant_id, known.name)
            timeline = self._timeline_for(known.tenant_id)
            records = stored.pop(whose, [])
            found = self._compare(known, records, written, now)
            is_corrected = any(map(is_correction, records))
            if not (found or known.late or is_corrected):
                continue
            owed = self._owed(known, timeline, now)
            ids = {record.id for record in records}
            on_its_way = any(
                record.id not in ids and record.id not in written
                for record in known.emitted[known.owed :]
            )
            tally = self._tally(known.tenant_id)
            if not self._is_whole or whose in self._uncertain:
                tally.unjudged += 1
            elif owed is None or on_its_way or not known.is_committed:
                tally.unsettled += 1
            else:
                offsets: dict[str, int] = {}
                for offset, event in known.entries() + known.late:
                    offsets.setdefault(event.id, offset)
                made = correct(whose, owed, records, now)
                if made:
                    tally.findings += 1
                    why = told(owed, records, len(known.late))
                    yield _correctable(whose, records, why, made, place, offsets)
        for whose, records in stored.items():
            made = correct(whose, [], records, now)
            tally = self._tally(whose[0])
            if made and not self._is_whole:
                tally.unjudged += 1
            elif made:
                tally.findings += 1
                why = f"the log has no such conversation; {told([], records, 0)}"
                yield _correctable(whose, records, why, made, place, {})

    def _owed(self, known: _Known, timeline: Timeline, now: int) -> list[Charge] | None:
        """Return what must stand in the ledger, or None while a window is open.

        Without events that came too late that is what the worker has emitted, with the policies
        that it had; with them it is what the whole history decides.
        """
        conversation = known.conversation
        if not known.late:
            if conversation.due_at is not None:
                return None
            by_n = {record.id.rpartition(":")[2]: record for record in known.emitted}
            return [
                Charge(
                    charge.outcome,
                    charge.policy,
                    charge.policy_version,
                    charge.kind,
                    by_n[str(charge.n)].occurred_at,
                    by_n[str(charge.n)].evidence,
                )
                for charge in conversation.live
            ]
        state = fold([event for _, event in known.entries() + known.late], timeline)
        due = None if state.excluded else state.due(timeline)
        if due is not None and due + state.grace(timeline) > now:
            return None
        state.settle(timeline, now)
        return [] if state.excluded else live(state.transitions)

    def missing_letters(self, there: Iterable[int], topic: str, partition: int) -> list[Finding]:
        """Say which rejected records have no dead letter; `there` are origins of those that are."""
        return [
            Finding("no_dead_letter", "", "", f"{topic}[{partition}] offset {offset}: {reason}")
            for offset, reason in sorted(
                item for item in self.rejected.items() if item[0] not in set(there)
            )
        ]


def _by_conversation(
    ledger: Iterable[UsageRecord],
) -> dict[tuple[str, str], list[UsageRecord]]:
    stored: dict[tuple[str, str], list[UsageRecord]] = {}
    for record in ledger:
        stored.setdefault((record.tenant_id, record.conversation), []).append(record)
    return stored


def _correctable(
    whose: tuple[str, str],
    records: list[UsageRecord],
    why: str,
    made: list[tuple[UsageRecord, int]],
    place: tuple[str, int],
    offsets: Mapping[str, int],
) -> Correctable:
    corrections = []
    for record, of in made:
        known = all(event in offsets for event in record.evidence)
        lies = tuple(offsets[event] for event in record.evidence) if known else ()
        corrections.append(Correction(record, Origin(*place, lies), of))
    return Correctable(*whose, basis_of(r.id for r in records), why, tuple(corrections))


def _told(record: UsageRecord) -> str:
    sign = "+1" if record.quantity > 0 else "-1"
    rests_on = ", ".join(record.evidence)
    return f"{sign} {record.outcome} ({record.kind}, {record.reason}) for {rests_on}"
