"""Both partitioners choose as Kafka's clients do, and a key that is elsewhere is seen."""

from collections.abc import Sequence

import pytest
from aiokafka.partitioner import murmur2 as murmur2_of_aiokafka
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.policies import preset
from pipeline.kafka.partitioners import Agreement, KeyCheck, agreement, murmur2, partition_of
from pipeline.replay.partition import PartitionReplay
from pipeline.resolve.policy import Timeline
from pipeline.stream.partition import Partition
from tests.support.events import Record
from tests.unit.stream.test_mistakes import ANSWER, QUESTION

TIMELINE = Timeline([preset("fin-2026")])
KEY = b"acme:c1"
PARTITIONS = 8
BY_MURMUR2 = partition_of(KEY, PARTITIONS)
BY_CRC32 = partition_of(KEY, PARTITIONS, "crc32")


# The vectors of Kafka's own tests, as Java's signed numbers.
@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_what_java_gives(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed % 2**32


@given(st.binary(max_size=80))
def test_murmur2_gives_what_another_client_gives(key: bytes) -> None:
    assert murmur2(key) == murmur2_of_aiokafka(key) % 2**32


# The check value of CRC-32.
def test_crc32_is_the_one_of_zip_and_ethernet() -> None:
    assert partition_of(b"123456789", 2**32, "crc32") == 0xCBF43926


def test_the_two_partitioners_put_this_key_into_two_partitions() -> None:
    assert BY_MURMUR2 != BY_CRC32
    assert agreement(KEY, BY_MURMUR2, PARTITIONS) == "murmur2"
    assert agreement(KEY, BY_CRC32, PARTITIONS) == "crc32"
    assert agreement(KEY, 0, 1) == "both"
    other = min({0, 1, 2} - {BY_MURMUR2, BY_CRC32})
    assert agreement(KEY, other, PARTITIONS) == "neither"


# --- in the worker --------------------------------------------------------------------------------


def _records(offset: int = 0) -> list[Record]:
    at = 1_777_885_200_010
    return [Record(offset + n, at, KEY, value) for n, value in enumerate((QUESTION, ANSWER))]


def _partition(check: KeyCheck) -> Partition:
    partition = Partition("events", 0, lambda _: TIMELINE, key_check=check)
    partition.schedule_all()
    return partition


@pytest.mark.parametrize(
    ("setting", "number"), [("murmur2", BY_MURMUR2), ("crc32", BY_CRC32), ("observe", 0)]
)
def test_a_record_where_the_partitioner_puts_it_is_accepted(setting: str, number: int) -> None:
    check = KeyCheck(setting, number, PARTITIONS)  # type: ignore[arg-type]

    result = _partition(check).apply(_records())

    assert result.dead_letters == []
    assert sum(result.events_by_type) == 2


@pytest.mark.parametrize(("setting", "number"), [("murmur2", BY_CRC32), ("crc32", BY_MURMUR2)])
def test_a_record_that_an_enforced_partitioner_puts_elsewhere_is_a_dead_letter(
    setting: str, number: int
) -> None:
    check = KeyCheck(setting, number, PARTITIONS)  # type: ignore[arg-type]

    result = _partition(check).apply(_records())

    assert [letter.reason for letter in result.dead_letters] == ["wrong_partition"] * 2
    detail = dict(result.dead_letters[0].headers)["resmeter-detail"] or b""
    assert f"partition {number}".encode() in detail
    assert b"librdkafka: partitioner=" in detail
    assert result.states == []


def test_what_was_accepted_before_it_was_enforced_is_redelivered_and_no_dead_letter() -> None:
    before = _partition(KeyCheck("observe", BY_CRC32, PARTITIONS))
    states = before.apply(_records()).states
    after = _partition(KeyCheck("murmur2", BY_CRC32, PARTITIONS))
    after.restore(Record(n, 0, key, value) for n, (key, value) in enumerate(states))

    result = after.apply([*_records(), *_records(2)])

    assert result.redelivered == 2
    assert [letter.offset for letter in result.dead_letters] == [2, 3]


@pytest.mark.parametrize(("number", "agrees"), [(BY_MURMUR2, "murmur2"), (BY_CRC32, "crc32")])
def test_each_new_conversation_is_counted_once_by_its_partitioner(
    number: int, agrees: Agreement
) -> None:
    partition = _partition(KeyCheck("observe", number, PARTITIONS))

    first, second = partition.apply(_records()), partition.apply(_records(2))

    assert first.mistakes.keys == {agrees: 1}
    assert second.mistakes.keys == {}


# --- in the audit ---------------------------------------------------------------------------------


def _replayed(committed: int, offsets: Sequence[int]) -> PartitionReplay:
    replay = PartitionReplay(
        committed,
        lambda _: TIMELINE,
        misplaced_offsets=frozenset(offsets),
        key_check=KeyCheck("murmur2", BY_CRC32, PARTITIONS),
    )
    for record in _records():
        replay.take(record.offset, record.timestamp, record.key, record.value, record.headers)
    return replay


def test_the_audit_keeps_to_what_the_worker_decided_about_a_partition() -> None:
    assert _replayed(2, [0, 1]).rejected == {0: "wrong_partition", 1: "wrong_partition"}
    assert _replayed(2, []).rejected == {}
    assert _replayed(0, []).dead_letters == 2
