"""Take the changelog's partitions, so that no earlier owner writes to them, and keep them."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from pipeline.config import TopicSettings
from pipeline.errors import ConfigurationError
from pipeline.kafka.advice import cut_changelog_problem
from pipeline.kafka.bounds import encode_note
from pipeline.stream.continuity import Continuity
from pipeline.stream.effects import basis_of
from pipeline.stream.host import Host, Log, Writer
from pipeline.stream.partition import Partition

# A leader forgets the epoch of a producer that has not written for a day
# (`producer.id.expiration.ms`), and the coordinator forgets the producer id after a week.
_KEEP_SECONDS = 3_600


class Ownership:
    """The partitions whose changelog only this process can write to.

    Args:
        host: gets the offsets of the records that we wrote.
        log: knows where the changelog ended at the group's last commit.
        outputs: writes the records.
        continuity: knows which partitions are admitted.
        end: called with a log event and the error, to end the process without a commit.
        now: the host's clock, in seconds.
    """

    def __init__(
        self,
        host: Host,
        log: Log,
        outputs: Writer,
        continuity: Continuity,
        end: Callable[[str, BaseException], object],
        now: Callable[[], float],
        topics: TopicSettings,
        retry_seconds: float,
    ) -> None:
        self._host = host
        self._log = log
        self._topics = topics
        self._retry_seconds = retry_seconds
        self._outputs = outputs
        self._continuity = continuity
        self._end = end
        self._now = now
        self._kept_at: dict[int, float] = {}  # partition → seconds

    async def take(self, numbers: Iterable[int]) -> None:
        """Fence partitions that were assigned, also those that we owned before.

        Read their states only after this. If it fails, the process ends: a second attempt could
        fence the owner that the group has chosen meanwhile.

        First check that no state is lost. Every record that we write hides it, so write none before.
        """
        numbers = list(numbers)
        try:
            if problems := await self._lost_states(numbers):
                self._end("states_lost", ConfigurationError(problems))
                return
            await asyncio.gather(*map(self._fence, numbers))
        except Exception as error:
            self._end("fence_failed", error)

    async def _lost_states(self, numbers: Sequence[int]) -> list[str]:
        """Return a problem for each partition of the changelog that has lost its end."""
        while True:
            committed = await self._log.committed_offsets()
            if committed is not None:
                ends = await self._log.states_ends(numbers)
                if ends.keys() >= committed.keys() & set(numbers):
                    break
            await asyncio.sleep(self._retry_seconds)
        events, changelog = self._topics.events, self._topics.changelog
        return [
            cut_changelog_problem(events, changelog, number, found)
            for number, found in sorted(ends.items())
            if found.now < found.at_commit
        ]

    async def _fence(self, number: int) -> None:
        self._host.states_written(number, await self._outputs.fence(number))
        self._kept_at[number] = self._now()

    def commit_note(self, number: int) -> str:
        """Return what to store with a committed offset of a partition: where its changelog ends."""
        return encode_note(self._outputs.states_ends.get(number, 0))

    async def keep(self, partitions: Mapping[int, Partition]) -> None:
        """Write to each partition at least hourly, so that no broker forgets who owns it."""
        host, now = self._host, self._now()
        generation = host.generation
        for number, partition in list(partitions.items()):
            if self._is_moving(generation):
                return
            is_due = abs(now - self._kept_at.get(number, now)) >= _KEEP_SECONDS
            if is_due and self._continuity.is_admitted(number):
                self._kept_at[number] = now
                await self._outputs.renew_fence(number)
                if self._is_moving(generation):
                    return  # if another worker owns the partition now, writing would end the process
                _, offsets = await self._outputs.read_clock(number, basis_of(partition))
                host.states_written(number, offsets)

    def _is_moving(self, generation: int) -> bool:
        """Return whether partitions may have another owner than in a generation of the group."""
        host = self._host
        is_away = host.is_rebalancing or host.is_recovering or host.is_paused
        return is_away or generation != host.generation

    def forget(self, number: int) -> None:
        """Forget a partition that another worker owns now."""
        self._kept_at.pop(number, None)
