"""Correct the ledger so that it owes what the log says. Pure.

A correction is a usage record with the reason `rebill`. A conversation's corrections belong together
and fit the ledger as it was read: `basis` is a digest of the ids of all records that the ledger has
of the conversation. A -1 that names its charge reverses each excess charge, newest first. Missing
charges are added with their evidence. Corrections carry the time of the plan, because the billing
period of the charges may be closed.

The id of a correction has a digest of the ledger's ids and of the content of the corrections,
without the time. So two plans for the same difference have the same ids, and the same difference in
a later state of the ledger has other ids. A worker's ids end in a number, those of corrections in a
digest, a hyphen and a number: the two never coincide.

A rebill plan includes events that came too late for the worker; nothing else bills them. A
conversation is corrected only when its state is certain: the worker has committed all its events, no
window is open, and each record that the worker may have written is in the ledger or in the topic of
usage records, which the sink has read. Other conversations count as unsettled and are left out.
So are, as unjudged, conversations with a charge that the log no longer shows: a plan never takes
that back.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec

from pipeline.replay.charges import (
    REBILL_REASON,
    Charge,
    Price,
    describe_difference,
    difference,
    is_correction,
)
from pipeline.replay.comparison import (
    Tallies,
    Tally,
    by_conversation,
    compare_conversation,
    event_tallies,
    is_done,
)
from pipeline.replay.owed import is_amended, owed_charges
from pipeline.replay.partition import PartitionReplay, Place, ReplayedConversation
from pipeline.resolve.values import Kind
from pipeline.usage.record import Origin, UsageRecord

_DIGEST_CHARACTERS = 16


class Correction(msgspec.Struct, frozen=True):
    """A usage record to write. `of`: the time (ms) of the charge that it adds or reverses."""

    record: UsageRecord
    origin: Origin
    of: int


class Correctable(msgspec.Struct, frozen=True):
    """A conversation's corrections, to be applied together or not at all."""

    tenant_id: str
    conversation: str
    basis: str
    why: str
    corrections: tuple[Correction, ...]


class Corrections(NamedTuple):
    """What to correct in a partition. The tallies count the conversations left out, by cause."""

    conversations: list[Correctable]
    tallies: Tallies


def find_corrections(
    replay: PartitionReplay,
    ledger: Iterable[UsageRecord],
    written: AbstractSet[str],
    source: tuple[str, int],
    now: int,
    concerns: Callable[[ReplayedConversation], bool] | None = None,
) -> Corrections:
    """Return corrections for each conversation for which the ledger is certainly wrong.

    Args:
        replay: the partition, after its last record.
        ledger: the partition's usage records in the ledger, in the order in which they came.
        written: ids of all records that were ever written to the topic of usage records.
        source: topic and partition of the events.
        now: the plan's time, ms.
        concerns: whether a plan is about a conversation; None: it is about all of them.
    """
    correctables: list[Correctable] = []
    tallies = event_tallies(replay)
    stored = by_conversation(ledger)
    for replayed in replay.conversations():
        records = stored.pop(replayed.place, [])
        if concerns is not None and not concerns(replayed):
            continue
        tally = tallies.setdefault(replayed.tenant_id, Tally())
        correctable = _corrected(replay, replayed, records, written, source, now, tally)
        if correctable is not None:
            tally.findings += 1
            correctables.append(correctable)
    for place, records in stored.items() if concerns is None else ():
        corrections = correct(place, [], records, now)
        tally = tallies.setdefault(place[0], Tally())
        is_unknown = _takes_back_what_is_not_shown(corrections, records, frozenset())
        if corrections and (is_unknown or not replay.is_whole):
            tally.unjudged += 1
        elif corrections:
            tally.findings += 1
            why = f"the log has no such conversation; {describe_difference([], records, 0)}"
            correctables.append(_correctable(place, records, why, corrections, source, {}))
    return Corrections(correctables, tallies)


def _corrected(
    replay: PartitionReplay,
    replayed: ReplayedConversation,
    records: list[UsageRecord],
    written: AbstractSet[str],
    source: tuple[str, int],
    now: int,
    tally: Tally,
) -> Correctable | None:
    timelines = replay.timelines(replayed.tenant_id)
    differs = compare_conversation(replay, replayed, records, written, now, tally)
    if not (
        differs
        or replayed.is_judged_as_a_whole
        or any(map(is_correction, records))
        or is_amended(replayed, timelines)
    ):
        return None
    settled = replayed.settled(timelines.decided, now)
    owed = owed_charges(settled, timelines, now)
    if not replay.is_whole or replayed.place in replay.uncertain:
        tally.unjudged += 1
        return None
    if owed is None or not is_done(settled, records, written):
        tally.unsettled += 1
        return None
    corrections = correct(replayed.place, owed, records, now)
    if not corrections:
        return None
    shown = {event.id for _, event in settled.entries() + settled.late}
    if _takes_back_what_is_not_shown(corrections, records, shown):
        tally.unjudged += 1
        return None
    offsets: dict[str, int] = {}
    for offset, event in settled.entries() + settled.late:
        offsets.setdefault(event.id, offset)
    why = describe_difference(owed, records, len(settled.late))
    return _correctable(replayed.place, records, why, corrections, source, offsets)


def _takes_back_what_is_not_shown(
    corrections: Sequence[tuple[UsageRecord, int]],
    records: Sequence[UsageRecord],
    shown: AbstractSet[str],
) -> bool:
    """Return whether a correction reverses a charge whose evidence the log does not have.

    The log was cut, lost records, or is another topic: nobody can say that the charge was wrong.

    Args:
        corrections: of one conversation.
        records: its usage records in the ledger.
        shown: the ids of its events in the log.
    """
    evidence = {record.id: record.evidence for record in records}
    return any(
        not shown >= set(evidence.get(record.supersedes, ()))
        for record, _ in corrections
        if record.supersedes is not None
    )


def _correctable(
    place: Place,
    records: list[UsageRecord],
    why: str,
    corrections: list[tuple[UsageRecord, int]],
    source: tuple[str, int],
    offsets: Mapping[str, int],
) -> Correctable:
    located = []
    for record, of in corrections:
        is_known = all(event_id in offsets for event_id in record.evidence)
        evidence = tuple(offsets[event_id] for event_id in record.evidence) if is_known else ()
        located.append(Correction(record, Origin(*source, evidence), of))
    return Correctable(*place, basis_of(record.id for record in records), why, tuple(located))


def basis_of(ids: Iterable[str]) -> str:
    """Return the digest of the ids that the ledger has of a conversation."""
    return _digest("\n".join(sorted(ids)).encode())


class _Change(NamedTuple):
    quantity: int
    price: Price
    kind: Kind
    evidence: tuple[str, ...]
    supersedes: str | None
    at: int


def correct(
    place: Place, owed: Sequence[Charge], stored: Sequence[UsageRecord], made_at: int
) -> list[tuple[UsageRecord, int]]:
    """Return the records that correct `stored` to `owed`, each with the time of its charge, ms.

    Args:
        place: tenant and conversation.
        owed: the charges that the ledger must have.
        stored: all records of the conversation in the ledger, in the order in which they came.
        made_at: the time of the plan, ms.
    """
    excess, missing = difference(owed, stored)
    content = [[-1, r.id, r.outcome, r.policy, r.policy_version] for r in excess]
    content += [[1, *charge] for charge in missing]
    basis = basis_of(record.id for record in stored)
    digest = _digest(msgspec.json.encode([basis, *place, content]))
    changes = [
        _Change(
            -1,
            (record.outcome, record.policy, record.policy_version),
            record.kind,
            record.evidence or (record.id,),  # a charge without evidence is the evidence itself
            record.id,
            record.occurred_at,
        )
        for record in excess
    ]
    changes += [
        _Change(1, charge.price, charge.kind, charge.evidence, None, charge.at)
        for charge in missing
    ]
    return [
        (_record(place, f"{digest}-{number}", change, made_at), change.at)
        for number, change in enumerate(changes, 1)
    ]


def _record(place: Place, number: str, change: _Change, made_at: int) -> UsageRecord:
    tenant_id, conversation_id = place
    outcome, policy, policy_version = change.price
    return UsageRecord(
        id=f"{tenant_id}:{conversation_id}:{REBILL_REASON}:{number}",
        tenant_id=tenant_id,
        conversation=conversation_id,
        outcome=outcome,
        quantity=change.quantity,
        kind=change.kind,
        reason=REBILL_REASON,
        occurred_at=made_at,
        policy=policy,
        policy_version=policy_version,
        evidence=change.evidence,
        supersedes=change.supersedes,
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGEST_CHARACTERS]
