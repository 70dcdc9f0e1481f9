"""Whatever bytes a producer puts into a batch, each of its records is decided or a dead letter."""

from collections.abc import Sequence

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.policies import preset
from pipeline.kafka.headers import read_dead_letter_headers
from pipeline.resolve.policy import Timeline
from pipeline.stream.batch import BatchResult
from pipeline.stream.fetched import RecordBatch, in_parts
from pipeline.stream.partition import Partition
from pipeline.stream.record_format import FetchedBatches, FetchedRecords
from tests.support.batches import COMPRESSIONS, Sent, batch, batch_of, old_batch
from tests.support.events import AT, KEY, event, resolved

BAD_NAME = b"bad-\xff"
TIMELINE = Timeline([preset("fin-2026")])
VALUES = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from([value for _, value, _ in resolved("c1")])
    | st.just(bytes(300_000))
)
NAMES = (
    st.binary(max_size=8)
    | st.sampled_from([BAD_NAME, b"content-type", b"ce_specversion", b"ce_id", b"resmeter-reason"])
    | st.just(b"x" * 100_000)
)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=8)), max_size=4)
TIMESTAMPS = st.none() | st.integers(-1, 2**53)
RECORDS = st.builds(
    Sent, st.none() | st.just(KEY) | st.binary(max_size=8), VALUES, HEADERS, TIMESTAMPS
)


def fetched(data: bytes, offset: int = 0) -> list[RecordBatch]:
    """Return the batches that a worker makes of what it fetched from an offset on."""
    place = TopicPartition("events", 0)
    batches = FetchedBatches(data)
    return list(FetchedRecords(place, batches, [], offset, None, None, True, READ_COMMITTED))


def applied(batches: Sequence[RecordBatch], part: int = 1_000) -> list[BatchResult]:
    partition = Partition("events", 0, lambda _: TIMELINE)
    return [
        partition.apply(record for one in parts for record in one.records)
        for parts in in_parts(batches, part)
    ]


def accounted(results: Sequence[BatchResult]) -> int:
    return sum(sum(r.events_by_type) + len(r.dead_letters) + r.redelivered for r in results)


@given(st.lists(st.lists(RECORDS, max_size=6), max_size=4), st.sampled_from(list(COMPRESSIONS)))
def test_each_record_of_a_batch_is_decided_or_becomes_a_dead_letter_with_its_bytes(
    groups: list[list[Sent]], compression: str
) -> None:
    data, offset = b"", 0
    for group in groups:
        data += batch(group, offset, AT, compression)
        offset += max(len(group), 1)
    sent = [record for group in groups for record in group]

    batches = fetched(data)
    results = applied(batches)

    assert sum(result.records_read for result in results) == len(sent)
    assert accounted(results) == len(sent)
    if batches:
        assert batches[-1].next_offset == offset
    by_offset: dict[int, Sent] = {}
    at = 0
    for group in groups:
        by_offset |= {at + number: record for number, record in enumerate(group)}
        at += max(len(group), 1)
    for letter in (letter for result in results for letter in result.dead_letters):
        record = by_offset[letter.offset]
        assert (letter.key, letter.value) == (record.key, record.value)
        for name, _ in letter.headers:
            name.encode()  # every client can write and read it
        restored = read_dead_letter_headers(letter.headers).original
        assert [
            (name.encode("utf-8", "surrogateescape"), content)
            for name, content in restored
            if not name.startswith("resmeter-")
        ] == [pair for pair in record.headers if not pair[0].startswith(b"resmeter-")]


@given(st.lists(RECORDS, min_size=1, max_size=5), st.sampled_from([0, 1]), st.data())
def test_records_of_old_formats_are_decided_or_become_dead_letters(
    sent: list[Sent], magic: int, data: st.DataObject
) -> None:
    codecs = ["none", "gzip", "snappy", *(["lz4"] if magic else [])]
    compression = data.draw(st.sampled_from(codecs))
    start = data.draw(st.integers(10, 9 + len(sent)))
    # A broker returns whole batches. Without compression, each record is a batch.
    first = start if compression == "none" else 10
    raw = old_batch(sent[first - 10 :], first, AT, magic, compression)

    batches = fetched(raw, start)
    results = applied(batches)

    assert batches[0].offset == start
    assert batches[-1].next_offset == 10 + len(sent)
    assert accounted(results) == 10 + len(sent) - start


@given(st.binary(max_size=60), st.integers(0, 5))
def test_bytes_that_are_no_records_become_dead_letters(body: bytes, count: int) -> None:
    batches = fetched(batch_of(body, count, 3, AT))
    results = applied(batches)

    assert accounted(results) == sum(result.records_read for result in results)
    assert not any(result.outputs for result in results)
    assert [one.next_offset for one in batches] == [3 + max(count, 1)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_record_whose_header_name_is_no_text_leaves_the_other_records_of_its_batch_alone(
    compression: str,
) -> None:
    good = [Sent(key, value) for key, value, _ in resolved("c1")]
    bad = Sent(KEY, event("x"), [(b"a", b"1"), (BAD_NAME, b"y"), (BAD_NAME, None)])

    (result,) = applied(fetched(batch([good[0], bad, *good[1:]], 5, AT + 2, compression)))

    (letter,) = result.dead_letters
    headers = dict(letter.headers)
    assert (letter.reason, letter.offset, letter.value) == ("invalid_attribute", 6, bad.value)
    assert b"62 61 64 2d ff" in (headers["resmeter-detail"] or b"")
    assert headers["resmeter-name-6261642dff"] is None
    assert len(result.outputs) == 1


def test_a_batch_of_100_000_records_is_decided_even_if_aiokafka_reads_only_its_first() -> None:
    good = [Sent(KEY, value) for _, value, _ in resolved("c1")]
    bad = Sent(KEY, b"{}", [(BAD_NAME, b"")])
    sent = [good[0], bad, *[Sent(KEY, b"")] * 99_996, *good[1:]]

    results = applied(fetched(batch(sent, 0, AT + 2, "zstd")), 5_000)

    assert accounted(results) == 100_000
    assert sum(len(result.outputs) for result in results) == 1


def test_a_control_batch_and_an_empty_batch_move_the_position_and_nothing_else() -> None:
    marker = Sent(b"\x00\x00\x00\x01", b"\x00\x00\x00\x00\x00\x00")
    data = batch([], 0, AT) + batch([marker], 1, AT, is_control=True)
    data += batch([Sent(KEY, b"")], 2, AT) + batch([marker], 3, AT, is_control=True)

    batches = fetched(data)
    results = applied(batches)

    assert batches[-1].next_offset == 4
    assert accounted(results) == 1
