"""Say how units that are in no meter event will reach or leave an invoice."""

from collections.abc import Sequence

from pipeline.billing.ladder import Books, Charge, Reversal, rung_of_charge, rung_of_reversal
from pipeline.catalog.tenants import Tenants
from pipeline.ledger import Ledger, invoices
from pipeline.ledger.entries import PERHAPS_COUNTED, PendingRecord, Receipt
from pipeline.ledger.receipt import Kept, Way
from pipeline.sink.metering import Metering
from pipeline.sink.stripe.wanted import charged_to
from pipeline.usage.record import UsageRecord


def ways(
    ledger: Ledger, tenants: Tenants, receipts: Sequence[Receipt], now_ms: int
) -> dict[str, Way]:
    """Return the way of each record of a conversation that is in no meter event, by id.

    Later usage may still make up for a reversal; nothing is said about that.
    """
    metering = Metering(ledger, tenants, charged_to, now_ms)
    by_id = {receipt.record.id: receipt for receipt in receipts}
    found: dict[str, Way] = {}
    for receipt in receipts:
        record = receipt.record
        if receipt.meter_event is not None or receipt.stated is not None:
            continue
        charge = by_id.get(record.supersedes or "")
        unit = record if charge is None else charge.record
        books = _books(metering, unit.tenant_id, unit.occurred_at)
        if record.quantity > 0:
            rung = rung_of_charge(books)
            found[record.id] = (_kept(metering, record) or rung) if rung == "sent" else rung
        else:
            found[record.id] = rung_of_reversal(_reversal(charge), books, now_ms)
    return found


def _kept(metering: Metering, record: UsageRecord) -> Kept | None:
    """Return why the next flush does not send a charge of an open period; None: it does."""
    of = metering.period_of(record.tenant_id, record.occurred_at)
    rule = metering.rule_for(of, record.tenant_id, record.outcome)
    pending = PendingRecord(
        seq=0,
        id=record.id,
        quantity=record.quantity,
        occurred_at=record.occurred_at,
        policy=record.policy,
        policy_version=record.policy_version,
    )
    why = rule.why_not(pending) if rule is not None else None
    if why in ("held", "unpriced"):
        return why
    return None if of.account in metering.tenants.customers else "parked"


def _books(metering: Metering, tenant_id: str, at_ms: int) -> Books:
    of = metering.period_of(tenant_id, at_ms)
    own = (
        each
        for each in invoices.invoices_of(metering.ledger, of.account)
        if each.period_start == of.period.start_ms and not each.is_own
    )
    is_invoiced = any(each.state != "planned" for each in own)
    is_followed = of.account in metering.tenants.customers
    return Books(of.period.end_ms, metering.is_closed(of), is_invoiced, is_followed)


def _reversal(charge: Receipt | None) -> Reversal:
    state: Charge = "unknown"
    received_ms = None
    if charge is not None:
        event = charge.meter_event
        is_delivered = event is not None and event.state in ("delivered", "settled", "netted")
        state = "pending" if event is None else "delivered" if is_delivered else "under_way"
        was_asked = any(call.call == "withdraw" for call in charge.attempts)
        if event is not None and event.state == "delivered" and not was_asked:
            calls = (call.at for call in charge.attempts if call.result in PERHAPS_COUNTED)
            received_ms = min(calls, default=None)
    return Reversal(state, has_later=False, has_waited=True, received_ms=received_ms)
