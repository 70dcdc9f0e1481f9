"""A real producer puts each key where our own functions say, and the worker tells two apart."""

import orjson
import pytest
from confluent_kafka import Message, Producer

from pipeline.kafka.partitioners import Partitioner, partition_of
from tests.kafka.run import PARTITIONS, Run, metric
from tests.unit.stream.test_mistakes import ANSWER, HUMAN_PLEASE, QUESTION

KEYS = [f"acme:conversation-{n}".encode() for n in range(50)]


def _produce(run: Run, name: str, keys: list[bytes], values: list[bytes]) -> dict[bytes, int]:
    """Produce the values for each key; return the partitions that the client chose."""
    places: dict[bytes, int] = {}

    def note(_: object, message: Message) -> None:
        key, partition = message.key(), message.partition()
        assert key is not None
        assert partition is not None
        places[key] = partition

    producer = Producer({"bootstrap.servers": run.servers, "partitioner": name})
    for key in keys:
        subject = key.partition(b":")[2]
        for value in values:
            content = value.replace(b'"c1"', b'"' + subject + b'"')
            producer.produce(run.env["RESMETER_TOPICS__EVENTS"], content, key, on_delivery=note)
    assert producer.flush(60) == 0
    return places


@pytest.mark.parametrize(
    ("name", "partitioner"),
    [
        ("consistent_random", "crc32"),  # librdkafka's default
        ("consistent", "crc32"),
        ("murmur2_random", "murmur2"),
        ("murmur2", "murmur2"),
    ],
)
def test_a_producer_chooses_the_partitions_that_our_functions_give(
    run: Run, name: str, partitioner: Partitioner
) -> None:
    places = _produce(run, name, KEYS, [b"{}"])

    assert places == {key: partition_of(key, PARTITIONS, partitioner) for key in KEYS}


def test_the_worker_warns_of_two_partitioners_and_says_what_to_do(run: Run) -> None:
    _produce(run, "murmur2_random", KEYS, [QUESTION])
    _produce(run, "consistent_random", KEYS, [ANSWER])

    worker = run.start("worker")
    run.until_decided(worker, 2 * len(KEYS))

    line = worker.find(r'(.*"event": "partitioners_differ".*)', 60)
    assert "partitioner=murmur2_random" in line
    run.done("ledger", "upgrade")
    run.start("sink")
    audit = run.resmeter("audit", "--json")
    assert audit.returncode == 3
    split = [
        found["conversation"]
        for found in map(orjson.loads, audit.stdout.splitlines())
        if found.get("finding") == "split"
    ]
    elsewhere = [
        key.decode().partition(":")[2]
        for key in KEYS
        if partition_of(key, PARTITIONS) != partition_of(key, PARTITIONS, "crc32")
    ]
    assert sorted(split) == sorted(elsewhere)


def test_an_id_used_again_is_logged_counted_and_found_by_the_audit(run: Run) -> None:
    _produce(run, "murmur2_random", [b"acme:c9"], [QUESTION, ANSWER, HUMAN_PLEASE])

    worker = run.start("worker")
    run.until_decided(worker, 3)

    line = orjson.loads(worker.find(r'(.*"event": "event_id_reused".*)', 60))
    assert (line["id"], line["conversation"], line["level"]) == ("m2", "c9", "warning")
    assert metric(run.port(worker), "resmeter_producer_mistakes_total", mistake="reused_id") == 1
    run.done("ledger", "upgrade")
    run.start("sink")
    audit = run.resmeter("audit", "--json")
    assert audit.returncode == 3
    assert b'"finding":"reused_id"' in audit.stdout.encode()


def test_an_enforced_partitioner_rejects_what_another_one_has_placed(run: Run) -> None:
    placed = _produce(run, "consistent_random", KEYS, [QUESTION])
    wrong = [key for key, place in placed.items() if partition_of(key, PARTITIONS) != place]

    worker = run.start("worker", RESMETER_TOPICS__PARTITIONER="murmur2")
    run.until_decided(worker, len(KEYS))

    letters = run.messages("DEAD_LETTERS")
    assert {letter.headers["resmeter-reason"] for letter in letters} == {b"wrong_partition"}
    assert sorted(letter.key or b"" for letter in letters) == sorted(wrong)
