"""Read the tenant file: who is billed, under which policy, and through which meter."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from pipeline.catalog.account_tables import AccountTables, read_accounts
from pipeline.catalog.contracts import read_contracts
from pipeline.catalog.declared import Declared
from pipeline.catalog.entry import Amendment, Assigned, ContractVersion, Dated, TenantTerms
from pipeline.catalog.named_files import Versions, names_in, presets, read_files, read_versions
from pipeline.catalog.planning import catalog_of
from pipeline.catalog.policies import DEFAULT, PRESETS, preset
from pipeline.catalog.producers import Producer, load_ring, read_producers
from pipeline.catalog.toml_values import parse_instant
from pipeline.catalog.value import Catalog, DatedAmendment, DatedAssignment
from pipeline.errors import ConfigurationError
from pipeline.events.model import FUTURE_MS_MAX, TENANT_ID
from pipeline.events.signature import KeyRing
from pipeline.resolve.machine import PROCEDURE_HANDOFF, RESOLUTION
from pipeline.resolve.policy import Policy, Timeline

_CUSTOMER = re.compile(r"cus_[A-Za-z0-9_]{1,240}", re.ASCII)
_DAY_MS = 24 * 3_600_000
_EVENT_NAME_CHARACTERS_MAX = 100  # Stripe's limit for the event_name of a meter
_FILE_KEYS = (
    *("policy", "policy_files", "contract_files"),
    *("meters", "tenants", "accounts", "producers"),
)


class Tenants:
    """A catalog as worker, sink and commands use it, with the places of the producers' secrets."""

    def __init__(self, catalog: Catalog, producers: Mapping[str, Producer] | None = None) -> None:
        self.catalog = catalog
        self.customers = catalog.customers  # by account
        self.producers = producers or {}  # empty: unsigned events, for any tenant
        self._timelines: dict[tuple[DatedAssignment, ...], Timeline] = {}
        self._owed: dict[str, Timeline] = {}

    def timeline_for(self, tenant_id: str) -> Timeline:
        """Return the versions of the tenant's policies, or of the default ones."""
        assigned = self.catalog.assignments_of(tenant_id)
        timeline = self._timelines.get(assigned)
        if timeline is None:  # most tenants share one
            timeline = self._timelines[assigned] = self.catalog.timeline(assigned)
        return timeline

    def owed_timeline_for(self, tenant_id: str) -> Timeline:
        """Return what the tenant owes by: its timeline, as rebill plans have amended it."""
        timeline = self.timeline_for(tenant_id)
        if not self.catalog.amendments:
            return timeline
        owed = self._owed.get(tenant_id)
        if owed is None:
            owed = timeline
            for amends, *_ in self.catalog.amendments_of(tenant_id):
                owed = owed.amended(amends.policy, amends.from_ms, amends.to_ms)
            self._owed[tenant_id] = owed
        return owed

    def amended(self, amendment: Amendment) -> "Tenants":
        """Return the tenants as they are once a rebill plan has amended what is owed."""
        catalog = self.catalog
        dated = DatedAmendment(amendment, catalog.number + 1, "", "")
        amendments = (*catalog.amendments, dated)
        return Tenants(msgspec.structs.replace(catalog, amendments=amendments), self.producers)

    def customer_for(self, tenant_id: str, at_ms: int) -> str | None:
        """Return the Stripe customer of the account that a tenant's units of a time belong to.

        Without one, they are parked.
        """
        return self.customers.get(self.account_of(tenant_id, at_ms))

    def account_of(self, tenant_id: str, at_ms: int) -> str:
        """Return the account that a tenant's units of a time belong to."""
        return self.catalog.account_of(tenant_id, at_ms)

    def is_billed(self, tenant_id: str) -> bool:
        """Return whether units of the tenant, of any time, have a customer."""
        accounts = {each.name for each in self.catalog.members.get(tenant_id, ())}
        return not self.customers.keys().isdisjoint(accounts | {tenant_id})

    def event_name_for(self, outcome: str) -> str:
        """Return the `event_name` of the Stripe meter that counts an outcome."""
        return self.catalog.meters.get(outcome, f"resmeter_{outcome}")

    @property
    def event_names(self) -> list[str]:
        """Return the event names of the meters that the policies in use need, sorted."""
        return sorted(self.outcomes_metered)

    @property
    def outcomes_metered(self) -> dict[str, str]:
        """Return the outcome of each event name that the policies in use need."""
        outcomes = {RESOLUTION}
        amended = [each.amendment.policy for each in self.catalog.amendments]
        for policy in self._policies_in_use() + amended:
            outcomes.update(policy.outcomes_billed)
            if policy.handoff_causes_billed:
                outcomes.add(PROCEDURE_HANDOFF)
        return {self.event_name_for(outcome): outcome for outcome in sorted(outcomes)}

    def problems_in_worker(self, seal_after_ms: int, now_ms: int) -> list[str]:
        """Return the problems that prevent a worker from starting. Reads the producers' secrets."""
        _, missing = load_ring(self.catalog.keys, self.producers)
        return [
            text for from_ms, text in self.windows_too_long(seal_after_ms) if from_ms <= now_ms
        ] + [each.text for each in missing if each.from_ms <= now_ms < each.until_ms]

    def key_ring(self) -> KeyRing:
        """Read the producers' secrets, and return their keys.

        Raises:
            ConfigurationError: with every secret that is missing or too short, unless its key is
                revoked.
        """
        keys, missing = load_ring(self.catalog.keys, self.producers)
        if needed := [each.text for each in missing if not each.is_revoked]:
            raise ConfigurationError(needed)
        return keys

    def windows_too_long(self, seal_after_ms: int) -> list[tuple[int, str]]:
        """Return a problem for each policy version with windows that sealing would cut short.

        A conversation is sealed after `seal_after_ms` without a record, and must not be sealed
        before its window and grace period have ended. Each problem comes with the time in ms from
        which the version can be in force.
        """
        problems: list[tuple[int, str]] = []
        for policy in self._policies_in_use():
            # A producer's clock may be ahead: an event may arrive before the time that it states.
            waits = FUTURE_MS_MAX + max(policy.window.values()) + policy.grace
            if policy.silence != "never" and waits > seal_after_ms:
                text = (
                    f"RESMETER_WORKER__SEAL_AFTER_DAYS: policy {policy.name!r}, version "
                    f"{policy.version}, has windows that stay open longer: set it to "
                    f"{-(-waits // _DAY_MS)} or more"
                )
                first_ms = self.catalog.first_assigned(policy.name)
                problems.append((max(first_ms, policy.effective_from), text))
        return problems

    def _policies_in_use(self) -> list[Policy]:
        """Return every version that a tenant may have, by name."""
        catalog = self.catalog
        assigned = [catalog.default, *catalog.assigned.values()]
        names = {each.name for of in assigned for each in of}
        names |= {policy.name for policy in catalog.timeline_of("").versions}
        return [policy for name in sorted(names) for policy in catalog.versions_of(name)]

    def price_for(
        self, tenant_id: str, outcome: str, policy: str, version: int
    ) -> tuple[Decimal, str] | None:
        """Return (price of a unit, currency), or None if the policy has no price."""
        terms = self.catalog.terms_of(policy, version)
        if terms is None or outcome not in terms.price:
            return None
        return terms.price[outcome], terms.currency

    def priced_by(self, policy: str, version: int) -> str | None:
        """Return the digest of the entry that brought a policy's version, None without a log."""
        known = self.catalog.versions.get((policy, version))
        if known is None or not 1 <= known.number <= len(self.catalog.digests):
            return None
        return self.catalog.digests[known.number - 1]


def load_tenants(path: Path | None) -> Tenants:
    """Read the tenant file and the policy files that it names.

    Without a file, every tenant has the default policy and none has a customer.

    Raises:
        ConfigurationError: with the problems of all files.
    """
    declared, producers = read_declared(path)
    return Tenants(catalog_of(declared), producers)


def read_declared(path: Path | None) -> tuple[Declared, dict[str, Producer]]:
    """Return what the tenant file and its policy files say, and the places of the secrets.

    Raises:
        ConfigurationError: with the problems of all files.
    """
    if path is None:
        return Declared(DEFAULT, presets(), {}, {}, {}, frozenset(PRESETS)), {}
    table = _read_toml(path)
    versions, policy_problems = read_versions(path, table.get("policy_files", []))
    default, meters = table.get("policy", DEFAULT), table.get("meters", {})
    tenants: Any = table.get("tenants", {})
    problems = [f"{path}: {key}: unknown key" for key in table if key not in _FILE_KEYS]
    problems += policy_problems
    problems += _problems_of_policy(f"{path}: policy", default, versions)
    problems += _problems_of_meters(path, meters)
    if isinstance(tenants, dict):
        for tenant_id, entry in tenants.items():
            problems += _problems_of_tenant(path, tenant_id, entry, versions)
    else:
        problems.append(f"{path}: tenants: must be a table: write [tenants.NAME]")
    accounts, contracts, problems_of_accounts = _read_accounts(path, table, versions)
    problems += problems_of_accounts
    producers: dict[str, Producer] = {}
    if "producers" in table:
        try:
            producers = read_producers(path, table["producers"])
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    terms = {
        tenant_id: TenantTerms(
            _read_dated(entry["policy"]) if "policy" in entry else (),
            entry.get("stripe_customer"),
        )
        for tenant_id, entry in tenants.items()
    }
    for account, customer in accounts.customers.items():
        own = terms.get(account, TenantTerms())
        terms[account] = msgspec.structs.replace(own, customer=customer)
    keys = {
        key_id: None if of.tenants is None else tuple(sorted(of.tenants))
        for key_id, of in producers.items()
    }
    declared = Declared(
        default,
        versions,
        terms,
        meters,
        keys,
        frozenset(PRESETS),
        contracts,
        accounts.accounts,
        accounts.members,
    )
    return declared, producers


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(
            [f"{path}: cannot be read: {error.strerror}; check RESMETER_CONFIG"]
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: is not valid TOML: {error}"]) from None


# --- accounts and contracts -----------------------------------------------------------------------


def _read_accounts(
    path: Path, table: dict[str, Any], versions: Versions
) -> tuple[AccountTables, dict[str, tuple[ContractVersion, ...]], list[str]]:
    """Return the accounts, the versions of each contract, and the problems of both."""
    tenants = table.get("tenants", {})
    texts, problems = read_files(path, "contract_files", table.get("contract_files", []))
    accounts, problems_of_accounts = read_accounts(
        str(path), table.get("accounts", {}), tenants, names_in(texts), _problems_of_customer
    )

    def of_policies(contract: str) -> set[str]:
        with_contract = {a for a, of in accounts.accounts.items() if contract in _names_of(of)}
        members = {t for t, of in accounts.members.items() if with_contract & _names_of(of)}
        default = table.get("policy", DEFAULT)
        names: set[str] = set()
        for tenant_id in with_contract | members:
            entry = tenants.get(tenant_id) if isinstance(tenants, dict) else None
            given = entry.get("policy", default) if isinstance(entry, dict) else default
            named = [each.get("name") for each in given] if isinstance(given, list) else [given]
            names |= {name for name in named if isinstance(name, str)}
        found = {policy.currency for name in names for policy in versions.get(name, ())}
        return found or {preset(DEFAULT).currency}

    try:
        contracts = read_contracts(texts, of_policies)
    except ConfigurationError as error:
        return accounts, {}, [*problems, *problems_of_accounts, *error.problems]
    return accounts, contracts, problems + problems_of_accounts


def _names_of(dated: Iterable[Dated]) -> set[str]:
    return {each.name for each in dated}


# --- problems -------------------------------------------------------------------------------------


def _problems_of_policy(where: str, name: object, versions: Versions) -> list[str]:
    if isinstance(name, str) and name in versions:
        return []
    return [f"{where}: is {name!r}; it must be one of {', '.join(versions)}"]


def _problems_of_dated(where: str, given: object, versions: Versions) -> list[str]:
    if not isinstance(given, list):
        return _problems_of_policy(where, given, versions)
    if not given:
        return [f"{where}: is empty; write a policy's name, or a list of policies with dates"]
    problems: list[str] = []
    before_ms: int | None = None
    for number, entry in enumerate(given):
        here = f"{where}: entry {number + 1}"
        if not isinstance(entry, dict) or not entry.keys() <= {"name", "from"}:
            problems.append(f'{here} must be {{ name = "POLICY", from = 2026-12-01T00:00:00Z }}')
            continue
        problems += _problems_of_policy(f"{here}: name", entry.get("name"), versions)
        if number == 0:
            if "from" in entry:
                problems.append(f"{here} has a date; the first policy is in force from the start")
            continue
        try:
            from_ms = parse_instant(entry.get("from"))
        except ValueError as error:
            problems.append(f"{here}: from: {error}")
            continue
        if before_ms is not None and from_ms <= before_ms:
            problems.append(f"{here}: from: must be later than the date of the entry before it")
        before_ms = from_ms
    return problems


def _read_dated(given: str | list[dict[str, Any]]) -> tuple[Assigned, ...]:
    if isinstance(given, str):
        return (Assigned(given),)
    return tuple(
        Assigned(entry["name"], parse_instant(entry["from"]) if "from" in entry else None)
        for entry in given
    )


def _problems_of_meters(path: Path, table: Any) -> list[str]:
    if not isinstance(table, dict):
        return [f"{path}: meters: must be a table: write [meters]"]
    return [
        f"{path}: meters.{outcome}: is {name!r}; it must be a string of 1 to "
        f"{_EVENT_NAME_CHARACTERS_MAX} printable characters"
        for outcome, name in table.items()
        if not isinstance(name, str)
        or not 1 <= len(name) <= _EVENT_NAME_CHARACTERS_MAX
        or not name.isprintable()
    ]


def _problems_of_tenant(path: Path, tenant_id: str, entry: Any, versions: Versions) -> list[str]:
    where = f"{path}: tenants.{tenant_id}"
    problems = []
    if not TENANT_ID.fullmatch(tenant_id):
        problems.append(f"{where}: the name must be 1 to 128 characters of A-Z a-z 0-9 . _ -")
    if not isinstance(entry, dict):
        return [*problems, f"{where}: must be a table: write [tenants.{tenant_id}]"]
    for key, value in entry.items():
        if key == "policy":
            problems += _problems_of_dated(f"{where}.policy", value, versions)
        elif key == "stripe_customer":
            problems += _problems_of_customer(f"{where}.stripe_customer", value)
        elif key != "account":
            problems.append(f"{where}.{key}: unknown key")
    return problems


def _problems_of_customer(where: str, value: object) -> list[str]:
    if isinstance(value, str) and _CUSTOMER.fullmatch(value):
        return []
    return [f"{where}: is {value!r}; it must be a customer's id, such as cus_123"]
