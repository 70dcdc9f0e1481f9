"""Read a customer's invoices at Stripe, add items to a draft, and make it final.

https://docs.stripe.com/billing/invoices/subscription
https://docs.stripe.com/api/invoiceitems/create

Each call can be repeated: an item is added under an idempotency key, and the caller looks for it first,
because Stripe forgets keys after a day. The other calls do nothing a second time.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from pipeline.billing.invoice import InvoiceItem, StripePrice, from_stripe
from pipeline.sink.invoicing import CHARGE_MIN, AddedItem, Charge, Invoice, InvoiceRefusedError
from pipeline.sink.stripe.billed import tiers_of
from pipeline.sink.stripe.calls import KEY, StripeCalls
from pipeline.sink.stripe.reconcile import units_of
from pipeline.sink.stripe.setup import CARRIED, PRODUCT

DAYS_UNTIL_DUE = (
    30  # of an invoice that must be sent, because it is too small to charge or is our own
)
_ADVANCES = "resmeter_advances"  # in a draft's metadata: Stripe would have made it final by itself
_FIRST = "subscription_create"  # the invoice at a subscription's start, which has no usage


class _Price(NamedTuple):
    meter: str | None
    costs: StripePrice | None


class StripeInvoices(StripeCalls):
    """Stripe as `Invoices`."""

    refused = InvoiceRefusedError

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prices: dict[str, _Price] = {}  # what a price costs never changes
        self._event_names: dict[str, str] = {}  # by the meter's id

    # --- reading ----------------------------------------------------------------------------------

    async def of_customer(
        self, customer: str, outcomes: Mapping[str, str], since: int
    ) -> list[Invoice]:
        """Return the invoices of a customer that were made at a time or later, newest first."""
        with self._translated(f"the invoices of {customer}"):
            listed = await self._pages(
                self._v1.invoices.list_async, "invoices", customer=customer, created={"gte": since}
            )
            return [
                await self._read(each, outcomes) for each in listed if each.billing_reason != _FIRST
            ]

    async def counted(self, customer: str, charge: Charge) -> int:
        """Return the units that a meter has counted in the time of a charge, in whole minutes."""
        start, end = charge.minutes
        summaries = self._v1.billing.meters.event_summaries
        with self._translated(f"the sums of {charge.outcome} of {customer}"):
            parts = await self._pages(
                partial(summaries.list_async, charge.meter),
                "sums",
                customer=customer,
                start_time=start,
                end_time=end,
            )
            return sum(map(units_of, parts))

    async def _read(self, found: Any, outcomes: Mapping[str, str]) -> Invoice:
        lines = found.lines.data
        if found.lines.has_more:
            lines = await self._lines(found.id)
        currency = str(found.currency)
        details = found.parent.subscription_details if found.parent else None
        items = await self._items(found.id)
        return Invoice(
            id=found.id,
            customer=found.customer,
            currency=currency,
            status=found.status,
            subscription=str(details.subscription) if details else None,
            key=_metadata(found, KEY),
            is_sent=found.collection_method == "send_invoice",
            advances=bool(found.auto_advance),
            is_held=_metadata(found, _ADVANCES) is not None,
            finalises_at=found.automatically_finalizes_at,
            charges=await self._charges(lines, currency, outcomes),
            items=tuple(
                AddedItem(key, from_stripe(each.amount, currency))
                for each in items
                if (key := _metadata(each, KEY)) is not None
            ),
            total=_total(found, currency),
            due=from_stripe(found.amount_due, currency),
        )

    async def _charges(
        self, lines: list[Any], currency: str, outcomes: Mapping[str, str]
    ) -> tuple[Charge, ...]:
        """Return the charges: a price with tiers makes a line for each tier."""
        charges: dict[tuple[str, str], Charge] = {}
        for line in lines:
            details = line.parent.subscription_item_details if line.parent else None
            pricing = line.pricing.price_details if line.pricing else None
            if details is None or pricing is None:
                continue
            price = await self._price(str(pricing.price))
            outcome = outcomes.get(self._event_names.get(price.meter or "", ""))
            if price.meter is None or outcome is None:
                continue
            key = (str(details.subscription_item), str(pricing.price))
            before = charges.get(key)
            charges[key] = Charge(
                outcome=outcome,
                meter=price.meter,
                item=key[0],
                product=pricing.product,
                price=price.costs,
                start=line.period.start,
                end=line.period.end,
                quantity=(before.quantity if before else 0) + (line.quantity or 0),
                amount=(before.amount if before else 0) + from_stripe(line.amount, currency),
            )
        return tuple(charges.values())

    async def _price(self, price_id: str) -> _Price:
        known = self._prices.get(price_id)
        if known is not None:
            return known
        params: Any = {"expand": ["tiers"]}
        found: Any = await self._again(lambda: self._v1.prices.retrieve_async(price_id, params))
        meter = getattr(found.recurring, "meter", None) if found.recurring else None
        if meter is not None and meter not in self._event_names:
            meters = await self._client.list_meters()
            self._event_names |= {each.id: each.event_name for each in meters}
        tiers = {found.id: getattr(found, "tiers", None) or ()}
        is_graduated = found.billing_scheme != "tiered" or found.tiers_mode == "graduated"
        is_plain = is_graduated and not getattr(found, "transform_quantity", None)
        costs = tiers_of(found, tiers) if is_plain else None
        price = _Price(meter, StripePrice(costs) if costs else None)
        self._prices[price_id] = price
        return price

    async def _lines(self, invoice_id: str) -> list[Any]:
        listing = partial(self._v1.invoices.line_items.list_async, invoice_id)
        return await self._pages(listing, "lines")

    async def _items(self, invoice_id: str) -> list[Any]:
        listing = self._v1.invoice_items.list_async
        return await self._pages(listing, "invoice items", invoice=invoice_id)

    # --- changing ---------------------------------------------------------------------------------

    async def hold(self, invoice: Invoice) -> None:
        """Stop a draft from becoming final by itself; its metadata remember that it did."""
        # The method of collection is what it was. With it, Stripe refuses the call for an invoice that
        # has become final meanwhile: `auto_advance` would stop the collection of that one.
        params: Any = {
            "auto_advance": False,
            "collection_method": "send_invoice" if invoice.is_sent else "charge_automatically",
            "metadata": {_ADVANCES: "true"},
        }
        with self._translated(f"the draft {invoice.id} of {invoice.customer}"):
            await self._v1.invoices.update_async(invoice.id, params)

    async def add(self, invoice: Invoice, item: InvoiceItem) -> None:
        """Add an item that a draft does not have."""
        charge = next((each for each in invoice.charges if each.outcome == item.outcome), None)
        named = PRODUCT.format(item.outcome) if item.outcome else CARRIED
        product = (charge.product if charge else None) or named
        params: Any = {
            "customer": invoice.customer,
            "invoice": invoice.id,
            "description": item.description,
            "metadata": item.metadata,
            "price_data": {
                "currency": invoice.currency,
                "product": product,
                "unit_amount_decimal": str(item.stripe_amount),
            },
        }
        options: Any = {"idempotency_key": f"{item.idempotency_key}/{invoice.id}"}
        what = f"the draft {invoice.id} of {invoice.customer}, an item of {product}"
        with self._translated(what):
            await self._v1.invoice_items.create_async(params, options)

    async def finalise(self, invoice: Invoice) -> None:
        """Make a draft final, and let Stripe collect it as it would have."""
        with self._translated(f"the draft {invoice.id} of {invoice.customer}"):
            if not invoice.is_sent and 0 < invoice.due < CHARGE_MIN.get(invoice.currency, 0):
                # Stripe does not charge it, and would move the customer's balance.
                sent: Any = {"collection_method": "send_invoice", "days_until_due": DAYS_UNTIL_DUE}
                await self._v1.invoices.update_async(invoice.id, sent)
            params: Any = {"auto_advance": invoice.advances or invoice.is_held}
            await self._v1.invoices.finalize_invoice_async(invoice.id, params)

    async def create(self, customer: str, currency: str, key: str, description: str) -> None:
        """Make a draft of our own; `key` says what it stands for."""
        params: Any = {
            "customer": customer,
            "currency": currency,
            "auto_advance": False,
            "collection_method": "send_invoice",
            "days_until_due": DAYS_UNTIL_DUE,
            "description": description,
            "metadata": {KEY: key, _ADVANCES: "true"},
            "pending_invoice_items_behavior": "exclude",
        }
        options: Any = {"idempotency_key": f"resmeter-invoice/{key}"}
        with self._translated(f"an invoice for {customer}"):
            await self._v1.invoices.create_async(params, options)


def _metadata(found: Any, name: str) -> str | None:
    value = getattr(found.metadata, name, None) if found.metadata else None
    return value if isinstance(value, str) else None


def _total(found: Any, currency: str) -> int:
    """Return what an invoice comes to before tax, and before credits that the customer has at Stripe."""
    before_tax = found.total if found.total_excluding_tax is None else found.total_excluding_tax
    credits_used = sum(
        each.amount
        for each in found.total_pretax_credit_amounts or ()
        if each.type == "credit_balance_transaction"
    )
    return from_stripe(before_tax + credits_used, currency)
