"""Produce usage records, dead letters and states to Kafka in batches, each acknowledged."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError
from aiokafka.partitioner import murmur2

from pipeline.config import Settings
from pipeline.errors import ResmeterError
from pipeline.kafka.headers import ORIGIN_HEADER, DeadLetter
from pipeline.kafka.options import aiokafka_options
from pipeline.kafka.tokens import Tokens
from pipeline.stream.batch import Output

CLOCK_KEY = b""  # the changelog's key for a reading of the broker's clock
_BATCH_BYTES_MAX = 900_000
_REQUEST_BYTES_MAX = 16_000_000  # the state of a very long conversation must fit

_Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]  # key, value, headers


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """Give aiokafka the tokens with which it logs in."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def token(self) -> str:
        try:
            return (await asyncio.to_thread(self._tokens.current)).value
        except ResmeterError as error:  # the client tries again, as after any failed connection
            raise KafkaConnectionError(str(error)) from error

    def extensions(self) -> dict[str, str]:
        return self._tokens.extensions


class Outputs:
    """The producer of usage records, dead letters and states.

    Its methods raise aiokafka's KafkaError when a write is not acknowledged.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._records_partitions = 0
        self._dead_letter_partitions = 0

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

    async def write_states(
        self, partition: int, states: Sequence[tuple[bytes, bytes]]
    ) -> range | None:
        """Produce states to a partition of the changelog.

        Return their offsets; None if other records came between them.
        """
        topic = self._settings.topics.changelog
        offsets = await self._produce(
            {(topic, partition): [(key, value, []) for key, value in states]}
        )
        return offsets if len(offsets) == len(states) else None

    async def read_clock(self, partition: int, basis: bytes) -> tuple[int, range]:
        """Append a record to the changelog; return the broker's time (ms) and the record's offset.

        The record's value is what the partition's states were made from (`stream.basis`).

        The broker sets the timestamp, because the changelog is a `LogAppendTime` topic. These
        records share one key, so compaction removes all but the last.
        """
        topic = self._settings.topics.changelog
        metadata = await self._producer.send_and_wait(
            topic, value=basis, key=CLOCK_KEY, partition=partition
        )
        return int(metadata.timestamp), range(metadata.offset, metadata.offset + 1)

    async def _produce(self, by_partition: dict[tuple[str, int], list[_Message]]) -> range:
        """Produce messages; return the range from the first message's offset to the last one's.

        The range is meaningful only if all messages go to one partition.
        """
        futures: list[asyncio.Future[Any]] = []
        counts: list[int] = []
        for (topic, partition), messages in by_partition.items():
            for batch, count in self._batches(messages):
                futures.append(await self._producer.send_batch(batch, topic, partition=partition))
                counts.append(count)
        acknowledged = await asyncio.gather(*futures)
        if not acknowledged:
            return range(0)
        return range(acknowledged[0].offset, acknowledged[-1].offset + counts[-1])

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
