"""What surrounds the processes: a clock, topics, and the fault point that every effect passes."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")


class ProcessKilled(BaseException):
    """Raised in a process that is killed, so that nothing after this point happens."""


class Process:
    """A worker or a sink: it may be dead, or stopped (SIGSTOP)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.is_stopped = False

    def end(self, *_: object) -> None:
        self.is_dead = True


class FaultPoint:
    """Counts effects, and kills the process before or after one of them.

    Args:
        kill_at: the number of the effect, from 1; 0 for none.
        after: kill after the effect, not before.
        chance: of a kill at each effect, drawn from `draw`, if `kill_at` is 0.
        kills_max: the most kills by chance.
        draw: the source of chance.
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
        """Make an effect, unless the process is killed first."""
        before, after = self.enter(process, name)
        if before:
            self.kill(process, f"before {name}")
        result = effect()
        if after:
            self.kill(process, f"after {name}")
        return result

    def enter(self, process: Process, name: str) -> tuple[bool, bool]:
        """Count an effect that the caller makes itself; return whether to kill before and after."""
        if process.is_dead:
            raise ProcessKilled(process.name)
        self.effects.append(f"{process.name} {name}")
        if self._kill_at:
            is_hit = len(self.effects) == self._kill_at
            return is_hit and not self._after, is_hit and self._after
        if self._chance and len(self.kills) < self._kills_max:
            is_hit = self._draw.random() < self._chance
            after = self._draw.random() < 0.5
            return is_hit and not after, is_hit and after
        return False, False

    def kill(self, process: Process, where: str) -> None:
        """Kill a process; this call does not return."""
        self.kills.append(f"{process.name} {where}")
        process.end()
        raise ProcessKilled(f"{process.name} {where}")


class Record(NamedTuple):
    """A record, as aiokafka returns it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Topic:
    """A topic: records by partition, never deleted."""

    def __init__(self, partitions: int) -> None:
        self.partitions: list[list[Record]] = [[] for _ in range(partitions)]

    def append(
        self,
        partition: int,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
    ) -> int:
        records = self.partitions[partition]
        records.append(Record(len(records), timestamp, key, value, headers))
        return len(records) - 1


class World:
    """One run's clock and topics. Time is milliseconds since the epoch."""

    def __init__(self, fault_point: FaultPoint, start: int, partitions: int, seed: int = 0) -> None:
        self.fault_point = fault_point
        self.time = start
        self.draw = random.Random(seed)
        self.events = Topic(partitions)
        self.changelog = Topic(partitions)
        self.records = Topic(2)
        self.dead_letters = Topic(1)
        self.committed: dict[int, int] = {}  # by the workers' group, by partition
        self.generation = 0

    def seconds(self) -> float:
        return self.time / 1000


class Loop(asyncio.SelectorEventLoop):
    """An event loop in which threads are calls, so that a run is a function of its seed."""

    def run_in_executor(  # type: ignore[override]
        self, _: Executor | None, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:
            future.set_exception(error)
        return future
