"""What a decision is made of: the answer, the charge, the transition. Pure."""

from typing import Literal

import msgspec

Kind = Literal["confirmed", "assumed", "handoff", "reported"]


class Transition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One unit charged (+1) or taken back (-1), and why. `at` is event time in milliseconds."""

    at: int
    outcome: str
    delta: int
    kind: Kind
    reason: str
    evidence: tuple[str, ...]
    policy: str
    policy_version: int

    def same_as(self, other: "Transition") -> bool:
        """Return whether both are the same transition (docs/reference/outcomes.md §4.1)."""
        return (
            self.at == other.at
            and self.outcome == other.outcome
            and self.delta == other.delta
            and self.reason == other.reason
        )


class StandingAnswer(msgspec.Struct, array_like=True, gc=False):
    """The answer that silence would charge (§3.2).

    `at` is the time of the answer, and `known_at` that of the event that made it the standing
    answer. They differ after a merge. `id` is that of the event; see `ids_of_merged`.
    """

    id: str
    at: int
    known_at: int
    channel: str
    verified: bool = False
    verified_at: int = 0

    @property
    def event_id(self) -> str:
        """The id of the event that made it the standing answer: the evidence."""
        return self.id.partition(_SEPARATOR)[0]


class Charge(msgspec.Struct, array_like=True, gc=False):
    """The unit that is charged now; `answer` is the id of the answer behind it."""

    outcome: str
    kind: Kind
    at: int
    answer: str | None


# Between the two ids of an answer that a merge brought. No id contains it.
_SEPARATOR = "\0"


def ids_of_merged(event_id: str, answer_id: str) -> str:
    """Return the id of an answer that a merge brought: the merge's, and the answer's own if known."""
    return f"{event_id}{_SEPARATOR}{answer_id}" if answer_id else event_id


def is_named(answer: str | None, message_id: str) -> bool:
    """Return whether a message id means the answer with this id."""
    return answer is not None and message_id in answer.split(_SEPARATOR)


def has_two_ids(answer: str | None) -> bool:
    """Return whether an answer has an id of its own beside that of the merge that brought it."""
    return answer is not None and _SEPARATOR in answer
