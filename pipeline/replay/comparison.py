"""Compare a replayed partition with the ledger. Pure.

The replay of a conversation says which records the ledger must have:

- *owed*: the records that follow from events up to the worker's committed offset. The ledger must
  have all of them.
- *optional*: the records that follow from later events, and from windows that have ended by now. A
  running worker may or may not have written them yet; both are correct.
- The ledger must have no other records.

Ids count up within a conversation. So the ledger's records must be a prefix of *owed* followed by
*optional*, and must include all of *owed*.

Each decision is made twice: event by event, as the worker does it, and by `decide` over the whole
history. If the two differ, resmeter's rules are wrong, not the ledger (`undecided`).

If retention has deleted the beginning of a partition, the evidence of a conversation that differs
may have been deleted too: such conversations count as unjudged, never as wrong.

Once a rebill plan has corrected a conversation, or amended what it owes, its records are no longer
those that the worker emits. Such a conversation is compared by its units alone, and only when the
worker is done with it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple, TypeAlias

import msgspec

from pipeline.ledger.findings import Finding, FindingKind
from pipeline.replay.charges import (
    balance,
    describe_difference,
    is_correction,
)
from pipeline.replay.owed import is_amended, owed_charges
from pipeline.replay.partition import PartitionReplay, Place, ReplayedConversation
from pipeline.resolve.machine import decide
from pipeline.resolve.policy import Timeline
from pipeline.usage.record import UsageRecord

_END = 2**62


class Tally(msgspec.Struct):
    """Counts of a tenant. All tenants' events and the dead letters add up to the records read."""

    conversations: int = 0
    events: int = 0
    duplicates: int = 0
    records: int = 0  # usage records in the ledger
    open: int = 0  # conversations with a window that is open, or that has just ended
    unjudged: int = 0  # conversations that cannot be judged: retention has deleted the evidence
    unsettled: int = 0  # conversations that differ, but the worker is not done with them
    corrected: int = 0  # conversations that a plan has corrected
    findings: int = 0

    def add(self, other: "Tally") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


Tallies: TypeAlias = dict[str, Tally]  # by tenant


class Comparison(NamedTuple):
    findings: list[Finding]
    tallies: Tallies


def compare(
    replay: PartitionReplay, ledger: Iterable[UsageRecord], written: AbstractSet[str], now: int
) -> Comparison:
    """Return the differences between the log and the ledger's records of one partition.

    Args:
        replay: the partition, after its last record.
        ledger: the partition's usage records in the ledger, in the order in which they came.
        written: ids of all records in the topic of usage records. The sink has read them, so the
            ledger must have them.
        now: the arrival time up to which windows may have ended, ms.
    """
    findings: list[Finding] = []
    tallies = event_tallies(replay)

    def judge(place: Place, differences: list[Finding]) -> None:
        tally = tallies.setdefault(place[0], Tally())
        if place in replay.uncertain or (differences and not replay.is_whole):
            tally.unjudged += 1
        else:
            tally.findings += len(differences)
            findings.extend(differences)

    stored = by_conversation(ledger)
    for replayed in replay.conversations():
        records = stored.pop(replayed.place, [])
        tally = tallies.setdefault(replayed.tenant_id, Tally())
        judge(replayed.place, compare_conversation(replay, replayed, records, written, now, tally))
    for place, records in stored.items():
        tallies.setdefault(place[0], Tally()).records += len(records)
        if balance(records) or not any(map(is_correction, records)):
            shown, detail = replay.shown(place), "the log has no such conversation"
            judge(place, [_unexpected(record, detail, shown) for record in records])
    counted = sum(tally.events for tally in tallies.values())
    assert counted + replay.dead_letters == replay.read, "each record is an event or a dead letter"
    return Comparison(findings, tallies)


def event_tallies(replay: PartitionReplay) -> Tallies:
    """Return tallies with the events of each tenant, before anything is compared."""
    return {
        tenant_id: Tally(events=events, duplicates=replay.duplicates[tenant_id])
        for tenant_id, events in replay.events.items()
    }


def by_conversation(ledger: Iterable[UsageRecord]) -> dict[Place, list[UsageRecord]]:
    """Group usage records by tenant and conversation; their order is kept."""
    stored: dict[Place, list[UsageRecord]] = {}
    for record in ledger:
        stored.setdefault((record.tenant_id, record.conversation), []).append(record)
    return stored


def compare_conversation(
    replay: PartitionReplay,
    replayed: ReplayedConversation,
    stored: list[UsageRecord],
    written: AbstractSet[str],
    now: int,
    tally: Tally,
) -> list[Finding]:
    """Return the differences in one conversation, and count the conversation in the tally."""
    timelines = replay.timelines(replayed.tenant_id)
    tally.conversations += 1
    tally.records += len(stored)
    tally.open += (
        replayed.conversation.due_arrival_ms is not None
        or len(replayed.emitted) > replayed.owed_count
    )
    settled = replayed.settled(timelines.decided, now)
    findings = _decided_twice(settled, timelines.decided)
    is_corrected = any(map(is_correction, stored))
    if is_corrected or is_amended(settled, timelines):
        owed = owed_charges(settled, timelines, now) if is_done(settled, stored, written) else None
        if owed is None or Counter(charge.price for charge in owed) == balance(stored):
            tally.corrected += is_corrected
        else:
            detail = describe_difference(owed, stored, len(settled.late))
            at = stored[-1].occurred_at if stored else settled.conversation.newest_at
            findings.append(Finding("unbalanced", *settled.place, detail, at))
        return findings
    by_id = {record.id: record for record in stored}
    shown = replay.shown(settled.place)
    findings += _differing_records(settled, by_id, written, shown)
    findings += [
        _finding("no_evidence", record, "names no event")
        for record in stored
        if not record.evidence
    ]
    return findings


def is_done(
    settled: ReplayedConversation, stored: Iterable[UsageRecord], written: AbstractSet[str]
) -> bool:
    """Return whether a worker has committed all events and written all that it may write by now."""
    stored_ids = {record.id for record in stored}
    return settled.is_committed and all(
        record.id in stored_ids or record.id in written
        for record in settled.emitted[settled.owed_count :]
    )


def missing_dead_letters(
    rejected: Mapping[int, str], existing: Iterable[int], topic: str, partition: int
) -> list[Finding]:
    """Return a finding for each rejected record that has no dead letter.

    Args:
        rejected: offset → reason, of the records that must have a dead letter.
        existing: offsets of the records that have a dead letter.
        topic: the topic of the records.
        partition: the partition of the records.
    """
    return [
        Finding("no_dead_letter", "", "", f"{topic}[{partition}] offset {offset}: {reason}")
        for offset, reason in sorted(
            item for item in rejected.items() if item[0] not in set(existing)
        )
    ]


def split_conversations(
    replay: PartitionReplay, partition: int, places: dict[Place, int], topic: str
) -> list[Finding]:
    """Return the conversations of a partition that an earlier partition has too; add it to `places`.

    Each part was decided by itself, and may be billed. Two producers with different partitioners do
    this.
    """
    findings = []
    for replayed in replay.conversations():
        first = places.setdefault(replayed.place, partition)
        if first != partition:
            detail = (
                f"has events on the partitions {first} and {partition} of {topic}: each part is decided "
                "by itself; let all producers use one partitioner"
            )
            findings.append(Finding("split", *replayed.place, detail))
    return findings


def _differing_records(
    settled: ReplayedConversation,
    by_id: dict[str, UsageRecord],
    written: AbstractSet[str],
    shown: AbstractSet[str],
) -> list[Finding]:
    emitted = settled.emitted
    findings = []
    for number, record in enumerate(emitted):
        stored = by_id.pop(record.id, None)
        if stored is None:
            # An optional record may be missing, but then all later ones must be missing too.
            if number < settled.owed_count or record.id in written:
                findings.append(_finding("missing", record, _described(record)))
            elif any(later.id in by_id for later in emitted[number + 1 :]):
                detail = "the ledger has a later record of this conversation"
                findings.append(_finding("missing", record, detail))
        elif stored != record:
            detail = f"is {_described(stored)}; must be {_described(record)}"
            findings.append(_finding("differs", record, detail))
    findings += [_unexpected(record, _described(record), shown) for record in by_id.values()]
    return findings


def _decided_twice(settled: ReplayedConversation, timeline: Timeline) -> list[Finding]:
    conversation = settled.conversation
    emitted: Counter[str] = Counter()
    for record in settled.emitted:
        emitted[record.outcome] += record.quantity
    history = [event for _, event in settled.entries()]
    # While a window is open, the last silence does not count yet. Otherwise all silence counts.
    as_of = _END if conversation.due_arrival_ms is None else conversation.newest_at
    decision = decide(history, timeline, as_of)
    net = {} if decision.excluded else decision.net
    if net == {outcome: units for outcome, units in emitted.items() if units}:
        return []
    detail = f"emitted {dict(emitted)}, decided {net}"
    return [Finding("undecided", *settled.place, detail)]


def _unexpected(record: UsageRecord, detail: str, shown: AbstractSet[str]) -> Finding:
    """Return the finding for a record that is not owed. If its evidence is gone, nobody can judge it."""
    gone = [event_id for event_id in record.evidence if event_id not in shown]
    if not gone:
        return _finding("unexpected", record, detail)
    detail = (
        f"{_described(record)}: no longer in the log: {', '.join(gone)}. This is no reason to take "
        "the usage back"
    )
    return _finding("not_in_log", record, detail)


def _finding(
    kind: FindingKind,
    record: UsageRecord,
    detail: str,
) -> Finding:
    place = (record.tenant_id, record.conversation)
    return Finding(kind, *place, f"{record.id}: {detail}", record.occurred_at)


def _described(record: UsageRecord) -> str:
    sign = "+1" if record.quantity > 0 else "-1"
    evidence = ", ".join(record.evidence)
    return f"{sign} {record.outcome} ({record.kind}, {record.reason}) for {evidence}"
