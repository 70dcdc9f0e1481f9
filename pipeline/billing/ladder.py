"""Choose how a unit that is taken back, or comes late, reaches an invoice. Pure.

docs/reference/money.md §6.2 has the table. The first rung that is possible is taken: each later one costs
the customer, or Stripe, one more line.
"""

from typing import Literal, NamedTuple

from pipeline.billing.periods import HOUR_MS

# Stripe cancels a meter event for 24 hours after it received it, and not close to the end of a period.
CANCEL_MS = 24 * HOUR_MS
CANCEL_BEFORE_END_MS = 2 * HOUR_MS
# The call takes time, and clocks differ.
CANCEL_MARGIN_MS = HOUR_MS
END_MARGIN_MS = HOUR_MS // 2

Charge = Literal[
    "unknown",  # the reversal names a charge that the ledger lacks
    "pending",  # in no meter event
    "under_way",  # Stripe may be counting it, or be cancelling it
    "delivered",
]
ReversalRung = Literal[
    "unmatched",  # its charge is not known: it costs nothing until it is
    "netted",  # nothing is sent for the pair
    "lessened",  # a later meter event of the period is smaller
    "waits",  # one of the others follows
    "withdrawn",  # the meter event is cancelled, and sent smaller
    "item",  # a negative item on the period's own invoice
    "adjusted",  # a line of the next statement
    "credit_note",  # on an old invoice: by command
]
ChargeRung = Literal[
    "sent",
    "adjusted",
    "own_invoice",  # by command
]


class Books(NamedTuple):
    """What has become of a unit's period. Times in ms."""

    end_ms: int
    is_closed: bool = False
    is_invoiced: bool = False  # Stripe has finalised its invoice
    is_followed: bool = True  # the account has a later invoice


class Reversal(NamedTuple):
    """What is known of a reversal that is in no meter event."""

    charge: Charge
    has_later: bool  # a later unit of the period is pending, of the same tenant and outcome
    has_waited: bool  # long enough for a later unit to come
    received_ms: (
        int | None
    )  # before it, Stripe had not received the charge; None: it cannot be cancelled


def withdrawn_until(received_ms: int, period_end_ms: int) -> int:
    """Return before which time Stripe can be asked to cancel a meter event, ms."""
    by_age = received_ms + CANCEL_MS - CANCEL_MARGIN_MS
    return min(by_age, period_end_ms - CANCEL_BEFORE_END_MS - END_MARGIN_MS)


def rung_of_reversal(reversal: Reversal, books: Books, now_ms: int) -> ReversalRung:
    """Return how a unit that was taken back leaves the bill."""
    if reversal.charge == "unknown":
        return "unmatched"
    if books.is_closed or books.is_invoiced:
        return "adjusted" if books.is_closed and books.is_followed else "credit_note"
    if reversal.charge == "pending":
        return "netted"
    if reversal.charge == "under_way":
        return "waits"
    if reversal.has_later:
        return "lessened"
    received_ms = reversal.received_ms
    if received_ms is not None and now_ms < withdrawn_until(received_ms, books.end_ms):
        return "withdrawn" if reversal.has_waited else "waits"
    return "waits" if now_ms < books.end_ms else "item"


def rung_of_charge(books: Books) -> ChargeRung:
    """Return how a unit that is in no meter event reaches an invoice."""
    if not (books.is_closed or books.is_invoiced):
        return "sent"
    return "adjusted" if books.is_closed and books.is_followed else "own_invoice"
