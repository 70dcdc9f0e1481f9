"""Define what goes into the ledger and what comes out of it. Pure.

In three parts: what the intake stores, what a delivery writes, what the reports return.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Literal, NamedTuple

import msgspec

from pipeline.usage.record import Origin, UsageRecord

HOUR_MS = 3_600_000


# --- intake ---------------------------------------------------------------------------------------

QuarantineReason = Literal["unreadable", "conflict"]


class ConsumedRecord(NamedTuple):
    """One Kafka message of the topic of usage records."""

    partition: int
    offset: int
    value: bytes | None
    origin: bytes | None = None  # the header `resmeter-origin`


class Quarantined(msgspec.Struct, frozen=True):
    """A message that is stored in `refused_record` and does not bill; an operator must act."""

    reason: QuarantineReason
    partition: int
    offset: int
    detail: str


class Stored(msgspec.Struct, frozen=True):
    """What became of a batch: `records` are new, `duplicates` were stored with equal content."""

    records: int
    duplicates: int
    quarantined: tuple[Quarantined, ...]
    offsets: Mapping[int, int]  # partition → next offset


class Moved(msgspec.Struct, frozen=True):
    """Another sink moved the offsets of these partitions. Nothing was stored: seek and read again."""

    offsets: Mapping[int, int | None]  # partition → next offset in the ledger


# --- deliveries -----------------------------------------------------------------------------------

# The state of a meter event. Nothing writes `cancelled` yet; the table accepts it.
State = Literal["planned", "sent", "delivered", "rejected", "netted", "cancelled"]

# What became of a call. These words are stored and are labels of metrics.
Result = Literal[
    "unanswered",  # written before the call; it stays if the sink dies before the response
    "delivered",
    "duplicate",  # the biller had the event from an earlier call of ours: delivered
    "collision",  # the biller had the identifier, but not from us
    "rejected",  # the biller turned the usage down for good
    "failed",  # 5xx, or the connection broke: perhaps counted
    "refused",  # throttled (409, 429) or unreached (no connection): not counted, retried
    "halted",  # 401, 403: the key is not accepted
]
# After one of these the biller may know the identifier.
PERHAPS_COUNTED: tuple[Result, ...] = ("unanswered", "failed", "delivered", "duplicate")


class PendingRecord(NamedTuple):
    """A usage record that belongs to no meter event yet."""

    seq: int
    id: str
    quantity: int
    occurred_at: int


class PendingSum(msgspec.Struct, frozen=True):
    """The sum of all pending records of a tenant and outcome."""

    tenant_id: str
    outcome: str
    records: int
    quantity: int
    stored_at: int  # when the oldest record entered the ledger, ms


class OpenSum(msgspec.Struct, frozen=True):
    """Units that the biller is not known to have, by the policy that prices them."""

    tenant_id: str
    outcome: str
    policy: str
    policy_version: int
    quantity: int


class MeterEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What the biller gets, fixed before the first attempt: every retry sends the same body."""

    identifier: str
    tenant_id: str
    customer: str
    outcome: str
    event_name: str
    hour: int  # hours since the epoch
    value: int
    timestamp: int  # seconds, within the hour
    body_sha256: str
    state: State = "planned"
    created_at: int = 0
    updated_at: int = 0


class PlannedEvent(msgspec.Struct, frozen=True):
    """A meter event and the pending records that it takes up."""

    event: MeterEvent
    records: tuple[PendingRecord, ...]


class Lease(msgspec.Struct, frozen=True):
    """The right of one sink to make one call; the attempt is stored already."""

    identifier: str
    owner: str
    attempt: int  # its number in the ledger
    perhaps_counted: bool  # an earlier attempt with this body may have reached the biller
    idempotency_key: str


class NotLeased(Enum):
    """Why a meter event must not be sent now."""

    TAKEN = "another sink holds the lease, or the event is concluded"
    UNCERTAIN = "an old attempt may have been counted: another call could bill twice"


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one call, as the ledger stores it."""

    result: Result
    http_status: int | None = None
    request_id: str | None = None
    replayed: bool = False  # the biller repeated the response to an earlier call with this key
    detail: str | None = None


# --- reports --------------------------------------------------------------------------------------


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One stored call."""

    at: int
    answered_at: int | None
    result: Result
    http_status: int | None
    request_id: str | None
    detail: str | None


class DeliveredSum(msgspec.Struct, frozen=True, kw_only=True):
    """What Stripe must have for a customer and meter, in units.

    `least` counts the calls that were answered long enough ago to be in Stripe's sums, `most` all
    that may have been counted. Stripe did not take the `rejected` units.
    """

    customer: str
    event_name: str
    tenant_ids: tuple[str, ...]  # the tenants that are billed through the customer
    least: int
    most: int
    rejected: int = 0


class UsageSum(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant owes for an outcome, under one version of a policy.

    A -1 counts under kind and policy of the record that it takes back: it undoes that charge.
    `delivered` includes what cancelled out and never had to be sent; the rest is pending.
    """

    tenant_id: str
    outcome: str
    policy: str
    policy_version: int
    quantity: int
    confirmed: int
    assumed: int
    delivered: int


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A usage record, the position of the record and its evidence, and how it reached Stripe."""

    record: UsageRecord
    topic: str
    partition: int
    offset: int
    origin: Origin | None
    meter_event: MeterEvent | None
    attempts: tuple[Attempt, ...]
    superseded_policy: tuple[str, int] | None  # of the record that a -1 takes back
