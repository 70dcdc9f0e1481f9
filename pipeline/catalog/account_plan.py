"""Compare contracts and accounts in files with the catalog; say what changes for each tenant. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

import msgspec

from pipeline.billing.periods import HOUR_MS, Calendar
from pipeline.catalog.account_contract import contract_of
from pipeline.catalog.assignments import Dates, Refused, missing
from pipeline.catalog.charges import Charging, calendar_of, holdings
from pipeline.catalog.declared import CatalogPlan, Declared, differences, named_tenants
from pipeline.catalog.entry import ContractVersion, Dated, uncut
from pipeline.catalog.log import Void, accept
from pipeline.catalog.value import NEVER, Catalog, DatedAssignment, when

_PERIODS_NEAR = 4  # the one before a change, and those in which an anchor takes over


def plan_accounts(catalog: Catalog, declared: Declared, dates: Dates, planned: CatalogPlan) -> None:
    """Add to a plan what files change in contracts and accounts; call it after everything else."""
    # Stripe's usage is by hour, and so is what an account owns.
    hourly = Dates(dates.earliest_ms, -(-dates.from_ms // HOUR_MS) * HOUR_MS)
    for versions in declared.contracts.values():
        for version in versions:
            _plan_version(catalog, version, dates, planned)
    _plan_assigned(catalog, declared, hourly, planned)
    _plan_members(catalog, declared, hourly, planned)
    _note_what_stays(catalog, declared, planned)
    if planned.refused:
        return  # what would follow from it is not known
    after = _after(catalog, dates.earliest_ms, planned)
    tenants = sorted({*after.assigned, *after.members, *after.accounts, *after.customers, ""})
    _refuse_contracts(catalog, after, planned)
    _refuse_prices(catalog, after, dates.earliest_ms, tenants, planned)
    if not planned.refused:
        _say_what_changes(catalog, after, tenants, planned)


def _plan_version(
    catalog: Catalog, version: ContractVersion, dates: Dates, planned: CatalogPlan
) -> None:
    name = f"contract {version.name} version {version.version}"
    known = catalog.contracts.get((version.name, version.version))
    if known is not None:
        if known.contract != version:
            planned.refused.append(_edited(name, known.contract, version))
        return
    effective_ms = version.terms.effective_from
    first_ms = catalog.first_contracted(version.name)
    if max(first_ms, effective_ms) < dates.earliest_ms:
        planned.refused.append(
            f"{name} takes effect at {when(effective_ms)}, and accounts have that contract: it would "
            f"change the past. {when(dates.earliest_ms)} is the earliest date: set effective_from"
        )
        return
    planned.additions.contracts.append(version)
    planned.changes.append(f"{name} is new, from {when(effective_ms)}")


def _edited(name: str, known: ContractVersion, version: ContractVersion) -> str:
    before, now = (
        {"currency": each.currency, **msgspec.structs.asdict(each.terms)}
        for each in (known, version)
    )
    return (
        f"{name} was edited: {differences(before, now)}. A version never changes. Put it back, and write the next "
        "version with a date"
    )


def _plan_assigned(
    catalog: Catalog, declared: Declared, dates: Dates, planned: CatalogPlan
) -> None:
    for account, of_files in declared.accounts.items():
        known = catalog.accounts.get(account, ())
        added = _missing(f"account {account}", known, of_files, "", dates, planned)
        if added:
            planned.additions.accounts[account] = added
        for each in added:
            what = f"contract {each.name}" if each.name else "no contract"
            planned.changes.append(f"account {account}: {what} from {when(each.from_ms)}")


def _plan_members(catalog: Catalog, declared: Declared, dates: Dates, planned: CatalogPlan) -> None:
    for tenant_id, of_files in declared.members.items():
        known = catalog.members.get(tenant_id, ())
        added = _missing(f"tenant {tenant_id}", known, of_files, tenant_id, dates, planned)
        if added:
            planned.additions.members[tenant_id] = added
        for each in added:
            planned.changes.append(
                f"tenant {tenant_id}: its units from {when(each.from_ms)} belong to account {each.name}"
            )
        if added:
            planned.notes.append(
                f"tenant {tenant_id} moves: where a unit from before is taken back later, the statement "
                "of its old account has it, but Stripe's meter counts one less for the new one: credit "
                "the old customer, and bill the new one, by hand"
            )


def _missing(
    whose: str,
    known: tuple[DatedAssignment, ...],
    declared: tuple[Dated, ...],
    default: str,
    dates: Dates,
    planned: CatalogPlan,
) -> tuple[Dated, ...]:
    found = missing(whose, known, declared, default, dates)
    if isinstance(found, Refused):
        planned.refused.extend(found.problems)
        return ()
    return tuple(found)


def _note_what_stays(catalog: Catalog, declared: Declared, planned: CatalogPlan) -> None:
    of_files = {(v.name, v.version) for of in declared.contracts.values() for v in of}
    gone = [f"contract {name} version {v}" for name, v in catalog.contracts.keys() - of_files]
    gone += [f"the contract of account {a}" for a in catalog.accounts.keys() - declared.accounts]
    gone += [f"the account of tenant {t}" for t in catalog.members.keys() - declared.members]
    if gone:
        planned.notes.append(f"not in the files, and stays: {', '.join(sorted(gone))}")


def _after(catalog: Catalog, earliest_ms: int, planned: CatalogPlan) -> Catalog:
    """Return the catalog with what the plan adds; the catalog itself if that would be void."""
    entry = uncut(planned.additions, catalog.digest, catalog.lead_ms)
    after = accept(catalog, entry, earliest_ms - catalog.lead_ms, "plan")
    if isinstance(after, Void):
        planned.refused.append(after.reason)
        return catalog
    return after


# --- what is refused ------------------------------------------------------------------------------


def _refuse_contracts(catalog: Catalog, after: Catalog, planned: CatalogPlan) -> None:
    for account, added in planned.additions.accounts.items():
        planned.refused.extend(
            f"account {account}: {problem}"
            for problem in _problems_of_account(after, account, added)
        )
        _note_other_currency(after, account, planned)
    for name in sorted({version.name for version in planned.additions.contracts}):
        known = {each.version for each in catalog.contract_versions(name)}
        versions = after.contract_versions(name)
        calendar = calendar_of(versions)
        for before, version in pairwise(versions):
            if before.terms.anchor_ms == version.terms.anchor_ms or version.version in known:
                continue
            if day := _begun_twice(calendar, version.terms.effective_from):
                planned.refused.append(
                    f"contract {name} version {version.version}: period.anchor: two periods would "
                    f"begin on {day}: write an anchor on another day"
                )
            planned.notes.append(
                f"contract {name} version {version.version} has another anchor: close what is open "
                "before, with nothing carried and every credit used or void"
            )


def _note_other_currency(after: Catalog, account: str, planned: CatalogPlan) -> None:
    contract = contract_of(after, account)
    members = {t for t, of in after.members.items() if any(each.name == account for each in of)}
    policies = {
        policy.currency
        for tenant_id in {account, *members}
        for policy in after.timeline_of(tenant_id).versions
    }
    if contract is not None and (others := sorted(policies - {contract.currency})):
        planned.notes.append(
            f"account {account}: its statements are in {contract.currency}; units that a policy prices "
            f"in {' or '.join(others)}, such as those from before its contract, are not billed by them"
        )


def _problems_of_account(after: Catalog, account: str, added: Iterable[Dated]) -> Iterator[str]:
    contract = contract_of(after, account)
    if contract is None:
        return
    for each in added:
        versions = after.contract_versions(each.name)
        if each.from_ms is None:
            continue
        if versions and versions[0].terms.effective_from > each.from_ms:
            yield (
                f"contract {each.name} from {when(each.from_ms)} has no version in force then: its "
                f"first takes effect at {when(versions[0].terms.effective_from)}: date the account from "
                "then, with `from` in the file or with --from"
            )
        elif versions and versions[0].currency != contract.currency:
            yield (
                f"contract {each.name} is in {versions[0].currency}, and its other contracts in "
                f"{contract.currency}: an account has one currency: begin another account"
            )
        elif day := _begun_twice(contract.calendar, each.from_ms):
            yield (
                f"from {when(each.from_ms)}: two periods would begin on {day}: write a date on which "
                "a period begins, or another day"
            )


def _begun_twice(calendar: Calendar, changed_ms: int) -> str:
    """Return a day on which two periods would begin after a change, or nothing."""
    period = calendar.period_at(changed_ms)
    near = [calendar.period_at(period.start_ms - 1), period]
    while len(near) < _PERIODS_NEAR:
        near.append(calendar.after(near[-1]))
    return next((one.name for one, other in pairwise(near) if one.name == other.name), "")


def _refuse_prices(
    catalog: Catalog,
    after: Catalog,
    earliest_ms: int,
    tenants: Iterable[str],
    planned: CatalogPlan,
) -> None:
    """Refuse what leaves a unit without a price; what the catalog has already is not refused again."""
    named = list(tenants)
    known = set(Charging(catalog).missing(earliest_ms, named)) if catalog.is_begun else set()
    found: dict[str, dict[str, None]] = {}
    for problem, tenant_id in Charging(after).missing(earliest_ms, named):
        if (problem, tenant_id) not in known:
            found.setdefault(problem, {})[tenant_id] = None
    for problem, of in found.items():
        whose = [tenant_id for tenant_id in of if tenant_id]
        planned.refused.append(
            f"{named_tenants(whose) if whose else 'tenants that no file names'}: {problem}"
        )


# --- what changes ---------------------------------------------------------------------------------


def _say_what_changes(
    catalog: Catalog, after: Catalog, tenants: Iterable[str], planned: CatalogPlan
) -> None:
    """Say for each tenant, and each date of the plan, what it is charged then and would be without."""
    added = planned.additions
    if not (added.contracts or added.accounts or added.members):
        return
    before, now = Charging(catalog), Charging(after)
    said: dict[tuple[int, str], list[str]] = {}
    for tenant_id in tenants:
        for at_ms in _dates_of(after, tenant_id, planned):
            change = _difference(before.at(tenant_id, at_ms), now.at(tenant_id, at_ms))
            if tenant_id and change:
                said.setdefault((at_ms, change), []).append(tenant_id)
    for (at_ms, change), of in sorted(said.items(), key=lambda each: each[0]):
        planned.changes.append(f"{named_tenants(of)} from {when(at_ms)}: {change}")


def _dates_of(after: Catalog, tenant_id: str, planned: CatalogPlan) -> list[int]:
    """Return when contracts or accounts of the plan begin to hold for a tenant."""
    added = planned.additions
    names = {version.name for version in added.contracts}
    dates = {each.from_ms for each in added.members.get(tenant_id, ())}
    accounts = {tenant_id, *(each.name for each in after.members.get(tenant_id, ()))}
    for account in accounts:
        dates |= {each.from_ms for each in added.accounts.get(account, ())}
        held = holdings(after, account)
        dates |= {h.from_ms for h in held if h.version.name in names or account in added.accounts}
    return sorted(ms for ms in dates if ms is not None and -NEVER < ms < NEVER)


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    changes = []
    for about in {**now, **before}:
        old, new = before.get(about, "none"), now.get(about, "none")
        if old != new:
            changes.append(f"{about} {new} (before: {old})")
    return "; ".join(changes)
