"""Read where partitions begin and end, and read and write what operators acknowledge."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from json import JSONDecoder
from typing import Any

import msgspec
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    OffsetSpec,
)

from pipeline.config import KafkaSettings, Settings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.kafka.bounds import (
    Acknowledgement,
    Bounds,
    StatesEnd,
    TopicFacts,
    states_end_in,
)
from pipeline.kafka.connect import open_client, silent_options
from pipeline.kafka.options import librdkafka_options

_TIMEOUT_SECONDS = 10.0
_RETRY_SECONDS = 0.5
_REASON_LENGTH_MAX = 1_000  # brokers take 4,096 bytes by default
_EARLIEST, _LATEST = (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
_NO_TOPIC_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # what brokers before 2.8 give

_json = JSONDecoder()
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Acknowledgement).decode


class Positions:
    """Asks the brokers about topics, on a separate connection: no fetch delays the response."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._client = open_client(AdminClient, {**librdkafka_options(kafka), **silent_options()})

    async def bounds(self, topic: str, partitions: Iterable[int]) -> dict[int, Bounds]:
        """Return the bounds of the partitions whose leaders respond."""
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

    async def topic(self, topic: str) -> TopicFacts | None:
        """Return the facts of a topic; None if it does not exist, or no broker responds."""
        futures = self._client.describe_topics(
            TopicCollection([topic]), request_timeout=_TIMEOUT_SECONDS
        )
        try:
            described = await asyncio.wrap_future(futures[topic])
        except KafkaException:
            return None
        topic_id = str(described.topic_id)
        return TopicFacts(
            "" if topic_id == _NO_TOPIC_ID else topic_id,
            {
                part.id: -1 if part.leader is None else part.leader.id
                for part in described.partitions
            },
        )

    async def ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offset after each partition's last record, committed or not.

        Wait until the leader of each partition has responded.
        """
        wanted, ends = set(partitions), dict[int, int]()
        while missing := wanted - ends.keys():
            found = await self.bounds(topic, missing)
            ends |= {number: bounds.high for number, bounds in found.items()}
            if wanted - ends.keys():
                await asyncio.sleep(_RETRY_SECONDS)
        return ends

    async def committed(self, group: str, topic: str) -> dict[int, int] | None:
        """Return a group's committed offsets by partition; None if no broker responds."""
        places = await self._places(group)
        if places is None:
            return None
        return {place.partition: place.offset for place in places if place.topic == topic}

    async def states_ends(
        self, group: str, topic: str, changelog: str, partitions: Iterable[int]
    ) -> dict[int, StatesEnd]:
        """Return where partitions of the changelog ended at the commit, and where they end now.

        A partition is missing if the group has committed no offset in it, or no broker says.
        """
        # Ask for the commits first: the changelog can only grow meanwhile.
        places = await self._places(group) or []
        at_commit = {p.partition: states_end_in(_note_of(p)) for p in places if p.topic == topic}
        bounds = await self.bounds(changelog, at_commit.keys() & set(partitions))
        return {n: StatesEnd(at_commit[n], found.high) for n, found in bounds.items()}

    async def acknowledged(self, group: str, topic: str) -> dict[int, Acknowledgement]:
        """Return the last acknowledgement of each partition that Kafka still has."""
        return {
            place.partition: _decode(note)
            for place in await self._places(acknowledging_group(group)) or []
            if place.topic == topic and (note := _note_of(place))
        }

    async def _places(self, group: str) -> list[TopicPartition] | None:
        """Return a group's committed offsets of all topics; None if no broker responds."""
        futures: Mapping[str, Future[Any]] = self._client.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=_TIMEOUT_SECONDS
        )
        try:
            found = await asyncio.wrap_future(futures[group])
        except KafkaException:
            return None
        return [place for place in found.topic_partitions or [] if place.offset >= 0]

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
        responses = await asyncio.gather(
            *(asyncio.wrap_future(future) for future in futures.values()), return_exceptions=True
        )
        offsets: dict[int, int] = {}
        for place, response in zip(futures, responses, strict=True):
            if isinstance(response, KafkaException):
                continue  # the partition has no leader now, or cannot reach it
            if isinstance(response, BaseException):
                raise response
            offsets[place.partition] = response.offset
        return offsets


def _note_of(place: TopicPartition) -> str:
    """Return the JSON that was committed with an offset; empty if there is none.

    The client does not know where it ends, and returns it with bytes that follow it in memory.
    """
    try:
        text = place.metadata or ""
    except UnicodeDecodeError as error:
        text = error.object.decode(errors="replace")
    try:
        _, end = _json.raw_decode(text)
    except (ValueError, RecursionError):
        return ""
    return text[:end]


def topic_id_of(positions: Positions, topic: str) -> str:
    """Return the id of a topic, or "" if no broker tells; outside of an event loop."""
    facts = asyncio.run(positions.topic(topic))
    return "" if facts is None else facts.topic_id


class EventsLog:
    """What a worker asks about its events topic and its group (the runner's `Log`)."""

    def __init__(self, positions: Positions, group: str, topic: str, changelog: str) -> None:
        self._positions = positions
        self._group = group
        self._topic = topic
        self._changelog = changelog

    async def bounds(self, partitions: Sequence[int]) -> Mapping[int, Bounds]:
        return await self._positions.bounds(self._topic, partitions)

    async def topic(self) -> TopicFacts | None:
        return await self._positions.topic(self._topic)

    async def committed_offsets(self) -> Mapping[int, int] | None:
        return await self._positions.committed(self._group, self._topic)

    async def states_ends(self, partitions: Sequence[int]) -> Mapping[int, StatesEnd]:
        return await self._positions.states_ends(
            self._group, self._topic, self._changelog, partitions
        )

    async def acknowledged(self) -> Mapping[int, Acknowledgement]:
        return await self._positions.acknowledged(self._group, self._topic)


def acknowledging_group(group: str) -> str:
    """Return the group whose committed offsets are what operators have acknowledged.

    The group has no members, so a command can commit to it while the workers run. Kafka deletes its
    offsets after a week by default; a worker copies them to its changelog within seconds.
    """
    return f"{group}.acknowledged"


def acknowledge_loss(
    settings: Settings, partition: int, until: int, who: str, reason: str
) -> Acknowledgement:
    """Store that an operator acknowledges a partition's lost records, and return what was stored.

    Raises:
        ConfigurationError: the partition does not exist, or Kafka still has some of the records.
        UnavailableError: no broker responds.
    """
    topic, group = settings.topics.events, settings.worker.group
    facts, bounds = asyncio.run(_facts_and_bounds(settings.kafka, topic, partition))
    if facts is None:
        raise UnavailableError(
            f"Kafka at {settings.kafka.bootstrap_servers} does not describe the topic {topic}; "
            "check RESMETER_KAFKA__BOOTSTRAP_SERVERS, and run `resmeter topics check`"
        )
    if partition not in facts.leaders:
        raise ConfigurationError(
            [f"{topic} has no partition {partition}: it has 0 to {facts.partitions - 1}"]
        )
    if bounds is None:
        raise UnavailableError(f"the leader of {topic}[{partition}] does not respond; try again")
    if until > bounds.low:
        raise ConfigurationError(
            [
                (
                    f"{topic}[{partition}] begins at offset {bounds.low}: no record from there to "
                    f"{until} is lost. Give the offset that `records_lost` in the worker's log names"
                )
            ]
        )
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    given = Acknowledgement(until, who, reason[:_REASON_LENGTH_MAX], at, facts.topic_id)
    consumer = open_client(
        Consumer,
        {
            **librdkafka_options(settings.kafka),
            "group.id": acknowledging_group(group),
            "enable.auto.commit": False,
            **silent_options(),
        },
    )
    place = TopicPartition(topic, partition, until, _encode(given).decode())
    try:
        consumer.commit(offsets=[place], asynchronous=False)
    except KafkaException as error:
        raise UnavailableError(
            f"Kafka at {settings.kafka.bootstrap_servers} did not store the acknowledgement: "
            f"{error.args[0].str()}; check that the user may read the group "
            f"{acknowledging_group(group)}, and try again"
        ) from error
    finally:
        consumer.close()
    return given


async def _facts_and_bounds(
    kafka: KafkaSettings, topic: str, partition: int
) -> tuple[TopicFacts | None, Bounds | None]:
    positions = Positions(kafka)
    facts = await positions.topic(topic)
    if facts is None or partition not in facts.leaders:
        return facts, None
    return facts, (await positions.bounds(topic, [partition])).get(partition)
