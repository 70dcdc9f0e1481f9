"""What files say, and what of it would change the catalog. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.catalog.entry import Additions, ContractVersion, Dated, TenantTerms
from pipeline.catalog.value import Touched
from pipeline.resolve.policy import Policy

_NAMED_MAX = 20  # tenants that one sentence names


class Declared(NamedTuple):
    """What the tenant file and its policy and contract files say.

    The first policy of a tenant has no date, and so has the first account. An account whose first
    contract has no name has no contract before the next.
    """

    default: str
    versions: Mapping[str, Sequence[Policy]]
    tenants: Mapping[str, TenantTerms]
    meters: Mapping[str, str]
    keys: Mapping[str, tuple[str, ...] | None]  # by key id, the tenants; None: all
    shipped: frozenset[str]  # the names of policies that come with resmeter
    contracts: Mapping[str, Sequence[ContractVersion]] = {}  # versions by name
    accounts: Mapping[str, tuple[Dated, ...]] = {}  # the contracts of each account
    members: Mapping[str, tuple[Dated, ...]] = {}  # the accounts of each tenant


class CatalogPlan(NamedTuple):
    """What files would change in a catalog, and what of them is refused."""

    additions: Additions
    changes: list[str]
    notes: list[str]  # what the files leave out, and stays
    refused: list[str]
    touched: list[Touched]  # the usage that what is refused would have touched


def named_tenants(names: Sequence[str]) -> str:
    """Return tenants for a sentence: `tenant acme`, `2 tenants: acme, bluejay`."""
    shown = ", ".join(names[:_NAMED_MAX])
    if len(names) > _NAMED_MAX:
        shown += f" and {len(names) - _NAMED_MAX:,} more"
    return f"{'tenant' if len(names) == 1 else f'{len(names):,} tenants:'} {shown}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what differs between a version in the catalog and in a file; tables by their keys."""
    return ", ".join(_differences("", before, now))


def _differences(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in [*before, *(key for key in now if key not in before)]:
        was, is_now = before.get(key, "absent"), now.get(key, "absent")
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            yield from _differences(f"{prefix}{key}.", was, is_now)
        elif was != is_now:
            yield f"{prefix}{key} ({was} in the catalog, {is_now} in the file)"
