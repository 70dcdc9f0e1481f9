"""This file defines what goes into the ledger and comes out of it. Pure."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from pipeline.usage.record import Origin, UsageRecord

State = Literal["planned", "sent", "delivered", "rejected", "netted", "cancelled"]

# What became of a call. `unanswered` is written before it, and stays where we die in between.
Result = Literal[
    "unanswered",
    "delivered",
    "duplicate",  # Stripe had it already, from an earlier attempt of ours: delivered
    "collision",  # Stripe had that identifier already, and not from us
    "rejected",
    "failed",  # 5xx, or the connection broke: it may have been counted
    "refused",  # 409, 429, or no connection: it was surely not counted
    "halted",  # 401, 403
]
# After one of these, Stripe may know the identifier.
PERHAPS_COUNTED: tuple[Result, ...] = ("unanswered", "failed", "delivered", "duplicate")


class Arrival(NamedTuple):
    """One Kafka message of the topic of usage records."""

    partition: int
    offset: int
    value: bytes | None
    origin: bytes | None = None  # the header `resmeter-origin`


class Refused(msgspec.Struct, frozen=True):
    """A message that is kept, but does not bill: somebody must look."""

    reason: Literal["unreadable", "conflict"]
    partition: int
    offset: int
    detail: str


class Stored(msgspec.Struct, frozen=True):
    """What a batch brought. `records` are new; `duplicates` were known, with equal content."""

    records: int
    duplicates: int
    refused: tuple[Refused, ...]
    offsets: Mapping[int, int]  # partition → next offset


class Moved(msgspec.Struct, frozen=True):
    """Another sink has moved the offsets of these partitions: nothing was stored, seek again."""

    offsets: Mapping[int, int | None]  # partition → where it stands


class PendingRecord(NamedTuple):
    """A usage record that no meter event holds."""

    seq: int
    id: str
    quantity: int
    occurred_at: int


class PendingSum(msgspec.Struct, frozen=True):
    """All pending records of a tenant and outcome, added up."""

    tenant_id: str
    outcome: str
    records: int
    quantity: int
    stored_at: int  # of the oldest, by its arrival in the ledger


class OpenSum(msgspec.Struct, frozen=True):
    """Units that are not known to be at Stripe, for pricing: by the policy that decided them."""

    tenant_id: str
    outcome: str
    policy: str
    policy_version: int
    quantity: int


class MeterEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What Stripe gets, fixed before the first attempt: every retry sends this very body."""

    identifier: str
    tenant_id: str
    customer: str
    outcome: str
    event_name: str
    hour: int
    value: int
    timestamp: int
    body_sha256: str
    state: State = "planned"
    created_at: int = 0
    updated_at: int = 0


class PlannedEvent(msgspec.Struct, frozen=True):
    """A meter event and the pending records that it takes up."""

    event: MeterEvent
    records: tuple[PendingRecord, ...]


class Claim(msgspec.Struct, frozen=True):
    """The right to make one call; its attempt is written already."""

    attempt: int
    perhaps_counted: bool  # an earlier attempt of this body may have reached Stripe
    idempotency_key: str


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as remembered."""

    at: int
    answered_at: int | None
    result: Result
    http_status: int | None
    request_id: str | None
    detail: str | None


class DeliveredSum(msgspec.Struct, frozen=True, kw_only=True):
    """What Stripe must have of a customer and meter: at least what was answered long enough ago.

    And at most all that may have been counted, whatever was answered. `refused` it has not taken.
    """

    customer: str
    event_name: str
    tenant_ids: tuple[str, ...]  # who is billed through the customer
    least: int
    most: int
    refused: int = 0


class UsageSum(msgspec.Struct, frozen=True, kw_only=True):
    """What is owed by a tenant for an outcome, under one version of a policy.

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
    """A usage record, where it and its evidence lie, and how it reached Stripe."""

    record: UsageRecord
    topic: str
    partition: int
    offset: int
    origin: Origin | None
    meter_event: MeterEvent | None
    attempts: tuple[Attempt, ...]
    superseded_policy: tuple[str, int] | None  # of the record that a -1 takes back
