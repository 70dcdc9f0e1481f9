"""What surrounds the processes: a clock, a log, a group, and the seam that all effects pass."""

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")


class Ended(BaseException):
    """The process has been killed: nothing after this point of it happens."""


class Process:
    """A worker or a sink, as far as it can be killed or stopped."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.is_stopped = False

    def end(self, *_: object) -> None:
        self.is_dead = True


class Seam:
    """Counts effects; kills the process that is about to make, or has made, the one that is named.

    Args:
        kill_at: which effect, from 1; 0 for none.
        after: whether it still takes place.
        chance: of a kill at each effect, drawn from `draw`, where `kill_at` is 0.
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
        """Make an effect, unless the process ends first."""
        before, after = self._verdict(process, name)
        if before:
            self._kill(process, f"before {name}")
        made = effect()
        if after:
            self._kill(process, f"after {name}")
        return made

    def before_and_after(self, process: Process, name: str) -> "tuple[bool, bool]":
        """Say whether to kill before, and after, an effect that the caller makes itself."""
        return self._verdict(process, name)

    def _verdict(self, process: Process, name: str) -> tuple[bool, bool]:
        if process.is_dead:
            raise Ended(process.name)
        self.effects.append(f"{process.name} {name}")
        if self._kill_at:
            hit = len(self.effects) == self._kill_at
            return hit and not self._after, hit and self._after
        if self._chance and len(self.kills) < self._kills_max:
            hit = self._draw.random() < self._chance
            after = self._draw.random() < 0.5
            return hit and not after, hit and after
        return False, False

    def _kill(self, process: Process, where: str) -> None:
        self.kills.append(f"{process.name} {where}")
        process.end()
        raise Ended(f"{process.name} {where}")

    kill = _kill


class Record(NamedTuple):
    """A record as aiokafka gives it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Topic:
    """Partitions of records, appended to for good."""

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

    def __init__(self, seam: Seam, start: int, partitions: int, seed: int = 0) -> None:
        self.seam = seam
        self.time = start
        self.draw = random.Random(seed)
        self.events = Topic(partitions)
        self.changelog = Topic(partitions)
        self.records = Topic(2)
        self.dead_letters = Topic(1)
        self.committed: dict[int, int] = {}  # of the workers' group
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
