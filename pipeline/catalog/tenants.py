"""This file reads the tenant file: who is billed, under which policy, into which meter."""

import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from pipeline.catalog.policies import DEFAULT, PRESETS, preset, read_policies
from pipeline.catalog.producers import Producer, load_keys, read_producers
from pipeline.errors import ConfigurationError
from pipeline.events.model import FUTURE_MS_MAX
from pipeline.resolve.machine import PROCEDURE_HANDOFF, RESOLUTION
from pipeline.resolve.policy import Policy, Timeline

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_CUSTOMER = re.compile(r"cus_[A-Za-z0-9_]{1,240}", re.ASCII)
_DAY_MS = 24 * 3_600_000
_EVENT_NAME_CHARACTERS_MAX = 100  # Stripe's limit of a meter's event_name


class Tenants:
    """Tenants, their Stripe customers and policies, and the meters' names."""

    def __init__(
        self,
        customers: Mapping[str, str],
        policies: Mapping[str, str],
        default_policy: str,
        meters: Mapping[str, str],
        versions: Mapping[str, tuple[Policy, ...]],
        producers: Mapping[str, Producer] | None = None,
    ) -> None:
        self.customers = customers
        self.producers = producers or {}  # none: whoever can write events may, for every tenant
        self._policies = policies
        self._default = default_policy
        self._meters = meters
        self._timelines = {name: Timeline(found) for name, found in versions.items()}
        self._by_version = {
            (policy.name, policy.version): policy for found in versions.values() for policy in found
        }
        self._of_tenant = {tenant_id: self._timelines[name] for tenant_id, name in policies.items()}
        self._default_timeline = self._timelines[default_policy]

    def timeline_for(self, tenant_id: str) -> Timeline:
        return self._of_tenant.get(tenant_id, self._default_timeline)

    def policy_name_for(self, tenant_id: str) -> str:
        return self._policies.get(tenant_id, self._default)

    def customer_for(self, tenant_id: str) -> str | None:
        """Return the Stripe customer, or None: the tenant's usage is parked until there is one."""
        return self.customers.get(tenant_id)

    def event_name_for(self, outcome: str) -> str:
        return self._meters.get(outcome, f"resmeter_{outcome}")

    @property
    def event_names(self) -> list[str]:
        """Return the meters that the policies in force can bill into, sorted."""
        names = {self._default, *self._policies.values()}
        outcomes = {RESOLUTION}
        for policy in (version for name in names for version in self._timelines[name].versions):
            outcomes.update(policy.outcomes_billed)
            if policy.handoff_causes_billed:
                outcomes.add(PROCEDURE_HANDOFF)
        return sorted(map(self.event_name_for, outcomes))

    def problems_in_worker(self, seal_after: int) -> list[str]:
        """Say what would keep a worker from deciding: its windows, and producers' secrets, read now.

        Args:
            seal_after: as for `problems_of_sealing`.
        """
        problems = self.problems_of_sealing(seal_after)
        try:
            load_keys(self.producers)
        except ConfigurationError as error:
            problems += error.problems
        return problems

    def problems_of_sealing(self, seal_after: int) -> list[str]:
        """Say which windows would still be open when their conversations are sealed.

        An event that comes within a window and its grace must not be too late.

        Args:
            seal_after: how many milliseconds without a record seal a conversation.
        """
        problems: list[str] = []
        for name in sorted({self._default, *self._policies.values()}):
            for policy in self._timelines[name].versions:
                # An event may say that it happened a little after its arrival.
                waits = FUTURE_MS_MAX + max(policy.window.values()) + policy.grace
                if policy.silence != "never" and waits > seal_after:
                    problems.append(
                        f"RESMETER_WORKER__SEAL_AFTER_DAYS: policy {name!r}, version "
                        f"{policy.version}, keeps windows open for longer: set it to "
                        f"{-(-waits // _DAY_MS)} or more"
                    )
        return problems

    def price_for(
        self, tenant_id: str, outcome: str, policy: str, version: int
    ) -> tuple[Decimal, str] | None:
        """Return (price of a unit, currency), or None where the policy names no price."""
        found = self._by_version.get((policy, version))
        if found is None or outcome not in found.price:
            return None
        return found.price[outcome], found.currency


def load_tenants(path: Path | None) -> Tenants:
    """Read the tenant file and the policies that it names; none means the default for everyone.

    Raises:
        ConfigurationError: with every problem.
    """
    if path is None:
        return Tenants({}, {}, DEFAULT, {}, {name: (preset(name),) for name in PRESETS})
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            [f"{path}: cannot be read: {error.strerror}; RESMETER_CONFIG names it"]
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: not TOML: {error}"]) from None
    problems = [
        f"{path}: {key}: is no key of the tenant file"
        for key in table
        if key not in {"policy", "policy_files", "meters", "tenants", "producers"}
    ]
    versions = _versions(path, table.get("policy_files", []), problems)
    default = table.get("policy", DEFAULT)
    if not isinstance(default, str) or default not in versions:
        problems.append(_no_policy(f"{path}: policy", default, versions))
    meters = _meters(path, table.get("meters", {}), problems)
    customers: dict[str, str] = {}
    policies: dict[str, str] = {}
    tenants = table.get("tenants", {})
    if not isinstance(tenants, dict):
        problems.append(f"{path}: tenants: is not a table: write [tenants.NAME]")
        tenants = {}
    for tenant_id, entry in tenants.items():
        _tenant(
            f"{path}: tenants.{tenant_id}",
            tenant_id,
            entry,
            versions,
            customers,
            policies,
            problems,
        )
    producers = read_producers(path, table["producers"], problems) if "producers" in table else {}
    if problems:
        raise ConfigurationError(problems)
    return Tenants(customers, policies, default, meters, versions, producers)


def _versions(path: Path, patterns: Any, problems: list[str]) -> dict[str, tuple[Policy, ...]]:
    versions: dict[str, tuple[Policy, ...]] = {name: (preset(name),) for name in PRESETS}
    if not isinstance(patterns, list) or not all(p and isinstance(p, str) for p in patterns):
        problems.append(f"{path}: policy_files: is not a list of paths")
        return versions
    texts: dict[str, str] = {}
    for pattern in patterns:
        found = (
            sorted(path.parent.glob(pattern))
            if not Path(pattern).is_absolute()
            else [Path(pattern)]
        )
        if not found:
            problems.append(f"{path}: policy_files: {pattern!r} names no file")
        for file in found:
            try:
                texts[str(file)] = file.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{file}: cannot be read: {error}")
    labels: dict[tuple[str, int], str] = {(name, preset(name).version): name for name in PRESETS}
    try:
        read = read_policies(texts)
    except ConfigurationError as error:
        problems.extend(error.problems)
        return versions | dict.fromkeys(_names(texts), ())  # wrong, but there
    for label, policy in zip(texts, read, strict=True):
        known = labels.get((policy.name, policy.version))
        if known is not None:
            problems.append(
                f"{label}: {policy.name!r} version {policy.version} is that of {known} already: "
                "give it a name or a version of its own"
            )
            continue
        labels[policy.name, policy.version] = label
        versions[policy.name] = (*versions.get(policy.name, ()), policy)
    return versions


def _names(texts: Mapping[str, str]) -> list[str]:
    names = []
    for text in texts.values():
        with suppress(tomllib.TOMLDecodeError):
            names.append(str(tomllib.loads(text).get("name")))
    return names


def _meters(path: Path, table: Any, problems: list[str]) -> dict[str, str]:
    if not isinstance(table, dict):
        problems.append(f"{path}: meters: is not a table: write [meters]")
        return {}
    for outcome, name in table.items():
        if not isinstance(name, str) or not 1 <= len(name) <= _EVENT_NAME_CHARACTERS_MAX:
            problems.append(f"{path}: meters.{outcome}: {name!r} is not 1 to 100 characters")
    return table


def _tenant(
    where: str,
    tenant_id: str,
    entry: Any,
    versions: Mapping[str, object],
    customers: dict[str, str],
    policies: dict[str, str],
    problems: list[str],
) -> None:
    if not _TENANT.fullmatch(tenant_id):
        problems.append(f"{where}: is not 1 to 128 characters of A-Z a-z 0-9 . _ -")
    if not isinstance(entry, dict):
        problems.append(f"{where}: is not a table: write [tenants.{tenant_id}]")
        return
    for key, value in entry.items():
        if key == "stripe_customer":
            if isinstance(value, str) and _CUSTOMER.fullmatch(value):
                customers[tenant_id] = value
            else:
                problems.append(
                    f"{where}.stripe_customer: {value!r} is no customer such as cus_123"
                )
        elif key == "policy":
            if isinstance(value, str) and value in versions:
                policies[tenant_id] = value
            else:
                problems.append(_no_policy(f"{where}.policy", value, versions))
        else:
            problems.append(f"{where}.{key}: is no key of a tenant")


def _no_policy(where: str, name: object, versions: Mapping[str, object]) -> str:
    return f"{where}: {name!r} is none of {', '.join(versions)}"
