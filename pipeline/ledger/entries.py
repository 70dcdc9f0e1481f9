"""The values that the ledger stores and returns. Pure.

Three parts: the values of the intake, of the deliveries, and of the reports.
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
    """A Kafka message from the topic of usage records."""

    partition: int
    offset: int
    value: bytes | None
    origin: bytes | None = None  # the header `resmeter-origin`


class Quarantined(msgspec.Struct, frozen=True):
    """A message that does not bill and is stored in `refused_record`; an operator must act."""

    reason: QuarantineReason
    partition: int
    offset: int
    detail: str


class Stored(msgspec.Struct, frozen=True):
    """A batch was stored: `records` are new, `duplicates` were stored earlier with equal content."""

    records: int
    duplicates: int
    quarantined: tuple[Quarantined, ...]
    offsets: Mapping[int, int]  # partition → next offset


class Moved(msgspec.Struct, frozen=True):
    """Nothing was stored: another sink moved an offset. Seek to these offsets and read again."""

    offsets: Mapping[int, int | None]  # partition → next offset in the ledger


# --- deliveries -----------------------------------------------------------------------------------

# The state of a meter event.
State = Literal[
    "planned",
    "sent",
    "delivered",
    "rejected",  # the biller rejected it for good; an operator must act
    "uncertain",  # perhaps counted, and perhaps forgotten by the biller; an operator must act
    "altered",  # its content is not the one that was planned; an operator must act
    "released",  # an operator had it sent again, as another meter event
    "settled",  # an operator recorded it as counted
    "netted",
    "cancelled",  # an operator's release, taken back: the released meter event was counted
    "withdrawing",  # delivered, and the biller is asked to cancel it
    "withdrawn",  # the biller cancelled it: its records are pending again
]
# Waits for an operator; nothing is sent.
StuckState = Literal["rejected", "uncertain", "altered"]
STUCK: tuple[StuckState, ...] = ("rejected", "uncertain", "altered")

# What a call asks of the biller: to count a meter event, or to cancel it.
Call = Literal["deliver", "withdraw"]
# The result of a call. The ledger stores these words, and metrics have them as labels.
Result = Literal[
    "unanswered",  # written before the call; it stays if the sink dies before the response
    "delivered",
    "duplicate",  # the biller has the event from an earlier call of ours: delivered
    "collision",  # the biller has the identifier, but not from a call of ours
    "rejected",  # the biller rejected the usage for good
    "failed",  # 5xx, or the connection broke: perhaps counted
    "foreign",  # not the biller's answer to this call, but a proxy's: perhaps counted, retried
    "refused",  # throttled (409, 429) or unreached (no connection): not counted, retried
    "halted",  # 401, 403: the key is not accepted
    "withdrawn",  # the biller cancelled the event
]
# After a call with one of these results, the biller may have done what it asks.
PERHAPS_COUNTED: tuple[Result, ...] = (
    "unanswered",
    "failed",
    "foreign",
    "delivered",
    "duplicate",
    "withdrawn",
)


class PendingRecord(NamedTuple):
    """A usage record that belongs to no meter event yet.

    `occurred_at` is the time of its unit. Policy and price are those of its charge; without a price, the
    policy version says it.
    """

    seq: int
    id: str
    quantity: int
    occurred_at: int
    charge: str | None = None  # on a -1: the id of the +1
    policy: str = ""
    policy_version: int = 0
    price: str | None = None
    currency: str | None = None
    withdrawn: int = 0  # how many meter events with it were withdrawn
    waits_for_charge: bool = False  # of a -1: the meter event of its charge is being withdrawn


class PendingKey(NamedTuple):
    """The key of a pending record."""

    tenant_id: str
    outcome: str
    occurred_at: int
    seq: int


class PendingSum(msgspec.Struct, frozen=True):
    """The sum of the pending records of a tenant and outcome, those without their charge apart."""

    tenant_id: str
    outcome: str
    records: int = 0
    quantity: int = 0
    unmatched: int = 0  # reversals whose charge the ledger lacks, as a number below zero
    first_ms: int | None = None  # the time of the first unit, and of the last
    last_ms: int | None = None


OwedState = Literal["pending", "planned", "sent", "rejected", "uncertain", "altered"]


class OpenSum(msgspec.Struct, frozen=True):
    """Units that the biller has not confirmed, by state and by the policy version that prices them.

    `pending` units are in no meter event yet.
    """

    state: OwedState
    tenant_id: str
    outcome: str
    policy: str
    policy_version: int
    quantity: int


class MeterEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity for the biller, fixed before the first attempt: each retry sends the same body."""

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
    """A meter event and the pending records that it covers."""

    event: MeterEvent
    records: tuple[PendingRecord, ...]


class Lease(msgspec.Struct, frozen=True):
    """The right of one sink to make one call. The attempt is already stored."""

    identifier: str
    owner: str
    attempt: int  # its number in the ledger
    perhaps_counted: bool  # an earlier attempt with this body may have been counted
    idempotency_key: str
    call: Call = "deliver"


class NotLeased(Enum):
    """Why a meter event must not be sent now."""

    TAKEN = "another sink holds the lease or may call the event, or the event is concluded"
    UNCERTAIN = "an old attempt may have been counted: the event has become `uncertain`"
    KEPT = "the time to withdraw it is over, and no call was made: it stays delivered"


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one call, as the ledger stores it."""

    result: Result
    http_status: int | None = None
    request_id: str | None = None
    replayed: bool = False  # the biller repeated the response to an earlier call with this key
    detail: str | None = None


# --- decisions of operators -----------------------------------------------------------------------

Action = Literal["release", "settle"]


class WaitingEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A meter event that may need a decision, and what its calls say."""

    event: MeterEvent
    calls: int
    perhaps_counted: bool  # one of the calls may have been counted, or somebody has the identifier
    detail: str | None  # the result of the last call


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants. `stripe_checked`: the operator has compared Stripe's sum."""

    action: Action
    at: int  # ms
    who: str
    reason: str
    stripe_checked: bool = False
    bill_at: int | None = None  # of a release: bill at this time instead of the first one, ms


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A decision as stored: about the meter event `identifier`, which was in `state`."""

    at: int
    action: Action
    identifier: str
    replaced_by: str | None
    state: State
    who: str
    reason: str
    stripe_checked: bool


# --- reports --------------------------------------------------------------------------------------


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call, as stored."""

    at: int
    answered_at: int | None
    result: Result
    http_status: int | None
    request_id: str | None
    detail: str | None
    call: Call = "deliver"


class Withdrawn(msgspec.Struct, frozen=True):
    """A meter event that the biller cancelled, and its calls."""

    event: MeterEvent
    attempts: tuple[Attempt, ...]


class DeliveredSum(msgspec.Struct, frozen=True, kw_only=True):
    """The range of units that Stripe must count for a customer and meter.

    `least`: delivered long enough ago to be in Stripe's sums. `most`: all units that may have been
    counted. `rejected`: not counted, because Stripe rejected them or they collided.
    """

    customer: str
    event_name: str
    tenant_ids: tuple[str, ...]  # the tenants that are billed through the customer
    least: int
    most: int
    rejected: int = 0


class UsageSum(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant owes for an outcome, under one version of a policy.

    A -1 counts under the kind, policy and price of the record that it takes back. The price is the
    one that was fixed when the record was stored; None: the policy says it. Each unit counts in
    exactly one of `delivered` and the states after it, or is pending, planned or sent.
    """

    tenant_id: str
    outcome: str
    policy: str
    policy_version: int
    quantity: int
    confirmed: int
    assumed: int
    delivered: int
    netted: int = 0  # in charges and reversals that cancel out, and are never sent
    settled: int = 0  # by an operator, as billed
    stated: int = 0  # on a final statement: nothing is sent for them
    late: int = 0  # of a closed period, and on no statement yet: for the next one
    rejected: int = 0  # these three wait for an operator
    uncertain: int = 0
    altered: int = 0
    price: str | None = None
    currency: str | None = None

    @property
    def pending(self) -> int:
        """The units that are pending, planned or sent; below zero, they are carried."""
        concluded = self.delivered + self.netted + self.settled + self.stated + self.late
        return self.quantity - concluded - self.rejected - self.uncertain - self.altered


class StatedOn(NamedTuple):
    """The final statement that has a usage record, for which nothing is sent."""

    account: str
    period_start: int


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A usage record, its position, that of its evidence, and its delivery to Stripe."""

    record: UsageRecord
    topic: str
    partition: int
    offset: int
    origin: Origin | None
    meter_event: MeterEvent | None
    attempts: tuple[Attempt, ...]
    superseded_policy: tuple[str, int] | None  # of the record that a -1 takes back
    stated: StatedOn | None = None
    decisions: tuple[Decided, ...] = ()  # about this meter event and those that it replaces
    withdrawn: tuple[Withdrawn, ...] = ()  # the meter events that it was in before
