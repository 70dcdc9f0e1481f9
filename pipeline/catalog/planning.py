"""Compare files with the catalog: what would change, for whom, from when. Pure."""

from collections.abc import Sequence

import msgspec

from pipeline.catalog.account_plan import plan_accounts
from pipeline.catalog.assignments import Dates, Refused, missing
from pipeline.catalog.declared import CatalogPlan, Declared, differences, named_tenants
from pipeline.catalog.entry import (
    Additions,
    Assigned,
    Grant,
    TenantTerms,
    uncut,
)
from pipeline.catalog.log import Void, accept
from pipeline.catalog.value import LEAD_MS_MIN, START, Catalog, DatedAssignment, Touched, when
from pipeline.errors import BrokenInvariantError
from pipeline.resolve.policy import Policy


def beginning(declared: Declared) -> Additions:
    """Return what begins a catalog: everything in the files, undated where they have no date."""
    return Additions(
        [policy for of_name in declared.versions.values() for policy in of_name],
        [Assigned(declared.default)],
        dict(declared.meters),
        {key_id: Grant(tenants) for key_id, tenants in declared.keys.items()},
        dict(declared.tenants),
        [contract for of_name in declared.contracts.values() for contract in of_name],
        {account: of[not of[0].name :] for account, of in declared.accounts.items()},
        dict(declared.members),
    )


def catalog_of(declared: Declared) -> Catalog:
    """Return the catalog that begins with these files, and has nothing else."""
    entry = uncut(beginning(declared), "", LEAD_MS_MIN)
    begun = accept(Catalog(), entry, 0, "files")
    if isinstance(begun, Void):
        raise BrokenInvariantError(f"the files make no catalog: {begun.reason}")
    return begun


def plan(catalog: Catalog, declared: Declared, earliest_ms: int, from_ms: int) -> CatalogPlan:
    """Return what to add to the catalog so that it says what the files say.

    Args:
        catalog: the catalog as it is.
        declared: the files.
        earliest_ms: what is dated before this would change the past, or come too late.
        from_ms: the date of what has no date in the files.
    """
    planning = _Planning(catalog, declared, earliest_ms, from_ms)
    planning.plan_versions()
    planning.plan_default()
    planning.plan_tenants()
    planning.plan_meters()
    planning.plan_keys()
    plan_accounts(catalog, declared, Dates(earliest_ms, from_ms), planning.planned)
    return planning.planned


class _Planning:
    def __init__(
        self, catalog: Catalog, declared: Declared, earliest_ms: int, from_ms: int
    ) -> None:
        self.planned = CatalogPlan(Additions(), [], [], [], [])
        self._catalog = catalog
        self._declared = declared
        self._earliest_ms = earliest_ms
        self._from_ms = from_ms
        self._dates = Dates(earliest_ms, from_ms)
        self._earliest = f"{when(earliest_ms)} is the earliest date"

    # --- policies ---------------------------------------------------------------------------------

    def plan_versions(self) -> None:
        for name, versions in self._declared.versions.items():
            for policy in versions:
                known = self._catalog.versions.get((name, policy.version))
                if known is None:
                    self._add_version(policy)
                elif known.policy != policy:
                    self._refuse_edited(known.policy, policy)
        of_files = {(p.name, p.version) for of in self._declared.versions.values() for p in of}
        gone = [f"{name} version {v}" for name, v in self._catalog.versions.keys() - of_files]
        if gone:
            self.planned.notes.append(f"not in the files, and stays: {', '.join(sorted(gone))}")

    def _add_version(self, policy: Policy) -> None:
        name = f"policy {policy.name} version {policy.version}"
        first_ms = self._catalog.first_assigned(policy.name)
        if max(first_ms, policy.effective_from) < self._earliest_ms:
            self.planned.refused.append(
                f"{name} takes effect at {when(policy.effective_from)}, and tenants have that policy: "
                f"it would change the past. {self._earliest}: set effective_from"
            )
            since_ms = max(first_ms, policy.effective_from)
            self.planned.touched.append(Touched(policy=policy.name, from_ms=since_ms))
            return
        self.planned.additions.policies.append(policy)
        self.planned.changes.append(f"{name} is new, from {when(policy.effective_from)}")

    def _refuse_edited(self, known: Policy, policy: Policy) -> None:
        name = f"policy {policy.name} version {policy.version}"
        differs = differences(msgspec.structs.asdict(known), msgspec.structs.asdict(policy))
        if policy.name in self._declared.shipped:
            self.planned.notes.append(
                f"{name} of this version of resmeter differs from the catalog's, which stays: {differs}"
            )
            return
        self.planned.refused.append(
            f"{name} was edited: {differs}. A version never changes. Put it back, and write the next "
            "version with a date"
        )
        self.planned.touched.append(Touched(policy=policy.name, version=policy.version))

    # --- who has which policy ---------------------------------------------------------------------

    def plan_default(self) -> None:
        known = self._catalog.default
        declared = [Assigned(self._declared.default)]
        added = self._missing(None, known, declared, "")
        self.planned.additions.default.extend(added)
        for assigned in added:
            self.planned.changes.append(
                f"tenants without a policy of their own: {assigned.name} from "
                f"{self._from(assigned.name, assigned.from_ms)}, instead of {known[-1].name}"
            )

    def plan_tenants(self) -> None:
        catalog = self._catalog
        before = catalog.default[-1].name
        moved: dict[tuple[str, str, int | None], list[str]] = {}
        billed: list[str] = []
        for tenant_id, declared in self._declared.tenants.items():
            known = catalog.assigned.get(tenant_id, ())
            added: list[Assigned] = []
            if declared.assigned:
                # A tenant whose only policy is the default one has it whatever the default becomes.
                default = before if known or len(declared.assigned) > 1 else ""
                added = self._missing(tenant_id, known, declared.assigned, default)
            for assigned in added:
                was = known[-1].name if known else before
                moved.setdefault((assigned.name, was, assigned.from_ms), []).append(tenant_id)
            customer = self._customer(tenant_id, declared)
            if customer is not None:
                billed.append(tenant_id)
            if added or customer is not None:
                self.planned.additions.tenants[tenant_id] = TenantTerms(tuple(added), customer)
        for (policy, was, at_ms), tenants in moved.items():
            instead = f"instead of {was}" if was != policy else "whatever the default becomes"
            self.planned.changes.append(
                f"{named_tenants(tenants)}: {policy} from {self._from(policy, at_ms)}, {instead}"
            )
        gone = catalog.assigned.keys() | catalog.customers.keys()
        if left := sorted(gone - self._declared.tenants.keys()):
            self.planned.notes.append(
                f"not in the file, and keeps its policy and its customer: {named_tenants(left)}"
            )

    def _customer(self, tenant_id: str, declared: TenantTerms) -> str | None:
        known, wanted = self._catalog.customers.get(tenant_id, ""), declared.customer or ""
        if wanted == known:
            return None
        self.planned.changes.append(
            f"tenant {tenant_id}: its usage is billed to {wanted or 'nobody, and is parked'} at once"
            + (f", instead of {known}" if known else "")
        )
        return wanted

    def _missing(
        self,
        tenant_id: str | None,
        known: tuple[DatedAssignment, ...],
        declared: Sequence[Assigned],
        default: str,
    ) -> list[Assigned]:
        whose = "the default policy" if tenant_id is None else f"tenant {tenant_id}"
        # What was in force stays until the policy has a version.
        from_ms = max(self._from_ms, self._begins_ms(declared[0].name))
        dates = self._dates._replace(from_ms=from_ms)
        found = missing(whose, known, declared, default, dates)
        if isinstance(found, Refused):
            self.planned.refused.extend(found.problems)
            self.planned.touched.extend(
                Touched(tenant_id, from_ms=from_ms) for from_ms in found.late_ms
            )
            return []
        return [Assigned(each.name, each.from_ms) for each in found]

    def _begins_ms(self, policy: str) -> int:
        """Return when the first version of a policy takes effect."""
        versions = self._declared.versions.get(policy) or self._catalog.versions_of(policy)
        return min((each.effective_from for each in versions), default=START)

    def _from(self, policy: str, at_ms: int | None) -> str:
        """Say from when a policy is assigned, and from when it holds if that is later."""
        begins_ms = self._begins_ms(policy)
        if begins_ms <= (START if at_ms is None else at_ms):
            return when(at_ms)
        return f"{when(at_ms)} (its first version takes effect at {when(begins_ms)})"

    # --- meters and keys --------------------------------------------------------------------------

    def plan_meters(self) -> None:
        known, wanted = self._catalog.meters, self._declared.meters
        for outcome in sorted(known.keys() | wanted.keys()):
            name = wanted.get(outcome, "")
            if name != known.get(outcome, ""):
                self.planned.additions.meters[outcome] = name
                shown = name or f"resmeter_{outcome}"
                self.planned.changes.append(f"units of {outcome} go to the meter {shown} at once")

    def plan_keys(self) -> None:
        known = {key_id: grants[-1].tenants for key_id, grants in self._catalog.keys.items()}
        wanted = {**dict.fromkeys(known, ()), **self._declared.keys}
        for key_id, tenants in wanted.items():
            if known.get(key_id, ()) == tenants:
                continue
            self.planned.additions.keys[key_id] = Grant(tenants, self._from_ms)
            signs = (
                "all tenants"
                if tenants is None
                else named_tenants(tenants)
                if tenants
                else "nobody"
            )
            self.planned.changes.append(
                f"the key {key_id} signs for {signs} from {when(self._from_ms)}"
            )
        if self._declared.keys and all(tenants == () for tenants in known.values()):
            self.planned.changes.append(
                f"from {when(self._from_ms)} on, every event must be signed"
            )
