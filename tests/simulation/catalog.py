"""The catalog's topic in the simulated world: entries that publishers write, and a reader of it."""

import random
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from pipeline.catalog.entry import (
    Additions,
    Assigned,
    Entry,
    TenantTerms,
    digest_of,
    encode_entry,
    entries_of,
)
from pipeline.catalog.log import Appended, read
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.errors import UnavailableError
from pipeline.resolve.policy import Policy
from tests.oracle.catalog import CatalogOracle, Published

MINUTE = 60_000
# From the earliest date that is valid: some entries are dated too early, and void.
_AHEAD = [-MINUTE, -1, 0, 1, 1_000, MINUTE, 5 * MINUTE, 10 * MINUTE]
# From publishing to appending: a delayed produce finds another head, or comes too late.
_DELAYS = [0, 0, 0, 0, 1_000, 5 * MINUTE, 20 * MINUTE]


class CatalogReader:
    """Reads the simulated topic to its end, as `catalog.topic.CatalogTopic` does the real one.

    Args:
        visible: returns the records that are in the topic now.
        is_away: whether the topic cannot be read now.
    """

    def __init__(
        self, visible: Callable[[], list[Appended]], is_away: Callable[[], bool] = lambda: False
    ) -> None:
        self._visible = visible
        self._is_away = is_away
        self._read = 0
        self._catalog = Catalog()
        self.cut = 0

    def refresh(self) -> Catalog:
        if self._read and self._is_away():
            raise UnavailableError("the catalog's broker is away")
        log = self._visible()
        for record in log[self._read :]:
            self._catalog, _ = read(self._catalog, record)
        self._read = len(log)
        return self._catalog


class Log(NamedTuple):
    """All records that are ever appended to the topic, by time, and every version in them."""

    records: list[Appended]
    policies: dict[tuple[str, int], Policy]

    def oracle(self) -> CatalogOracle:
        """Return the second reading of the whole log."""
        oracle = CatalogOracle()
        for record in self.records:
            oracle.append(Published(digest_of(record.value), record.appended_ms, record.value))
        return oracle


def only(policy: Policy, at: int) -> Log:
    """Return the log of a catalog with one policy, for everybody."""
    additions = Additions(policies=[policy], default=[Assigned(policy.name)])
    (value,) = entries_of(additions, "", "ada", "start", LEAD_MS_MIN)
    return Log([Appended(0, at, value)], {(policy.name, policy.version): policy})


def draw_log(
    draw: random.Random,
    draw_policy: Callable[[random.Random], Policy],
    policy: Policy,
    tenants: tuple[str, ...],
    start: int,
    end: int,
) -> Log:
    """Draw what two publishers write to the log, from a time to a time."""
    changes = draw.choice([0, 0, 0, 1, 2, 4, 6])
    begun = only(policy, start - 60 * MINUTE)
    if not changes:
        return begun
    second = msgspec.structs.replace(draw_policy(draw), name="second", version=1)
    oracle, waiting = begun.oracle(), list[Published]()
    policies = {**begun.policies, ("second", 1): second}
    appended = [Published("", each.appended_ms, each.value) for each in begun.records]
    versions = {policy.name: 1, "second": 1}
    is_brought = False
    for at in sorted(draw.randrange(start - 20 * MINUTE, end) for _ in range(changes)):
        for each in sorted(waiting, key=lambda published: published.appended_ms):
            if each.appended_ms <= at:
                oracle.append(each)
                waiting.remove(each)
        arrives = at + draw.choice(_DELAYS)
        from_ms = at + LEAD_MS_MIN + draw.choice(_AHEAD)
        name = draw.choice([policy.name, "second"])
        brought: tuple[Policy, ...] = ()
        if not is_brought:
            brought, name, is_brought = (second,), "second", True
        elif draw.random() < 0.4:
            versions[name] += 1
            fresh = msgspec.structs.replace(
                draw_policy(draw), name=name, version=versions[name], effective_from=from_ms
            )
            policies[name, fresh.version], brought = fresh, (fresh,)
        assigned = (Assigned(name, from_ms),)
        who = draw.choice(["", *tenants])
        entry = Entry(
            parent=oracle.valid[-1].digest,
            who=draw.choice(["ada", "bob"]),
            why=str(at),
            form=1,
            policies=brought,
            default=() if who else assigned,
            tenants={who: TenantTerms(assigned)} if who else {},
        )
        value = encode_entry(entry)
        waiting.append(Published(digest_of(value), arrives, value))
        appended.append(waiting[-1])
    appended.sort(key=lambda published: published.appended_ms)
    records = [Appended(n, each.appended_ms, each.value) for n, each in enumerate(appended)]
    return Log(records, policies)
