"""Define an event, its types and limits, and the reasons to reject a record. Pure."""

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias, final, get_args

import msgspec

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]

# A header whose name is not UTF-8; each byte of the name that does not decode is a surrogate. A client
# that cannot return such a header gives this one instead. Every reader rejects the record.
UNREADABLE_HEADER: tuple[str, bytes | None] = ("\udcff", None)

Reason = Literal[
    "malformed_json",
    "not_cloudevents",
    "unknown_type",
    "missing_attribute",
    "invalid_attribute",
    "invalid_data",
    "too_large",
    "key_mismatch",
    "future_time",
    "conversation_too_long",
    "too_late",
    "not_authorized",
    "wrong_partition",
]
REASONS: tuple[Reason, ...] = get_args(Reason)

# An event stores the position of its type in this table, and the position also orders events of one
# millisecond and sequence. Append new types; never reorder.
TYPES = (
    "conversation.started",
    "conversation.customer_message",
    "conversation.ai_message",
    "conversation.human_message",
    "conversation.handoff",
    "conversation.outcome_reported",
    "conversation.rating",
    "conversation.verdict",
    "conversation.undelivered",
    "conversation.closed",
    "conversation.reopened",
    "conversation.merged",
    "conversation.spam_flagged",
    "conversation.redacted",
    "conversation.deleted",
)
(
    STARTED,
    CUSTOMER_MESSAGE,
    AI_MESSAGE,
    HUMAN_MESSAGE,
    HANDOFF,
    OUTCOME_REPORTED,
    RATING,
    VERDICT,
    UNDELIVERED,
    CLOSED,
    REOPENED,
    MERGED,
    SPAM_FLAGGED,
    REDACTED,
    DELETED,
) = range(len(TYPES))

Channel = Literal["messenger", "email", "sms", "voice", "social", "api"]
Environment = Literal["live", "test", "preview", "sandbox"]
Intent = Literal[
    "help_request", "confirmation", "human_request", "negative_feedback", "holding", "unknown"
]
AnswerKind = Literal["answer", "custom_answer", "greeting", "clarifying_question", "check_in"]
Visibility = Literal["public", "internal"]
Cause = Literal[
    "procedure",
    "customer_request",
    "default",
    "workspace_rule",
    "procedure_failure",
    "limit_reached",
    "api",
]

TENANT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
EVENT_BYTES_MAX = 256 * 1024
EVENTS_IN_CONVERSATION_MAX = 10_000
# The second limit of a conversation is the size of its encoded events. A state must fit into one
# Kafka record, and 10,000 events with more than 300 bytes of text each would not.
HISTORY_BYTES_MAX = 3 * 1024 * 1024
# Without a limit, a hundred events could fill a whole state.
SEQUENCE_CHARACTERS_MAX = 256
FUTURE_MS_MAX = 5 * 60_000


@final
class Rejected(msgspec.Struct, frozen=True):
    """Why a record becomes a dead letter. `detail` names the attribute and says what to do."""

    reason: Reason
    detail: str


class Event(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The part of an event that can affect a decision.

    The tenant and the conversation are not members: they are the key of the state that stores the
    event. The members after `is_live` come from `data`; each event type sets its own
    (`events/data.py`).

    The one-letter names are how a state stores the event (docs/internals/state-format.md). They
    keep states small, and they never change: old states must stay readable.
    """

    at: int = msgspec.field(name="t")  # ms since the epoch, UTC
    rank: int = msgspec.field(name="r")  # the type: its position in `TYPES`
    source: str = msgspec.field(name="s")
    id: str = msgspec.field(name="i")
    sequence: str = msgspec.field(name="q", default="")
    channel: Channel = msgspec.field(name="c", default="messenger")
    is_live: bool = msgspec.field(name="l", default=True)  # environment is "live"
    intent: Intent | None = msgspec.field(name="n", default=None)
    kind: AnswerKind | None = msgspec.field(name="k", default=None)
    billable: bool = msgspec.field(name="b", default=True)
    internal: bool = msgspec.field(name="v", default=False)  # visibility is "internal"
    cause: Cause | None = msgspec.field(name="u", default=None)
    outcome: str = msgspec.field(name="o", default="")
    rates_ai: bool = msgspec.field(name="a", default=False)  # target is "ai"
    score: int = msgspec.field(name="x", default=0)
    verified: bool = msgspec.field(name="w", default=False)
    message_id: str = msgspec.field(name="m", default="")  # of a merge: last_answer_id
    secondary: bool = msgspec.field(name="y", default=False)  # role is "secondary"
    last_answer_at: int | None = msgspec.field(name="z", default=None)  # ms since the epoch

    @property
    def type(self) -> str:
        """The name of the type, as in the CloudEvent."""
        return TYPES[self.rank]

    @property
    def order(self) -> tuple[int, str, int, str, str]:
        """The key that sorts a history (docs/reference/outcomes.md §3.1)."""
        return (self.at, self.sequence, self.rank, self.source, self.id)


class Addressed(msgspec.Struct, frozen=True, gc=False):
    """An event with its tenant and its conversation."""

    tenant_id: str
    conversation_id: str
    event: Event
