"""Write the results and states of batches, in an order that survives a crash at any point."""

import asyncio
import time
from collections.abc import Callable, Mapping

from pipeline.stream.basis import Basis, encode_basis
from pipeline.stream.batch import BatchResult
from pipeline.stream.host import Host, Writer
from pipeline.stream.partition import Partition


class Effects:
    """The batches whose results, states and offsets are being written.

    Args:
        host: gets the offsets of the changelog that we wrote.
        outputs: writes results and states.
        end: called with a log event and the error, to end the process without a commit.
        partitions: the partitions that we own now, by number.
    """

    def __init__(
        self,
        host: Host,
        outputs: Writer,
        end: Callable[[str, BaseException], object],
        partitions: Mapping[int, Partition],
    ) -> None:
        self.done: dict[int, int] = {}  # partition → the offset after the last acknowledged record
        self.done_at: dict[int, float] = {}  # when `done` last moved, monotonic seconds
        self._host = host
        self._outputs = outputs
        self._end = end
        self._partitions = partitions
        self._in_flight: dict[int, list[asyncio.Task[None]]] = {}

    @property
    def in_flight(self) -> int:
        """The number of batches whose results or states Kafka has not acknowledged."""
        return len(self._tasks())

    def forget(self, number: int) -> None:
        """Forget a partition that another worker owns now; its batches in flight still complete."""
        self.done.pop(number, None)
        self.done_at.pop(number, None)
        self._in_flight.pop(number, None)

    async def wait_for_capacity(self, batches_max: int) -> None:
        """Wait while `batches_max` or more batches are in flight."""
        while len(tasks := self._tasks()) >= batches_max:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def drain_partition(self, number: int) -> None:
        """Wait until no batch of a partition is in flight."""
        while tasks := self._in_flight.get(number):
            await asyncio.wait(tasks)

    async def drain(self) -> None:
        """Wait until no batch is in flight."""
        while tasks := self._tasks():
            await asyncio.wait(tasks)

    def start(self, partition: Partition, result: BatchResult, done: int | None) -> None:
        """Start the effects of a batch; its states wait for the partition's previous batch.

        `done` is the offset after the batch's last record; None for a timer's batch.
        """
        in_flight = self._in_flight.setdefault(partition.number, [])
        before = in_flight[-1] if in_flight else None
        task = asyncio.ensure_future(self._run(partition, result, done, before))
        in_flight.append(task)
        task.add_done_callback(lambda ended: self._on_ended(partition.number, ended))

    def _on_ended(self, number: int, task: asyncio.Task[None]) -> None:
        in_flight = self._in_flight.get(number)
        if in_flight is not None and task in in_flight:
            in_flight.remove(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._end("effects_failed", error)

    async def _run(
        self,
        partition: Partition,
        result: BatchResult,
        done: int | None,
        before: asyncio.Task[None] | None,
    ) -> None:
        """Write a batch's results and states, then move the done-offset to `done`.

        `before` are the effects of the partition's previous batch.
        """
        number = partition.number
        # 1. Results first. A state says that its results were emitted. If the state were written
        #    and a result were lost, the record would be skipped when Kafka delivers it again, and
        #    the result would never be written.
        if result.outputs or result.dead_letters:
            await self._outputs.write_results(result.outputs, result.dead_letters)
        # Write states in the order of the batches: compaction keeps the last version of a state.
        if before is not None:
            await asyncio.wait([before])
            if before.cancelled() or before.exception() is not None:
                return
        # 2. States. If the process dies before this step, the records are delivered again and yield
        #    the same results with the same ids.
        if result.states:
            offsets = await self._outputs.write_states(number, result.states)
            if offsets is not None:
                self._host.states_written(number, offsets)
        # 3. Only now may `done` be committed, and only if we have owned the partition all along. If
        #    it was revoked and assigned to us again, a recovery may have read the changelog before
        #    we wrote these states.
        if done is not None and self._partitions.get(number) is partition:
            self.done[number] = done
            self.done_at[number] = time.monotonic()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for tasks in self._in_flight.values() for task in tasks]


def basis_of(partition: Partition) -> bytes:
    """Return the partition's basis as the value of a clock record."""
    return encode_basis(partition.basis or Basis())
