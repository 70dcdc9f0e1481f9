"""A finding: where the ledger and the log, or the ledger and Stripe, disagree. Pure."""

from typing import Literal, NamedTuple

FindingKind = Literal[
    "missing",  # owed, and not in the ledger
    "unexpected",  # in the ledger, and not owed
    "differs",  # in the ledger, and says something else
    "no_evidence",  # in the ledger, and rests on nothing
    "unbalanced",  # corrected by a plan, and owes something else
    "no_dead_letter",  # rejected, and not among the dead letters
    "undecided",  # our two ways to decide do not agree
    "at_stripe",  # Stripe's own sum is not what the ledger delivered
    "refused",  # owed, and Stripe has refused it
]


class Finding(NamedTuple):
    """What is not as it must be. `conversation` is empty for a record that names none."""

    kind: FindingKind
    tenant_id: str
    conversation: str
    detail: str
    at: int | None = None  # of the unit concerned, where it is one's, ms
