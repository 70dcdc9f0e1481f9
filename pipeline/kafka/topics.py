"""This file makes and checks the topics. Workers never create any."""

import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from pipeline.config import Settings
from pipeline.errors import UnavailableError
from pipeline.kafka.connect import Refusals, list_topics, open_client, quiet
from pipeline.kafka.options import kafka_client_options

_DAY_MS = 86_400_000
_TIMEOUT_SECONDS = 5.0
_LOOK_SECONDS = 0.05
_NO_COORDINATOR = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD,
}
TIMESTAMPS = "message.timestamp.type"


class Topic(msgspec.Struct, frozen=True):
    """A topic as it should be. `config` values are Kafka's own texts."""

    name: str
    partitions: int
    setting: str  # that says how many
    config: dict[str, str]
    required: tuple[str, ...]  # keys of `config` without which bills go wrong


def wanted_topics(settings: Settings) -> list[Topic]:
    """Return the topics of these settings."""
    topics = settings.topics
    return [
        Topic(
            topics.events,
            topics.partitions,
            "PARTITIONS",
            {
                "cleanup.policy": "delete",
                "retention.ms": "-1"
                if topics.events_timestamps == "CreateTime"
                else str(400 * _DAY_MS),
                TIMESTAMPS: topics.events_timestamps,
            },
            ("cleanup.policy", TIMESTAMPS),
        ),
        Topic(
            topics.changelog,
            topics.partitions,
            "PARTITIONS",
            {
                "cleanup.policy": "compact",
                "min.compaction.lag.ms": str(3_600_000),
                # The worker reads the broker's clock from what it appends here.
                TIMESTAMPS: "LogAppendTime",
                "max.message.bytes": "16000000",
            },
            ("cleanup.policy", TIMESTAMPS),
        ),
        Topic(
            topics.records,
            topics.records_partitions,
            "RECORDS_PARTITIONS",
            {"cleanup.policy": "delete", "retention.ms": str(400 * _DAY_MS)},
            ("cleanup.policy",),
        ),
        Topic(
            topics.dead_letters,
            topics.dead_letter_partitions,
            "DEAD_LETTER_PARTITIONS",
            {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MS)},
            ("cleanup.policy",),
        ),
    ]


class TopicAdmin:
    """Kafka's admin API, as far as topics need it.

    Raises:
        UnavailableError: from each method, where no broker answers.
        ConfigurationError: from each method, where they refuse us or we them.
    """

    def __init__(self, settings: Settings) -> None:
        self._servers = settings.kafka.bootstrap_servers
        self._wanted = wanted_topics(settings)
        self._replication = settings.topics.replication_factor
        self._refusals = Refusals()
        self._client = open_client(
            AdminClient,
            {
                **kafka_client_options(settings.kafka),
                "error_cb": self._refusals.hear,
                **quiet(),
            },
        )

    def existing(self) -> dict[str, tuple[int, int]]:
        """Return partitions and replicas of each topic there is."""
        try:
            listed = list_topics(
                self._client, self._refusals, self._servers, seconds=_TIMEOUT_SECONDS
            )
        except KafkaException as error:
            raise UnavailableError(
                f"no Kafka broker answers at {self._servers}: {error.args[0].str()}; "
                "RESMETER_KAFKA__BOOTSTRAP_SERVERS names it, `resmeter kafka` starts one"
            ) from error
        return {
            name: (
                len(topic.partitions),
                min((len(part.replicas) for part in topic.partitions.values()), default=0),
            )
            for name, topic in listed.topics.items()
        }

    def create(self) -> list[str]:
        """Make what is not there; return the names made."""
        there = self.existing()
        missing = [topic for topic in self._wanted if topic.name not in there]
        if not missing:
            return []
        futures = self._client.create_topics(
            [
                NewTopic(topic.name, topic.partitions, self._replication, config=topic.config)
                for topic in missing
            ],
            request_timeout=_TIMEOUT_SECONDS,
        )
        made = []
        for name, future in futures.items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                    raise UnavailableError(
                        f"topic {name} cannot be made: {error.args[0].str()}"
                    ) from error
            else:
                made.append(name)
        self._await_visible(set(made))
        return made

    def _await_visible(self, names: set[str]) -> None:
        # The broker answers before all that ask it know of the topics.
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not names <= set(self.existing()):
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"topics {', '.join(sorted(names))} were made, but the broker does not show them"
                )
            time.sleep(_LOOK_SECONDS)

    def problems(self) -> list[str]:
        """Return what is wrong with the topics, each with what to do about it."""
        there = self.existing()
        problems = [
            f"topic {topic.name} is not there: run `resmeter topics create`"
            for topic in self._wanted
            if topic.name not in there
        ]
        problems += [
            f"topic {topic.name} has {there[topic.name][0]} partitions, the settings say "
            f"{topic.partitions}: a conversation's partition must not change; set "
            f"RESMETER_TOPICS__{topic.setting}={there[topic.name][0]}"
            for topic in self._wanted
            if topic.name in there and there[topic.name][0] != topic.partitions
        ]
        present = [topic for topic in self._wanted if topic.name in there]
        problems += [
            f"topic {topic.name} has {there[topic.name][1]} of the {self._replication} replicas that "
            "RESMETER_TOPICS__REPLICATION_FACTOR asks for: add them, or lower it"
            for topic in present
            if there[topic.name][1] < self._replication
        ]
        for topic, config in zip(present, self._configs(present), strict=True):
            problems += [
                f"topic {topic.name}: {key} is {config.get(key)}, it must be {topic.config[key]}"
                for key in topic.required
                if config.get(key) != topic.config[key]
            ]
        return problems

    def _configs(self, topics: Iterable[Topic]) -> list[dict[str, str]]:
        resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in topics]
        if not resources:
            return []
        futures: dict[Any, Future[Any]] = self._client.describe_configs(
            resources, request_timeout=_TIMEOUT_SECONDS
        )
        try:
            return [
                {key: entry.value for key, entry in futures[resource].result().items()}
                for resource in resources
            ]
        except KafkaException as error:
            raise UnavailableError(
                f"the topics' configuration cannot be read: {error.args[0].str()}"
            ) from error


def lost_states(settings: Settings) -> list[str]:
    """Say where the group has read events whose states are gone: it must not decide without them.

    A worker that reads a partition writes to its changelog before it commits, states or at least a
    reading of the clock. So one that is empty was deleted.

    Raises:
        UnavailableError: no broker answers.
    """
    topics, group = settings.topics, settings.worker.group
    consumer = open_client(
        Consumer, {**kafka_client_options(settings.kafka), "group.id": group, "log_level": 0}
    )
    try:
        return [
            f"{topics.changelog}[{place.partition}] is empty, but the group {group} has read "
            f"{topics.events}[{place.partition}] up to offset {place.offset}: the states of its "
            "conversations are gone, and without them it would bill wrongly. Rebuild them from the "
            f"events: with all workers stopped, reset the group's offsets of {topics.events} to the "
            "earliest, and start again; what was emitted comes out again and is known by its ids"
            for place in _committed(consumer, topics.events, topics.partitions)
            if place.offset > 0
            and consumer.get_watermark_offsets(
                TopicPartition(topics.changelog, place.partition), timeout=_TIMEOUT_SECONDS
            )[1]
            == 0
        ]
    except KafkaException as error:
        raise UnavailableError(
            f"Kafka at {settings.kafka.bootstrap_servers}: {error.args[0].str()}"
        ) from error
    finally:
        consumer.close()


def _committed(consumer: Consumer, topic: str, partitions: int) -> list[TopicPartition]:
    places = [TopicPartition(topic, number) for number in range(partitions)]
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        try:
            return consumer.committed(places, timeout=_TIMEOUT_SECONDS)
        except KafkaException as error:
            # A broker that has just started has no coordinator for a moment.
            if error.args[0].code() not in _NO_COORDINATOR or time.monotonic() > deadline:
                raise
            time.sleep(_LOOK_SECONDS)
