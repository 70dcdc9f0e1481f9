"""The processes' surroundings: a clock, topics, and the fault point that every effect passes."""

import asyncio
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

from pipeline.catalog.log import Appended
from pipeline.errors import FencedError
from pipeline.kafka.bounds import (
    Acknowledgement,
    Bounds,
    StatesEnd,
    TopicFacts,
    states_end_in,
)
from pipeline.kafka.single import LogRecord

_T = TypeVar("_T")
_EPOCH_KEPT_MS = _ID_KEPT_MS = 86_400_000


class ProcessKilled(BaseException):
    """Ends the code of a killed process, so that it has no further effect."""


class Process:
    """The status of a worker or a sink: running, stopped as by SIGSTOP, or dead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.is_stopped = False

    def end(self, *_: object) -> None:
        self.is_dead = True


class FaultPoint:
    """Counts effects, and kills the process before or after one of them.

    Args:
        kill_at: kill at the effect with this number, from 1; 0 for no such kill.
        after: kill after the effect, not before it.
        chance: probability of a kill at each effect, if `kill_at` is 0.
        kills_max: the limit of random kills, of workers and of sinks each.
        draw: the source of random numbers.
    """

    def __init__(
        self,
        kill_at: int = 0,
        *,
        after: bool = False,
        chance: float = 0.0,
        kills_max: int = 0,
        draw: random.Random | None = None,
    ) -> None:
        self.effects: list[str] = []
        self.kills: list[str] = []
        self._kill_at = kill_at
        self._after = after
        self._chance = chance
        self._kills_max = kills_max
        self._draw = draw or random.Random(0)

    def pass_through(self, process: Process, name: str, effect: Callable[[], _T]) -> _T:
        """Call `effect` and return its result; the process may be killed before or after the call."""
        before, after = self.enter(process, name)
        if before:
            self.kill(process, f"before {name}")
        result = effect()
        if after:
            self.kill(process, f"after {name}")
        return result

    def enter(self, process: Process, name: str) -> tuple[bool, bool]:
        """Count an effect that the caller performs; return whether to kill before it, and after it."""
        if process.is_dead:
            raise ProcessKilled(process.name)
        self.effects.append(f"{process.name} {name}")
        if self._kill_at:
            is_hit = len(self.effects) == self._kill_at
            return is_hit and not self._after, is_hit and self._after
        kind = process.name.partition("-")[0]
        if self._chance and sum(kill.startswith(kind) for kill in self.kills) < self._kills_max:
            is_hit = self._draw.random() < self._chance
            after = self._draw.random() < 0.5
            return is_hit and not after, is_hit and after
        return False, False

    def kill(self, process: Process, where: str) -> None:
        """Kill a process. This call always raises `ProcessKilled`."""
        self.kills.append(f"{process.name} {where}")
        process.end()
        raise ProcessKilled(f"{process.name} {where}")


class Record(NamedTuple):
    """A record, as aiokafka returns it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Topic:
    """The records of a topic, by partition."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[Record]] = [[] for _ in range(partitions)]
        self._gone: set[tuple[int, int]] = set()  # partition, offset: compaction removed it

    def append(
        self,
        partition: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
    ) -> int:
        records = self.partitions[partition]
        records.append(Record(len(records), timestamp, key, value, headers))
        return len(records) - 1

    def read(self, partition: int, start: int, end: int) -> list[Record]:
        """Return the records between two offsets that compaction has left."""
        records = self.partitions[partition][start:end]
        return [record for record in records if (partition, record.offset) not in self._gone]

    def compact(self, partition: int, draw: random.Random) -> None:
        """Remove what a broker may remove: some, or all, versions of a key but the last."""
        share = draw.choice([0.5, 1.0])
        last = {record.key: record.offset for record in self.partitions[partition]}
        for record in self.partitions[partition]:
            if record.offset != last[record.key] and draw.random() < share:
                self._gone.add((partition, record.offset))


class Epoch(NamedTuple):
    """The identity of a partition's owner, as Kafka's transaction coordinator gives it."""

    producer_id: int
    number: int


class Epochs:
    """What coordinator and leaders know of the owners of the changelog's partitions."""

    def __init__(self) -> None:
        self._taken: dict[
            int, tuple[Epoch, int]
        ] = {}  # by partition: the last one, when it was taken
        self._written: dict[tuple[int, int], tuple[int, int]] = {}  # partition, id → number, when
        self._ids = 0

    def take(self, partition: int, now: int) -> Epoch:
        """Return the next epoch of a partition's owner."""
        if partition in self._taken:
            last = self._taken[partition][0]
            taken = last._replace(number=last.number + 1)
        else:
            self._ids += 1
            taken = Epoch(self._ids, 0)
        self._taken[partition] = (taken, now)
        return taken

    def check(self, partition: int, epoch: Epoch, now: int) -> None:
        """Accept a write by an owner, as the partition's leader does.

        Raises:
            FencedError: a later owner has written.
        """
        written, _ = self._written.get((partition, epoch.producer_id), (-1, 0))
        if epoch.number < written:
            raise FencedError(f"{epoch} of partition {partition} is older than {written}")
        self._written[partition, epoch.producer_id] = (epoch.number, now)

    def forget(self, partition: int, now: int) -> None:
        """Forget what is older than a day, as leader and as coordinator (which waits for a week)."""
        taken = self._taken.get(partition)
        if taken is not None and now - taken[1] > _ID_KEPT_MS:
            del self._taken[partition]
        for (number, producer_id), (_, at) in list(self._written.items()):
            if number == partition and now - at > _EPOCH_KEPT_MS:
                del self._written[number, producer_id]


class World:
    """The clock and the topics of one run. `time` is in milliseconds since the epoch."""

    def __init__(self, fault_point: FaultPoint, start: int, partitions: int, seed: int = 0) -> None:
        self.fault_point = fault_point
        self.time = start
        self.draw = random.Random(seed)
        self.events = Topic(partitions)
        self.changelog = Topic(partitions)
        self.records = Topic(2)
        self.dead_letters = Topic(1)
        self.catalog: list[Appended] = []  # its topic, with what will be appended later
        self.journal: list[LogRecord] = []
        self.stripe_answers = True
        self.committed: dict[int, int] = {}  # next offset of the workers' group, by partition
        self.notes: dict[int, str] = {}  # what a worker has stored with a committed offset
        self.sinks_committed: dict[int, int] = {}  # of the sinks' group
        self.generation = 0
        # Partition → the first offset of an open transaction: a consumer reads up to there.
        self.transactions: dict[int, int] = {}
        self.lows: dict[int, int] = {}  # partition → its first offset, where some were deleted
        self.deleted: set[tuple[int, int]] = set()  # partition, offset: before anybody read them
        self.fetched: dict[int, int] = {}  # partition → the end of what any worker was given
        self.topic_id = "first"
        self.refusals: list[str] = []  # why workers ended because the log is another one
        self.acknowledgements: dict[int, Acknowledgement] = {}
        self.given_up: set[int] = set()  # where an operator lets workers go on behind damage
        # By partition, how far its leader's clock is from `time`, in ms.
        self.events_clocks: dict[int, int] = {}
        self.changelog_clocks: dict[int, int] = {}
        self.is_shared = False  # whether two workers have had a part of the partitions each
        self.clocks_seen = False  # whether a worker has noticed that clocks differ
        self.meanwhile: Callable[[], None] = lambda: None  # what happens while a request waits
        self.during_call: Callable[[], None] = lambda: None  # before each call to Stripe
        self.epochs = Epochs()
        self.has_old_workers = False  # some may be of a version without the fence
        self.unfenced_writes = 0  # beside such workers, by those that had lost their partitions
        self.compact: Callable[[], None] = lambda: None  # what the broker may do at any time
        self.disturb: Callable[[Process], None] = lambda _: None  # before each effect of a worker

    # --- the events topic, as a worker's `Log` ----------------------------------------------------

    async def bounds(self, partitions: Sequence[int]) -> dict[int, Bounds]:
        return {number: self._bounds(number) for number in partitions}

    async def topic(self) -> TopicFacts:
        return TopicFacts(self.topic_id, dict.fromkeys(range(len(self.events.partitions)), 0))

    async def committed_offsets(self) -> dict[int, int]:
        return dict(self.committed)

    def commit(self, partition: int, offset: int, note: str) -> None:
        self.committed[partition], self.notes[partition] = offset, note

    async def states_ends(self, partitions: Sequence[int]) -> dict[int, StatesEnd]:
        return {
            number: StatesEnd(
                states_end_in(self.notes.get(number)), len(self.changelog.partitions[number])
            )
            for number in self.committed.keys() & set(partitions)
        }

    async def acknowledged(self) -> dict[int, Acknowledgement]:
        return self.acknowledgements

    def fetch(self, partition: int, position: int, size: int) -> tuple[int, list[Record]]:
        """Return a position and records from there, up to an open transaction.

        A position outside of the log is reset to its beginning, as the consumer does.
        """
        low, stable, high = self._bounds(partition)
        start = position if low <= position <= high else low
        end = max(start, min(start + size, stable))
        self.fetched[partition] = max(self.fetched.get(partition, 0), end)
        return start, self.events.partitions[partition][start:end]

    def delete_unread(self, partition: int, count: int) -> bool:
        """Delete some of the records that no worker was given yet; return whether there were any."""
        first = self.committed.get(partition, 0)
        end = min(first + count, self._bounds(partition).stable)
        if (
            end <= max(first, self.lows.get(partition, 0))
            or not first
            or self.fetched.get(partition, 0) != first
        ):
            return False
        self.deleted |= {(partition, offset) for offset in range(first, end)}
        self.lows[partition] = end
        return True

    def _bounds(self, partition: int) -> Bounds:
        high = len(self.events.partitions[partition])
        low = self.lows.get(partition, 0)
        return Bounds(low, self.transactions.get(partition, high), high)

    def visible_catalog(self) -> list[Appended]:
        """Return the records that have been appended to the catalog's topic by now."""
        return [record for record in self.catalog if record.appended_ms <= self.time]

    # --- time -------------------------------------------------------------------------------------

    def seconds(self) -> float:
        return self.time / 1000


class Loop(asyncio.SelectorEventLoop):
    """An event loop that calls a function instead of starting a thread; runs are repeatable."""

    def run_in_executor(  # type: ignore[override]
        self, _: Executor | None, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:
            future.set_exception(error)
        return future
