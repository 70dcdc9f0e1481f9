"""Produce usage records, dead letters and states to Kafka in batches, each acknowledged."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import ProducerFenced
from aiokafka.partitioner import murmur2

from pipeline.config import Settings
from pipeline.errors import CutTopicError, FencedError
from pipeline.kafka.fencing import transactional_id
from pipeline.kafka.headers import ORIGIN_HEADER, DeadLetter
from pipeline.kafka.options import aiokafka_options
from pipeline.stream.batch import Output
from pipeline.stream.credentials import TokenProvider
from pipeline.stream.fence import FENCE_KEY, Owner, init_producer_id

CLOCK_KEY = b""  # the changelog's key for a reading of the broker's clock
_BATCH_BYTES_MAX = 900_000
_REQUEST_BYTES_MAX = 16_000_000  # the state of a very long conversation must fit

_Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]  # key, value, headers


class Outputs:
    """The producer of usage records, dead letters and states.

    Its methods raise aiokafka's KafkaError when a write is not acknowledged, FencedError when
    another worker owns the partition of the changelog by now, and CutTopicError when the changelog
    has lost records of ours.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._records_partitions = 0
        self._dead_letter_partitions = 0
        self._owners: dict[int, Owner] = {}  # by partition of the changelog
        self.states_ends: dict[int, int] = {}  # partition → the offset after our last record

    async def start(self) -> None:
        """Connect to the broker, and ask how many partitions the topics have."""
        kafka, topics = self._settings.kafka, self._settings.topics
        self._producer = AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap_servers,
            acks="all",
            linger_ms=0,
            max_batch_size=_BATCH_BYTES_MAX,
            max_request_size=_REQUEST_BYTES_MAX,
            # aiokafka's lz4 runs at level 9. On 700 KB of JSON events, snappy took a tenth of its
            # processor time (measured once, 2026-11-27, aiokafka 0.14.0).
            compression_type="snappy",
            request_timeout_ms=int(self._settings.worker.request_timeout_seconds * 1000),
            **aiokafka_options(self._settings.kafka, TokenProvider),
        )
        await self._producer.start()
        self._records_partitions = len(await self._producer.partitions_for(topics.records))
        self._dead_letter_partitions = len(await self._producer.partitions_for(topics.dead_letters))

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def is_reachable(self) -> bool:
        """Ask the broker for its metadata; return whether it responded."""
        return bool(await self._producer.client.force_metadata_update())

    async def write_results(
        self, outputs: Sequence[Output], dead_letters: Sequence[DeadLetter]
    ) -> None:
        """Produce usage records and dead letters; return when all are acknowledged."""
        topics = self._settings.topics
        by_partition: dict[tuple[str, int], list[_Message]] = {}
        for output in outputs:
            partition = (topics.records, _partition_of(output.key, self._records_partitions))
            by_partition.setdefault(partition, []).append(
                (output.key, output.value, [(ORIGIN_HEADER, output.origin)])
            )
        count = self._dead_letter_partitions
        for letter in dead_letters:
            number = (
                letter.offset % count if letter.key is None else _partition_of(letter.key, count)
            )
            by_partition.setdefault((topics.dead_letters, number), []).append(
                (letter.key, letter.value, list(letter.headers))
            )
        await self._produce(by_partition)

    async def fence(self, partition: int) -> range:
        """Become the only writer of a partition of the changelog; return the fence record's offset.

        What earlier owners wrote before that offset is all that they can write: read it afterwards.
        Do this once for each assignment, never after an error: the other owner may be the right one.
        """
        self._owners[partition] = await self._take(partition)
        return (await self._append(partition, [(FENCE_KEY, None, [])]))[1]

    async def renew_fence(self, partition: int) -> None:
        """Keep the coordinator from forgetting our producer id.

        It forgets one a week after it was last taken (`transactional.id.expiration.ms`), and would
        give the next owner another, which does not fence this process. So take the next epoch, and
        do not use it: a leader compares a batch with what was written, not with what was taken.

        Raises:
            FencedError: the producer id was forgotten.
        """
        if (await self._take(partition)).producer_id != self._owners[partition].producer_id:
            raise FencedError(
                f"the brokers have forgotten {self._id(partition)}, and another owner of "
                f"{self._place(partition)} would not fence this process: it must take the partition "
                "again. Is transactional.id.expiration.ms shorter than a day?"
            )

    async def write_states(
        self, partition: int, states: Sequence[tuple[bytes, bytes]]
    ) -> range | None:
        """Produce states to a partition of the changelog.

        Return their offsets; None if other records came between them.
        """
        _, offsets = await self._append(partition, [(key, value, []) for key, value in states])
        return offsets if len(offsets) == len(states) else None

    async def read_clock(self, partition: int, basis: bytes) -> tuple[int, range]:
        """Append a record to the changelog; return the broker's time (ms) and the record's offset.

        The record's value is what the partition's states were made from (`stream.basis`).

        The broker sets the timestamp, because the changelog is a `LogAppendTime` topic. These
        records share one key, so compaction removes all but the last.
        """
        return await self._append(partition, [(CLOCK_KEY, basis, [])])

    async def flush(self) -> None:
        """Wait until each write in flight is acknowledged or has failed."""
        await self._producer.flush()

    async def _take(self, partition: int) -> Owner:
        return await init_producer_id(self._producer.client, self._id(partition))

    def _id(self, partition: int) -> str:
        return transactional_id(self._settings.worker.group, partition)

    def _place(self, partition: int) -> str:
        return f"{self._settings.topics.changelog}[{partition}]"

    async def _append(self, partition: int, messages: Sequence[_Message]) -> tuple[int, range]:
        """Append to the changelog as the partition's owner; return the last timestamp and the offsets."""
        topic, owner = self._settings.topics.changelog, self._owners[partition]
        futures: list[asyncio.Future[Any]] = []
        async with owner.lock:
            known_end = self.states_ends.get(partition, 0)
            for batch, count in self._batches(messages):
                owner.sign(batch, count)
                futures.append(await self._producer.send_batch(batch, topic, partition=partition))
        try:
            acknowledged = await asyncio.gather(*futures)
        except ProducerFenced as error:
            raise FencedError(
                f"another worker owns {self._place(partition)}: this process was away for too long, "
                "and has lost its partitions"
            ) from error
        last = acknowledged[-1]
        offsets = range(acknowledged[0].offset, last.offset + count)
        if offsets.start < known_end:
            raise CutTopicError(self._place(partition), known_end, offsets.start)
        self.states_ends[partition] = max(offsets.stop, self.states_ends.get(partition, 0))
        return int(last.timestamp), offsets

    async def _produce(self, by_partition: dict[tuple[str, int], list[_Message]]) -> None:
        """Produce messages; return when all are acknowledged."""
        futures: list[asyncio.Future[Any]] = []
        for (topic, partition), messages in by_partition.items():
            for batch, _ in self._batches(messages):
                futures.append(await self._producer.send_batch(batch, topic, partition=partition))
        await asyncio.gather(*futures)

    def _batches(self, messages: Iterable[_Message]) -> Iterable[tuple[Any, int]]:
        batch, count = self._producer.create_batch(), 0
        for key, value, headers in messages:
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                yield batch, count
                batch, count = self._producer.create_batch(), 0
                batch.append(key=key, value=value, timestamp=None, headers=headers)
            count += 1
        yield batch, count


@lru_cache(10_000)  # murmur2 is slow Python, and usage records have few keys: the tenants
def _partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, as Kafka's default partitioner chooses it."""
    return int(murmur2(key)) % 2**31 % partitions
