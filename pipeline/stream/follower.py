"""Swap a new catalog into the partitions of a worker, between two batches."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

from pipeline.catalog.tenants import Tenants
from pipeline.catalog.value import NEVER
from pipeline.events.signature import KeyRing
from pipeline.stream.ahead import AheadOfTime
from pipeline.stream.basis import Basis
from pipeline.stream.continuity import Continuity
from pipeline.stream.effects import basis_of
from pipeline.stream.fetched import NO_TIMESTAMP, RecordBatch
from pipeline.stream.following import Following
from pipeline.stream.host import Host, Writer
from pipeline.stream.partition import Partition
from pipeline.stream.slices import Slices


class Follower:
    """Reads the catalog again for a runner, and lets its partitions decide under it.

    Args:
        following: the catalog.
        host: knows whether we may write.
        outputs: reads the broker's clock.
        partitions: the partitions that we own now, by number.
        continuity: knows which of them are admitted, and keeps what their states belong to.
        applying: the batch that is being applied.
        ahead: notes partitions that wait for the time of a record.
        on_keys: called with the keys that are in force from now on.
    """

    def __init__(
        self,
        following: Following,
        host: Host,
        outputs: Writer,
        partitions: Mapping[int, Partition],
        continuity: Continuity,
        applying: Slices,
        ahead: AheadOfTime,
        on_keys: Callable[[KeyRing], object],
    ) -> None:
        self._following = following
        self._host = host
        self._outputs = outputs
        self._partitions = partitions
        self._continuity = continuity
        self._applying = applying
        self.ahead = ahead
        self._on_keys = on_keys
        continuity.read_catalog = self.read

    async def decidable(
        self, number: int, batches: Sequence[RecordBatch], retry_seconds: float
    ) -> Sequence[RecordBatch]:
        """Return the batches of a partition, from the first on, up to which the catalog is known.

        If it is not known for all of them, read it again; if there are none then, wait a moment.
        """
        known = self._known(batches)
        if len(known) < len(batches):
            await self.refresh(if_older=self.ahead.has(number))
            known = self._known(batches)
        if len(known) == len(batches):
            self.ahead.drop([number])
            return known
        held = batches[len(known)]
        if wait_ms := self._following.ahead_ms(held.timestamp):
            self.ahead.wait(number, held, wait_ms)
        if not known:
            await asyncio.sleep(retry_seconds)
        return known

    def _known(self, batches: Sequence[RecordBatch]) -> Sequence[RecordBatch]:
        arrived = [batch.timestamp for batch in batches if _has_time(batch)]
        may_decide = self._following.may_decide
        if may_decide(min(arrived, default=NEVER), max(arrived, default=NO_TIMESTAMP)):
            return batches
        return list(
            takewhile(lambda b: not _has_time(b) or may_decide(b.timestamp, b.timestamp), batches)
        )

    async def refresh(self, *, if_older: bool = False) -> None:
        """Read the broker's clock and the catalog, and decide under it from now on."""
        await self._following.refresh(self._read_clock, self._swap, if_older=if_older)

    async def read(self) -> None:
        """Read the catalog: another worker may know a newer one."""
        await self._following.read(self._swap)

    async def _read_clock(self) -> int | None:
        """Return the broker's time in ms; None if we own no partition to write a record to."""
        host = self._host
        if host.is_rebalancing or host.is_recovering or host.is_paused:
            return None
        for number, partition in self._partitions.items():
            if partition.is_recovered and self._continuity.is_admitted(number):
                clock_ms, offsets = await self._outputs.read_clock(number, basis_of(partition))
                host.states_written(number, offsets)
                return clock_ms
        return None

    async def _swap(self, tenants: Tenants, keys: KeyRing) -> None:
        head = tenants.catalog.head
        # 1. Every partition remembers the new catalog before anything is decided under it: its next
        #    owner must not decide under an older one.
        while True:
            await self._applying.wait()
            behind = [
                partition
                for number, partition in self._partitions.items()
                if self._continuity.is_admitted(number)
                and (partition.basis or Basis()).catalog != head
            ]
            if not behind:
                break
            for partition in behind:
                await self._continuity.note(partition, head)
        # 2. Nothing may wait from here on: no batch is being applied, and all partitions know it.
        self._following.follow(tenants, keys)
        for partition in self._partitions.values():
            partition.follow(tenants.timeline_for, keys)
        self._on_keys(keys)


def _has_time(batch: RecordBatch) -> bool:
    return batch.timestamp != NO_TIMESTAMP and not batch.damage
