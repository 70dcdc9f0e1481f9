"""Build the receipt of a conversation: its charges, their reasons, their way to Stripe. Pure."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from pipeline.billing.ladder import ChargeRung, ReversalRung
from pipeline.catalog.prices import Prices
from pipeline.catalog.value import DatedAmendment, when
from pipeline.events.times import format_time
from pipeline.ledger.entries import (
    HOUR_MS,
    Action,
    Attempt,
    Decided,
    MeterEvent,
    Receipt,
    Result,
    Withdrawn,
)
from pipeline.ledger.entries import Call as CallKind

Kept = Literal[
    "parked",  # its account has no customer
    "held",  # included, in a pack, over the cap, or at another price than the subscription's
    "unpriced",  # nothing says its price
]
Way = ReversalRung | ChargeRung | Kept

_REASONS = {
    "silence": (
        "the AI's answer stood, and the customer did not come back for help before the "
        "window of the policy ended"
    ),
    "confirmed": "the customer confirmed that the AI's answer helped",
    "customer_returned": "the customer came back for help, so the answer had not settled it",
    "negative_feedback": "the customer said that the answer did not help",
    "human_requested": "the customer asked for a human",
    "superseded": "another outcome of this conversation ranks higher and took its place",
    "reported": "the AI agent reported that it reached this outcome",
    "low_rating": "the customer rated the AI below what the policy accepts",
    "undelivered": "the answer that this rested on did not reach the customer",
    "merged": "the conversation was merged into another one, which is billed in its place",
    "spam": "the conversation was flagged as spam in time",
    "late_event": (
        "an event arrived late and changed what had been decided; this brings the bill in line"
    ),
    "rebill": (
        "rebill: the charge was recalculated from the event log, and this entry corrects the "
        "difference"
    ),
    # The causes of a handoff.
    "procedure": "a procedure handed the conversation over to the team, as it was set up to",
    "customer_request": "the AI handed over because the customer asked for a human",
    "default": "the AI handed the conversation over to the team",
    "workspace_rule": "a rule of the workspace handed the conversation over to the team",
    "procedure_failure": "a procedure failed and handed the conversation over to the team",
    "limit_reached": "a limit was reached, and the conversation was handed over to the team",
    "api": "an API call handed the conversation over to the team",
}


def reason_in_words(reason: str) -> str:
    """Return the sentence for a usage record's reason, without its first capital and full stop."""
    return _REASONS.get(reason, reason)


class Evidence(msgspec.Struct, frozen=True):
    """An event that a usage record rests on. Without a known position, the last three are None."""

    event: str
    topic: str | None
    partition: int | None
    offset: int | None


class Position(msgspec.Struct, frozen=True):
    """Where a usage record is in Kafka."""

    topic: str
    partition: int
    offset: int


class Call(msgspec.Struct, frozen=True):
    """One attempt to deliver, or to withdraw."""

    at: str
    answered_at: str | None
    result: Result
    http_status: int | None
    request_id: str | None
    detail: str | None
    call: CallKind = "deliver"


class DecisionLine(msgspec.Struct, frozen=True):
    """What an operator decided about a meter event."""

    at: str
    action: Action
    identifier: str
    replaced_by: str | None
    who: str
    reason: str


class Delivery(msgspec.Struct, frozen=True):
    """The meter event of a usage record; `value` is the sum of all records of the event.

    Attempts and decisions are also those of the meter events that it replaces.
    """

    identifier: str
    customer: str
    event_name: str
    hour: str
    value: int
    timestamp: str
    state: str
    attempts: tuple[Call, ...]
    decisions: tuple[DecisionLine, ...] = ()


class StatementOf(msgspec.Struct, frozen=True):
    """A final statement."""

    account: str
    period: str


class Line(msgspec.Struct, frozen=True):
    """One usage record."""

    id: str
    occurred_at: str
    outcome: str
    quantity: int
    kind: str
    reason: str
    why: str
    evidence: tuple[Evidence, ...]
    policy: str
    policy_version: int
    supersedes: str | None
    amount: str | None
    currency: str | None
    record: Position
    delivery: Delivery | None
    withdrawn: tuple[Delivery, ...] = ()  # the meter events that it was in before
    way: Way | None = None  # how a unit in no meter event reaches or leaves an invoice
    statement: StatementOf | None = None  # that has it without a meter event
    plan: str | None = None  # the rebill plan that put another policy in the place of what was


class Explanation(msgspec.Struct, frozen=True):
    """The receipt of one conversation: the JSON of `resmeter explain --json`."""

    tenant_id: str = msgspec.field(name="tenantid")
    conversation: str
    net: dict[str, int]  # outcome → units, without zeros
    amounts: dict[str, str]  # currency → amount
    records: tuple[Line, ...]


def explain(
    receipts: Sequence[Receipt],
    prices: Prices,
    amendments: Sequence[DatedAmendment] = (),
    ways: Mapping[str, Way] | None = None,
) -> Explanation:
    """Return the receipt of one conversation, which has at least one record.

    `amendments`: what rebill plans have amended for its tenant. `ways`: how records in no meter event
    reach or leave an invoice, by id.
    """
    ways = ways or {}
    plans = {each.amendment.made_ms: each for each in amendments}
    net: dict[str, int] = {}
    amounts: dict[str, Decimal] = {}
    lines: list[Line] = []
    for receipt in receipts:
        record = receipt.record
        # A reversal has the price of the charge that it takes back.
        policy, version = receipt.superseded_policy or (record.policy, record.policy_version)
        price = prices.price_for(record.tenant_id, record.outcome, policy, version)
        net[record.outcome] = net.get(record.outcome, 0) + record.quantity
        amount = None
        if price:
            money = price[0] * record.quantity
            amounts[price[1]] = amounts.get(price[1], Decimal(0)) + money
            amount = format(money, "f")
        line = _line(receipt, amount, price[1] if price else None)
        line = msgspec.structs.replace(line, way=ways.get(record.id))
        plan = plans.get(record.occurred_at) if record.reason == "rebill" else None
        if plan is not None:
            why = f"{line.why}; {_plan_in_words(plan)}"
            line = msgspec.structs.replace(line, why=why, plan=plan.amendment.plan)
        lines.append(line)
    first = receipts[0].record
    return Explanation(
        tenant_id=first.tenant_id,
        conversation=first.conversation,
        net={outcome: units for outcome, units in sorted(net.items()) if units},
        amounts={currency: format(amount, "f") for currency, amount in sorted(amounts.items())},
        records=tuple(lines),
    )


def _plan_in_words(plan: DatedAmendment) -> str:
    amends = plan.amendment
    return (
        f"from {when(amends.from_ms)} to {when(amends.to_ms)} it owes by {amends.policy.name}, version "
        f"{amends.policy.version}, and no longer by what was in force (plan {amends.plan}, entry "
        f"{plan.number} of the catalog, {plan.who}: {plan.why})"
    )


def _line(receipt: Receipt, amount: str | None, currency: str | None) -> Line:
    record = receipt.record
    return Line(
        id=record.id,
        occurred_at=format_time(record.occurred_at),
        outcome=record.outcome,
        quantity=record.quantity,
        kind=record.kind,
        reason=record.reason,
        why=reason_in_words(record.reason),
        evidence=_evidence(receipt),
        policy=record.policy,
        policy_version=record.policy_version,
        supersedes=record.supersedes,
        amount=amount,
        currency=currency,
        record=Position(receipt.topic, receipt.partition, receipt.offset),
        statement=None
        if receipt.stated is None
        else StatementOf(receipt.stated.account, format_time(receipt.stated.period_start)),
        delivery=_delivery(receipt.meter_event, receipt.attempts, receipt.decisions),
        withdrawn=tuple(_cancelled(each) for each in receipt.withdrawn),
    )


def _evidence(receipt: Receipt) -> tuple[Evidence, ...]:
    origin, events = receipt.origin, receipt.record.evidence
    if origin is None or len(origin.offsets) != len(events):
        return tuple(Evidence(event, None, None, None) for event in events)
    return tuple(
        Evidence(event, origin.topic, origin.partition, offset)
        for event, offset in zip(events, origin.offsets, strict=True)
    )


def _cancelled(withdrawn: Withdrawn) -> Delivery:
    found = _delivery(withdrawn.event, withdrawn.attempts, ())
    assert found is not None
    return found


def _delivery(
    event: MeterEvent | None, attempts: Sequence[Attempt], decisions: Sequence[Decided]
) -> Delivery | None:
    if event is None:
        return None
    return Delivery(
        identifier=event.identifier,
        customer=event.customer,
        event_name=event.event_name,
        hour=format_time(event.hour * HOUR_MS),
        value=event.value,
        timestamp=format_time(event.timestamp * 1000),
        state=event.state,
        attempts=tuple(
            Call(
                at=format_time(attempt.at),
                answered_at=None
                if attempt.answered_at is None
                else format_time(attempt.answered_at),
                result=attempt.result,
                http_status=attempt.http_status,
                request_id=attempt.request_id,
                detail=attempt.detail,
                call=attempt.call,
            )
            for attempt in attempts
        ),
        decisions=tuple(
            DecisionLine(
                at=format_time(decision.at),
                action=decision.action,
                identifier=decision.identifier,
                replaced_by=decision.replaced_by,
                who=decision.who,
                reason=decision.reason,
            )
            for decision in decisions
        ),
    )
