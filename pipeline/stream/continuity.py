"""Check that the log continues where the states of a partition end."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from pipeline.errors import ConfigurationError
from pipeline.kafka.bounds import Bounds, TopicFacts
from pipeline.logs import get_logger
from pipeline.metrics import WorkerMetrics
from pipeline.stream.basis import Basis, catalog_problem, differences, encode_basis, lost_range
from pipeline.stream.following import Following
from pipeline.stream.host import Host, Log, Writer
from pipeline.stream.misfits import misfits_in, sentences_of
from pipeline.stream.partition import Partition
from pipeline.stream.state import next_offset_of

# For a moment, a new leader may know fewer records and metadata may be out of date: ask again before
# ending the process.
_ATTEMPTS_MAX = 5
_LOOKS_MAX = 3


class Continuity:
    """Admits partitions, and knows which offset each admitted partition must read next.

    A partition is admitted once after each assignment: after its states are recovered, and before
    its first record or timer. To admit it, compare the log with the basis of its states.
    """

    def __init__(
        self,
        host: Host,
        log: Log,
        outputs: Writer,
        metrics: WorkerMetrics,
        topic: str,
        done: Mapping[int, int],
        end: Callable[[str, BaseException], object],
        following: Following,
        *,
        retry_seconds: float = 1.0,
    ) -> None:
        self.read_catalog: Callable[[], Awaitable[None]] = _do_nothing
        self._following = following
        self._host = host
        self._log = log
        self._outputs = outputs
        self._metrics = metrics
        self._topic = topic
        self._done = done  # partition → the offset that may be committed
        self._end = end
        self._retry_seconds = retry_seconds
        self._lock = asyncio.Lock()  # a record and `look` may admit a partition at the same time
        self._next: dict[int, int] = {}  # partition → the offset to read next
        self._owned_elsewhere: set[int] = (
            set()
        )  # owned by another worker; we have not been notified yet
        # Partition → the offset to read next, and how many looks in a row found a problem there.
        self._suspected: dict[int, tuple[int, int]] = {}

    def is_admitted(self, number: int) -> bool:
        return number in self._next

    def is_next(self, number: int, offset: int) -> bool:
        """Return whether a partition is admitted and must read this offset next."""
        return self._next.get(number) == offset

    def has_read(self, number: int, end_offset: int) -> bool:
        """Return whether all records before an offset were applied; skipping them is not enough."""
        return self._next.get(number, -1) >= end_offset

    def forget(self, numbers: Iterable[int]) -> None:
        """Forget partitions that are assigned again, or to another worker."""
        for number in numbers:
            self._next.pop(number, None)
            self._suspected.pop(number, None)
            self._owned_elsewhere.discard(number)

    def read(self, number: int, next_offset: int) -> None:
        """Note that this offset is next: the records before it were applied, or it is fetched again."""
        self._next[number] = next_offset

    # --- before the first record, and at each gap -------------------------------------------------

    async def admit(self, partition: Partition, found: int | None) -> None:
        """Compare the log with the basis of the partition's states.

        If it is another log, end the process. Write lost records to the changelog, and report them
        until an operator acknowledges them.

        Args:
            partition: its states must be recovered.
            found: the offset of the next record that was fetched; None if there is none yet.
        """
        async with self._lock:
            known = self._next.get(partition.number)
            if partition.number in self._owned_elsewhere:
                await asyncio.sleep(self._retry_seconds)
            elif known is None or found not in {None, known}:
                await self._compare(partition, found)

    async def _compare(self, partition: Partition, found: int | None) -> None:
        number, generation = partition.number, self._host.generation
        for attempt in range(_ATTEMPTS_MAX):
            topic, bounds, committed = await self._ask(number)
            if generation != self._host.generation:
                return
            next_offset = self._next.get(number, committed)
            if committed is not None and committed > self._known(number):
                # Another worker has committed more than we know of: it owns the partition, and we
                # have not been notified yet. Our states lack the records that it has read.
                self._next.pop(number, None)
                self._owned_elsewhere.add(number)
                return
            read_up_to = _read_up_to(partition, next_offset)
            basis = partition.basis or Basis()
            problems = differences(self._place(number), basis, topic, bounds, read_up_to)
            if not self._following.catalog.has(basis.catalog):
                await self.read_catalog()  # the partition's last owner may have read a newer one
            if not self._following.catalog.has(basis.catalog):
                head, place = self._following.catalog.head, self._place(number)
                problems.append(catalog_problem(place, basis, head, len(partition.states)))
            if not problems:
                break
            if attempt == _ATTEMPTS_MAX - 1:
                self._end("log_is_another", ConfigurationError(problems))
                return
            await asyncio.sleep(self._retry_seconds)
        if number not in self._next and not self._fit(partition):
            return
        if next_offset is None:
            next_offset = read_up_to
        basis = basis.on(topic)
        lost = lost_range(bounds, next_offset, found)
        if lost:
            basis = self._lose(number, basis, lost)
        await self._keep(partition, basis.under(self._following.catalog.head))
        while partition.basis is None or partition.basis.catalog != self._following.catalog.head:
            await self.note(partition, self._following.catalog.head)  # it has changed meanwhile
        if generation == self._host.generation:
            self._next[number] = found if found is not None else max(next_offset or 0, bounds.low)

    def _fit(self, partition: Partition) -> bool:
        """Return whether the states of a partition fit the catalog; end the process if they do not.

        Otherwise a timer would bill by rules that the answers never had. The catalog must have the
        entry that the partition was decided under.
        """
        misfits = misfits_in([partition.states], self._following.tenants.timeline_for)
        if misfits:
            self._end("policies_do_not_fit", ConfigurationError(sentences_of(misfits)))
        return not misfits

    def _known(self, number: int) -> int:
        """Return the highest offset that we can have committed ourselves."""
        ours = (self._host.committed(number), self._done.get(number), self._next.get(number))
        return max(at or 0 for at in ours)

    async def _ask(self, number: int) -> tuple[TopicFacts, Bounds, int | None]:
        """Ask until the broker responds; return topic, bounds and committed offset."""
        while True:
            # Ask for the offset first: the log can only grow meanwhile.
            committed = await self._log.committed_offsets()
            topic = await self._log.topic()
            bounds = (await self._log.bounds([number])).get(number)
            if committed is not None and topic is not None and bounds is not None:
                return topic, bounds, committed.get(number)
            await asyncio.sleep(self._retry_seconds)

    def _lose(self, number: int, basis: Basis, lost: range) -> Basis:
        known, basis = basis, basis.with_loss(lost.start, lost.stop)
        if basis is known:
            return known
        get_logger("worker").error(
            "records_lost",
            topic=self._topic,
            partition=number,
            first_offset=lost.start,
            last_offset=lost.stop - 1,
            offsets=len(lost),
            consequence="Kafka deleted them before a worker read them (retention or DeleteRecords): "
            "their events are not billed; the worker continues after them",
            todo=f"find out what was lost, then run `resmeter topics acknowledge --partition {number} "
            f"--until {lost.stop} --who NAME --reason TEXT`",
        )
        return basis

    async def _keep(self, partition: Partition, basis: Basis) -> None:
        """Write the basis to the changelog if it has changed."""
        number = partition.number
        if basis != partition.basis:
            partition.basis = basis
            _, offsets = await self._outputs.read_clock(number, encode_basis(basis))
            self._host.states_written(number, offsets)
        self._metrics.events_lost.labels(number).set(basis.lost_records)

    async def note(self, partition: Partition, head: tuple[int, str]) -> None:
        """Write to the changelog that the partition is decided under this entry of the catalog."""
        await self._keep(partition, (partition.basis or Basis()).under(head))

    # --- while the worker runs --------------------------------------------------------------------

    async def look(self, partitions: Mapping[int, Partition]) -> Mapping[int, Bounds]:
        """Compare again, and store what operators have acknowledged; return the bounds."""
        before = dict(self._next)  # read this first: the log can only grow meanwhile
        bounds = await self._log.bounds(list(partitions))
        topic = await self._log.topic()
        for number in before.keys() & self._next.keys() & bounds.keys() & partitions.keys():
            if topic is None:
                break
            basis = partitions[number].basis or Basis()
            problems = differences(
                self._place(number), basis, topic, bounds[number], before[number]
            )
            if not problems and bounds[number].low <= self._next[number]:
                self._suspected.pop(number, None)
            elif self._is_certain(number):
                if problems:
                    self._end("log_is_another", ConfigurationError(problems))
                    break
                async with self._lock:
                    await self._compare(partitions[number], None)
        await self._take_acknowledgements(partitions)
        return bounds

    def _is_certain(self, number: int) -> bool:
        """Count a look that found a problem; return whether enough looks found it at the same offset."""
        at, looks = self._suspected.get(number, (None, 0))
        looks = looks + 1 if at == self._next[number] else 1
        self._suspected[number] = (self._next[number], looks)
        return looks >= _LOOKS_MAX

    async def _take_acknowledgements(self, partitions: Mapping[int, Partition]) -> None:
        waiting = {
            number: partition
            for number, partition in partitions.items()
            if partition.basis is not None and partition.basis.lost and number in self._next
        }
        given = await self._log.acknowledged() if waiting else {}
        for number in waiting.keys() & given.keys():
            partition, known = waiting[number], given[number]
            basis = (partition.basis or Basis()).with_acknowledgement(known)
            if basis == partition.basis or number not in self._next:
                continue
            get_logger("worker").info(
                "loss_acknowledged",
                topic=self._topic,
                partition=number,
                until=known.until,
                who=known.who,
                reason=known.reason,
            )
            await self._keep(partition, basis)

    def _place(self, number: int) -> str:
        return f"{self._topic}[{number}]"


async def _do_nothing() -> None:
    """Stand in for reading the catalog until a follower is there."""


def _read_up_to(partition: Partition, next_offset: int | None) -> int | None:
    """Return the offset after the last record that was read; None if none was."""
    states = max(map(next_offset_of, partition.states.values()), default=None)
    return max((at for at in (states, next_offset) if at is not None), default=None)
