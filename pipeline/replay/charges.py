"""Compare the charges that a conversation owes with the usage records in the ledger. Pure.

Both sides are counted by price: an outcome under one version of a policy. A -1 counts at the price
of the charge that it reverses.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from pipeline.resolve.values import Kind, Transition
from pipeline.usage.record import UsageRecord

REBILL_REASON = "rebill"

Price: TypeAlias = tuple[str, str, int]  # outcome, policy and its version


class Charge(NamedTuple):
    """A unit that a conversation owes. `at`: since when, in ms."""

    outcome: str
    policy: str
    policy_version: int
    kind: Kind
    at: int
    evidence: tuple[str, ...]

    @property
    def price(self) -> Price:
        return (self.outcome, self.policy, self.policy_version)


def is_correction(record: UsageRecord) -> bool:
    """Return whether a usage record is the correction of a rebill plan."""
    return record.reason == REBILL_REASON


def standing_charges(transitions: Iterable[Transition]) -> list[Charge]:
    """Return the charges that no later transition reverses."""
    charges: list[Charge] = []
    for transition in transitions:
        if transition.delta > 0:
            charges.append(
                Charge(
                    transition.outcome,
                    transition.policy,
                    transition.policy_version,
                    transition.kind,
                    transition.at,
                    transition.evidence,
                )
            )
        else:
            newest = max(
                n for n, charge in enumerate(charges) if charge.outcome == transition.outcome
            )
            del charges[newest]
    return charges


def balance(records: Iterable[UsageRecord]) -> Counter[Price]:
    """Add up units by price, without the prices whose units add up to zero."""
    listed = list(records)
    by_id = {record.id: record for record in listed}
    units: Counter[Price] = Counter()
    for record in listed:
        units[_price_of(record, by_id)] += record.quantity
    return Counter({price: count for price, count in units.items() if count})


def difference(
    owed: Sequence[Charge], stored: Sequence[UsageRecord]
) -> tuple[list[UsageRecord], list[Charge]]:
    """Return the excess charges in the ledger, newest first, and the missing charges.

    Args:
        owed: the charges that the ledger must have.
        stored: all records of the conversation in the ledger, in the order in which they came.
    """
    wanted, have = Counter(charge.price for charge in owed), balance(stored)
    by_id = {record.id: record for record in stored}
    standing = {record.id: record for record in stored if record.quantity > 0}
    # Reversals whose charge is missing or already reversed. For these, only the reversal itself
    # says what the charge was.
    orphans = [
        record
        for record in stored
        if record.quantity < 0 and standing.pop(record.supersedes or "", None) is None
    ]
    excess: list[UsageRecord] = []
    missing: list[Charge] = []
    for price in sorted({*wanted, *have}):
        units = wanted[price] - have[price]
        if units < 0:
            charged = [record for record in standing.values() if _price_of(record, by_id) == price]
            excess += charged[units:][::-1]
        elif units > 0:
            candidates = [
                Charge(*price, record.kind, record.occurred_at, record.evidence or (record.id,))
                for record in orphans
                if _price_of(record, by_id) == price
            ]
            candidates += [charge for charge in owed if charge.price == price]
            missing += candidates[-units:]
    return excess, missing


def describe_difference(owed: Sequence[Charge], stored: Sequence[UsageRecord], late: int) -> str:
    """Return the difference as a sentence. `late`: how many events came too late for the worker."""
    reason = f"{late} of its events came too late for the worker; " if late else ""
    return (
        f"{reason}the log owes {_units(Counter(charge.price for charge in owed))}, "
        f"the ledger has {_units(balance(stored))}"
    )


def _price_of(record: UsageRecord, by_id: Mapping[str, UsageRecord]) -> Price:
    charge = record if record.supersedes is None else by_id.get(record.supersedes, record)
    return (charge.outcome, charge.policy, charge.policy_version)


def _units(units: Counter[Price]) -> str:
    named = [
        f"{count} {outcome} ({policy}, version {version})"
        for (outcome, policy, version), count in units.items()
    ]
    return ", ".join(sorted(named)) or "nothing"
