"""Create, change and delete invoice items: lines of an invoice that no usage makes. Pure.

https://docs.stripe.com/api/invoiceitems
"""

from collections.abc import Callable

from pipeline.dev.emulator.customers import Customers
from pipeline.dev.emulator.money import amount_of, currency_of, decimal_of, plain, times
from pipeline.dev.emulator.objects import PAGE, Object, Objects, matches
from pipeline.dev.emulator.params import (
    Params,
    check_names,
    mapping,
    required,
    whole,
    whole_or,
    with_metadata,
)
from pipeline.dev.emulator.prices import Prices
from pipeline.dev.emulator.response import StripeError, missing

ITEMS_MAX = 250
_CREATE = {
    "amount", "currency", "customer", "description", "discountable", "invoice", "metadata", "period",
    "price_data", "pricing", "quantity", "subscription", "unit_amount_decimal",
}  # fmt: skip
_UPDATE = _CREATE - {"currency", "customer", "invoice", "subscription"}


class InvoiceItems:
    """Invoice items by id: those of an invoice, and pending ones, which the next invoice takes."""

    def __init__(
        self,
        customers: Customers,
        prices: Prices,
        invoices: Objects,
        new_id: Callable[[str], str],
    ) -> None:
        self._customers = customers
        self._prices = prices
        self._invoices = invoices
        self._new_id = new_id
        self._items = Objects("invoiceitem", "/v1/invoiceitems")
        self._of: dict[str, list[str]] = {}  # invoice → items

    def create(self, params: Params, now: float) -> Object:
        """Create an item, pending or of a draft.

        Raises:
            StripeError: a parameter is missing, unknown or invalid, or the invoice takes no more items.
        """
        check_names(params, _CREATE)
        invoice = self._draft(params["invoice"]) if params.get("invoice") else None
        customer = params.get("customer") or (invoice or {}).get("customer")
        if customer is None:
            raise missing("customer")
        self._customers.known(customer)
        if invoice is not None and invoice["customer"] != customer:
            raise StripeError(400, f"The invoice {invoice['id']} is not one of this customer.")
        priced = self._priced(params, now)
        if invoice is not None and invoice["currency"] != priced["currency"]:
            raise StripeError(
                400, f"The currency of the invoice item must be {invoice['currency']}."
            )
        self._customers.bill_in(customer, priced["currency"])
        item = self._items.put(
            {
                "id": self._new_id("ii"),
                "object": "invoiceitem",
                "customer": customer,
                "date": int(now),
                "description": params.get("description") or None,
                "discountable": priced["amount"] >= 0,
                "discounts": [],
                "invoice": None,
                "livemode": False,
                "metadata": with_metadata({}, params),
                "parent": None,
                "period": _period(params, {"start": int(now), "end": int(now)}),
                "proration": False,
                "tax_rates": [],
                "test_clock": None,
                **priced,
            }
        )
        if invoice is not None:
            self.attach(item, invoice)
        return item

    def update(self, item_id: str, params: Params, now: float) -> Object:
        item = self._editable(item_id)
        check_names(params, _UPDATE)
        if {"amount", "price_data", "pricing", "quantity", "unit_amount_decimal"} & set(params):
            item |= self._priced({"currency": item["currency"], **params}, now)
        if "description" in params:
            item["description"] = params["description"] or None
        item["metadata"] = with_metadata(item["metadata"], params)
        item["period"] = _period(params, item["period"])
        return item

    def delete(self, item_id: str) -> Object:
        item = self._editable(item_id)
        self._items.remove(item_id)
        if item["invoice"] is not None:
            self._of[item["invoice"]].remove(item_id)
        return {"id": item_id, "object": "invoiceitem", "deleted": True}

    def get(self, item_id: str) -> Object:
        return self._items.get(item_id)

    def listing(self, params: Params) -> Object:
        """Return a page of the items; `pending` wants those of no invoice, or those of one."""
        check_names(
            params,
            {"customer", "invoice", "pending", *PAGE},
        )
        is_match = matches(params, customer="customer", invoice="invoice")
        pending = {None: {True, False}, "true": {True}, "false": {False}}.get(params.get("pending"))
        if pending is None:
            raise StripeError(400, f"Invalid boolean: {params['pending']}")
        return self._items.page(
            params, lambda each: is_match(each) and (each["invoice"] is None) in pending
        )

    # --- the invoice's side -----------------------------------------------------------------------

    def of_invoice(self, invoice_id: str) -> list[Object]:
        """Return an invoice's items, newest first, as Stripe orders its lines."""
        return [self._items.get(each) for each in reversed(self._of.get(invoice_id, []))]

    def pending_of(self, customer: str, currency: str) -> list[Object]:
        """Return the items of a customer that wait for its next invoice."""
        return [
            each
            for each in self._items
            if each["invoice"] is None
            and (each["customer"], each["currency"]) == (customer, currency)
        ]

    def attach(self, item: Object, invoice: Object) -> None:
        """Make an item one of an invoice.

        Raises:
            StripeError: the invoice has as many as it may have.
        """
        of_invoice = self._of.setdefault(invoice["id"], [])
        if len(of_invoice) >= ITEMS_MAX:
            self._items.remove(item["id"])
            raise StripeError(400, f"An invoice can have at most {ITEMS_MAX} invoice items.")
        item["invoice"] = invoice["id"]
        of_invoice.append(item["id"])

    def detach(self, invoice_id: str) -> None:
        """Delete the items of a draft that is deleted."""
        for item_id in self._of.pop(invoice_id, []):
            self._items.remove(item_id)

    # --- parts ------------------------------------------------------------------------------------

    def _draft(self, invoice_id: object) -> Object:
        invoice = self._invoices.get(invoice_id)
        if invoice["status"] != "draft":
            raise StripeError(
                400,
                f"The invoice {invoice_id} is {invoice['status']}: only a draft takes items.",
                code="invoice_not_editable",
            )
        return invoice

    def _editable(self, item_id: str) -> Object:
        item = self._items.get(item_id)
        if item["invoice"] is not None:
            self._draft(item["invoice"])
        return item

    def _priced(self, params: Params, now: float) -> Object:
        """Return what an item costs, given in one of Stripe's ways."""
        given = {"amount", "price_data", "pricing", "unit_amount_decimal"} & set(params)
        if len(given) != 1:
            raise StripeError(
                400,
                "Specify exactly one of: amount, price_data, pricing, unit_amount_decimal.",
                code="parameter_missing",
            )
        quantity = whole_or(params, "quantity", 1)
        if quantity is None or quantity < 0:
            raise StripeError(400, "Invalid non-negative integer: quantity")
        if "amount" in given:
            if "quantity" in params:
                raise StripeError(400, "`amount` and `quantity` exclude each other.")
            currency = currency_of(required(params, "currency"))
            amount = amount_of("amount", whole(params, "amount"), currency)
            return _cost(amount, currency, 1, None)
        if "unit_amount_decimal" in given:
            currency = currency_of(required(params, "currency"))
            unit = decimal_of("unit_amount_decimal", params["unit_amount_decimal"])
            return _cost(times(unit, quantity, currency), currency, quantity, None)
        if "pricing" in given:
            price = self._prices.get(required(mapping(params, "pricing"), "price"))
            if price["type"] != "one_time" or price["billing_scheme"] != "per_unit":
                raise StripeError(400, "The price of an invoice item must be one-time, per unit.")
        else:
            price = self._prices.inline(mapping(params, "price_data"), now)
        unit = decimal_of("unit_amount_decimal", price["unit_amount_decimal"])
        currency = price["currency"]
        pricing = {
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": plain(unit),
        }
        return _cost(times(unit, quantity, currency), currency, quantity, pricing)


def _cost(amount: int, currency: str, quantity: int, pricing: Object | None) -> Object:
    return {
        "amount": amount,
        "currency": currency,
        "net_amount": amount,
        "pricing": pricing,
        "quantity": quantity,
        "quantity_decimal": str(quantity),
    }


def _period(params: Params, old: Object) -> Object:
    given = mapping(params, "period")
    if not given:
        return old
    check_names(given, {"start", "end"})
    return {"start": whole(given, "start"), "end": whole(given, "end")}
