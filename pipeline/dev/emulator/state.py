"""Keep the emulator's state, and let it move with time. Pure. Time is an argument."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.dev.emulator.credit_grants import CreditGrants
from pipeline.dev.emulator.credit_notes import CreditNotes
from pipeline.dev.emulator.customers import Customers
from pipeline.dev.emulator.faults import Fault
from pipeline.dev.emulator.invoice_items import InvoiceItems
from pipeline.dev.emulator.invoices import Invoices
from pipeline.dev.emulator.meter_events import MeterEvents
from pipeline.dev.emulator.meters import Meters
from pipeline.dev.emulator.objects import Object, Objects
from pipeline.dev.emulator.params import Params, check_names, flag
from pipeline.dev.emulator.prices import Prices
from pipeline.dev.emulator.products import Products
from pipeline.dev.emulator.remembered import IdempotencyKeys
from pipeline.dev.emulator.response import Response, StripeError
from pipeline.dev.emulator.subscriptions import Subscriptions

REMEMBERED_SECONDS = 24 * 3600
GRACE_SECONDS = 3600
REQUESTS_MAX = 10_000


class State:
    """What one account has, its idempotency keys, faults, and the last requests.

    `now` is in seconds since the epoch.
    """

    def __init__(
        self,
        *,
        remembered_seconds: float = REMEMBERED_SECONDS,
        lag_seconds: float = 0.0,
        grace_seconds: int = GRACE_SECONDS,
    ) -> None:
        self._numbers = itertools.count(1)
        new_id = self._new_id
        self.customers = Customers(new_id)
        self.meters = Meters(new_id)
        self.meter_events = MeterEvents(
            self.customers, self.meters, new_id, remembered_seconds, lag_seconds
        )
        self.products = Products(new_id)
        self.prices = Prices(self.products, self.meters, new_id)
        self.subscriptions = Subscriptions(self.customers, self.prices, new_id)
        self.credit_grants = CreditGrants(self.customers, self.prices, new_id)
        stored = Objects("invoice", "/v1/invoices")
        self.invoice_items = InvoiceItems(self.customers, self.prices, stored, new_id)
        self.invoices = Invoices(
            stored,
            self.customers,
            self.meter_events,
            self.invoice_items,
            self.credit_grants,
            new_id,
            grace_seconds,
        )
        self.credit_notes = CreditNotes(self.customers, self.invoices, stored, new_id)
        self.idempotency_keys = IdempotencyKeys(remembered_seconds)
        self.faults: list[Fault] = []
        self.requests: deque[dict[str, Any]] = deque(maxlen=REQUESTS_MAX)

    def prepare(self, customers: Iterable[str], event_names: Iterable[str], now: float) -> None:
        """Create what is missing of a customer for each id, and a summing meter for each event name."""
        for customer_id in customers:
            if customer_id not in self.customers:
                self.customers.create({}, now, customer_id)
        for name in event_names:
            if self.meters.of_event_name(name) is None:
                meter = {"display_name": name, "event_name": name}
                self.meters.create({**meter, "default_aggregation": {"formula": "sum"}}, now)

    # --- time -------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Do all that falls due up to a time, in its order: periods end, and drafts become final."""
        while True:
            period, draft = self.subscriptions.next_due(), self.invoices.next_due()
            if period is not None and period[0] <= now and (draft is None or period[0] <= draft[0]):
                subscription = self.subscriptions.get(period[1])
                ended = self.subscriptions.step(subscription)
                self.invoices.draft_period(subscription, ended, "subscription_cycle", period[0])
            elif draft is not None and draft[0] <= now:
                self.invoices.finalize(draft[1], {}, draft[0])
            else:
                return

    # --- what concerns several kinds of objects ---------------------------------------------------

    def subscribe(self, params: Params, now: float) -> Object:
        """Create a subscription. One that begins with a full period has a first invoice, of 0.

        https://docs.stripe.com/billing/invoices/subscription#first-invoice
        """
        subscription = self.subscriptions.create(params, now)
        if subscription["billing_cycle_anchor"] <= now:
            at = int(now)
            invoice = self.invoices.draft_period(subscription, (at, at), "subscription_create", now)
            self.invoices.finalize(invoice["id"], {}, now)
        return subscription

    def unsubscribe(self, subscription_id: str, params: Params, now: float) -> Object:
        """End a subscription now; usage of the current period is billed only with `invoice_now`.

        https://docs.stripe.com/api/subscriptions/cancel
        """
        check_names(params, {"invoice_now", "prorate"})
        subscription = self.subscriptions.get(subscription_id)
        if subscription["status"] == "canceled":
            raise StripeError(
                404, f"No such subscription: '{subscription_id}'", code="resource_missing"
            )
        start, _ = self.subscriptions.period(subscription)
        self.subscriptions.end(subscription, now)
        if flag(params, "invoice_now", default=False):
            period = (start, int(now))
            self.invoices.draft_period(subscription, period, "subscription_update", now)
        return subscription

    def delete_customer(self, customer_id: str, now: float) -> Object:
        """Delete a customer, and end its subscriptions.

        https://docs.stripe.com/api/customers/delete
        """
        for subscription in self.subscriptions.of_customer(customer_id):
            self.subscriptions.end(subscription, now)
        return self.customers.delete(customer_id)

    def sums(self) -> dict[str, Any]:
        """Return `MeterEvents.sums`."""
        return self.meter_events.sums()

    def once(
        self, key: str | None, call: bytes, act: Callable[[], Response], now: float
    ) -> Response:
        """Return the response to a call; if its idempotency key is known, the first response."""
        if key is not None:
            try:
                first = self.idempotency_keys.get(key, call, now)
            except StripeError as error:
                return error.response()
            if first is not None:
                return first
        try:
            response = act()
        except StripeError as error:
            response = error.response()
        if key is not None:
            self.idempotency_keys.keep(key, call, response, now)
        return response

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_emulated{next(self._numbers):06d}"
