"""An emulator of Stripe with a customer, a meter and prices, made and asked through Stripe's SDK."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
import stripe

from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.server import Emulator, running
from pipeline.dev.emulator.state import State

HOUR = 3_600
DAY = 24 * HOUR


def at(text: str) -> int:
    """Return a time, such as `2026-11-01` or `2026-11-01T00:45`, in seconds since the epoch."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


OCTOBER, NOVEMBER, DECEMBER = at("2026-10-01"), at("2026-11-01"), at("2026-12-01")


def client_of(
    base_url: str,
    key: str = "sk_test_1",
    http: stripe.HTTPClient | None = None,
    account: str | None = None,
) -> stripe.StripeClient:
    return stripe.StripeClient(
        key,
        base_addresses={"api": base_url, "meter_events": base_url},
        http_client=http,
        max_network_retries=0,
        stripe_account=account,
    )


def error_of(call: Callable[[], object]) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError) as caught:
        call()
    return caught.value


class Account(NamedTuple):
    """A Stripe account with a customer, a meter and a product. `v1` is the SDK's."""

    emulator: Emulator
    base_url: str
    client: stripe.StripeClient
    customer: str
    meter: str
    product: str

    @property
    def v1(self) -> Any:
        return self.client.v1

    def now(self, text: str) -> None:
        """Move the clock to a time."""
        self.emulator.backend.set_clock(at(text))

    def price(self, **params: Any) -> stripe.Price:
        """Create a metered monthly price, of $0.99 unless told."""
        if not {"unit_amount", "unit_amount_decimal", "tiers"} & set(params):
            params["unit_amount"] = 99
        if "tiers" in params:
            params = {"billing_scheme": "tiered", "tiers_mode": "graduated", **params}
        recurring = {"interval": "month", "usage_type": "metered", "meter": self.meter}
        created: stripe.Price = self.v1.prices.create(
            {"currency": "usd", "product": self.product, "recurring": recurring, **params}
        )
        return created

    def subscribe(self, price: str, **params: Any) -> stripe.Subscription:
        created: stripe.Subscription = self.v1.subscriptions.create(
            {"customer": self.customer, "items": [{"price": price}], **params}
        )
        return created

    def use(self, units: int, when: str, identifier: str = "") -> None:
        """Send a meter event with units of a time."""
        self.v1.billing.meter_events.create(
            {
                "event_name": "resolved",
                "payload": {"stripe_customer_id": self.customer, "value": str(units)},
                "timestamp": at(when),
                **({"identifier": identifier} if identifier else {}),
            }
        )

    def summed(self, start: int = OCTOBER, end: int = NOVEMBER) -> float:
        (summary,) = self.v1.billing.meters.event_summaries.list(
            self.meter, {"customer": self.customer, "start_time": start, "end_time": end}
        ).data
        return float(summary.aggregated_value)

    def invoices(self, **params: Any) -> list[stripe.Invoice]:
        """Return the invoices that periods have made, oldest first."""
        listed = self.v1.invoices.list({"customer": self.customer, **params}).auto_paging_iter()
        made = [each for each in listed if each.billing_reason == "subscription_cycle"]
        return made[::-1]

    def item(self, amount: int, **params: Any) -> stripe.InvoiceItem:
        """Create an invoice item."""
        created: stripe.InvoiceItem = self.v1.invoice_items.create(
            {"customer": self.customer, "currency": "usd", "amount": amount, **params}
        )
        return created

    def balance(self) -> int:
        balance: int = self.v1.customers.retrieve(self.customer).balance
        return balance


@contextmanager
def open_account(now: int = OCTOBER, state: State | None = None, **more: Any) -> Iterator[Account]:
    """Run an emulator whose clock begins at a time, with an account in it."""
    emulator = Emulator(state, Clock(now), **more)
    with running(emulator) as base_url:
        yield new_account(emulator, base_url)


def new_account(emulator: Emulator, base_url: str) -> Account:
    """Create a customer, a meter and a product."""
    client = client_of(base_url)
    customer = client.v1.customers.create({"name": "Acme"})
    meter = client.v1.billing.meters.create(
        {
            "display_name": "Resolved",
            "event_name": "resolved",
            "default_aggregation": {"formula": "sum"},
        }
    )
    product = client.v1.products.create({"name": "Resolutions"})
    return Account(emulator, base_url, client, customer.id, meter.id, product.id)
