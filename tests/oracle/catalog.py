"""A second reading of the catalog's log, straight from docs/reference/outcomes.md §2.4: slow and plain.

It keeps what each valid entry says, in order, and asks for one tenant and one time by walking
through all of it.
"""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import orjson

from pipeline.resolve.policy import Policy

LEAD_MS = 7 * 60_000


class Published(NamedTuple):
    """An entry as it was appended: its digest, when, and its JSON."""

    digest: str
    appended_ms: int
    value: bytes


class CatalogOracle:
    """Reads published entries in the order of the log."""

    def __init__(self) -> None:
        self.valid: list[Published] = []
        self._entries: list[dict[str, Any]] = []  # of the valid ones

    def append(self, published: Published) -> bool:
        """Return whether the entry is valid."""
        entry = orjson.loads(published.value)
        head = self.valid[-1].digest if self.valid else ""
        if entry["parent"] != head:
            return False
        if not self.valid:
            self._take(published, entry)
            return True
        earliest = published.appended_ms + LEAD_MS
        if any(one is None or one < earliest for one in _dated(entry)):
            return False
        policies, known = entry.get("policies", []), self._policies()
        if {(p["name"], p["version"]) for p in policies} & {
            (p["name"], p["version"]) for p in known
        }:
            return False
        had = {
            a["policy"]
            for one in self._entries
            for a in _assigned(one)
            if (a.get("from_ms") or 0) < earliest
        }
        if any(p["name"] in had and p["effective_from"] < earliest for p in policies):
            return False
        brought = {p["name"] for p in [*policies, *known]}
        if any(a["policy"] not in brought for a in _assigned(entry)):
            return False
        self._take(published, entry)
        return True

    def _take(self, published: Published, entry: dict[str, Any]) -> None:
        self.valid.append(published)
        self._entries.append(entry)

    def in_force(self, tenant_id: str, at: int) -> tuple[str, int] | None:
        """Return name and version in force: of the policy assigned at the time, the newest version.

        Where that policy has no version yet, what was in force before stays.
        """
        current: tuple[str, int] | None = None
        for time in sorted({*self._times(), at}):
            if time > at:
                break
            assigned = self._assigned(tenant_id, time)
            begun = [
                (p["effective_from"], p["version"])
                for p in self._policies()
                if p["name"] == assigned and p["effective_from"] <= time
            ]
            if begun:
                current = (assigned, max(begun)[1])
        return current

    def _assigned(self, tenant_id: str, time: int) -> str:
        own: list[tuple[int, int, str]] = []
        default: list[tuple[int, int, str]] = []
        for number, entry in enumerate(self._entries):
            contract = entry.get("tenants", {}).get(tenant_id, {})
            own += [
                (a.get("from_ms") or 0, number, a["policy"]) for a in contract.get("assigned", [])
            ]
            default += [
                (a.get("from_ms") or 0, number, a["policy"]) for a in entry.get("default", [])
            ]
        for known in (own, default):
            begun = [one for one in known if one[0] <= time]
            if begun:
                return max(begun)[2]
        raise AssertionError("the first entry has an undated default policy")

    def _policies(self) -> list[dict[str, Any]]:
        return [policy for entry in self._entries for policy in entry.get("policies", [])]

    def _times(self) -> set[int]:
        """Return every time at which something can begin."""
        times = {0}
        for entry in self._entries:
            times |= {p["effective_from"] for p in entry.get("policies", [])}
            times |= {one for one in _dated(entry) if one is not None}
        return times


class OracleTimeline:
    """What is in force for a tenant, by the oracle."""

    def __init__(
        self,
        oracle: CatalogOracle,
        tenant_id: str,
        policies: Mapping[tuple[str, int], Policy],
    ) -> None:
        self._in_force = cache(partial(oracle.in_force, tenant_id))
        self._policies = policies

    def at(self, ms: int) -> Policy:
        found = self._in_force(ms)
        assert found is not None, "something is always in force"
        return self._policies[found]


def _assigned(entry: dict[str, Any]) -> list[dict[str, Any]]:
    contracts = [c.get("assigned", []) for c in entry.get("tenants", {}).values()]
    return [a for of in [entry.get("default", []), *contracts] for a in of]


def _dated(entry: dict[str, Any]) -> list[int | None]:
    return [a.get("from_ms") for a in _assigned(entry)]
