"""Who is billed: accounts and their contracts (docs/reference/money.md §1.1)."""

from collections.abc import Collection

from pipeline.billing.contract import BilledAccount, Contract
from pipeline.catalog.contracts import read_contract
from pipeline.catalog.tenants import Tenants


def account_of(tenants: Tenants, name: str) -> BilledAccount:
    """Return the account with a name: a tenant, whose policies' prices are its contract."""

    def contract_of(currencies: Collection[str]) -> Contract:
        return read_contract({}, currencies or {tenants.timeline_for(name).versions[-1].currency})

    return BilledAccount(name, (name,), contract_of)
