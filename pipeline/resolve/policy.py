"""Define a version of a policy, and find the version in force at a time. Pure."""

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
    """One version of a policy (docs/reference/outcomes.md §2).

    Durations are in milliseconds, and times in milliseconds since the epoch.
    """

    name: str
    version: int
    effective_from: int
    unit: Unit
    window: dict[str, int]  # by channel, and "default" for the other channels
    window_anchor: WindowAnchor
    silence: Silence
    human_reply: HumanReply
    human_request_sticky: bool
    unknown_intent: UnknownIntent
    handoff_causes_billed: tuple[Cause, ...]
    outcomes_billed: tuple[str, ...]
    precedence: tuple[str, ...]  # highest first
    reversible: tuple[str, ...]
    reversal_horizon: int | None  # None means no limit
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
        """Return an outcome's position in the precedence; 0 is the highest."""
        precedence = self.precedence
        return precedence.index(outcome) if outcome in precedence else len(precedence)


class Timeline:
    """The versions of one policy by effective date.

    Before the first version takes effect, no policy is in force and nothing is billed.
    """

    __slots__ = ("single", "single_from", "versions")

    def __init__(self, versions: Sequence[Policy]) -> None:
        self.versions = tuple(sorted(versions, key=lambda p: (p.effective_from, p.version)))
        # Most timelines have one version. The hot path reads it from here, without a call.
        self.single = self.versions[0] if len(self.versions) == 1 else None
        self.single_from = self.versions[0].effective_from if self.versions else 0

    def at(self, ms: int) -> Policy | None:
        """Return the version in force at a time, or None before the first."""
        if self.single is not None:
            return self.single if ms >= self.single_from else None
        in_force = None
        for policy in self.versions:
            if policy.effective_from > ms:
                break
            in_force = policy
        return in_force
