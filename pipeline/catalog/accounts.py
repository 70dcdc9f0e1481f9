"""Who is billed: accounts, their tenants and their contracts (docs/reference/money.md §1.1)."""

from collections.abc import Collection, Iterable

from pipeline.billing.contract import BilledAccount, Contract
from pipeline.catalog.account_contract import contract_of
from pipeline.catalog.contracts import read_contract
from pipeline.catalog.tenants import Tenants


def account_of(tenants: Tenants, name: str) -> BilledAccount:
    """Return the account with a name. Without a contract, its tenants' policies price its units."""
    catalog = tenants.catalog
    members = (
        tenant_id
        for tenant_id, accounts in catalog.members.items()
        if any(each.name == name for each in accounts)
    )
    contract = contract_of(catalog, name)

    def of_currencies(currencies: Collection[str]) -> Contract:
        if contract is not None:
            return contract
        return read_contract({}, currencies or {tenants.timeline_for(name).versions[-1].currency})

    return BilledAccount(
        name,
        tuple(sorted({name, *members})),
        of_currencies,
        lambda tenant_id, at_ms: catalog.account_of(tenant_id, at_ms) == name,
    )


def under_contract(tenants: Tenants, units: Iterable[tuple[str, int]]) -> list[str]:
    """Return the accounts with a contract that pay for units of a tenant and a time."""
    names = {tenants.account_of(tenant_id, at_ms) for tenant_id, at_ms in units}
    return sorted(name for name in names if contract_of(tenants.catalog, name) is not None)


def is_known(tenants: Tenants, name: str) -> bool:
    """Return whether the catalog has an account: a contract, a customer, or a tenant of it."""
    catalog = tenants.catalog
    members = {each.name for accounts in catalog.members.values() for each in accounts}
    return name in {*catalog.accounts, *catalog.customers, *catalog.assigned, *members}
