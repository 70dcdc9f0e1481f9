"""Follow the catalog: which entries a worker decides under, and up to which time it may decide.

An entry that is appended after the catalog was read may be dated as early as the lead after that
moment. So a worker that reads the broker's clock, and then the catalog to its end, knows everything
that is dated before the clock plus the lead. It decides nothing dated later, and reads again before.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from pipeline.catalog.producers import MissingSecret, Producer, load_ring
from pipeline.catalog.tenants import Tenants
from pipeline.catalog.value import START, Catalog, when
from pipeline.errors import ConfigurationError, ResmeterError, UnavailableError
from pipeline.events.model import FUTURE_MS_MAX
from pipeline.events.signature import KeyRing
from pipeline.logs import get_logger

_REFRESH_SECONDS = 10.0
# The clocks of the brokers that lead the catalog and the changelog may differ by this much.
_MARGIN_MS = 60_000

_log = get_logger("worker")


class Source(Protocol):
    """Where the catalog is read: `catalog.topic.CatalogTopic`, or the simulator's topic."""

    @property
    def cut(self) -> int:
        """How many of the first offsets Kafka has deleted since they were read."""

    def refresh(self) -> Catalog:
        """Read to the end that the topic has now. This may block."""


class Following:
    """The catalog that a worker decides under.

    Args:
        source: the topic.
        producers: reads where this process finds the producers' secrets.
        seal_after_ms: a policy with longer windows must not be decided under.
        end: called with a log event and the error, to end the process without a commit.
        stopwatch: monotonic seconds.
    """

    def __init__(
        self,
        source: Source,
        producers: Callable[[], Mapping[str, Producer]],
        seal_after_ms: int,
        *,
        end: Callable[[str, BaseException], object],
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tenants = Tenants(Catalog())
        self.keys = KeyRing([])
        self.limit_ms = START  # nothing that is dated then or later may be decided
        self.hindrances: list[tuple[int, str]] = []  # from when, and why this process cannot decide
        # Revoked keys whose secrets are missing: what arrived before they were revoked cannot be judged.
        self._unverifiable: list[MissingSecret] = []
        self._needs_revoked = False
        self.unread = ""  # why the catalog could not be read, last time
        self._known_until_ms = START
        self._source = source
        self._producers = producers
        self._seal_after_ms = seal_after_ms
        self._end = end
        self._stopwatch = stopwatch
        self._read_at = stopwatch()
        self._clock_read_at: float | None = None
        self._lock = asyncio.Lock()
        self._reads = 0

    @property
    def catalog(self) -> Catalog:
        return self.tenants.catalog

    @property
    def age_seconds(self) -> float:
        """How long ago the catalog was read to its end."""
        return self._stopwatch() - self._read_at

    def begin(self) -> None:
        """Read the catalog for the first time.

        Raises:
            ConfigurationError: the catalog is not whole, or is not the one that was read before.
            UnavailableError: no broker responds.
        """
        self._take(self._source.refresh())

    def may_decide(self, first_ms: int, last_ms: int) -> bool:
        """Return whether events that arrived between two times may be decided.

        They may be dated later. The secret of a revoked key is needed for what arrived before.
        """
        if any(first_ms < each.until_ms for each in self._unverifiable):
            self._needs_revoked = True  # until the secrets are read again
            return False
        return last_ms + FUTURE_MS_MAX < self.limit_ms

    def ahead_ms(self, last_ms: int) -> int:
        """Return how long it takes until a record may be decided that arrived at a time.

        0: it may be now, or the broker's clock was not read a moment ago.
        """
        read_at = self._clock_read_at
        if read_at is None or self._stopwatch() - read_at > 2 * _REFRESH_SECONDS:
            return 0
        return max(0, last_ms + FUTURE_MS_MAX + 1 - self._known_until_ms)

    @property
    def cut(self) -> int:
        return self._source.cut

    def problems(self) -> list[str]:
        """Return why the worker waits, or will have to."""
        due_ms = self._known_until_ms
        found = [
            f"catalog: {text} (needed from {when(from_ms)})"
            for from_ms, text in self.hindrances
            if from_ms < due_ms or from_ms == START
        ]
        if self._needs_revoked:
            found += [
                f"catalog: {each.text} (needed for records that arrived before {when(each.until_ms)})"
                for each in self._unverifiable
            ]
        if self.unread:
            found.append(f"catalog: {self.unread}")
        return found

    async def refresh(
        self,
        read_clock: Callable[[], Awaitable[int | None]],
        swap: Callable[[Tenants, KeyRing], Awaitable[None]],
        *,
        if_older: bool = False,
    ) -> None:
        """Read the broker's clock, then the catalog to its end, and decide under it from now on.

        Args:
            read_clock: returns the broker's time in ms; None: not now.
            swap: called with a new catalog before anything is decided under it.
            if_older: do nothing if the catalog was read a moment ago.
        """
        reads = self._reads
        if if_older and self._known_until_ms > START and self.age_seconds < _REFRESH_SECONDS:
            return
        async with self._lock:
            if reads != self._reads:
                return  # somebody else has read it meanwhile
            # The clock first: what is appended after it was read is dated later by the lead.
            clock_ms = await read_clock()
            if clock_ms is None or not await self._read(swap):
                return
            self._reads += 1
            self._known_until_ms = clock_ms + self.catalog.lead_ms - _MARGIN_MS
            self._clock_read_at = self._stopwatch()
            self._limit()

    async def read(self, swap: Callable[[Tenants, KeyRing], Awaitable[None]]) -> None:
        """Read the catalog to its end, and decide under it as far as the last clock allows."""
        async with self._lock:
            await self._read(swap)

    async def _read(self, swap: Callable[[Tenants, KeyRing], Awaitable[None]]) -> bool:
        """Read the catalog to its end; return whether that was possible."""
        try:
            catalog = await asyncio.to_thread(self._source.refresh)
        except UnavailableError as error:
            if not self.unread:
                _log.warning("catalog_unread", error=str(error))
            self.unread = str(error)
            return False
        except ResmeterError as error:
            self._end("catalog_refused", error)
            return False
        self.unread = ""
        self._read_at = self._stopwatch()
        if catalog.head != self.catalog.head:
            await swap(Tenants(catalog), self._ring_of(catalog))
            _log.info("catalog_followed", entry=catalog.number, digest=catalog.digest)
        elif self.hindrances or self._needs_revoked:
            await swap(self.tenants, self._ring_of(catalog))
        return True

    def follow(self, tenants: Tenants, keys: KeyRing) -> None:
        """Take a catalog and its keys; partitions must follow at the same moment."""
        self.tenants, self.keys = tenants, keys
        self._limit()

    def _take(self, catalog: Catalog) -> None:
        self.follow(Tenants(catalog), self._ring_of(catalog))

    def _ring_of(self, catalog: Catalog) -> KeyRing:
        try:
            producers = self._producers() if catalog.keys else {}
        except ConfigurationError as error:
            producers = {}
            _log.warning("secrets_unread", error=str(error))
        ring, missing = load_ring(catalog.keys, producers)
        needed = [(each.from_ms, each.text) for each in missing if not each.is_revoked]
        self.hindrances = needed + Tenants(catalog).windows_too_long(self._seal_after_ms)
        self._unverifiable = [each for each in missing if each.is_revoked]
        self._needs_revoked = False
        return ring

    def _limit(self) -> None:
        self.limit_ms = min((self._known_until_ms, *(from_ms for from_ms, _ in self.hindrances)))
