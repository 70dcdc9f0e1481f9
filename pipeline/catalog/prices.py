"""What the rest asks of the catalog about a bill: who is billed, into which meter, at what price."""

from decimal import Decimal
from typing import Protocol


class Billing(Protocol):
    """Who is billed, into which meter, at what price: `pipeline.catalog.tenants.Tenants`."""

    def customer_for(self, tenant_id: str) -> str | None: ...

    def event_name_for(self, outcome: str) -> str: ...

    def price_for(
        self, tenant_id: str, outcome: str, policy: str, version: int
    ) -> tuple[Decimal, str] | None: ...
