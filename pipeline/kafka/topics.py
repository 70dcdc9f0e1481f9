"""Create and check the topics. A worker never creates one."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from pipeline.config import Settings
from pipeline.errors import UnavailableError
from pipeline.kafka.advice import (
    AHEAD,
    AHEAD_MS_MAX,
    changelog_problems,
    cut_changelog_problem,
    events_problems,
    partition_problems,
    rebuild_advice,
    replica_problems,
    replica_warnings,
)
from pipeline.kafka.connect import AuthFailure, list_topics, open_client, silent_options
from pipeline.kafka.options import librdkafka_options
from pipeline.kafka.positions import Positions
from pipeline.kafka.reader import TopicReader, committed_offsets
from pipeline.kafka.single import RECORD_BYTES_MAX

_DAY_MS = 86_400_000
_TIMEOUT_SECONDS = 5.0
_POLL_SECONDS = 0.05
TIMESTAMPS = "message.timestamp.type"


class Topic(msgspec.Struct, frozen=True):
    """A topic that resmeter requires. `config` has Kafka's own names and values."""

    name: str
    partitions: int
    setting: str | None  # the name of the setting for `partitions`; None: it is always one
    config: dict[str, str]
    required: tuple[str, ...]  # keys of `config` that must be right, or bills are wrong


def wanted_topics(settings: Settings) -> list[Topic]:
    """Return the five topics that the settings describe."""
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
                **({AHEAD: str(AHEAD_MS_MAX)} if topics.events_timestamps == "CreateTime" else {}),
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
                # The worker appends records here to read the broker's clock.
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
        Topic(
            topics.catalog,
            1,  # the order of its entries decides which are valid
            None,
            {
                "cleanup.policy": "delete",
                "retention.ms": "-1",
                "retention.bytes": "-1",
                TIMESTAMPS: "LogAppendTime",
            },
            ("cleanup.policy", "retention.ms", "retention.bytes", TIMESTAMPS),
        ),
        Topic(
            topics.journal,
            1,  # its order decides which of two plans is valid
            None,
            {
                "cleanup.policy": "delete",
                "retention.ms": "-1",
                "retention.bytes": "-1",
                TIMESTAMPS: "LogAppendTime",
                "max.message.bytes": str(RECORD_BYTES_MAX),
            },
            ("cleanup.policy", "retention.ms", "retention.bytes", TIMESTAMPS),
        ),
    ]


class TopicAdmin:
    """The parts of Kafka's admin API that our topics need.

    Raises:
        UnavailableError: from each method, if no broker responds.
        ConfigurationError: from each method, if the brokers reject us or we reject them.
    """

    def __init__(self, settings: Settings) -> None:
        self._servers = settings.kafka.bootstrap_servers
        self._wanted = wanted_topics(settings)
        self._replication = settings.topics.replication_factor
        self._seal_after_days = settings.worker.seal_after_days
        self._failure = AuthFailure()
        self._client = open_client(
            AdminClient,
            {
                **librdkafka_options(settings.kafka),
                "error_cb": self._failure.on_error,
                **silent_options(),
            },
        )

    def existing(self) -> dict[str, tuple[int, int]]:
        """Return each existing topic's partitions, and the fewest replicas that one of them has."""
        try:
            listed = list_topics(
                self._client, self._failure, self._servers, seconds=_TIMEOUT_SECONDS
            )
        except KafkaException as error:
            raise UnavailableError(
                f"no Kafka broker responds at {self._servers}: {error.args[0].str()}; "
                "check RESMETER_KAFKA__BOOTSTRAP_SERVERS, or start one with `resmeter kafka`"
            ) from error
        return {
            name: (
                len(topic.partitions),
                min((len(part.replicas) for part in topic.partitions.values()), default=0),
            )
            for name, topic in listed.topics.items()
        }

    def create(self) -> list[str]:
        """Create the topics that do not exist; return their names."""
        existing = self.existing()
        missing = [topic for topic in self._wanted if topic.name not in existing]
        if not missing:
            return []
        futures = self._client.create_topics(
            [
                NewTopic(
                    topic.name, topic.partitions, self._replication, config=self._config(topic)
                )
                for topic in missing
            ],
            request_timeout=_TIMEOUT_SECONDS,
        )
        created = []
        for name, future in futures.items():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                    raise UnavailableError(
                        f"cannot create topic {name}: {error.args[0].str()}"
                    ) from error
            else:
                created.append(name)
        self._await_visible(set(created))
        return created

    def _config(self, topic: Topic) -> dict[str, str]:
        if self._replication < 3:
            return topic.config
        return {**topic.config, "min.insync.replicas": "2"}

    def _await_visible(self, names: set[str]) -> None:
        # The broker acknowledges the request before it lists the topics.
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not names <= set(self.existing()):
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"topics {', '.join(sorted(names))} were created, but the broker does not list them"
                )
            time.sleep(_POLL_SECONDS)

    def problems(self) -> list[str]:
        """Return the problems of the topics, each with what to do."""
        existing = self.existing()
        problems = [
            f"topic {topic.name} does not exist: run `resmeter topics create`"
            for topic in self._wanted
            if topic.name not in existing
        ]
        problems += self._partition_problems(existing)
        present = [topic for topic in self._wanted if topic.name in existing]
        problems += [
            f"topic {topic.name} has {existing[topic.name][1]} of the {self._replication} replicas that "
            "RESMETER_TOPICS__REPLICATION_FACTOR asks for: add replicas, or lower the setting"
            for topic in present
            if existing[topic.name][1] < self._replication
        ]
        for topic, config in zip(present, self._configs(present), strict=True):
            problems += [
                f"topic {topic.name}: {key} is {config.get(key)}; it must be {topic.config[key]}: run "
                f"`{self._alter(topic.name)} {key}={topic.config[key]}`"
                for key in topic.required
                if config.get(key) != topic.config[key]
            ]
        return problems

    def _partition_problems(self, existing: Mapping[str, tuple[int, int]]) -> list[str]:
        events, changelog, *others = self._wanted
        if events.name in existing and changelog.name in existing:
            problems = partition_problems(
                (events.name, existing[events.name][0]),
                (changelog.name, existing[changelog.name][0]),
                events.partitions,
            )
        else:
            problems, others = [], self._wanted
        return problems + [
            f"topic {topic.name} has {existing[topic.name][0]} partitions, but "
            + (
                f"the settings say {topic.partitions}: set "
                f"RESMETER_TOPICS__{topic.setting}={existing[topic.name][0]}"
                if topic.setting
                else "must have one, as the order of its entries decides. While it is empty, delete it "
                "and run `resmeter topics create`; a catalog's entries can be exported first, and "
                "restored (`resmeter catalog export`)"
            )
            for topic in others
            if topic.name in existing and existing[topic.name][0] != topic.partitions
        ]

    def advice(self) -> tuple[list[str], list[str]]:
        """Return what will break later, and warnings. A worker starts nevertheless."""
        existing = self.existing()
        present = [topic for topic in self._wanted if topic.name in existing]
        problems: list[str] = []
        for topic, config in zip(present, self._configs(present), strict=True):
            name, alter = topic.name, self._alter(topic.name)
            if topic is self._wanted[0]:
                problems += events_problems(
                    name, config, topic.config[TIMESTAMPS], self._seal_after_days, alter
                )
            if topic is self._wanted[1]:
                problems += changelog_problems(name, config, alter)
            problems += replica_problems(name, config, existing[name][1], alter)
        return problems, replica_warnings(
            {topic.name: existing[topic.name][1] for topic in present}
        )

    def _alter(self, name: str) -> str:
        return (
            f"kafka-configs.sh --bootstrap-server {self._servers} --alter --entity-type topics "
            f"--entity-name {name} --add-config"
        )

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
                f"cannot read the configuration of the topics: {error.args[0].str()}"
            ) from error


def lost_states(settings: Settings) -> list[str]:
    """Return a problem for each partition whose states are lost. A worker must not start then.

    A worker writes to a partition's changelog before it commits the partition's offset: at least the
    fence record of its assignment. So if a partition has a committed offset and an empty changelog,
    the changelog was deleted. With the offset, it commits where the changelog ended.

    Raises:
        UnavailableError: no broker responds.
    """
    topics, group = settings.topics, settings.worker.group
    partitions = range(topics.partitions)
    committed = committed_offsets(settings.kafka, group, topics.events, partitions)
    if not any(committed.values()):
        return []
    changelog = TopicReader(librdkafka_options(settings.kafka), topics.changelog)
    changelog.close()
    empty = {p for p, at in committed.items() if at > 0 and changelog.bounds[p][1] == 0}
    ends = asyncio.run(
        Positions(settings.kafka).states_ends(group, topics.events, topics.changelog, partitions)
    )
    return [
        f"{topics.changelog}[{partition}] is empty, but the group {group} has read "
        f"{topics.events}[{partition}] up to offset {committed[partition]}: the states of its "
        "conversations are lost, and without them the worker would bill wrongly. "
        f"{rebuild_advice(topics.events)}"
        for partition in sorted(empty)
    ] + [
        cut_changelog_problem(topics.events, topics.changelog, partition, end)
        for partition, end in sorted(ends.items())
        if partition not in empty and end.now < end.at_commit
    ]
