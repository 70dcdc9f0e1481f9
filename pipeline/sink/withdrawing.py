"""Choose the meter events that the biller is asked to cancel, because units of them were taken back."""

from pipeline.billing.ladder import (
    CANCEL_MARGIN_MS,
    CANCEL_MS,
    Books,
    Reversal,
    rung_of_reversal,
    withdrawn_until,
)
from pipeline.catalog.prices import Billing
from pipeline.ledger import withdrawals
from pipeline.ledger.entries import MeterEvent
from pipeline.ledger.journal import Withdrawal
from pipeline.sink.metering import Metering

WITHDRAWN_AT_ONCE_MAX = 1_000
WITHDRAW_AFTER_MS = 600_000


def to_withdraw(metering: Metering, after_ms: int) -> list[Withdrawal]:
    """Return the meter events to withdraw now.

    Args:
        metering: the ledger, where whatever could be netted or lessened is planned already, and the
            periods of accounts.
        after_ms: how long a reversal has been pending, so that a later unit could come first.
    """
    now_ms = metering.now_ms
    received_after_ms = now_ms - CANCEL_MS + CANCEL_MARGIN_MS
    found = withdrawals.with_reversals(
        metering.ledger, now_ms - after_ms, received_after_ms, WITHDRAWN_AT_ONCE_MAX
    )
    chosen: list[Withdrawal] = []
    for event, received_ms in found:
        of = metering.period_of(event.tenant_id, event.timestamp * 1000)
        reversal = Reversal("delivered", False, True, received_ms)
        books = Books(of.period.end_ms, is_closed=metering.is_closed(of))
        is_withdrawn = rung_of_reversal(reversal, books, now_ms) == "withdrawn"
        if is_withdrawn and _is_sent_again(event, metering.tenants):
            until_ms = withdrawn_until(received_ms, of.period.end_ms)
            chosen.append(Withdrawal(event.identifier, until_ms))
    return chosen


def _is_sent_again(event: MeterEvent, billing: Billing) -> bool:
    """Return whether what is left of a meter event would go where it was."""
    customer = billing.customer_for(event.tenant_id, event.timestamp * 1000)
    return (customer, billing.event_name_for(event.outcome)) == (event.customer, event.event_name)
