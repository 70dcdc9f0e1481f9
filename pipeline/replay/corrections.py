"""This file says what to correct in a ledger so that it owes what the log says. Pure.

A correction is a usage record, as those of the worker are, with the reason `rebill`. Those of a
conversation are made together, for the ledger as it was seen: `basis` stands for the ids of all its
records. What is owed and what is there are compared as units by outcome and version of the policy,
as those make the price. Of what is too much the newest unit goes first, by a -1 that names it; what
is missing comes back with the evidence that it rests on. Corrections are dated when the plan was
made: the period of what they correct may be closed.

An id is a function of the ledger's ids and of what the correction says, time aside. So two plans of
one difference have the same ids, the same difference that comes up later has others, and none can
be the worker's, whose ids end in a number.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from pipeline.resolve.machine import Kind, Transition
from pipeline.usage.record import Origin, UsageRecord

REASON = "rebill"
_DIGITS = 16

Price: TypeAlias = tuple[str, str, int]  # outcome, policy and its version


class Charge(NamedTuple):
    """A unit that a conversation owes. `at`: when it came to be owed, ms."""

    outcome: str
    policy: str
    policy_version: int
    kind: Kind
    at: int
    evidence: tuple[str, ...]

    @property
    def price(self) -> Price:
        return (self.outcome, self.policy, self.policy_version)


class Correction(msgspec.Struct, frozen=True):
    """A usage record to be written, and the time (ms) of the unit that it brings or takes back."""

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


def is_correction(record: UsageRecord) -> bool:
    """Say whether a record came from a plan."""
    return record.reason == REASON


def live(transitions: Iterable[Transition]) -> list[Charge]:
    """Return the charges that stand after transitions in their order."""
    charges: list[Charge] = []
    for step in transitions:
        if step.delta > 0:
            charges.append(
                Charge(
                    step.outcome,
                    step.policy,
                    step.policy_version,
                    step.kind,
                    step.at,
                    step.evidence,
                )
            )
        else:
            place = max(n for n, charge in enumerate(charges) if charge.outcome == step.outcome)
            del charges[place]
    return charges


def balance(records: Iterable[UsageRecord]) -> Counter[Price]:
    """Add up units; a -1 goes at the price of what it takes back. Zeros are left out."""
    there = list(records)
    by_id = {record.id: record for record in there}
    units: Counter[Price] = Counter()
    for record in there:
        units[_price(record, by_id)] += record.quantity
    return Counter({price: n for price, n in units.items() if n})


def _price(record: UsageRecord, by_id: Mapping[str, UsageRecord]) -> Price:
    came = record if record.supersedes is None else by_id.get(record.supersedes, record)
    return (came.outcome, came.policy, came.policy_version)


def basis_of(ids: Iterable[str]) -> str:
    """Return what stands for a conversation's records in the ledger."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:_DIGITS]


def correct(
    place: tuple[str, str],
    owed: Sequence[Charge],
    there: Sequence[UsageRecord],
    made_at: int,
) -> list[tuple[UsageRecord, int]]:
    """Return the records that make `there` come to `owed`, each with the time of its unit.

    Args:
        place: tenant and conversation.
        owed: the charges that must stand.
        there: all records of the conversation in the ledger, in the order in which they came.
        made_at: the time of the plan, ms.
    """
    wanted, have = Counter(charge.price for charge in owed), balance(there)
    by_id = {record.id: record for record in there}
    standing = {record.id: record for record in there if record.quantity > 0}
    # What took back a unit that never came, or was gone: only itself tells what it was.
    orphans = [
        record
        for record in there
        if record.quantity < 0 and standing.pop(record.supersedes or "", None) is None
    ]
    removed: list[UsageRecord] = []
    added: list[Charge] = []
    for price in sorted({*wanted, *have}):
        difference = wanted[price] - have[price]
        if difference < 0:
            ours = [record for record in standing.values() if _price(record, by_id) == price]
            removed += ours[difference:][::-1]
        elif difference > 0:
            missing = [
                Charge(*price, record.kind, record.occurred_at, record.evidence or (record.id,))
                for record in orphans
                if _price(record, by_id) == price
            ]
            missing += [charge for charge in owed if charge.price == price]
            added += missing[-difference:]
    tenant_id, conversation = place
    said = [
        [-1, record.id, record.outcome, record.policy, record.policy_version] for record in removed
    ]
    said += [[1, *charge] for charge in added]
    digest = hashlib.sha256(
        msgspec.json.encode([basis_of(by_id), tenant_id, conversation, said])
    ).hexdigest()[:_DIGITS]
    found: list[tuple[UsageRecord, int]] = []

    def made(
        quantity: int, price: Price, kind: Kind, evidence: tuple[str, ...], supersedes: str | None
    ) -> UsageRecord:
        outcome, policy, version = price
        return UsageRecord(
            id=f"{tenant_id}:{conversation}:{REASON}:{digest}-{len(found) + 1}",
            tenant_id=tenant_id,
            conversation=conversation,
            outcome=outcome,
            quantity=quantity,
            kind=kind,
            reason=REASON,
            occurred_at=made_at,
            policy=policy,
            policy_version=version,
            evidence=evidence,
            supersedes=supersedes,
        )

    for gone in removed:
        price = (gone.outcome, gone.policy, gone.policy_version)
        # One that rests on nothing is its own evidence.
        evidence = gone.evidence or (gone.id,)
        found.append((made(-1, price, gone.kind, evidence, gone.id), gone.occurred_at))
    for charge in added:
        brought = made(1, charge.price, charge.kind, charge.evidence, None)
        found.append((brought, charge.at))
    return found


def told(owed: Sequence[Charge], there: Sequence[UsageRecord], late: int) -> str:
    """Say in words what differs."""
    came = f"{late} of its events came too late for the worker; " if late else ""
    return (
        f"{came}the log owes {_units(Counter(charge.price for charge in owed))}, "
        f"the ledger has {_units(balance(there))}"
    )


def _units(units: Counter[Price]) -> str:
    named = [
        f"{n} {outcome} ({policy}, version {version})"
        for (outcome, policy, version), n in units.items()
    ]
    return ", ".join(sorted(named)) or "nothing"
