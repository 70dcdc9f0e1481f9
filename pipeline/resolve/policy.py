"""Define a version of a policy, and find the version in force at a time. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, NamedTuple
from zlib import crc32

import msgspec

from pipeline.events.model import Cause

Unit = Literal["conversation", "segment"]
WindowAnchor = Literal["last_answer", "last_message", "first_message"]
Silence = Literal["bills", "if_verified", "never"]
HumanReply = Literal["ignore", "clears_answer", "voids_conversation"]
UnknownIntent = Literal["help_request", "holding"]

_ALWAYS = -(2**62)  # before all times


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


def rules_id(policy: Policy) -> bytes:
    """Return what names the rules that a due time rests on: `name:version:checksum`.

    The checksum covers the keys that say when silence bills, so that a file which was changed under
    the same version is noticed.
    """
    windows = ",".join(f"{channel}={ms}" for channel, ms in sorted(policy.window.items()))
    rules = f"{policy.window_anchor};{policy.silence};{policy.grace};{windows}"
    return f"{policy.name}:{policy.version}:{crc32(rules.encode()):08x}".encode()


class Assignment(NamedTuple):
    """From when a tenant has another policy, and the versions of that policy."""

    from_ms: int
    versions: Sequence[Policy]


class Timeline:
    """The policy versions of one tenant, each with the time from which it is in force (§2.3).

    Something is always in force: the first version counts from the start.
    """

    __slots__ = ("_from_ms", "_rules", "entries", "single", "versions")

    def __init__(
        self,
        versions: Sequence[Policy],
        later: Sequence[Assignment] = (),
        before: "Timeline | None" = None,
    ) -> None:
        """Start with the versions of one policy; `later` has other policies, by date.

        From its date on, the versions of the assigned policy are in force. Where that policy has no
        version yet, what was in force before stays. `before` has what is in force until the first
        version takes effect.

        Raises:
            ValueError: there is no version at all.
        """
        entries: list[tuple[int, Policy]] = []
        starts: list[int | None] = [None, *(assignment.from_ms for assignment in later)]
        assigned = [versions, *(assignment.versions for assignment in later)]
        for start_ms, end_ms, of_policy in zip(starts, [*starts[1:], None], assigned, strict=True):
            for policy in sorted(of_policy, key=lambda p: (p.effective_from, p.version)):
                since_ms = policy.effective_from
                if start_ms is not None and since_ms <= start_ms:
                    entries.append((start_ms, policy))
                elif end_ms is None or since_ms < end_ms:
                    entries.append((since_ms, policy))
        if before is not None:
            ends = [from_ms for from_ms, _ in entries[:1]]
            ends += [assignment.from_ms for assignment in later[:1]]
            entries[:0] = [entry for entry in before.entries if all(entry[0] < end for end in ends)]
        if not entries:
            raise ValueError("a timeline needs a version that is in force")
        self.entries: tuple[tuple[int, Policy], ...] = tuple(entries)
        self.versions = tuple(policy for _, policy in entries)
        self._from_ms = (_ALWAYS, *(from_ms for from_ms, _ in entries[1:]))
        self._rules = tuple(rules_id(policy) for policy in self.versions)
        # Most timelines have one version. The hot path reads it from here, without a call.
        self.single = self.versions[0] if len(entries) == 1 else None

    def amended(self, policy: Policy, from_ms: int, to_ms: int) -> "Timeline":
        """Return a timeline with another version in force from one time to before another (§2.3)."""
        changes = [
            *((since_ms, of) for of, since_ms in self.begins()[1:] if since_ms < from_ms),
            (from_ms, msgspec.structs.replace(policy, effective_from=from_ms)),
            (to_ms, self.at(to_ms)),
            *((since_ms, of) for of, since_ms in self.begins()[1:] if since_ms > to_ms),
        ]
        return Timeline(self.versions[:1], [Assignment(ms, (of,)) for ms, of in changes])

    def at(self, ms: int) -> Policy:
        """Return the version in force at a time."""
        return self.single or self.versions[bisect_right(self._from_ms, ms) - 1]

    def begins(self) -> list[tuple[Policy, int]]:
        """Return the versions in the order in which they come into force, each with its time."""
        return list(zip(self.versions, self._from_ms, strict=True))

    def rules_at(self, ms: int) -> bytes:
        """Return the `rules_id` of the version in force at a time."""
        return self._rules[bisect_right(self._from_ms, ms) - 1]

    def is_single(self, rules: bytes) -> bool:
        """Return whether there is only one version, and it has these rules."""
        return len(self._rules) == 1 and self._rules[0] == rules
