"""Protocols for the users of the catalog: prices, customers and meters. Pure.

`pipeline.catalog.tenants.Tenants` implements both.
"""

from decimal import Decimal
from typing import Protocol


class Prices(Protocol):
    """The price of a unit."""

    def price_for(
        self, tenant_id: str, outcome: str, policy: str, version: int, /
    ) -> tuple[Decimal, str] | None:
        """Return the price and currency in this version of a policy; None if it has no price."""


class FixedPrices(Prices, Protocol):
    """Prices that never change, and where they are written."""

    def priced_by(self, policy: str, version: int, /) -> str | None:
        """Return the digest of the catalog's entry with the version; None: it is in no log."""


class Billing(Prices, Protocol):
    """Prices, and the customers and meters that the sink delivers usage to."""

    def customer_for(self, tenant_id: str, at_ms: int, /) -> str | None:
        """Return who is billed for a tenant's units of a time; None: they are parked."""

    def account_of(self, tenant_id: str, at_ms: int, /) -> str:
        """Return the account that a tenant's units of a time belong to."""

    def is_billed(self, tenant_id: str, /) -> bool:
        """Return whether units of the tenant, of any time, have a customer."""

    def event_name_for(self, outcome: str, /) -> str:
        """Return the event name of the meter that counts the outcome."""
