"""Grant credits, and apply them to the metered lines of an invoice that becomes final. Pure.

https://docs.stripe.com/api/billing/credit-grant
https://docs.stripe.com/billing/subscriptions/usage-based/billing-credits
"""

from collections.abc import Callable

from pipeline.dev.emulator.customers import Customers
from pipeline.dev.emulator.money import amount_of, currency_of
from pipeline.dev.emulator.objects import PAGE, Object, Objects, matches, page
from pipeline.dev.emulator.params import (
    Params,
    check_names,
    listed,
    mapping,
    one_of,
    required,
    whole,
    whole_or,
    with_metadata,
)
from pipeline.dev.emulator.prices import Prices
from pipeline.dev.emulator.response import StripeError

UNUSED_MAX = 100
PRIORITY_DEFAULT, PRIORITY_MAX = 50, 100
SCOPE_PRICES_MAX = 20
_CREATE = {
    "amount", "applicability_config", "category", "customer", "effective_at", "expires_at",
    "metadata", "name", "priority",
}  # fmt: skip


class CreditGrants:
    """Credit grants by id, and the transactions that use them up."""

    def __init__(self, customers: Customers, prices: Prices, new_id: Callable[[str], str]) -> None:
        self._customers = customers
        self._prices = prices
        self._new_id = new_id
        self._grants = Objects("credit_grant", "/v1/billing/credit_grants")
        self._transactions: list[Object] = []

    def create(self, params: Params, now: float) -> Object:
        """Create a grant of money.

        Raises:
            StripeError: a parameter is missing, unknown or invalid, or the customer has too many.
        """
        check_names(params, _CREATE)
        customer = self._customers.known(required(params, "customer"))["id"]
        amount = mapping(params, "amount")
        one_of(amount, "type", {"monetary"})
        monetary = mapping(amount, "monetary")
        currency = currency_of(required(monetary, "currency"))
        value = amount_of("value", whole(monetary, "value"), currency)
        priority = whole_or(params, "priority", PRIORITY_DEFAULT) or 0
        effective_at = whole_or(params, "effective_at", int(now)) or 0
        expires_at = whole_or(params, "expires_at", None)
        if value <= 0:
            raise StripeError(400, "Invalid positive integer: amount[monetary][value]")
        if not 0 <= priority <= PRIORITY_MAX:
            raise StripeError(400, "Invalid priority: it must be 0 to 100")
        if expires_at is not None and expires_at <= max(now, effective_at):
            raise StripeError(400, "`expires_at` must be in the future, and after `effective_at`.")
        unused = [
            g for g in self._of(customer) if self.left(g, now) == g["amount"]["monetary"]["value"]
        ]
        if len(unused) >= UNUSED_MAX:
            raise StripeError(
                400, f"A customer can have at most {UNUSED_MAX} unused credit grants."
            )
        return self._grants.put(
            {
                "id": self._new_id("credgr"),
                "object": "billing.credit_grant",
                "amount": {"monetary": {"currency": currency, "value": value}, "type": "monetary"},
                "applicability_config": {"scope": self._scope(params)},
                "category": one_of(params, "category", {"paid", "promotional"}, "paid"),
                "created": int(now),
                "customer": customer,
                "effective_at": effective_at,
                "expires_at": expires_at,
                "livemode": False,
                "metadata": with_metadata({}, params),
                "name": params.get("name") or None,
                "priority": priority,
                "test_clock": None,
                "updated": int(now),
                "voided_at": None,
            }
        )

    def expire(self, grant_id: str, now: float) -> Object:
        """Expire a grant now, for ever."""
        grant = self._live(grant_id, now)
        grant |= {"expires_at": int(now), "updated": int(now)}
        return grant

    def void(self, grant_id: str, now: float) -> Object:
        """Void a grant that nothing has used, for ever."""
        grant = self._live(grant_id, now)
        if self.left(grant, now) < grant["amount"]["monetary"]["value"]:
            raise StripeError(400, f"The credit grant {grant_id} has been used: expire it instead.")
        grant |= {"voided_at": int(now), "updated": int(now)}
        return grant

    def get(self, grant_id: str) -> Object:
        return self._grants.get(grant_id)

    def listing(self, params: Params) -> Object:
        check_names(params, {"customer", *PAGE})
        return self._grants.page(params, matches(params, customer="customer"))

    def list_transactions(self, params: Params) -> Object:
        """Return a page of the credits that invoices have used, newest first."""
        check_names(params, {"customer", "credit_grant", *PAGE})
        customer = required(params, "customer")
        used = [
            each
            for each in reversed(self._transactions)
            if self._grants.get(each["credit_grant"])["customer"] == customer
            and params.get("credit_grant") in {None, each["credit_grant"]}
        ]
        return page(used, params, "/v1/billing/credit_balance_transactions")

    def left(self, grant: Object, now: float) -> int:
        """Return what is left of a grant: nothing if it is void or has expired."""
        if grant["voided_at"] is not None or (grant["expires_at"] or now + 1) <= now:
            return 0
        used = (t for t in self._transactions if t["credit_grant"] == grant["id"])
        return int(grant["amount"]["monetary"]["value"]) - sum(
            int(t["debit"]["amount"]["monetary"]["value"]) for t in used
        )

    def apply(self, invoice: Object, lines: list[Object], now: float) -> list[Object]:
        """Pay metered lines with a customer's credits; return the amounts, as the invoice has them.

        Credits pay lines of subscriptions only, never invoice items. They go by priority, then the
        earliest expiry, then promotional before paid, then the earliest effect, then creation.
        https://docs.stripe.com/billing/subscriptions/usage-based/billing-credits#prioritization
        """
        grants = sorted(
            (g for g in self._of(invoice["customer"]) if g["effective_at"] <= now),
            key=lambda g: (
                g["priority"],
                g["expires_at"] is None,
                g["expires_at"] or 0,
                g["category"] == "paid",
                g["effective_at"],
                g["created"],
            ),
        )
        applied: list[Object] = []
        for grant in grants:
            if grant["amount"]["monetary"]["currency"] != invoice["currency"]:
                continue
            for line in lines:
                paid = sum(each["amount"] for each in line["pretax_credit_amounts"])
                amount = min(self.left(grant, now), line["amount"] - paid)
                if amount > 0 and self._pays(grant, line):
                    used = self._use(grant, amount, invoice, line, now)
                    line["pretax_credit_amounts"].append(used)
                    applied.append(used)
        return applied

    def _of(self, customer: str) -> list[Object]:
        return [each for each in self._grants if each["customer"] == customer]

    def _live(self, grant_id: str, now: float) -> Object:
        grant = self._grants.get(grant_id)
        if grant["voided_at"] is not None or (grant["expires_at"] or now + 1) <= now:
            raise StripeError(400, f"The credit grant {grant_id} is void or has expired.")
        return grant

    def _scope(self, params: Params) -> Object:
        scope = mapping(mapping(params, "applicability_config"), "scope")
        check_names(scope, {"price_type", "prices"})
        prices = [str(each.get("id")) for each in listed(scope, "prices")]
        if bool(prices) == ("price_type" in scope):
            raise StripeError(400, "The scope needs one of: price_type, prices.")
        if len(prices) > SCOPE_PRICES_MAX:
            raise StripeError(400, f"The scope can have at most {SCOPE_PRICES_MAX} prices.")
        if not prices:
            return {"price_type": one_of(scope, "price_type", {"metered"})}
        return {
            "prices": [{"object": "price", "id": self._prices.get(each)["id"]} for each in prices]
        }

    def _pays(self, grant: Object, line: Object) -> bool:
        if line["parent"]["type"] != "subscription_item_details":
            return False
        prices = grant["applicability_config"]["scope"].get("prices")
        price = line["pricing"]["price_details"]["price"]
        return prices is None or price in {each["id"] for each in prices}

    def _use(self, grant: Object, amount: int, invoice: Object, line: Object, now: float) -> Object:
        """Take an amount from a grant for a line; return it as the line has it."""
        money = {"monetary": {"currency": invoice["currency"], "value": amount}, "type": "monetary"}
        applied = {"invoice": invoice["id"], "invoice_line_item": line["id"]}
        transaction = {
            "id": self._new_id("cbtxn"),
            "object": "billing.credit_balance_transaction",
            "created": int(now),
            "credit": None,
            "credit_grant": grant["id"],
            "debit": {"amount": money, "credits_applied": applied, "type": "credits_applied"},
            "effective_at": int(now),
            "livemode": False,
            "test_clock": None,
            "type": "debit",
        }
        self._transactions.append(transaction)
        return {
            "amount": amount,
            "credit_balance_transaction": transaction["id"],
            "type": "credit_balance_transaction",
        }
