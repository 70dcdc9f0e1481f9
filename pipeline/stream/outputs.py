"""This file writes: whole batches to Kafka, each acknowledgement awaited."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from pipeline.config import Settings
from pipeline.kafka.headers import ORIGIN_HEADER, DeadLetter
from pipeline.kafka.options import aiokafka_options
from pipeline.stream.partition import Output

CLOCK_KEY = b""  # the changelog's key for a reading of the broker's clock
_BATCH_BYTES_MAX = 900_000
_REQUEST_BYTES_MAX = 16_000_000  # one state of a very long conversation


class Outputs:
    """Producer of usage records, dead letters and states."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._records_partitions = 0
        self._dead_letter_partitions = 0

    async def start(self) -> None:
        kafka, topics = self._settings.kafka, self._settings.topics
        self._producer = AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap_servers,
            acks="all",
            linger_ms=0,
            max_batch_size=_BATCH_BYTES_MAX,
            max_request_size=_REQUEST_BYTES_MAX,
            # At one tenth of the time that aiokafka's lz4 takes (which it runs at level 9).
            compression_type="snappy",
            request_timeout_ms=int(self._settings.worker.request_timeout_seconds * 1000),
            **aiokafka_options(self._settings.kafka),
        )
        await self._producer.start()
        self._records_partitions = len(await self._producer.partitions_for(topics.records))
        self._dead_letter_partitions = len(await self._producer.partitions_for(topics.dead_letters))

    async def stop(self) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def reach(self) -> bool:
        """Ask the broker for its metadata, and say whether it answered."""
        return bool(await self._producer.client.force_metadata_update())

    async def write_results(
        self, outputs: Sequence[Output], dead_letters: Sequence[DeadLetter]
    ) -> None:
        """Produce usage records and dead letters; return when all are acknowledged."""
        topics = self._settings.topics
        by_place: dict[tuple[str, int], list[_Message]] = {}
        for output in outputs:
            place = (topics.records, _hash(output.key) % self._records_partitions)
            by_place.setdefault(place, []).append(
                (output.key, output.value, [(ORIGIN_HEADER, output.origin)])
            )
        for letter in dead_letters:
            number = letter.offset if letter.key is None else _hash(letter.key)
            place = (topics.dead_letters, number % self._dead_letter_partitions)
            by_place.setdefault(place, []).append((letter.key, letter.value, list(letter.headers)))
        await self._produce(by_place)

    async def write_states(self, partition: int, states: Sequence[tuple[bytes, bytes]]) -> range:
        """Produce states to a partition of the changelog.

        Return their offsets; an empty range where others came in between.
        """
        topic = self._settings.topics.changelog
        written = await self._produce(
            {(topic, partition): [(key, value, []) for key, value in states]}
        )
        return written if len(written) == len(states) else range(0)

    async def read_clock(self, partition: int) -> tuple[int, range]:
        """Return the broker's time (ms), and the offset of the record of ours that it is from.

        The changelog is a `LogAppendTime` topic for this; the records have one key and are
        compacted away.
        """
        topic = self._settings.topics.changelog
        metadata = await self._producer.send_and_wait(
            topic, value=b"", key=CLOCK_KEY, partition=partition
        )
        return int(metadata.timestamp), range(metadata.offset, metadata.offset + 1)

    async def _produce(self, by_place: dict[tuple[str, int], list["_Message"]]) -> range:
        """Return the offsets from the first batch's to the last's; they may be of several places."""
        futures: list[asyncio.Future[Any]] = []
        counts: list[int] = []
        for (topic, partition), messages in by_place.items():
            for batch, count in self._batches(messages):
                futures.append(await self._producer.send_batch(batch, topic, partition=partition))
                counts.append(count)
        acknowledged = await asyncio.gather(*futures)
        if not acknowledged:
            return range(0)
        return range(acknowledged[0].offset, acknowledged[-1].offset + counts[-1])

    def _batches(self, messages: Iterable["_Message"]) -> Iterable[tuple[Any, int]]:
        batch, count = self._producer.create_batch(), 0
        for key, value, headers in messages:
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                yield batch, count
                batch, count = self._producer.create_batch(), 0
                batch.append(key=key, value=value, timestamp=None, headers=headers)
            count += 1
        yield batch, count


@lru_cache(10_000)  # it is written in Python, and the keys of usage records are tenants
def _hash(key: bytes) -> int:
    return int(murmur2(key)) % 2**31


_Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]
