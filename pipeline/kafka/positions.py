"""Ask where the partitions of topics begin and end."""

import asyncio
from collections.abc import Iterable

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    OffsetSpec,
)

from pipeline.config import KafkaSettings
from pipeline.kafka.bounds import Bounds
from pipeline.kafka.connect import open_client, silent_options
from pipeline.kafka.options import librdkafka_options

_TIMEOUT_SECONDS = 10.0
_EARLIEST, _LATEST = (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]


class Positions:
    """Ask the brokers about topics, on a connection of its own: no fetch delays the answer."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._client = open_client(AdminClient, {**librdkafka_options(kafka), **silent_options()})

    async def bounds(self, topic: str, partitions: Iterable[int]) -> dict[int, Bounds]:
        """Return the bounds of partitions. A partition whose leader does not answer is missing."""
        numbers = list(partitions)
        if not numbers:
            return {}
        committed, uncommitted = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED
        lows, stables, highs = await asyncio.gather(
            self._offsets(topic, numbers, _EARLIEST, uncommitted),
            self._offsets(topic, numbers, _LATEST, committed),
            self._offsets(topic, numbers, _LATEST, uncommitted),
        )
        return {
            number: Bounds(lows[number], min(stables[number], highs[number]), highs[number])
            for number in lows.keys() & stables.keys() & highs.keys()
        }

    async def _offsets(
        self,
        topic: str,
        partitions: Iterable[int],
        spec: OffsetSpec,
        isolation: IsolationLevel,
    ) -> dict[int, int]:
        asked = {TopicPartition(topic, number): spec for number in partitions}
        futures = self._client.list_offsets(
            asked, isolation_level=isolation, request_timeout=_TIMEOUT_SECONDS
        )
        answers = await asyncio.gather(
            *(asyncio.wrap_future(future) for future in futures.values()), return_exceptions=True
        )
        offsets: dict[int, int] = {}
        for place, answer in zip(futures, answers, strict=True):
            if isinstance(answer, KafkaException):
                continue  # its leader is moving or away
            if isinstance(answer, BaseException):
                raise answer
            offsets[place.partition] = answer.offset
        return offsets
