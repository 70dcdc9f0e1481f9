"""Make tenants without files."""

from collections.abc import Iterable, Mapping

from pipeline.catalog.entry import Contract
from pipeline.catalog.planning import Declared, catalog_of
from pipeline.catalog.policies import preset
from pipeline.catalog.tenants import Tenants
from pipeline.resolve.policy import Policy


def tenants_with(
    customers: Mapping[str, str],
    policies: Iterable[Policy] = (preset("fin-2026"),),
    meters: Mapping[str, str] | None = None,
) -> Tenants:
    """Return tenants with these customers, all under the first of these policies."""
    versions: dict[str, list[Policy]] = {}
    for policy in policies:
        versions.setdefault(policy.name, []).append(policy)
    contracts = {tenant_id: Contract((), customer) for tenant_id, customer in customers.items()}
    return Tenants(
        catalog_of(
            Declared(next(iter(versions)), versions, contracts, meters or {}, {}, frozenset())
        )
    )
