"""What the runner needs from its surroundings, as protocols."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from pipeline.kafka.bounds import Acknowledgement, Bounds, StatesEnd, TopicFacts
from pipeline.kafka.headers import DeadLetter
from pipeline.stream.batch import Output


class Host(Protocol):
    """What the runner needs from its host: Faust in production, the simulator in tests."""

    @property
    def generation(self) -> int:
        """The consumer group's generation; when it changes, partitions may have moved."""

    @property
    def is_rebalancing(self) -> bool:
        """Whether the group is distributing its partitions."""

    @property
    def is_recovering(self) -> bool:
        """Whether the host reports that it is reading states from the changelog."""

    @property
    def is_paused(self) -> bool:
        """Whether fetching is paused, for a rebalance or because the process is stopping."""

    def committed(self, partition: int) -> int | None:
        """Return the offset that we committed last, or started from; None if there is none."""

    async def position(self, partition: int) -> int | None:
        """Return the offset of the next record to read; None if we do not own the partition."""

    def states_written(self, partition: int, offsets: range) -> None:
        """Note changelog offsets that we wrote: a recovery need not read them back."""


class Log(Protocol):
    """What the runner asks about the events topic: `positions.EventsLog`, or the simulator."""

    async def bounds(self, partitions: Sequence[int]) -> Mapping[int, Bounds]:
        """Return where partitions of the events topic begin and end now.

        A partition is missing if the broker did not say.
        """

    async def topic(self) -> TopicFacts | None:
        """Return the facts of the events topic; None if no broker says."""

    async def committed_offsets(self) -> Mapping[int, int] | None:
        """Return the group's committed offsets of the events topic; None if no broker says."""

    async def states_ends(self, partitions: Sequence[int]) -> Mapping[int, StatesEnd]:
        """Return where partitions of the changelog ended at the last commit, and where they end now.

        A partition is missing if there is no commit, or the broker did not say.
        """

    async def acknowledged(self) -> Mapping[int, Acknowledgement]:
        """Return what operators have acknowledged of the events topic, by partition."""


class Writer(Protocol):
    """What the runner writes to: `outputs.Outputs`, or the simulator's log."""

    @property
    def states_ends(self) -> Mapping[int, int]:
        """Partition → the offset after the last record of the changelog that we have written."""

    async def fence(self, partition: int) -> range: ...

    async def renew_fence(self, partition: int) -> None: ...

    async def write_results(
        self, outputs: Sequence[Output], dead_letters: Sequence[DeadLetter]
    ) -> None: ...

    async def write_states(
        self, partition: int, states: Sequence[tuple[bytes, bytes]]
    ) -> range | None: ...

    async def read_clock(self, partition: int, basis: bytes) -> tuple[int, range]: ...

    async def flush(self) -> None: ...


class Probe(NamedTuple):
    """A partition's end offset, and the broker's time just before the offset was read."""

    partition: int
    clock_ms: int
    end_offset: int
    generation: int
