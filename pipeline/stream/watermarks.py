"""Read the brokers' clocks, and promise in the changelog what timers settle."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from pipeline.kafka.bounds import Bounds
from pipeline.logs import get_logger
from pipeline.metrics import WorkerMetrics
from pipeline.stream.basis import Basis, Promise, encode_basis
from pipeline.stream.clocks import Clocks
from pipeline.stream.effects import Effects, basis_of
from pipeline.stream.fetched import RecordBatch
from pipeline.stream.host import Host, Writer
from pipeline.stream.partition import Partition


class Watermarks:
    """The times up to which partitions may be settled.

    Args:
        host: gets the offsets of the changelog that we wrote.
        outputs: writes clock records.
        effects: the batches in flight.
        metrics: the worker's series.
        margin_ms: how long timers always wait behind the clock.
    """

    def __init__(
        self,
        host: Host,
        outputs: Writer,
        effects: Effects,
        metrics: WorkerMetrics,
        margin_ms: int,
    ) -> None:
        self._host = host
        self._outputs = outputs
        self._effects = effects
        self._metrics = metrics
        self._margin_ms = margin_ms
        self._clocks = Clocks()
        self._told_ms: dict[int, int] = {}  # partition → what the log has said of it
        self.is_surprised = False  # whether a record was further behind a clock than we knew

    async def read_clocks(self, partitions: Sequence[Partition], newest: Mapping[int, int]) -> int:
        """Read the clock in each partition of the changelog; return the time (ms) by the slowest.

        `newest` has the timestamps of each partition's newest records.
        """
        newest = dict(newest)  # a record that arrives from now on may be later than the reading
        written = await asyncio.gather(
            *(self._outputs.read_clock(each.number, basis_of(each)) for each in partitions)
        )
        readings = {}
        for partition, (clock_ms, offsets) in zip(partitions, written, strict=True):
            self._host.states_written(partition.number, offsets)
            readings[partition.number] = clock_ms
        slowest_ms = self._clocks.slowest(readings.values(), newest)
        for number, clock_ms in readings.items():
            behind_ms = clock_ms - slowest_ms
            self._metrics.clock_behind.labels(number).set(behind_ms / 1000)
            self._tell(number, behind_ms)
        return slowest_ms

    def reached(self, ends: Mapping[int, Bounds]) -> None:
        """Note where partitions ended after the clocks were read."""
        for number, bounds in ends.items():
            self._clocks.reached(number, bounds.high)

    def compare(self, partition: Partition, batches: Iterable[RecordBatch]) -> None:
        """Compare records with the clocks, before they are applied."""
        number = partition.number
        self._clocks.start(number, partition.promise)
        for batch in batches:
            if behind_ms := self._clocks.read(number, batch.offset, batch.timestamp):
                self.is_surprised = True
                self._tell(number, behind_ms)

    async def promise(self, partition: Partition, offset: int, until_ms: int) -> bool:
        """Promise to settle silence before the record at `offset`; return whether we may settle it.

        If the process dies while the usage records are being written, its successor keeps the
        promise, even if the next record has an earlier timestamp.
        """
        earliest_ms = partition.earliest_ms(seals=False)
        if earliest_ms is None or earliest_ms > until_ms:
            return True
        host, number, generation = self._host, partition.number, self._host.generation
        # A promise replaces the one before: all that rests on that must be in the changelog.
        await self._effects.drain_partition(number)
        partition.basis = (partition.basis or Basis()).with_promise(Promise(offset, until_ms))
        _, offsets = await self._outputs.read_clock(number, encode_basis(partition.basis))
        host.states_written(number, offsets)
        return generation == host.generation and not (host.is_rebalancing or host.is_paused)

    def forget(self, number: int) -> None:
        """Forget a partition that another worker owns now."""
        self._clocks.forget(number)
        self._told_ms.pop(number, None)

    def _tell(self, number: int, behind_ms: int) -> None:
        """Log it once when clocks differ by more than the margin, and again when it doubles."""
        told_ms = self._told_ms.get(number, 0)
        if behind_ms <= self._margin_ms:
            self._told_ms.pop(number, None)
        elif behind_ms >= 2 * told_ms:
            self._told_ms[number] = behind_ms
            get_logger("worker").error(
                "clocks_differ",
                partition=number,
                seconds=round(behind_ms / 1000, 1),
                consequence="a broker's clock, or the replicas of the events topic, are this far "
                "behind the clock of the changelog's leader; silence is settled this much later. "
                "What was settled before this was seen is corrected when a follow-up arrives",
                todo="compare the clocks of the brokers, for example with `chronyc tracking`, and "
                "correct them",
            )
