"""Define the members of `data` for each event type; both readers use this table. Pure.

A class declares the members of `data`, with their types and defaults. Its method `members` returns
the part that an `Event` keeps. The readers ignore all other members. `schemas/events` describes the
same members for producers, and a test compares the schemas with this table.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pipeline.events import model
from pipeline.events.model import AnswerKind, Cause, Intent, Visibility
from pipeline.events.times import parse_time

# A text with a length is an identifier and may not contain NUL; a plain `str` is for people.
Identifier = Annotated[str, Meta(min_length=1, max_length=256)]
OutcomeName = Annotated[str, Meta(min_length=1, max_length=64)]
Score = Annotated[int, Meta(ge=1, le=5)]
Time = Annotated[str, Meta(extra={"format": "RFC 3339"})]
Actor = Literal["customer", "teammate", "workflow"]


# `gc=False` here and in `wire`: none of these can be part of a cycle.
class Data(msgspec.Struct, gc=False):
    """The `data` of one event type. `reader` checks its members in this order."""

    def members(self) -> dict[str, Any]:
        """Return the members of `Event` that this data sets.

        Raises:
            ValueError: a time is not valid.
        """
        return {}


class Nothing(Data, gc=False):
    pass


class Started(Data, gc=False):
    initiated_by: Literal["customer", "teammate", "outbound"]


class CustomerMessage(Data, gc=False):
    intent: Intent = "unknown"
    classifier: str = ""

    def members(self) -> dict[str, Any]:
        return {"intent": self.intent}


class AiMessage(Data, gc=False):
    kind: AnswerKind
    billable: bool = True
    agent: str = ""

    def members(self) -> dict[str, Any]:
        return {"kind": self.kind, "billable": self.billable}


class HumanMessage(Data, gc=False):
    visibility: Visibility = "public"

    def members(self) -> dict[str, Any]:
        return {"internal": self.visibility == "internal"}


class Handoff(Data, gc=False):
    cause: Cause

    def members(self) -> dict[str, Any]:
        return {"cause": self.cause}


class OutcomeReported(Data, gc=False):
    outcome: OutcomeName

    def members(self) -> dict[str, Any]:
        return {"outcome": self.outcome}


class Rating(Data, gc=False):
    target: Literal["ai", "human"]
    score: Score
    intent: Intent | UnsetType = UNSET

    def members(self) -> dict[str, Any]:
        return {
            "rates_ai": self.target == "ai",
            "score": self.score,
            "intent": None if self.intent is UNSET else self.intent,
        }


class Verdict(Data, gc=False):
    verified: bool
    model: str = ""

    def members(self) -> dict[str, Any]:
        return {"verified": self.verified}


class Undelivered(Data, gc=False):
    message_id: Identifier

    def members(self) -> dict[str, Any]:
        return {"message_id": self.message_id}


class ClosedOrReopened(Data, gc=False):
    actor: Actor


# The default of `Event`: a text is left out of an encoding only if it is the same object.
_NO_ID = ""


class Merged(Data, gc=False):
    role: Literal["primary", "secondary"]
    other: Identifier
    last_answer_at: Time | UnsetType = UNSET
    last_answer_id: Identifier | UnsetType = UNSET

    def members(self) -> dict[str, Any]:
        text, answer_id = self.last_answer_at, self.last_answer_id
        return {
            "secondary": self.role == "secondary",
            "last_answer_at": None if text is UNSET else parse_time(text),
            "message_id": _NO_ID if answer_id is UNSET else answer_id,
        }


class SpamFlagged(Data, gc=False):
    actor: str = ""


DATA: dict[int, type[Data]] = {
    model.STARTED: Started,
    model.CUSTOMER_MESSAGE: CustomerMessage,
    model.AI_MESSAGE: AiMessage,
    model.HUMAN_MESSAGE: HumanMessage,
    model.HANDOFF: Handoff,
    model.OUTCOME_REPORTED: OutcomeReported,
    model.RATING: Rating,
    model.VERDICT: Verdict,
    model.UNDELIVERED: Undelivered,
    model.CLOSED: ClosedOrReopened,
    model.REOPENED: ClosedOrReopened,
    model.MERGED: Merged,
    model.SPAM_FLAGGED: SpamFlagged,
    model.REDACTED: Nothing,
    model.DELETED: Nothing,
}
