"""What the journal says of invoices: what is added to one, and what it came to. Pure.

A period has one invoice. If that became final without all that belongs on it, it is *missed*, and may get
a second invoice of our own for the difference.
"""

from typing import Literal

import msgspec

from pipeline.billing.invoice import InvoiceItem

InvoiceState = Literal["planned", "invoiced", "missed", "without"]


class InvoicePlanned(
    msgspec.Struct, frozen=True, kw_only=True, tag="invoice_planned", omit_defaults=True
):
    """The items that are added to an invoice; nothing is added before the entry is read back.

    Amounts are in minor units. An invoice of our own is known by its `key`, and others by `invoice`.
    """

    account: str
    period_start: int
    customer: str
    currency: str
    items: tuple[InvoiceItem, ...]
    total: int  # before tax and the customer's balance
    settled: int = 0  # what the statement has more: an operator settled it by hand
    invoice: str = ""
    key: str = ""

    @property
    def is_own(self) -> bool:
        return bool(self.key)


class InvoiceConcluded(
    msgspec.Struct, frozen=True, kw_only=True, tag="invoice_concluded", omit_defaults=True
):
    """What an invoice came to, once it is final; `without`: there was nothing to invoice."""

    account: str
    period_start: int
    state: Literal["invoiced", "missed", "without"]
    at: int  # ms
    invoice: str = ""
    amount: int = 0  # of our lines, in minor units
    is_own: bool = False


InvoiceItems = InvoicePlanned | InvoiceConcluded
# The states of a period's invoice, and of the one of our own, by the period's start.
InvoiceStates = dict[tuple[int, bool], InvoiceState]


def judge_invoice(
    invoices: InvoiceStates, closed_until: int | None, item: InvoiceItems
) -> str | None:
    """Let an item take effect, or return why it is void.

    Args:
        invoices: the states so far.
        closed_until: the start of the account's last closed period.
        item: the item.
    """
    if closed_until is None or item.period_start > closed_until:
        return "the period is not closed"
    place = (item.period_start, item.is_own)
    state = invoices.get(place)
    if isinstance(item, InvoicePlanned):
        if state is not None:
            return f"its invoice is {state} already"
        if item.is_own and invoices.get((item.period_start, False)) in ("planned", "invoiced"):
            return f"its invoice is {invoices[item.period_start, False]}"
        if not item.is_own and (item.period_start, True) in invoices:
            return "it has an invoice of our own"
        invoices[place] = "planned"
        return None
    if state != "planned" and not (state is None and item.state == "without"):
        return f"its invoice is {state or 'not planned'}"
    invoices[place] = item.state
    return None
