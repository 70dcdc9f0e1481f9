"""Follow the catalog: whom the sink bills, through which meter, at what price."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from pipeline.catalog.tenants import Tenants
from pipeline.catalog.value import Catalog
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.logs import get_logger

_REFRESH_SECONDS = 10.0


class Source(Protocol):
    """Where the catalog is read: `catalog.topic.CatalogTopic`."""

    @property
    def cut(self) -> int:
        """How many of the first offsets Kafka has deleted since they were read."""

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

    @property
    def cut(self) -> int:
        return self._source.cut

    async def refresh(self) -> bool:
        """Read the catalog again, unless that was a moment ago; return whether it has changed."""
        if self.age_seconds < _REFRESH_SECONDS and not self._is_unread:
            return False
        try:
            catalog = await asyncio.to_thread(self._source.refresh)
        except UnavailableError as error:
            if not self._is_unread:
                get_logger("sink").warning("catalog_unread", error=str(error))
            self._is_unread = True
            return False
        self._is_unread = False
        self._read_at = self._stopwatch()
        if catalog.head == self.tenants.catalog.head:
            return False
        self.tenants = Tenants(catalog)
        get_logger("sink").info("catalog_followed", entry=catalog.number, digest=catalog.digest)
        return True
