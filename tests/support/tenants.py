"""Make tenants without files."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.catalog.declared import Declared
from pipeline.catalog.entry import TenantTerms, entries_of
from pipeline.catalog.exported import encode_export
from pipeline.catalog.log import Appended, read
from pipeline.catalog.planning import beginning, catalog_of
from pipeline.catalog.policies import preset
from pipeline.catalog.tenants import Tenants, read_declared
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.resolve.policy import Policy


def export_catalog(export: Path, tenant_file: Path | None = None) -> str:
    """Write the export of a catalog that begins with a tenant file; return its path."""
    declared, _ = read_declared(tenant_file)
    catalog, verdicts = Catalog(), []
    for number, value in enumerate(entries_of(beginning(declared), "", "ada", "test", LEAD_MS_MIN)):
        catalog, verdict = read(catalog, Appended(number, 0, value))
        verdicts.append(verdict)
    export.write_bytes(encode_export(verdicts))
    return str(export)


def tenants_with(
    customers: Mapping[str, str],
    policies: Iterable[Policy] = (preset("fin-2026"),),
    meters: Mapping[str, str] | None = None,
) -> Tenants:
    """Return tenants with these customers, all under the first of these policies."""
    versions: dict[str, list[Policy]] = {}
    for policy in policies:
        versions.setdefault(policy.name, []).append(policy)
    contracts = {tenant_id: TenantTerms((), customer) for tenant_id, customer in customers.items()}
    return Tenants(
        catalog_of(
            Declared(next(iter(versions)), versions, contracts, meters or {}, {}, frozenset())
        )
    )
