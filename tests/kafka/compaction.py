"""Have the broker compact a topic now, although it would wait for hours and for large segments."""

from collections import Counter

from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from tests.kafka.run import PARTITIONS, Run, wait_until

# Of the broker: how often its cleaner looks for work.
SOON = {"log.cleaner.backoff.ms": "100"}
# Of the topic: segments of milliseconds, and every version but the last may go at once.
_AT_ONCE = {"segment.ms": "50", "min.compaction.lag.ms": "0", "min.cleanable.dirty.ratio": "0"}
_ROLL_KEY = b"\x00roll"  # to a worker, a deleted state of no conversation


def compact(run: Run) -> None:
    """Compact the changelog: only the last version of each key is left."""
    topic = run.env["RESMETER_TOPICS__CHANGELOG"]
    configure(run.servers, topic, _AT_ONCE)
    seen = len(run.messages("CHANGELOG"))
    wait_until(lambda: _is_compacted(run, topic), f"{seen} records of {topic} are compacted")


def configure(servers: str, topic: str, config: dict[str, str]) -> None:
    """Change the configuration of a topic."""
    admin = AdminClient({"bootstrap.servers": servers})
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in config.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()


def _is_compacted(run: Run, topic: str) -> bool:
    """Roll the segments, as the cleaner leaves the newest one; return whether keys are unique."""
    producer = Producer({"bootstrap.servers": run.servers, "log_level": 3})
    for partition in range(PARTITIONS):
        producer.produce(topic, None, _ROLL_KEY, partition=partition)
    assert producer.flush(10) == 0
    versions = Counter(
        (message.partition, message.key)
        for message in run.messages("CHANGELOG")
        if message.key != _ROLL_KEY
    )
    return max(versions.values(), default=1) == 1
