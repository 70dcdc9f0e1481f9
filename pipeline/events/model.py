"""This file defines what the codec yields: `Event`, or `Rejected` with a reason. Pure."""

from typing import Literal, final, get_args

import msgspec

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
    "not_authorized",  # resmeter's own: the specification has no producers
]
REASONS: tuple[Reason, ...] = get_args(Reason)

# In the order of the specification's table: the position is the rank of events that happened in
# the same millisecond.
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

EVENT_BYTES_MAX = 256 * 1024
EVENTS_IN_CONVERSATION_MAX = 10_000
# And in the form in which they are kept, so that a state fits into a Kafka record whatever is in
# them: a conversation of 10,000 reaches it where its events have over 300 bytes of texts each.
HISTORY_BYTES_MAX = 3 * 1024 * 1024
# The specification has none; without one, a hundred events fill what a state may be.
SEQUENCE_CHARACTERS_MAX = 256
FUTURE_MS_MAX = 5 * 60_000


@final
class Rejected(msgspec.Struct, frozen=True):
    """Why a record is not an event: it goes to the dead letters. `detail` names the attribute."""

    reason: Reason
    detail: str


class Event(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What of an event can affect a decision; the rest stays in the log.

    `at` is in milliseconds since the epoch, UTC. `rank` is the position of the type in `TYPES`.
    The tenant and the conversation are not here: they are the key. Members after `sequence` are
    set by the types that have them.
    """

    at: int = msgspec.field(name="t")
    rank: int = msgspec.field(name="r")
    source: str = msgspec.field(name="s")
    id: str = msgspec.field(name="i")
    sequence: str = msgspec.field(name="q", default="")
    channel: Channel = msgspec.field(name="c", default="messenger")
    live: bool = msgspec.field(name="l", default=True)
    intent: Intent | None = msgspec.field(name="n", default=None)
    kind: AnswerKind | None = msgspec.field(name="k", default=None)
    billable: bool = msgspec.field(name="b", default=True)
    internal: bool = msgspec.field(name="v", default=False)
    cause: Cause | None = msgspec.field(name="u", default=None)
    outcome: str = msgspec.field(name="o", default="")
    rates_ai: bool = msgspec.field(name="a", default=False)
    score: int = msgspec.field(name="x", default=0)
    verified: bool = msgspec.field(name="w", default=False)
    message_id: str = msgspec.field(name="m", default="")
    secondary: bool = msgspec.field(name="y", default=False)
    last_answer_at: int | None = msgspec.field(name="z", default=None)

    @property
    def type(self) -> str:
        return TYPES[self.rank]

    @property
    def order(self) -> tuple[int, str, int, str, str]:
        """The order of a history (specification, section 3)."""
        return (self.at, self.sequence, self.rank, self.source, self.id)


class Addressed(msgspec.Struct, frozen=True, gc=False):
    """An event with the tenant and the conversation that it is about."""

    tenant_id: str
    conversation: str
    event: Event
