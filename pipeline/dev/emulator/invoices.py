"""Draft, change, finalise, pay and void invoices. Pure.

https://docs.stripe.com/api/invoices
https://docs.stripe.com/invoicing/overview#workflow-overview
"""

from collections.abc import Callable

from pipeline.dev.emulator.credit_grants import CreditGrants
from pipeline.dev.emulator.customers import Customers
from pipeline.dev.emulator.invoice_form import blank, totals
from pipeline.dev.emulator.invoice_items import InvoiceItems
from pipeline.dev.emulator.lines import Usage, item_line, usage_lines
from pipeline.dev.emulator.meter_events import MeterEvents
from pipeline.dev.emulator.money import charge_min, currency_of
from pipeline.dev.emulator.objects import PAGE, Object, Objects, matches, page
from pipeline.dev.emulator.params import (
    Params,
    check_names,
    flag,
    mapping,
    one_of,
    required,
    whole_or,
    with_metadata,
)
from pipeline.dev.emulator.response import StripeError
from pipeline.dev.emulator.subscriptions import COLLECTIONS

FINALIZES_SECONDS_MAX = 5 * 366 * 86_400
LINES_IN_INVOICE = 10
_CREATE = {
    "auto_advance", "automatically_finalizes_at", "collection_method", "currency", "customer",
    "days_until_due", "description", "footer", "metadata", "pending_invoice_items_behavior",
}  # fmt: skip
_UPDATE = {
    "auto_advance", "automatically_finalizes_at", "collection_method", "days_until_due",
    "description", "footer", "metadata",
}  # fmt: skip
_UPDATE_FINAL = {"auto_advance", "metadata"}


class Invoices:
    """Invoices by id. A draft's lines follow the usage; a final invoice never changes what it asks.

    `grace_seconds` is how long a subscription's draft waits until it becomes final by itself.
    https://docs.stripe.com/billing/subscriptions/usage-based/configure-grace-period
    """

    def __init__(
        self,
        invoices: Objects,
        customers: Customers,
        meter_events: MeterEvents,
        items: InvoiceItems,
        credit_grants: CreditGrants,
        new_id: Callable[[str], str],
        grace_seconds: int,
    ) -> None:
        self.grace_seconds = grace_seconds
        self._invoices = invoices
        self._customers = customers
        self._meter_events = meter_events
        self._items = items
        self._credit_grants = credit_grants
        self._new_id = new_id
        self._drafts: set[str] = set()
        self._usage: dict[str, list[Usage]] = {}
        self._final_lines: dict[str, list[Object]] = {}

    # --- drafts -----------------------------------------------------------------------------------

    def create(self, params: Params, now: float) -> Object:
        """Create a draft by hand; it becomes final by itself only with `auto_advance`."""
        check_names(params, _CREATE)
        customer = self._customers.known(required(params, "customer"))
        currency = currency_of(params.get("currency") or customer["currency"] or "usd")
        behavior = one_of(
            params, "pending_invoice_items_behavior", {"exclude", "include"}, "exclude"
        )
        invoice = self._new_draft(customer["id"], currency, "manual", (int(now), int(now)), now)
        self._change(invoice, {"auto_advance": "false", **params}, now)
        self._customers.bill_in(customer["id"], currency)
        if behavior == "include":
            self._take_pending(invoice)
        return self.shown(invoice["id"], now)

    def draft_period(
        self, subscription: Object, period: tuple[int, int], reason: str, now: float
    ) -> Object:
        """Draft the invoice of a period that has ended, at its end.

        https://docs.stripe.com/billing/invoices/subscription#subscription-lifecycle
        """
        invoice = self._new_draft(
            subscription["customer"], subscription["currency"], reason, period, now
        )
        invoice |= {
            "auto_advance": True,
            "automatically_finalizes_at": int(now) + self.grace_seconds,
            "collection_method": subscription["collection_method"],
            "parent": {
                "quote_details": None,
                "subscription_details": {
                    "metadata": dict(subscription["metadata"]),
                    "subscription": subscription["id"],
                },
                "type": "subscription_details",
            },
        }
        if subscription["days_until_due"] is not None:
            invoice["due_date"] = int(now) + subscription["days_until_due"] * 86_400
        # The prices are those of the subscription when the period ends.
        self._usage[invoice["id"]] = [
            Usage(subscription["id"], item["id"], dict(item["price"]), *period)
            for item in subscription["items"]["data"]
        ]
        self._take_pending(invoice)
        subscription["latest_invoice"] = invoice["id"]
        return invoice

    def update(self, invoice_id: str, params: Params, now: float) -> Object:
        """Change a draft; of a final invoice only its metadata and whether it advances.

        Raises:
            StripeError: a parameter is unknown, invalid, or cannot change any more.
        """
        invoice = self._invoices.get(invoice_id)
        check_names(params, _UPDATE)
        fixed = set(params) - _UPDATE_FINAL - {"expand"}
        if invoice["status"] != "draft" and fixed:
            raise StripeError(
                400,
                f"Finalized invoices can't be updated in this way: {', '.join(sorted(fixed))}",
                code="invoice_not_editable",
            )
        self._change(invoice, params, now)
        return self.shown(invoice_id, now)

    def delete(self, invoice_id: str) -> Object:
        """Delete a draft that no subscription has made."""
        invoice = self._invoices.get(invoice_id)
        if invoice["status"] != "draft" or invoice["parent"] is not None:
            raise StripeError(
                400, "You can only delete draft invoices that are not of a subscription."
            )
        self._invoices.remove(invoice_id)
        self._drafts.discard(invoice_id)
        self._items.detach(invoice_id)
        return {"id": invoice_id, "object": "invoice", "deleted": True}

    # --- final ------------------------------------------------------------------------------------

    def next_due(self) -> tuple[int, str] | None:
        """Return when the next draft becomes final by itself, and which."""
        return min(
            (
                (at, each)
                for each in self._drafts
                if (at := self._invoices.get(each)["automatically_finalizes_at"]) is not None
            ),
            default=None,
        )

    def finalize(self, invoice_id: str, params: Params, now: float) -> Object:
        """Make a draft final: its lines, its number, and what it takes from the customer's balance.

        https://docs.stripe.com/invoicing/integration/workflow-transitions#finalized
        """
        invoice = self._invoices.get(invoice_id)
        check_names(params, {"auto_advance"})
        if invoice["status"] != "draft":
            raise StripeError(
                400,
                "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
                code="invoice_not_editable",
            )
        lines = self._lines(invoice, now)
        invoice["auto_advance"] = flag(params, "auto_advance", default=invoice["auto_advance"])
        self._final_lines[invoice_id] = lines
        self._drafts.discard(invoice_id)
        credits_used = self._credit_grants.apply(invoice, lines, now)
        invoice |= totals(lines) | {
            "automatically_finalizes_at": None,
            "effective_at": int(now),
            "number": self._number(invoice["customer"]),
            "status": "open",
            "total_pretax_credit_amounts": credits_used,
        }
        invoice["status_transitions"]["finalized_at"] = int(now)
        self._take_balance(invoice, now)
        if invoice["amount_due"] == 0:
            self._paid(invoice, now)
        return self.shown(invoice_id, now)

    def pay(self, invoice_id: str, params: Params, now: float) -> Object:
        """Mark an open invoice as paid; a draft becomes final first."""
        invoice = self._invoices.get(invoice_id)
        check_names(params, {"paid_out_of_band"})
        if invoice["status"] == "draft":
            self.finalize(invoice_id, {}, now)
        elif invoice["status"] == "paid":
            raise StripeError(400, "Invoice is already paid")
        elif invoice["status"] != "open":
            raise StripeError(400, f"The invoice {invoice_id} is {invoice['status']}.")
        if invoice["status"] == "open":
            invoice["amount_paid"] = invoice["amount_remaining"]
            self._paid(invoice, now)
        return self.shown(invoice_id, now)

    def void(self, invoice_id: str, now: float) -> Object:
        """Void an open invoice; what it took from the customer's balance goes back.

        https://docs.stripe.com/api/invoices/void
        """
        invoice = self._invoices.get(invoice_id)
        if invoice["status"] not in {"open", "uncollectible"}:
            raise StripeError(
                400, f"You can't void the invoice {invoice_id}: it is {invoice['status']}."
            )
        taken = invoice["ending_balance"] - invoice["starting_balance"]
        if taken:
            self._move_balance(invoice, -taken, "unapplied_from_invoice", now)
        invoice |= {"status": "void", "auto_advance": False}
        invoice["status_transitions"]["voided_at"] = int(now)
        return self.shown(invoice_id, now)

    # --- reading ----------------------------------------------------------------------------------

    def shown(self, invoice_id: object, now: float) -> Object:
        """Return an invoice as the API shows it: with its totals and the first of its lines."""
        invoice = self._invoices.get(invoice_id)
        lines = self._lines(invoice, now)
        shown = dict(invoice)
        if invoice["status"] == "draft":
            shown |= totals(lines)
            balance = self._customers.get(invoice["customer"]).get("balance", 0)
            due = max(0, shown["total"] + balance)
            shown |= {"starting_balance": balance, "amount_due": due, "amount_remaining": due}
        first = page(lines, {"limit": LINES_IN_INVOICE}, f"/v1/invoices/{invoice_id}/lines")
        return shown | {"lines": first}

    def listing(self, params: Params, now: float) -> Object:
        """Return a page of the invoices that the parameters select, newest first."""
        check_names(
            params, {"collection_method", "created", "customer", "status", "subscription", *PAGE}
        )
        created = mapping(params, "created")
        check_names(created, {"gte"})
        since = whole_or(created, "gte", None) or 0
        is_match = matches(
            params, collection_method="collection_method", customer="customer", status="status"
        )

        def is_wanted(invoice: Object) -> bool:
            details = (invoice["parent"] or {}).get("subscription_details") or {}
            is_late = invoice["created"] >= since
            return (
                is_late
                and is_match(invoice)
                and params.get("subscription") in {None, details.get("subscription")}
            )

        found = self._invoices.page(params, is_wanted)
        return found | {"data": [self.shown(each["id"], now) for each in found["data"]]}

    def list_lines(self, invoice_id: str, params: Params, now: float) -> Object:
        lines = self._lines(self._invoices.get(invoice_id), now)
        return page(lines, params, f"/v1/invoices/{invoice_id}/lines")

    def line(self, invoice_id: str, line_id: str, now: float) -> Object | None:
        """Return a line of an invoice, if it has it."""
        lines = self._lines(self._invoices.get(invoice_id), now)
        return next((line for line in lines if line["id"] == line_id), None)

    # --- parts ------------------------------------------------------------------------------------

    def _lines(self, invoice: Object, now: float) -> list[Object]:
        if invoice["status"] != "draft":
            return self._final_lines[invoice["id"]]
        lines = [item_line(invoice["id"], each) for each in self._items.of_invoice(invoice["id"])]
        for usage in self._usage.get(invoice["id"], []):
            meter = usage.price["recurring"]["meter"]
            quantity = self._meter_events.quantity(
                meter, invoice["customer"], usage.start, usage.end, now
            )
            lines += usage_lines(invoice["id"], usage, quantity)
        return lines

    def _change(self, invoice: Object, params: Params, now: float) -> None:
        """Change what an invoice has beside its lines; `auto_advance` sets when it becomes final."""
        advances = flag(params, "auto_advance", default=invoice["auto_advance"])
        at = whole_or(params, "automatically_finalizes_at", None)
        if at is not None and (not advances or not now < at <= now + FINALIZES_SECONDS_MAX):
            raise StripeError(
                400,
                "`automatically_finalizes_at` needs `auto_advance`, and a time in the next 5 years.",
            )
        if invoice["status"] == "draft":
            old = invoice["automatically_finalizes_at"]
            default = old if old is not None else int(now) + self.grace_seconds
            invoice["automatically_finalizes_at"] = (at or default) if advances else None
        invoice["auto_advance"] = advances
        invoice["metadata"] = with_metadata(invoice["metadata"], params)
        invoice |= {name: params[name] or None for name in {"description", "footer"} & set(params)}
        invoice["collection_method"] = one_of(
            params, "collection_method", COLLECTIONS, invoice["collection_method"]
        )
        days = whole_or(params, "days_until_due", None)
        if days is not None:
            invoice["due_date"] = int(now) + days * 86_400

    def _take_pending(self, invoice: Object) -> None:
        for item in self._items.pending_of(invoice["customer"], invoice["currency"]):
            self._items.attach(item, invoice)

    def _number(self, customer_id: str) -> str:
        customer = self._customers.get(customer_id)
        sequence = customer.get("next_invoice_sequence", 1)
        customer["next_invoice_sequence"] = sequence + 1
        return f"{customer.get('invoice_prefix', 'DELETED')}-{sequence:04d}"

    def _take_balance(self, invoice: Object, now: float) -> None:
        """Take what an invoice owes from the customer's balance, or add it.

        An invoice below zero asks for nothing and becomes the customer's credit. One that is too small
        to charge asks for nothing and is owed later.
        https://docs.stripe.com/billing/customer/balance
        """
        balance = self._customers.get(invoice["customer"]).get("balance", 0)
        due = max(0, invoice["total"] + balance)
        kind = "applied_to_invoice"
        is_charged = invoice["collection_method"] == "charge_automatically"
        if is_charged and 0 < due < charge_min(invoice["currency"]):
            due, kind = 0, "invoice_too_small"
        change = invoice["total"] - due
        invoice |= {
            "amount_due": due,
            "amount_remaining": due,
            "ending_balance": balance + change,
            "starting_balance": balance,
        }
        if change:
            self._move_balance(invoice, change, kind, now)

    def _move_balance(self, invoice: Object, change: int, kind: str, now: float) -> None:
        if "deleted" not in self._customers.get(invoice["customer"]):
            self._customers.move_balance(
                invoice["customer"],
                change,
                kind,
                now,
                currency=invoice["currency"],
                invoice=invoice["id"],
            )

    def _paid(self, invoice: Object, now: float) -> None:
        invoice |= {"amount_remaining": 0, "attempted": True, "status": "paid"}
        invoice["status_transitions"]["paid_at"] = int(now)

    def _new_draft(
        self, customer: str, currency: str, reason: str, period: tuple[int, int], now: float
    ) -> Object:
        invoice = self._invoices.put(
            {
                "id": self._new_id("in"),
                "object": "invoice",
                "billing_reason": reason,
                "created": int(now),
                "currency": currency,
                "customer": customer,
                "period_end": period[1],
                "period_start": period[0],
                **blank(),
            }
        )
        self._drafts.add(invoice["id"])
        return invoice
