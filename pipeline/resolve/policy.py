"""One version of a policy, and the versions of one by effective date. Pure."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from pipeline.events.model import Cause

Unit = Literal["conversation", "segment"]
WindowAnchor = Literal["last_answer", "last_message", "first_message"]
Silence = Literal["bills", "if_verified", "never"]
HumanReply = Literal["ignore", "clears_answer", "voids_conversation"]
UnknownIntent = Literal["help_request", "holding"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a policy (specification, section 2). Durations and times in milliseconds."""

    name: str
    version: int
    effective_from: int
    unit: Unit
    window: dict[str, int]  # "default" and channels
    window_anchor: WindowAnchor
    silence: Silence
    human_reply: HumanReply
    human_request_sticky: bool
    unknown_intent: UnknownIntent
    handoff_causes_billed: tuple[Cause, ...]
    outcomes_billed: tuple[str, ...]
    precedence: tuple[str, ...]  # highest first
    reversible: tuple[str, ...]
    reversal_horizon: int | None  # None: unbounded
    csat_reverses_below: int | None
    csat_confirms_from: int | None
    spam_grace: int
    grace: int
    price: dict[str, Decimal]
    currency: str

    def window_of(self, channel: str) -> int:
        window = self.window.get(channel)
        return self.window["default"] if window is None else window

    def rank_of(self, outcome: str) -> int:
        """Return the place in the precedence; a smaller number is a higher precedence."""
        precedence = self.precedence
        return precedence.index(outcome) if outcome in precedence else len(precedence)


class Timeline:
    """The versions of one policy by effective date.

    Before the first of them nothing is in force, and nothing bills.
    """

    __slots__ = ("single", "single_from", "versions")

    def __init__(self, versions: Sequence[Policy]) -> None:
        self.versions = tuple(sorted(versions, key=lambda p: (p.effective_from, p.version)))
        # Most have one version: the hot path asks for it without a call.
        self.single = self.versions[0] if len(self.versions) == 1 else None
        self.single_from = self.versions[0].effective_from if self.versions else 0

    def at(self, ms: int) -> Policy | None:
        """Return the version in force at a time, or None before the first."""
        if self.single is not None:
            return self.single if ms >= self.single_from else None
        found = None
        for policy in self.versions:
            if policy.effective_from > ms:
                break
            found = policy
        return found
