"""Findings of the audit: where the ledger disagrees with the log or with Stripe. Pure."""

from typing import Literal, NamedTuple

FindingKind = Literal[
    "missing",  # owed, but not in the ledger
    "unexpected",  # in the ledger, but not owed
    "not_in_log",  # in the ledger, but its evidence is no longer in the log: nothing to take back
    "differs",  # in the ledger with other content
    "no_evidence",  # in the ledger, but names no event as evidence
    "unbalanced",  # corrected by a rebill plan, but the sum is not the units owed
    "no_dead_letter",  # rejected, but not among the dead letters
    "damaged",  # the log has records that no longer are what was written: not judged
    "reused_id",  # two events of a conversation have one source and id, and the second is left out
    "split",  # a conversation has events on two partitions: each part is decided by itself
    "undecided",  # deciding event by event and over the whole history differ: an error in resmeter
    "at_stripe",  # Stripe's sum is not that of the ledger's deliveries
    "refused",  # owed, but Stripe rejected it
]


class Finding(NamedTuple):
    """One disagreement. `conversation` is empty if the record does not name a conversation."""

    kind: FindingKind
    tenant_id: str
    conversation: str
    detail: str
    at: int | None = None  # when the unit occurred, ms; None: the finding covers several units
