"""Create and list customers, and keep their balances. Pure.

https://docs.stripe.com/api/customers
https://docs.stripe.com/billing/customer/balance
"""

from collections.abc import Callable

from pipeline.dev.emulator.objects import PAGE, Object, Objects, page
from pipeline.dev.emulator.params import (
    Params,
    check_names,
    required,
    whole,
    with_metadata,
)
from pipeline.dev.emulator.response import StripeError

_TEXTS = {"description", "email", "name", "phone"}


class Customers:
    """Customers by id, and what has changed their balances.

    A negative balance is owed to the customer, and lowers what the next invoice asks for.
    """

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._customers = Objects("customer", "/v1/customers")
        self._transactions: dict[str, list[Object]] = {}

    def __contains__(self, customer_id: str) -> bool:
        return customer_id in self._customers and "deleted" not in self._customers.get(customer_id)

    def create(self, params: Params, now: float, customer_id: str | None = None) -> Object:
        """Create a customer, with the given id or a new one."""
        check_names(params, {"balance", "metadata", *_TEXTS})
        created_id = customer_id or self._new_id("cus")
        customer: Object = {
            "id": created_id,
            "object": "customer",
            "address": None,
            "balance": 0,
            "created": int(now),
            "currency": None,
            "default_source": None,
            "delinquent": False,
            "invoice_prefix": created_id.removeprefix("cus_").upper()[-12:],
            "invoice_settings": {
                "custom_fields": None,
                "default_payment_method": None,
                "footer": None,
                "rendering_options": None,
            },
            "livemode": False,
            "metadata": with_metadata({}, params),
            "next_invoice_sequence": 1,
            "preferred_locales": [],
            "shipping": None,
            "tax_exempt": "none",
            "test_clock": None,
            **{text: params.get(text) or None for text in sorted(_TEXTS)},
        }
        self._customers.put(customer)
        self._adjust(created_id, params, now)
        return customer

    def update(self, customer_id: str, params: Params, now: float) -> Object:
        customer = self.known(customer_id)
        check_names(params, {"balance", "metadata", *_TEXTS})
        customer["metadata"] = with_metadata(customer["metadata"], params)
        customer |= {text: params[text] or None for text in _TEXTS & set(params)}
        self._adjust(customer_id, params, now)
        return customer

    def delete(self, customer_id: str) -> Object:
        """Delete a customer; meter events for it are taken and not counted."""
        self._customers.get(customer_id)
        return self._customers.put({"id": customer_id, "object": "customer", "deleted": True})

    def get(self, customer_id: str) -> Object:
        """Return a customer, also one that is deleted."""
        return self._customers.get(customer_id)

    def known(self, customer_id: str) -> Object:
        """Return a customer.

        Raises:
            StripeError: there is none, or it is deleted.
        """
        if customer_id not in self:
            raise StripeError(400, f"No such customer: '{customer_id}'", code="resource_missing")
        return self._customers.get(customer_id)

    def listing(self, params: Params) -> Object:
        """Return a page of all customers, newest first."""
        check_names(params, {"email", *PAGE})
        return self._customers.page(
            params, lambda each: params.get("email") in {None, each.get("email")}
        )

    # --- balances ---------------------------------------------------------------------------------

    def bill_in(self, customer_id: str, currency: str) -> None:
        """Fix the currency of a customer, which its first invoice or subscription decides.

        Raises:
            StripeError: it is another one already.
        """
        customer = self.known(customer_id)
        if customer["currency"] not in {None, currency}:
            raise StripeError(
                400,
                "You cannot combine currencies on a single customer. This customer has "
                f"{customer['currency']}, and this object {currency}.",
            )
        customer["currency"] = currency

    def move_balance(
        self,
        customer_id: str,
        amount: int,
        kind: str,
        now: float,
        *,
        currency: str | None = None,
        invoice: str | None = None,
        credit_note: str | None = None,
        description: str | None = None,
    ) -> Object:
        """Change a balance, and keep why.

        https://docs.stripe.com/api/customer_balance_transactions
        """
        customer = self._customers.get(customer_id)
        customer["balance"] += amount
        transaction = {
            "id": self._new_id("cbtxn"),
            "object": "customer_balance_transaction",
            "amount": amount,
            "checkout_session": None,
            "created": int(now),
            "credit_note": credit_note,
            "currency": currency or customer["currency"] or "usd",
            "customer": customer_id,
            "description": description,
            "ending_balance": customer["balance"],
            "invoice": invoice,
            "livemode": False,
            "metadata": {},
            "type": kind,
        }
        self._transactions.setdefault(customer_id, []).append(transaction)
        return transaction

    def create_transaction(self, customer_id: str, params: Params, now: float) -> Object:
        check_names(params, {"amount", "currency", "description"})
        self.known(customer_id)
        return self.move_balance(
            customer_id,
            whole(params, "amount"),
            "adjustment",
            now,
            currency=required(params, "currency").lower(),
            description=params.get("description"),
        )

    def list_transactions(self, customer_id: str, params: Params) -> Object:
        """Return a page of what has changed a balance, newest first."""
        self._customers.get(customer_id)
        moved = [*reversed(self._transactions.get(customer_id, []))]
        return page(moved, params, f"/v1/customers/{customer_id}/balance_transactions")

    def _adjust(self, customer_id: str, params: Params, now: float) -> None:
        if "balance" in params:
            change = whole(params, "balance") - self.known(customer_id)["balance"]
            self.move_balance(customer_id, change, "adjustment", now)
