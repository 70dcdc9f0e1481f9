"""Read a customer's final invoices at Stripe, and issue credit notes on them.

https://docs.stripe.com/api/credit_notes/create

A credit note lowers what an open invoice asks for. Of what is paid, the call says where it goes: back
as a refund, or outside of Stripe. Never to the customer's balance, from which any later invoice would
take it.
"""

from typing import Any

from pipeline.billing.invoice import to_stripe
from pipeline.sink.crediting import CreditRefusedError, FinalInvoice, Made, Wanted
from pipeline.sink.stripe.calls import KEY, StripeCalls

_CREDITABLE = ("open", "paid", "uncollectible")


class StripeCreditNotes(StripeCalls):
    """Stripe as `CreditNotes`."""

    refused = CreditRefusedError

    async def invoices(self, customer: str, currency: str) -> list[FinalInvoice]:
        """Return the final invoices of a customer in a currency, newest first."""
        with self._translated(f"the invoices of {customer}"):
            listed = await self._pages(self._v1.invoices.list_async, "invoices", customer=customer)
            return [
                _final(each, currency)
                for each in listed
                if each.status in _CREDITABLE and each.currency == currency
            ]

    async def find(self, invoice: str, key: str) -> Made | None:
        """Return the credit note that stands for a key, if an invoice has it."""
        with self._translated(f"the credit notes of {invoice}"):
            listed = await self._pages(
                self._v1.credit_notes.list_async, "credit notes", invoice=invoice
            )
            for each in listed:
                if each.metadata and getattr(each.metadata, KEY, None) == key:
                    return Made(each.id, is_void=each.status == "void")
        return None

    async def make(self, wanted: Wanted) -> Made:
        """Issue a credit note.

        Raises:
            CreditRefusedError: Stripe refuses it, for good.
        """
        amount = to_stripe(wanted.amount, wanted.currency)
        params: Any = {
            "invoice": wanted.invoice,
            "amount": amount,
            "memo": wanted.memo,
            "metadata": {KEY: wanted.key},
        }
        with self._translated(f"a credit note on {wanted.invoice}"):
            found: Any = await self._again(lambda: self._v1.invoices.retrieve_async(wanted.invoice))
            paid = amount - min(amount, int(found.amount_remaining))
            if paid:
                if wanted.goes is None:
                    raise CreditRefusedError(
                        f"{wanted.invoice} asks for less by now, and nobody said where paid money goes"
                    )
                params[f"{wanted.goes}_amount"] = paid
            # If the invoice was paid since an earlier call, Stripe refuses the key: that call may count.
            options: Any = {"idempotency_key": wanted.key}
            made = await self._v1.credit_notes.create_async(params, options)
            return Made(made.id, is_void=made.status == "void")


def _final(found: Any, currency: str) -> FinalInvoice:
    more = to_stripe(1, currency)
    credited = found.pre_payment_credit_notes_amount + found.post_payment_credit_notes_amount
    before_tax = found.total if found.total_excluding_tax is None else found.total_excluding_tax
    return FinalInvoice(
        id=found.id,
        number=found.number or found.id,
        status=found.status,
        created=found.created,
        left=max(0, found.total - credited) // more,
        unpaid=found.amount_remaining // more,
        is_taxed=before_tax != found.total,
    )
