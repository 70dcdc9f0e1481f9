"""Read the tenant file: who is billed, under which policy, and through which meter."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.catalog.policies import (
    DEFAULT,
    PRESETS,
    parse_instant,
    preset,
    read_policies,
)
from pipeline.catalog.producers import Producer, load_keys, read_producers
from pipeline.errors import ConfigurationError
from pipeline.events.model import FUTURE_MS_MAX, TENANT_ID
from pipeline.resolve.machine import PROCEDURE_HANDOFF, RESOLUTION
from pipeline.resolve.policy import Assignment, Policy, Timeline

_CUSTOMER = re.compile(r"cus_[A-Za-z0-9_]{1,240}", re.ASCII)
_DAY_MS = 24 * 3_600_000
_EVENT_NAME_CHARACTERS_MAX = 100  # Stripe's limit for the event_name of a meter
_FILE_KEYS = ("policy", "policy_files", "meters", "tenants", "producers")
_Versions = dict[str, tuple[Policy, ...]]  # of each policy, by its name


class DatedPolicy(NamedTuple):
    """The name of a tenant's policy, and from when the tenant has it; None: from the start."""

    name: str
    from_ms: int | None = None


class Tenants:
    """The tenants with their Stripe customers and policies, the meters and the producers."""

    def __init__(
        self,
        customers: Mapping[str, str],
        policies: Mapping[str, Sequence[DatedPolicy]],
        default_policy: str,
        meters: Mapping[str, str],
        versions: Mapping[str, tuple[Policy, ...]],
        producers: Mapping[str, Producer] | None = None,
    ) -> None:
        self.customers = customers
        self.producers = producers or {}  # empty: unsigned events, for any tenant
        self._names_in_use = {default_policy}.union(
            policy.name for dated in policies.values() for policy in dated
        )
        self._meters = meters
        # Until a policy has a version, the default policy is in force, and before that the preset.
        preset_timeline = Timeline([preset(DEFAULT)])
        of_default = versions[default_policy]
        self._default_timeline = Timeline(of_default, before=preset_timeline)
        self._timelines = {
            name: Timeline(of_name, before=self._default_timeline)
            for name, of_name in versions.items()
        }
        self._by_version = {
            (policy.name, policy.version): policy
            for of_name in versions.values()
            for policy in of_name
        }
        self._of_tenant = {
            tenant_id: self._timeline_of(dated, versions) for tenant_id, dated in policies.items()
        }

    def _timeline_of(
        self, dated: Sequence[DatedPolicy], versions: Mapping[str, tuple[Policy, ...]]
    ) -> Timeline:
        first, *later = dated
        if not later:
            return self._timelines[first.name]
        return Timeline(
            versions[first.name],
            [Assignment(policy.from_ms or 0, versions[policy.name]) for policy in later],
            self._default_timeline,
        )

    def timeline_for(self, tenant_id: str) -> Timeline:
        """Return the versions of the tenant's policy, or of the default policy."""
        return self._of_tenant.get(tenant_id, self._default_timeline)

    def customer_for(self, tenant_id: str) -> str | None:
        """Return the Stripe customer. Without one, the tenant's usage is parked."""
        return self.customers.get(tenant_id)

    def event_name_for(self, outcome: str) -> str:
        """Return the `event_name` of the Stripe meter that counts an outcome."""
        return self._meters.get(outcome, f"resmeter_{outcome}")

    @property
    def event_names(self) -> list[str]:
        """Return the event names of the meters that the policies in use need, sorted."""
        outcomes = {RESOLUTION}
        for policy in self._policies_in_use():
            outcomes.update(policy.outcomes_billed)
            if policy.handoff_causes_billed:
                outcomes.add(PROCEDURE_HANDOFF)
        return sorted(map(self.event_name_for, outcomes))

    def problems_in_worker(self, seal_after_ms: int) -> list[str]:
        """Return the problems that prevent a worker from starting. Reads the producers' secrets."""
        problems = self.problems_of_sealing(seal_after_ms)
        try:
            load_keys(self.producers)
        except ConfigurationError as error:
            problems += error.problems
        return problems

    def problems_of_sealing(self, seal_after_ms: int) -> list[str]:
        """Return a problem for each policy version with windows that sealing would cut short.

        A conversation is sealed after `seal_after_ms` without a record, and must not be sealed
        before its window and grace period have ended.
        """
        problems: list[str] = []
        for policy in self._policies_in_use():
            # A producer's clock may be ahead: an event may arrive before the time that it states.
            waits = FUTURE_MS_MAX + max(policy.window.values()) + policy.grace
            if policy.silence != "never" and waits > seal_after_ms:
                problems.append(
                    f"RESMETER_WORKER__SEAL_AFTER_DAYS: policy {policy.name!r}, version "
                    f"{policy.version}, has windows that stay open longer: set it to "
                    f"{-(-waits // _DAY_MS)} or more"
                )
        return problems

    def _policies_in_use(self) -> list[Policy]:
        """Return every version that a tenant may have, by name and version."""
        versions = {
            (policy.name, policy.version): policy
            for name in self._names_in_use
            for policy in self._timelines[name].versions
        }
        return [versions[key] for key in sorted(versions)]

    def price_for(
        self, tenant_id: str, outcome: str, policy: str, version: int
    ) -> tuple[Decimal, str] | None:
        """Return (price of a unit, currency), or None if the policy has no price."""
        priced_by = self._by_version.get((policy, version))
        if priced_by is None or outcome not in priced_by.price:
            return None
        return priced_by.price[outcome], priced_by.currency


def load_tenants(path: Path | None) -> Tenants:
    """Read the tenant file and the policy files that it names.

    Without a file, every tenant has the default policy and none has a customer.

    Raises:
        ConfigurationError: with the problems of all files.
    """
    if path is None:
        return Tenants({}, {}, DEFAULT, {}, _presets())
    table = _read_toml(path)
    versions, policy_problems = _read_versions(path, table.get("policy_files", []))
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
    producers: dict[str, Producer] = {}
    if "producers" in table:
        try:
            producers = read_producers(path, table["producers"])
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return Tenants(
        _column(tenants, "stripe_customer"),
        {id_: _read_dated(given) for id_, given in _column(tenants, "policy").items()},
        default,
        meters,
        versions,
        producers,
    )


def _column(tenants: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Return the values of one key by tenant, for the tenants that have the key."""
    return {tenant_id: entry[key] for tenant_id, entry in tenants.items() if key in entry}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(
            [f"{path}: cannot be read: {error.strerror}; check RESMETER_CONFIG"]
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: is not valid TOML: {error}"]) from None


# --- policy files ---------------------------------------------------------------------------------


def _presets() -> _Versions:
    return {name: (preset(name),) for name in PRESETS}


def _read_versions(path: Path, patterns: Any) -> tuple[_Versions, list[str]]:
    """Return the versions of all policies, presets first, and the problems."""
    versions = _presets()
    texts, problems = _read_policy_files(path, patterns)
    labels: dict[tuple[str, int], str] = {(name, preset(name).version): name for name in PRESETS}
    try:
        policies = read_policies(texts)
    except ConfigurationError as error:
        # If a tenant names a policy whose file has problems, do not report the name as well.
        return versions | dict.fromkeys(_names_in(texts), ()), [*problems, *error.problems]
    for label, policy in zip(texts, policies, strict=True):
        other = labels.get((policy.name, policy.version))
        if other is not None:
            problems.append(
                f"{label}: {policy.name!r} version {policy.version} already exists in {other}: "
                "change its name or its version"
            )
            continue
        labels[policy.name, policy.version] = label
        versions[policy.name] = (*versions.get(policy.name, ()), policy)
    return versions, problems


def _read_policy_files(path: Path, patterns: Any) -> tuple[dict[str, str], list[str]]:
    """Return the text of each policy file by its path, and the problems."""
    if not isinstance(patterns, list) or not all(p and isinstance(p, str) for p in patterns):
        return {}, [f"{path}: policy_files: must be a list of paths"]
    texts: dict[str, str] = {}
    problems: list[str] = []
    for pattern in patterns:
        if Path(pattern).is_absolute():
            files = [Path(pattern)]
        else:
            try:
                files = sorted(path.parent.glob(pattern))
            except (IndexError, ValueError, NotImplementedError):
                files = []  # such as ".", which is not a pattern
        if not files:
            problems.append(f"{path}: policy_files: no file matches {pattern!r}")
        for file in files:
            try:
                texts[str(file)] = file.read_text("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{file}: cannot be read: {error}")
    return texts, problems


def _names_in(texts: Mapping[str, str]) -> list[str]:
    names = []
    for text in texts.values():
        with suppress(tomllib.TOMLDecodeError):
            names.append(str(tomllib.loads(text).get("name")))
    return names


# --- problems -------------------------------------------------------------------------------------


def _problems_of_policy(where: str, name: object, versions: _Versions) -> list[str]:
    if isinstance(name, str) and name in versions:
        return []
    return [f"{where}: is {name!r}; it must be one of {', '.join(versions)}"]


def _problems_of_dated(where: str, given: object, versions: _Versions) -> list[str]:
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


def _read_dated(given: str | list[dict[str, Any]]) -> tuple[DatedPolicy, ...]:
    if isinstance(given, str):
        return (DatedPolicy(given),)
    return tuple(
        DatedPolicy(entry["name"], parse_instant(entry["from"]) if "from" in entry else None)
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


def _problems_of_tenant(path: Path, tenant_id: str, entry: Any, versions: _Versions) -> list[str]:
    where = f"{path}: tenants.{tenant_id}"
    problems = []
    if not TENANT_ID.fullmatch(tenant_id):
        problems.append(f"{where}: the name must be 1 to 128 characters of A-Z a-z 0-9 . _ -")
    if not isinstance(entry, dict):
        return [*problems, f"{where}: must be a table: write [tenants.{tenant_id}]"]
    for key, value in entry.items():
        if key == "policy":
            problems += _problems_of_dated(f"{where}.policy", value, versions)
        elif key != "stripe_customer":
            problems.append(f"{where}.{key}: unknown key")
        elif not isinstance(value, str) or not _CUSTOMER.fullmatch(value):
            problems.append(
                f"{where}.stripe_customer: is {value!r}; it must be a customer's id, such as cus_123"
            )
    return problems
