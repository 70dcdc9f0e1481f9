"""Render a receipt as plain sentences. Pure."""

from collections.abc import Iterator

from pipeline.ledger.entries import Result
from pipeline.ledger.receipt import Call, Delivery, Evidence, Explanation, Way

_STATES = {
    "planned": "is planned, and not sent yet",
    "sent": "is being sent, and Stripe has not confirmed it yet",
    "delivered": "was delivered to Stripe",
    "rejected": "was rejected by Stripe: this usage is not billed, and an operator must act",
    "uncertain": (
        "may have been counted by Stripe more than 23 hours ago, or cancelled: it is not sent again, and "
        "an operator must compare Stripe's sum"
    ),
    "altered": "is not sent: its content is not the one that was planned, and an operator must act",
    "released": "was released by an operator, and sent again as another meter event",
    "settled": "was settled by an operator: it counts as billed, and is not sent again",
    "netted": "was not sent: the charges and their reversals cancel out",
    "cancelled": "was cancelled",
    "withdrawing": "was delivered, and Stripe is asked to cancel it: units of it were taken back",
    "withdrawn": "was delivered, and Stripe cancelled it: what is left of it was sent as another",
}

# What follows for a unit that is in no meter event.
_WAYS: dict[Way | None, str] = {
    None: (
        "it waits for the next flush, for the tenant's Stripe customer, or for usage that makes up for "
        "a negative sum"
    ),
    "sent": "it waits for the next flush",
    "parked": "its account has no Stripe customer: add one to the tenant file, and publish it",
    "held": (
        "it is included, in a pack or over a cap, or the subscription does not have its price. "
        "`resmeter statement` says what it costs"
    ),
    "unpriced": "neither the policy nor a contract says its price: publish a version with a price",
    "own_invoice": "its period is closed, and no invoice follows: it needs an invoice of its own",
    "unmatched": "the ledger does not have the charge that it takes back",
    "netted": "the charge is not sent yet either, and the next flush sends neither",
    "lessened": "a later meter event of the period is smaller",
    "waits": "it waits for usage of the period that makes up for it, or for the close of the period",
    "withdrawn": (
        "the sink waits some minutes for usage that makes up for it, then asks Stripe to cancel the "
        "charge's meter event"
    ),
    "item": "the invoice of its period gets an item",
    "adjusted": "its period is closed: it is on the next statement",
    "credit_note": "its period is invoiced, and no invoice follows: it needs a credit note",
}

# `refused` without an HTTP status: no connection was made.
_UNREACHED = "Stripe could not be reached, the sink tries again"

_RESULTS: dict[Result, str] = {
    "unanswered": "no response is known: the sink stopped during the call, or still waits",
    "delivered": "accepted",
    "duplicate": "accepted: Stripe has it from an earlier call, and counts it once",
    "collision": "rejected: Stripe has this identifier, but not from us",
    "rejected": "rejected by Stripe",
    "failed": "failed, the sink tries again",
    "foreign": "something other than Stripe responded, the sink tries again",
    "refused": "throttled by Stripe and not counted, the sink tries again",
    "halted": "Stripe does not accept the key",
    "withdrawn": "cancelled by Stripe",
}


def render(explanation: Explanation) -> Iterator[str]:
    """Yield the lines of the receipt. Long lines are not wrapped."""
    yield f"Conversation {explanation.conversation} of {explanation.tenant_id}"
    if explanation.net:
        net = ", ".join(f"{units} {_in_words(o)}" for o, units in explanation.net.items())
    else:
        net = "nothing: what was charged has been taken back"
    money = ", ".join(f"{amount} {c}" for c, amount in explanation.amounts.items())
    yield f"Billed in all: {net}" + (f" ({money})" if money else "")
    for number, line in enumerate(explanation.records, start=1):
        yield ""
        sign = "charged" if line.quantity > 0 else "taken back"
        price = "no price" if line.amount is None else f"{line.amount} {line.currency}"
        yield (
            f"{number}. {line.occurred_at}  {line.quantity:+d} {_in_words(line.outcome)} "
            f"{sign}, {price}"
        )
        why = f"   Why       {line.why[:1].upper()}{line.why[1:]} "
        yield why + f"(reason: {line.reason}; kind: {line.kind})."
        if line.supersedes:
            yield f"   Reverses  {line.supersedes}"
        yield f"   Policy    {line.policy}, version {line.policy_version}"
        yield f"   Evidence  {'; '.join(map(_where, line.evidence)) or 'none'}"
        yield (
            f"   Record    {line.id} ({line.record.topic}, partition {line.record.partition}, "
            f"offset {line.record.offset})"
        )
        for before in line.withdrawn:
            yield from _render_delivery(before)
        if line.statement is not None:
            yield (
                f"   Stripe    Nothing is sent: it is on the final statement of {line.statement.account} for "
                f"the period from {line.statement.period}."
            )
        elif line.delivery is None:
            yield f"   Stripe    Not yet: {_WAYS[line.way]}."
        else:
            yield from _render_delivery(line.delivery)


def _render_delivery(delivery: Delivery) -> Iterator[str]:
    yield (
        f"   Stripe    Meter event {delivery.identifier} {_STATES[delivery.state]}. It covers "
        f"{_units(delivery.value)} for {delivery.customer} in {delivery.event_name}, in the hour "
        f"from {delivery.hour}."
    )
    for number, call in enumerate(delivery.attempts, start=1):
        facts = [
            f"HTTP {call.http_status}" if call.http_status is not None else "",
            f"request {call.request_id}" if call.request_id else "",
            call.detail or "",
        ]
        details = ", ".join(fact for fact in facts if fact)
        asks = " to cancel it" if call.call == "withdraw" else ""
        yield f"             Call {number}{asks} at {call.at}: {_result(call)}" + (
            f" ({details})" if details else ""
        )
    for decision in delivery.decisions:
        did = "recorded it as billed"
        if decision.replaced_by is not None:
            did = f"had {decision.identifier} sent again as {decision.replaced_by}"
        yield f"             {decision.who} {did} at {decision.at}: {decision.reason}"


def _result(call: Call) -> str:
    if call.result == "refused" and call.http_status is None:
        return _UNREACHED
    return _RESULTS[call.result]


def _where(evidence: Evidence) -> str:
    if evidence.topic is None:
        return f"event {evidence.event}"
    return (
        f"event {evidence.event} ({evidence.topic}, partition {evidence.partition}, "
        f"offset {evidence.offset})"
    )


def _in_words(outcome: str) -> str:
    return outcome.replace("_", " ")


def _units(count: int) -> str:
    return "1 unit" if count == 1 else f"{count} units"
