"""Issue credit notes on final invoices. Pure.

https://docs.stripe.com/api/credit_notes
"""

from collections.abc import Callable, Mapping

from pipeline.dev.emulator.customers import Customers
from pipeline.dev.emulator.invoices import Invoices
from pipeline.dev.emulator.money import amount_of, decimal_of, plain, times
from pipeline.dev.emulator.objects import PAGE, Object, Objects, matches, page
from pipeline.dev.emulator.params import (
    Params,
    check_names,
    listed,
    one_of,
    required,
    whole,
    whole_or,
    with_metadata,
)
from pipeline.dev.emulator.response import StripeError, missing, not_found

REASONS = {"duplicate", "fraudulent", "order_change", "product_unsatisfactory"}
_GOES_TO = ("credit_amount", "out_of_band_amount", "refund_amount")
_CREATE = {"amount", "invoice", "lines", "memo", "metadata", "reason", *_GOES_TO}
_LINE = {
    "amount", "description", "invoice_line_item", "metadata", "quantity", "type", "unit_amount",
    "unit_amount_decimal",
}  # fmt: skip


class CreditNotes:
    """Credit notes by id."""

    def __init__(
        self,
        customers: Customers,
        invoices: Invoices,
        stored_invoices: Objects,
        new_id: Callable[[str], str],
    ) -> None:
        self._customers = customers
        self._invoices = invoices
        self._stored = stored_invoices
        self._new_id = new_id
        self._notes = Objects("credit note", "/v1/credit_notes")
        self._lines: dict[str, list[Object]] = {}

    def create(self, params: Params, now: float) -> Object:
        """Credit a part of a final invoice.

        What the invoice still asks for is lowered first. The rest has been paid: the call says how
        much of it goes to the customer's balance, is refunded, or is returned elsewhere.

        Raises:
            StripeError: a parameter is missing, unknown or invalid, the invoice is not final, or the
                amounts do not fit.
        """
        check_names(params, _CREATE)
        invoice = self._stored.get(required(params, "invoice"))
        if invoice["status"] not in {"open", "paid", "uncollectible"}:
            raise StripeError(
                400, f"The invoice {invoice['id']} is {invoice['status']}: it must be open or paid."
            )
        lines = self._credited(params, invoice, now)
        amount = sum(line["amount"] for line in lines)
        before, after = self._split(params, invoice, amount)
        note_id = self._new_id("cn")
        transaction = self._settle(params, invoice, note_id, before, after, now)
        self._lines[note_id] = lines
        number = sum(1 for each in self._notes if each["invoice"] == invoice["id"]) + 1
        self._notes.put(
            {
                "id": note_id,
                "object": "credit_note",
                "amount": amount,
                "amount_shipping": 0,
                "created": int(now),
                "currency": invoice["currency"],
                "customer": invoice["customer"],
                "customer_balance_transaction": transaction,
                "discount_amount": 0,
                "discount_amounts": [],
                "effective_at": int(now),
                "invoice": invoice["id"],
                "livemode": False,
                "memo": params.get("memo") or None,
                "metadata": with_metadata({}, params),
                "number": f"{invoice['number']}-CN-{number:02d}",
                "out_of_band_amount": whole_or(params, "out_of_band_amount", None),
                "pdf": f"https://pay.stripe.com/credit_notes/{note_id}/pdf",
                "post_payment_amount": after,
                "pre_payment_amount": before,
                "pretax_credit_amounts": [],
                "reason": one_of(params, "reason", REASONS) if params.get("reason") else None,
                "refunds": [],
                "shipping_cost": None,
                "status": "issued",
                "subtotal": amount,
                "subtotal_excluding_tax": amount,
                "total": amount,
                "total_excluding_tax": amount,
                "total_taxes": [],
                "type": "mixed" if before and after else "post_payment" if after else "pre_payment",
                "voided_at": None,
            }
        )
        return self.get(note_id)

    def update(self, note_id: str, params: Params) -> Object:
        note = self._notes.get(note_id)
        check_names(params, {"memo", "metadata"})
        if "memo" in params:
            note["memo"] = params["memo"] or None
        note["metadata"] = with_metadata(note["metadata"], params)
        return self.get(note_id)

    def void(self, note_id: str, now: float) -> Object:
        """Void a credit note of an invoice that is still open."""
        note = self._notes.get(note_id)
        invoice = self._stored.get(note["invoice"])
        if note["status"] == "void" or note["post_payment_amount"] or invoice["status"] != "open":
            raise StripeError(400, f"You can't void the credit note {note_id}.")
        amount = note["pre_payment_amount"]
        invoice["pre_payment_credit_notes_amount"] -= amount
        invoice["amount_due"] += amount
        invoice["amount_remaining"] += amount
        note |= {"status": "void", "voided_at": int(now)}
        return self.get(note_id)

    def get(self, note_id: str) -> Object:
        note = self._notes.get(note_id)
        lines = page(self._lines[note_id], {}, f"/v1/credit_notes/{note_id}/lines")
        return note | {"lines": lines}

    def listing(self, params: Params) -> Object:
        check_names(params, {"customer", "invoice", *PAGE})
        found = self._notes.page(params, matches(params, customer="customer", invoice="invoice"))
        return found | {"data": [self.get(each["id"]) for each in found["data"]]}

    def list_lines(self, note_id: str, params: Params) -> Object:
        self._notes.get(note_id)
        return page(self._lines[note_id], params, f"/v1/credit_notes/{note_id}/lines")

    # --- parts ------------------------------------------------------------------------------------

    def _credited(self, params: Params, invoice: Object, now: float) -> list[Object]:
        """Return the lines of a credit note, given as lines or as one amount."""
        given = listed(params, "lines")
        if bool(given) == ("amount" in params):
            raise StripeError(400, "Specify exactly one of: amount, lines.")
        if not given:
            amount = amount_of("amount", whole(params, "amount"), invoice["currency"])
            if amount <= 0:
                raise StripeError(400, "Invalid positive integer: amount")
            return [self._line("custom_line_item", amount)]
        return [self._given_line(each, invoice, now) for each in given]

    def _given_line(self, given: object, invoice: Object, now: float) -> Object:
        if not isinstance(given, Mapping):
            raise StripeError(400, "Invalid object: lines")
        check_names(given, _LINE)
        kind = one_of(given, "type", {"custom_line_item", "invoice_line_item"})
        quantity = whole_or(given, "quantity", None)
        unit = given.get("unit_amount_decimal", given.get("unit_amount"))
        if "amount" in given:
            amount = amount_of("amount", whole(given, "amount"), invoice["currency"])
        elif unit is not None:
            amount = times(decimal_of("unit_amount", unit), quantity or 1, invoice["currency"])
        else:
            raise missing("lines[amount]")
        line = self._line(kind, amount, given.get("description"), quantity)
        if unit is not None:
            line["unit_amount_decimal"] = plain(decimal_of("unit_amount", unit))
        if kind == "invoice_line_item":
            line_id = required(given, "invoice_line_item")
            line["invoice_line_item"] = line_id
            credited = self._invoices.line(invoice["id"], line_id, now)
            if credited is None:
                raise not_found("invoice line item", line_id)
            earlier = sum(
                each["amount"]
                for note in self._notes
                if note["invoice"] == invoice["id"] and note["status"] == "issued"
                for each in self._lines[note["id"]]
                if each.get("invoice_line_item") == line_id
            )
            if amount + earlier > credited["amount"]:
                raise StripeError(400, f"The credit notes of the line {line_id} exceed its amount.")
            line["description"] = line["description"] or credited["description"]
        return line

    def _line(
        self, kind: str, amount: int, description: str | None = None, quantity: int | None = None
    ) -> Object:
        return {
            "id": self._new_id("cnli"),
            "object": "credit_note_line_item",
            "amount": amount,
            "description": description,
            "discount_amount": 0,
            "discount_amounts": [],
            "livemode": False,
            "metadata": {},
            "pretax_credit_amounts": [],
            "quantity": quantity,
            "tax_rates": [],
            "taxes": [],
            "type": kind,
            "unit_amount": None,
            "unit_amount_decimal": None,
        }

    def _split(self, params: Params, invoice: Object, amount: int) -> tuple[int, int]:
        """Return how much lowers what the invoice asks for, and how much has been paid."""
        credited = (
            invoice["pre_payment_credit_notes_amount"] + invoice["post_payment_credit_notes_amount"]
        )
        if amount <= 0 or credited + amount > invoice["total"]:
            raise StripeError(
                400,
                f"The sum of credit notes, {credited + amount}, must be positive and at most the "
                f"invoice's total, {invoice['total']}.",
            )
        before = min(amount, invoice["amount_remaining"])
        after = amount - before
        goes = [whole_or(params, name, 0) or 0 for name in _GOES_TO]
        if sum(goes) != after or min(goes) < 0:
            raise StripeError(
                400,
                "The sum of credit amount, refund amount and out of band amount must equal the "
                f"post-payment amount, {after}; it is {sum(goes)}.",
            )
        return before, after

    def _settle(
        self, params: Params, invoice: Object, note_id: str, before: int, after: int, now: float
    ) -> str | None:
        """Change the invoice and the balance; return the balance's transaction."""
        invoice["pre_payment_credit_notes_amount"] += before
        invoice["post_payment_credit_notes_amount"] += after
        invoice["amount_due"] -= before
        invoice["amount_remaining"] -= before
        if before and not invoice["amount_remaining"]:
            invoice["status"] = "paid"
            invoice["status_transitions"]["paid_at"] = int(now)
        to_balance = whole_or(params, "credit_amount", 0) or 0
        if not to_balance:
            return None
        moved = self._customers.move_balance(
            invoice["customer"],
            -to_balance,
            "credit_note",
            now,
            currency=invoice["currency"],
            invoice=invoice["id"],
            credit_note=note_id,
        )
        return str(moved["id"])
