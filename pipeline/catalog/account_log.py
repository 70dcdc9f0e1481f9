"""Accounts and contracts in the catalog's log: what makes an entry void, what it changes. Pure.

docs/reference/money.md §1.1 and §2 have the rules. A contract is published like a policy: its versions
enter before they take effect and never change.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from pipeline.billing.contract import Terms
from pipeline.billing.periods import HOUR_MS
from pipeline.catalog.dated import changes_the_past, merged, with_added, without
from pipeline.catalog.entry import Dated, Entry
from pipeline.catalog.value import NEVER, START, Catalog, DatedAssignment, DatedContract, when
from pipeline.events.times import parse_time

_FIRST_MS, _LAST_MS = map(parse_time, ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"))


def problem_of_accounts(catalog: Catalog, entry: Entry, from_ms: int) -> str:
    """Return why an entry's contracts and accounts make it void; empty: they do not."""
    return _problem_of_contracts(catalog, entry, from_ms) or _problem_of_assignments(
        catalog, entry, from_ms
    )


def _problem_of_contracts(catalog: Catalog, entry: Entry, from_ms: int) -> str:
    known = [dated.contract for dated in catalog.contracts.values()]
    for contract in entry.contracts:
        name = f"version {contract.version} of contract {contract.name}"
        for other in [each for each in known if each.name == contract.name]:
            if other.version == contract.version:
                return f"the catalog has {name} already; a version never changes"
            if other.currency != contract.currency:
                return f"{name} is in {contract.currency}, and version {other.version} in {other.currency}"
            if other.terms.effective_from == contract.terms.effective_from:
                return f"{name} takes effect when version {other.version} does"
        if problem := _problem_of_terms(contract.terms):
            return f"{name}: {problem}"
        known.append(contract)
        effective_ms = contract.terms.effective_from
        if max(effective_ms, catalog.first_contracted(contract.name)) < from_ms:
            return f"{name} would hold from {when(effective_ms)}, {changes_the_past(from_ms)}"
    return ""


def _problem_of_terms(terms: Terms) -> str:
    """Return what no contract file can say, and a bill cannot be made of."""
    for outcome, tiers in terms.tiers.items():
        limits = [0, *(tier.up_to for tier in tiers[:-1])]
        is_rising = all(a is not None and b is not None and a < b for a, b in pairwise(limits))
        if not tiers or tiers[-1].up_to is not None or not is_rising:
            return f"the tiers of {outcome} do not rise to one without a limit"
        if not all(tier.price.is_finite() and tier.price >= 0 for tier in tiers):
            return f"{outcome} has a price that is not an amount"
    counts = (*terms.included.values(), terms.cap_units or 0, terms.cap_amount or 0, terms.minimum)
    if min(counts, default=0) < 0:
        return "it has a number below zero"
    times = (terms.effective_from, terms.anchor_ms)
    if not all(_FIRST_MS <= ms <= _LAST_MS for ms in times) or terms.anchor_ms % HOUR_MS:
        return "its anchor is not on the whole hour, or a time is out of range"
    return ""


def _problem_of_assignments(catalog: Catalog, entry: Entry, from_ms: int) -> str:
    names = {name for name, _ in catalog.contracts} | {each.name for each in entry.contracts}
    for account, added in entry.accounts.items():
        for dated in added:
            if dated.name and dated.name not in names:
                return f"account {account}: the catalog has no contract {dated.name}"
        known = catalog.accounts.get(account, ())
        if problem := _problem_of_dates(f"account {account}", known, added, from_ms):
            return problem
    for tenant_id, added in entry.members.items():
        known = catalog.members.get(tenant_id, ())
        if problem := _problem_of_dates(f"tenant {tenant_id}", known, added, from_ms):
            return problem
    return ""


def _problem_of_dates(
    whose: str, known: tuple[DatedAssignment, ...], added: tuple[Dated, ...], from_ms: int
) -> str:
    for dated in added:
        name = dated.name or "no contract"
        if dated.from_ms is not None and not _FIRST_MS <= dated.from_ms <= _LAST_MS:
            return f"{whose}: the date of {name} is out of range"
        is_first = from_ms == START and not known and dated is added[0]
        if dated.from_ms is None and not is_first:
            return f"{whose}: {name} has no date"
        if dated.from_ms is not None and dated.from_ms < from_ms:
            return f"{whose}: {name} from {when(dated.from_ms)}, {changes_the_past(from_ms)}"
    return ""


def accounts_after(catalog: Catalog, entry: Entry, number: int) -> Mapping[str, Any]:
    """Return the fields of a catalog that an entry's contracts and accounts change."""
    return {
        "contracts": merged(
            catalog.contracts,
            {(c.name, c.version): DatedContract(c, number) for c in entry.contracts},
        ),
        "accounts": _assigned(catalog.accounts, entry.accounts, number),
        "members": _assigned(catalog.members, entry.members, number),
    }


def _assigned(
    known: Mapping[str, tuple[DatedAssignment, ...]],
    added: Mapping[str, tuple[Dated, ...]],
    number: int,
) -> Mapping[str, tuple[DatedAssignment, ...]]:
    return merged(
        known, {key: with_added(known.get(key, ()), of, number) for key, of in added.items()}
    )


# --- withdrawal -----------------------------------------------------------------------------------


def accounts_without(catalog: Catalog, number: int) -> Mapping[str, Any]:
    """Return the fields of a catalog without what an entry's contracts and accounts dated."""
    return {
        "contracts": {at: c for at, c in catalog.contracts.items() if c.number != number},
        "accounts": without(catalog.accounts, number),
        "members": without(catalog.members, number),
    }


def dates_of(catalog: Catalog, number: int) -> Iterator[tuple[str, int]]:
    """Yield from when each contract and account of an entry holds, with its name."""
    for (name, version), known in catalog.contracts.items():
        if known.number == number:
            since_ms = max(known.contract.terms.effective_from, catalog.first_contracted(name))
            yield f"version {version} of contract {name}", since_ms
    for kind, dated in (("account", catalog.accounts), ("tenant", catalog.members)):
        for key, assigned in dated.items():
            for each in assigned:
                if each.number == number:
                    yield f"{kind} {key}", START if each.from_ms is None else each.from_ms


def orphan_of(before: Catalog, left: Catalog) -> str:
    """Return a contract that accounts still have, although its last version is gone; or nothing."""
    gone = {name for name, _ in before.contracts} - {name for name, _ in left.contracts}
    return min((name for name in gone if left.first_contracted(name) < NEVER), default="")
