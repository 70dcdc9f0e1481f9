"""The catalog as a value: what the valid entries of its log add up to. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from pipeline.catalog.entry import Amendment, ContractVersion
from pipeline.events.times import format_time
from pipeline.resolve.policy import Assignment, Policy, Timeline

# An event may be dated five minutes ahead of its arrival. The other two minutes are for the clocks
# of two brokers, and for the time between reading the catalog and deciding.
LEAD_MS_MIN = 7 * 60_000
NEVER = 2**62
PRESET = ("fin-2026", 1)  # what is in force where nothing else is
START = -NEVER


class DatedVersion(NamedTuple):
    """A version of a policy, and the number of the entry that brought it."""

    policy: Policy
    number: int


class DatedAssignment(NamedTuple):
    """A policy, a contract or an account, from when it holds, and the number of the entry.

    `from_ms` is None from the start. The empty name of a contract says that there is none.
    """

    name: str
    from_ms: int | None
    number: int


class DatedContract(NamedTuple):
    """A version of a contract, and the number of the entry that brought it."""

    contract: ContractVersion
    number: int


class DatedGrant(NamedTuple):
    """For which tenants a key signs (None: all), from when, and the number of the entry."""

    tenants: tuple[str, ...] | None
    from_ms: int | None
    number: int


class DatedAmendment(NamedTuple):
    """What a rebill plan amends, the number of the entry, and who published it and why."""

    amendment: Amendment
    number: int
    who: str
    why: str


class Touched(NamedTuple):
    """The usage that a change of the past would touch; None: any."""

    tenant_id: str | None = None
    policy: str | None = None
    version: int | None = None
    from_ms: int | None = None


class Catalog(msgspec.Struct, frozen=True):
    """What the valid entries of a log add up to. `number` and `digest` name the last of them."""

    digests: tuple[str, ...] = ()  # of the valid entries: entry number 1 is the first
    lead_ms: int = LEAD_MS_MIN
    is_begun: bool = False  # the beginning is complete
    restoring: str = ""  # the digest of the last entry to restore
    versions: Mapping[tuple[str, int], DatedVersion] = {}
    default: tuple[DatedAssignment, ...] = ()
    assigned: Mapping[str, tuple[DatedAssignment, ...]] = {}
    customers: Mapping[str, str] = {}
    meters: Mapping[str, str] = {}
    keys: Mapping[str, tuple[DatedGrant, ...]] = {}
    amendments: tuple[DatedAmendment, ...] = ()  # in the order of the log: a later one holds
    contracts: Mapping[tuple[str, int], DatedContract] = {}
    accounts: Mapping[str, tuple[DatedAssignment, ...]] = {}  # the contracts of each account
    members: Mapping[str, tuple[DatedAssignment, ...]] = {}  # the accounts of each tenant

    @property
    def number(self) -> int:
        return len(self.digests)

    @property
    def digest(self) -> str:
        return self.digests[-1] if self.digests else ""

    @property
    def head(self) -> tuple[int, str]:
        return self.number, self.digest

    @property
    def is_whole(self) -> bool:
        """Whether processes may decide by it: its beginning, or its restoration, is complete."""
        return self.is_begun and not self.restoring

    def has(self, head: tuple[int, str]) -> bool:
        """Return whether this head is one of the entries."""
        number, digest = head
        return number == 0 or (number <= self.number and self.digests[number - 1] == digest)

    def versions_of(self, name: str) -> list[Policy]:
        return [known.policy for (of, _), known in self.versions.items() if of == name]

    def assignments_of(self, tenant_id: str) -> tuple[DatedAssignment, ...]:
        """Return the tenant's own policies after the default ones that they follow."""
        own = self.assigned.get(tenant_id, ())
        if not own:
            return self.default
        first_ms = own[0].from_ms
        if first_ms is None:
            return own
        return (*(a for a in self.default if a.from_ms is None or a.from_ms < first_ms), *own)

    def timeline_of(self, tenant_id: str) -> Timeline:
        """Return the timeline of a tenant (docs/reference/outcomes.md §2.3)."""
        return self.timeline(self.assignments_of(tenant_id))

    def timeline(self, assigned: tuple[DatedAssignment, ...]) -> Timeline:
        # Until a policy has a version, the default policy is in force, and before that the preset.
        before: Timeline | None = None
        if assigned[0] != self.default[0]:
            before = self.timeline(self.default)
        elif PRESET in self.versions:
            before = Timeline([self.versions[PRESET].policy])
        first, *later = assigned
        return Timeline(
            self.versions_of(first.name),
            [Assignment(a.from_ms or 0, self.versions_of(a.name)) for a in later],
            before,
        )

    def keys_at(self, ms: int) -> dict[str, DatedGrant]:
        """Return the keys that sign for somebody at a time."""
        begun = {
            key_id: [
                each for each in grants if (START if each.from_ms is None else each.from_ms) <= ms
            ]
            for key_id, grants in self.keys.items()
        }
        return {key_id: of[-1] for key_id, of in begun.items() if of and of[-1].tenants != ()}

    def amendments_of(self, tenant_id: str) -> tuple[DatedAmendment, ...]:
        """Return what rebill plans have amended for a tenant, in the order of the log."""
        return tuple(each for each in self.amendments if each.amendment.covers(tenant_id))

    def amendments_after(
        self, number: int, tenant_id: str | None, but: str
    ) -> tuple[DatedAmendment, ...]:
        """Return what other plans have amended after an entry, for a tenant or, if None, for any."""
        return tuple(
            each
            for each in self.amendments
            if each.number > number and each.amendment.plan != but
            if tenant_id is None or each.amendment.covers(tenant_id)
        )

    def terms_of(self, name: str, version: int) -> Policy | None:
        """Return a version, which the catalog has or a rebill plan has brought."""
        known = self.versions.get((name, version))
        if known is not None:
            return known.policy
        for amendment, *_ in self.amendments:
            if (amendment.policy.name, amendment.policy.version) == (name, version):
                return amendment.policy
        return None

    def account_of(self, tenant_id: str, at_ms: int) -> str:
        """Return the account that a tenant's units of a time belong to (docs/reference/money.md §1.1)."""
        known = self.members.get(tenant_id, ())
        begun = [each.name for each in known if each.from_ms is None or each.from_ms <= at_ms]
        return begun[-1] if begun else tenant_id

    def contracts_of(self, account: str) -> list[DatedAssignment]:
        """Return the contracts of an account by date; those that end others have no name."""
        return list(self.accounts.get(account, ()))

    def contract_versions(self, name: str) -> list[ContractVersion]:
        """Return the versions of a contract, by the time from which they hold."""
        known = [each.contract for (of, _), each in self.contracts.items() if of == name]
        return sorted(known, key=lambda contract: contract.terms.effective_from)

    def first_contracted(self, name: str) -> int:
        """Return from when on any account has a contract: `START`, a time in ms, or `NEVER`."""
        return min(
            (
                START if each.from_ms is None else each.from_ms
                for assigned in self.accounts.values()
                for each in assigned
                if each.name == name
            ),
            default=NEVER,
        )

    def first_assigned(self, name: str) -> int:
        """Return from when on a policy is assigned to anybody: `START` or a time in ms."""
        return min(
            (
                START if each.from_ms is None else each.from_ms
                for assigned in (self.default, *self.assigned.values())
                for each in assigned
                if each.name == name
            ),
            default=NEVER,
        )


def has_other_terms(known: Policy | None, policy: Policy) -> bool:
    """Return whether a known version says something else, whatever the dates of the two."""
    return known is not None and (
        msgspec.structs.replace(known, effective_from=0)
        != msgspec.structs.replace(policy, effective_from=0)
    )


def when(ms: int | None) -> str:
    """Return a time for people; `the start` if there is no date.

    A number that an entry has may be no time: its years have more than four digits.
    """
    if ms is None or ms <= START:
        return "the start"
    try:
        return format_time(ms).replace(".000Z", "Z")
    except (OverflowError, ValueError):
        return f"{ms} ms"
