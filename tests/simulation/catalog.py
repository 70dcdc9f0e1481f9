"""The catalog's topic in the simulated world, and a reader of it."""

from pipeline.catalog.entry import entries_of
from pipeline.catalog.log import Appended, read
from pipeline.catalog.planning import Declared, beginning
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.resolve.policy import Policy
from tests.simulation.world import World


class CatalogReader:
    """Reads the simulated topic to its end, as `catalog.topic.CatalogTopic` does the real one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._read = 0
        self._catalog = Catalog()

    def refresh(self) -> Catalog:
        log = self._world.catalog
        for record in log[self._read :]:
            self._catalog, _ = read(self._catalog, record)
        self._read = len(log)
        return self._catalog


def begin(world: World, policy: Policy) -> None:
    """Begin the catalog with one policy, for everybody."""
    declared = Declared(policy.name, {policy.name: [policy]}, {}, {}, {}, frozenset())
    for value in entries_of(beginning(declared), "", "ada", "start", LEAD_MS_MIN):
        append(world, value)


def append(world: World, value: bytes) -> None:
    world.catalog.append(Appended(len(world.catalog), world.time, value))
