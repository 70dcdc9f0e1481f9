"""Findings of the audit: the ledger disagrees with the log, or with Stripe. Pure."""

from typing import Literal, NamedTuple

FindingKind = Literal[
    "missing",  # owed, but not in the ledger
    "unexpected",  # in the ledger, but not owed
    "differs",  # in the ledger with other content
    "no_evidence",  # in the ledger, but its evidence is not in the log
    "unbalanced",  # corrected by a rebill plan, but the sum is not what is owed
    "no_dead_letter",  # rejected, but not among the dead letters
    "undecided",  # our two ways to decide disagree
    "at_stripe",  # Stripe's sum is not what the ledger delivered
    "refused",  # owed, but Stripe rejected it
]


class Finding(NamedTuple):
    """One disagreement. `conversation` is empty if the record does not name a conversation."""

    kind: FindingKind
    tenant_id: str
    conversation: str
    detail: str
    at: int | None = (
        None  # when the unit occurred, ms; None if the finding concerns more than one unit
    )
