"""Faults of the producers: transactions on the events topic that stay open, or whose producer is gone."""

import asyncio
from collections.abc import Iterable

import orjson
from confluent_kafka import Producer

from pipeline.config import KafkaSettings
from pipeline.kafka.positions import Positions
from tests.kafka.run import PARTITIONS, SECONDS_MAX
from tests.proof.rig import Message, Rig
from tests.proof.worker_faults import SLOW

_GONE_SECONDS = 10.0  # then the broker aborts the transaction of the producer that is gone
_HELD_SECONDS = 800.0  # longer than the row; a broker allows 900
_HEADERS: list[tuple[str, str | bytes | None]] = [("content-type", b"application/cloudevents+json")]


def open_transactions(rig: Rig) -> None:
    third = len(rig.load.rest) // 3
    before, inside, behind = (
        rig.load.rest[:third],
        rig.load.rest[third : 2 * third],
        rig.load.rest[2 * third :],
    )
    rig.start("sink", "sink")
    rig.start("worker", "worker", **SLOW)
    rig.run.produce(before)
    gone = _begin(rig, "gone", _GONE_SECONDS)
    _produce(gone, rig.load.topic, [_returned(message) for message in inside])
    held = _begin(rig, "held", _HELD_SECONDS)
    _produce(held, rig.load.topic, inside)
    del gone  # its process ends, and nobody ends the transaction
    rig.run.produce(behind)
    rig.faults += 2
    for _ in range(2):
        rig.until(
            lambda: rig.run.committed() >= _ends(rig)[0], "all that can be read yet is decided"
        )
        rig.pause(3)  # a timer that did not wait would settle what follows the transaction
        rig.kill("worker")
    held.commit_transaction()
    rig.until(lambda: len(set(_ends(rig))) == 1, "the broker has ended the other transaction")
    truth = rig.load.truth._replace(records=_ends(rig)[1])  # the markers have offsets too
    rig.load = rig.load._replace(truth=truth)
    rig.fault_is_over()


def _begin(rig: Rig, name: str, seconds: float) -> Producer:
    producer = Producer(
        {
            "bootstrap.servers": rig.run.servers,
            "partitioner": "murmur2_random",
            "transactional.id": f"{rig.load.topic}-{name}",
            "transaction.timeout.ms": int(seconds * 1000),
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    producer.init_transactions()
    producer.begin_transaction()
    return producer


def _produce(producer: Producer, topic: str, messages: Iterable[Message]) -> None:
    for key, value, timestamp in messages:
        producer.produce(topic, value, key, timestamp=timestamp, headers=_HEADERS)
        producer.poll(0)
    assert producer.flush(SECONDS_MAX) == 0


def _returned(message: Message) -> Message:
    """Return an event that takes back what the conversation was charged, if anybody reads it."""
    key, value, timestamp = message
    event = orjson.loads(value)
    event |= {
        "id": f"{event['id']}-gone",
        "type": "conversation.customer_message",
        "data": {"intent": "help_request"},
    }
    return key, orjson.dumps(event), timestamp


def _ends(rig: Rig) -> tuple[int, int]:
    """Return how many offsets can be read, and how many there are."""
    positions = Positions(KafkaSettings(bootstrap_servers=rig.run.servers))
    bounds = asyncio.run(positions.bounds(rig.load.topic, range(PARTITIONS))).values()
    return sum(each.stable for each in bounds), sum(each.high for each in bounds)
