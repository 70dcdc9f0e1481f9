"""Make tenants without files."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.catalog.declared import Declared
from pipeline.catalog.entry import TenantTerms, entries_of
from pipeline.catalog.exported import encode_export
from pipeline.catalog.log import Appended, Verdict, read
from pipeline.catalog.planning import beginning, catalog_of
from pipeline.catalog.policies import preset
from pipeline.catalog.tenants import Tenants, read_declared
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.resolve.policy import Policy


def export_catalog(export: Path, tenant_file: Path | None = None) -> str:
    """Write the export of a catalog that begins with a tenant file; return its path."""
    declared, _ = read_declared(tenant_file)
    values = entries_of(beginning(declared), "", "ada", "test", LEAD_MS_MIN)
    _, verdicts = taken(Catalog(), values, 0)
    export.write_bytes(encode_export(verdicts))
    return str(export)


def taken(
    catalog: Catalog, values: Iterable[bytes], at_ms: int, first_offset: int = 0
) -> tuple[Catalog, list[Verdict]]:
    """Return a catalog with entries that are appended at a time; each must be valid."""
    verdicts: list[Verdict] = []
    for offset, value in enumerate(values, first_offset):
        catalog, verdict = read(catalog, Appended(offset, at_ms, value))
        assert not verdict.reason
        verdicts.append(verdict)
    return catalog, verdicts


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
