"""What the invoices of a customer have, and the `Invoices` protocol, which a biller implements. Pure.

Amounts are in minor units of the currency, as statements have them.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from pipeline.billing.invoice import InvoiceItem, StripePrice
from pipeline.errors import ResmeterError

# The least that a card is charged. What is less becomes a debt on the customer's balance, unless the
# invoice is sent to the customer.
CHARGE_MIN = {
    "aed": 200,
    "aud": 50,
    "bgn": 100,
    "brl": 50,
    "cad": 50,
    "chf": 50,
    "czk": 1500,
    "dkk": 250,
    "eur": 50,
    "gbp": 30,
    "hkd": 400,
    "huf": 17500,
    "inr": 50,
    "jpy": 50,
    "mxn": 1000,
    "myr": 200,
    "nok": 300,
    "nzd": 50,
    "pln": 200,
    "ron": 200,
    "sek": 300,
    "sgd": 50,
    "thb": 1000,
    "usd": 50,
}


class InvoiceRefusedError(ResmeterError):
    """The biller refuses a call for good; somebody must change something first."""


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What an invoice charges for the units of a meter in `start <= time < end`, in seconds."""

    outcome: str
    meter: str  # its id at the biller
    item: str  # the subscription's item
    product: str | None
    price: StripePrice | None  # None: it is more than a price for each unit
    start: int
    end: int
    quantity: int
    amount: int

    @property
    def minutes(self) -> tuple[int, int]:
        """Its time in whole minutes, as the biller sums what was counted."""
        return self.start - self.start % 60, self.end + -self.end % 60


class AddedItem(msgspec.Struct, frozen=True):
    """An item that we have added to an invoice."""

    key: str
    amount: int


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice at the biller."""

    id: str
    customer: str
    currency: str
    status: str  # draft, open, paid, uncollectible, void
    subscription: str | None  # None: somebody made it by hand
    key: str | None  # of an invoice that we have made ourselves
    is_sent: bool  # to the customer, who pays; otherwise it is charged
    advances: bool  # a draft: the biller makes it final by itself
    is_held: bool  # a draft: we have stopped that, and start the collection when we finalise it
    finalises_at: int | None  # when it does that, seconds
    charges: tuple[Charge, ...]
    items: tuple[AddedItem, ...]
    total: int  # before tax, and before what the customer's balance and credits pay
    due: int = 0  # what it asks for: with tax, less what the balance pays

    @property
    def is_draft(self) -> bool:
        return self.status == "draft"

    @property
    def others(self) -> int:
        """What lines come to that are neither charges for usage nor items of ours."""
        charged = sum(each.amount for each in self.charges)
        return self.total - charged - sum(each.amount for each in self.items)


class Invoices(Protocol):
    """Reads and completes the invoices of customers. Every call is safe to repeat.

    Raises:
        UnavailableError: from each call, if the biller cannot be reached or is busy.
        ConfigurationError: from each call, if the key may not make it.
        InvoiceRefusedError: from each call, if the biller refuses it for good.
    """

    async def of_customer(
        self, customer: str, outcomes: Mapping[str, str], since: int
    ) -> list[Invoice]:
        """Return the invoices of a customer that were made at a time or later, newest first.

        `outcomes` has the outcome of each event name. Usage of other meters is among the others.
        """

    async def counted(self, customer: str, charge: Charge) -> int:
        """Return the units that the meter of a charge has counted in its time, in whole minutes."""

    async def hold(self, invoice: Invoice) -> None:
        """Stop a draft from becoming final by itself."""

    async def add(self, invoice: Invoice, item: InvoiceItem) -> None:
        """Add an item that the draft does not have."""

    async def finalise(self, invoice: Invoice) -> None:
        """Make a draft final, and let the biller collect it as it would have."""

    async def create(self, customer: str, currency: str, key: str, description: str) -> None:
        """Make a draft of our own, which is sent to the customer; `key` says what it stands for."""

    async def close(self) -> None: ...
