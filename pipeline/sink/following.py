"""Follow the catalog: whom the sink bills, through which meter, at what price."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from pipeline.catalog.tenants import Tenants
from pipeline.catalog.value import Catalog
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger import Ledger, catalog_head
from pipeline.logs import get_logger

_REFRESH_SECONDS = 10.0


class Source(Protocol):
    """Where the catalog is read: `catalog.topic.CatalogTopic`."""

    def refresh(self) -> Catalog:
        """Read to the end that the topic has now. This may block."""


class BillingCatalog:
    """The catalog that a sink bills by. While it cannot be read, the one that is known stays.

    A customer or a meter acts at once: each plan of deliveries takes what is known then.

    Args:
        source: the topic.
        missing: what to do if the topic has no catalog.
        stopwatch: monotonic seconds.

    Raises:
        ConfigurationError: there is no catalog, or it is not the one that was read before.
        UnavailableError: no broker responds, at the first reading.
    """

    def __init__(
        self, source: Source, missing: str, stopwatch: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._stopwatch = stopwatch
        self._is_unread = False
        catalog = source.refresh()
        if not catalog.is_whole:
            raise ConfigurationError([missing])
        self.tenants = Tenants(catalog)
        self._read_at = stopwatch()

    @property
    def age_seconds(self) -> float:
        """How long ago the catalog was read to its end."""
        return self._stopwatch() - self._read_at

    async def refresh(self) -> None:
        """Read the catalog again, unless that was a moment ago."""
        if self.age_seconds < _REFRESH_SECONDS and not self._is_unread:
            return
        try:
            catalog = await asyncio.to_thread(self._source.refresh)
        except UnavailableError as error:
            if not self._is_unread:
                get_logger("sink").warning("catalog_unread", error=str(error))
            self._is_unread = True
            return
        self._is_unread = False
        self._read_at = self._stopwatch()
        self._follow(catalog)

    def keep(self, ledger: Ledger) -> None:
        """Let the ledger remember the entry that it is billed by from now on. This may block.

        Raises:
            ConfigurationError: it was billed by an entry that this catalog does not have.
            UnavailableError: the ledger cannot be reached, or no broker responds.
        """
        while (known := catalog_head.head(ledger)) != self.tenants.catalog.head:
            if not self.tenants.catalog.has(known):
                self._follow(self._source.refresh())  # another sink may have read a newer one
            catalog = self.tenants.catalog
            if not catalog.has(known):
                raise ConfigurationError([_not_the_same(ledger, known, catalog.head)])
            if known[0] >= catalog.number or catalog_head.remember(ledger, known, catalog.head):
                return

    def _follow(self, catalog: Catalog) -> None:
        if catalog.head != self.tenants.catalog.head:
            self.tenants = Tenants(catalog)
            get_logger("sink").info("catalog_followed", entry=catalog.number, digest=catalog.digest)


def _not_the_same(ledger: Ledger, known: tuple[int, str], head: tuple[int, str]) -> str:
    return (
        f"the ledger {ledger.redacted_url} was billed by entry {known[0]} ({known[1][:12]}) of the catalog, "
        f"and this one does not have it: it ends with entry {head[0]} ({head[1][:12]}). Either "
        "RESMETER_TOPICS__CATALOG names another topic, or the topic was made again: other customers "
        "would be billed. Run `resmeter catalog restore FILE` with the newest export: see "
        "docs/operate/catalog.md. If another catalog is meant, run `resmeter ledger follow --yes`"
    )
