"""This file tells how a conversation was billed: the receipt, in plain words. Pure."""

from collections.abc import Iterator, Sequence
from decimal import Decimal

import msgspec

from pipeline.catalog.prices import Billing
from pipeline.events.times import format_time
from pipeline.ledger.entries import Attempt, MeterEvent, Receipt, Result

HOUR_MS = 3_600_000

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
        "somebody held the bill against the log, and applied a plan that brings the two in line"
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

_STATES = {
    "planned": "is planned, and not sent yet",
    "sent": "was sent, and waits for Stripe to accept it",
    "delivered": "was delivered to Stripe",
    "rejected": "was refused by Stripe and set aside: somebody must look",
    "netted": "comes to nothing: charges and corrections cancelled out before they were sent",
    "cancelled": "was cancelled",
}

_RESULTS: dict[Result, str] = {
    "unanswered": "no answer is known: the sink stopped in the middle, or is waiting",
    "delivered": "accepted",
    "duplicate": "accepted: Stripe had it already from an earlier call, and counts it once",
    "collision": "refused: Stripe has this identifier, but not from us",
    "rejected": "refused",
    "failed": "failed, to be tried again",
    "refused": "not accepted this time, to be tried again",
    "halted": "refused: the key is not accepted",
}


class Evidence(msgspec.Struct, frozen=True):
    event: str
    topic: str | None
    partition: int | None
    offset: int | None


class Position(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    offset: int


class Call(msgspec.Struct, frozen=True):
    at: str
    answered_at: str | None
    result: Result
    http_status: int | None
    request_id: str | None
    detail: str | None


class Delivery(msgspec.Struct, frozen=True):
    """How it reached Stripe; `value` is that of the whole meter event."""

    identifier: str
    customer: str
    event_name: str
    hour: str
    value: int
    timestamp: str
    state: str
    attempts: tuple[Call, ...]


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


class Explanation(msgspec.Struct, frozen=True):
    tenant_id: str = msgspec.field(name="tenantid")
    conversation: str
    net: dict[str, int]  # outcome → units, without zeros
    amounts: dict[str, str]  # currency → amount
    records: tuple[Line, ...]


def explain(receipts: Sequence[Receipt], billing: Billing) -> Explanation:
    """Return the receipt of one conversation; there is at least one record."""
    net: dict[str, int] = {}
    amounts: dict[str, Decimal] = {}
    lines: list[Line] = []
    for receipt in receipts:
        record = receipt.record
        # What is taken back is worth what it was charged at.
        policy, version = receipt.superseded_policy or (record.policy, record.policy_version)
        price = billing.price_for(record.tenant_id, record.outcome, policy, version)
        net[record.outcome] = net.get(record.outcome, 0) + record.quantity
        amount = None
        if price:
            worth = price[0] * record.quantity
            amounts[price[1]] = amounts.get(price[1], Decimal(0)) + worth
            amount = format(worth, "f")
        lines.append(_line(receipt, amount, price[1] if price else None))
    first = receipts[0].record
    return Explanation(
        tenant_id=first.tenant_id,
        conversation=first.conversation,
        net={outcome: units for outcome, units in sorted(net.items()) if units},
        amounts={currency: format(amount, "f") for currency, amount in sorted(amounts.items())},
        records=tuple(lines),
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
        why=_REASONS.get(record.reason, record.reason),
        evidence=_evidence(receipt),
        policy=record.policy,
        policy_version=record.policy_version,
        supersedes=record.supersedes,
        amount=amount,
        currency=currency,
        record=Position(receipt.topic, receipt.partition, receipt.offset),
        delivery=_delivery(receipt.meter_event, receipt.attempts),
    )


def _evidence(receipt: Receipt) -> tuple[Evidence, ...]:
    origin, events = receipt.origin, receipt.record.evidence
    if origin is None or len(origin.offsets) != len(events):
        return tuple(Evidence(event, None, None, None) for event in events)
    return tuple(
        Evidence(event, origin.topic, origin.partition, offset)
        for event, offset in zip(events, origin.offsets, strict=True)
    )


def _delivery(event: MeterEvent | None, attempts: tuple[Attempt, ...]) -> Delivery | None:
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
                at=format_time(made.at),
                answered_at=None if made.answered_at is None else format_time(made.answered_at),
                result=made.result,
                http_status=made.http_status,
                request_id=made.request_id,
                detail=made.detail,
            )
            for made in attempts
        ),
    )


def tell(explanation: Explanation) -> Iterator[str]:
    """Yield the lines of the receipt, for a person."""
    yield f"Conversation {explanation.conversation} of {explanation.tenant_id}"
    if explanation.net:
        net = ", ".join(f"{units} {_words(o)}" for o, units in explanation.net.items())
    else:
        net = "nothing: what was charged has been taken back"
    money = ", ".join(f"{amount} {c}" for c, amount in explanation.amounts.items())
    yield f"Billed in all: {net}" + (f" ({money})" if money else "")
    for number, line in enumerate(explanation.records, start=1):
        yield ""
        sign = "charged" if line.quantity > 0 else "taken back"
        worth = "no price" if line.amount is None else f"{line.amount} {line.currency}"
        yield (
            f"{number}. {line.occurred_at}  {line.quantity:+d} {_words(line.outcome)} "
            f"{sign}, {worth}"
        )
        yield f"   Why       {line.why[:1].upper()}{line.why[1:]} ({line.reason}, {line.kind})."
        if line.supersedes:
            yield f"   Reverses  {line.supersedes}"
        yield f"   Policy    {line.policy}, version {line.policy_version}"
        yield f"   Evidence  {'; '.join(map(_where, line.evidence)) or 'none'}"
        at = line.record
        yield f"   Record    {line.id} ({at.topic}, partition {at.partition}, offset {at.offset})"
        yield from _tell_delivery(line.delivery)


def _tell_delivery(delivery: Delivery | None) -> Iterator[str]:
    if delivery is None:
        yield (
            "   Stripe    Not yet: it waits for the next flush, for the tenant's Stripe customer, "
            "or for usage that makes up for a negative sum."
        )
        return
    yield (
        f"   Stripe    Meter event {delivery.identifier} {_STATES[delivery.state]}. It holds "
        f"{delivery.value} in all for {delivery.customer} in {delivery.event_name}, "
        f"in the hour from {delivery.hour}."
    )
    for number, call in enumerate(delivery.attempts, start=1):
        facts = [
            f"HTTP {call.http_status}" if call.http_status is not None else "",
            f"request {call.request_id}" if call.request_id else "",
            call.detail or "",
        ]
        known = ", ".join(fact for fact in facts if fact)
        yield f"             Call {number} at {call.at}: {_RESULTS[call.result]}" + (
            f" ({known})" if known else ""
        )


def _where(evidence: Evidence) -> str:
    if evidence.topic is None:
        return f"event {evidence.event}"
    return (
        f"event {evidence.event} ({evidence.topic}, partition {evidence.partition}, "
        f"offset {evidence.offset})"
    )


def _words(outcome: str) -> str:
    return outcome.replace("_", " ")
