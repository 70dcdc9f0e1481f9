"""Large record batches are cut into parts, and no record or offset is lost."""

from itertools import pairwise
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.fetched import NO_TIMESTAMP, RecordBatch, in_parts


class _Record(NamedTuple):
    offset: int
    timestamp: int


@st.composite
def fetches(draw: st.DrawFn) -> list[RecordBatch]:
    """Contiguous batches; compaction has removed some of their records, or all."""
    batches: list[RecordBatch] = []
    offset = draw(st.integers(0, 100))
    for size in draw(st.lists(st.integers(1, 30), max_size=8)):
        remaining = sorted(draw(st.sets(st.integers(0, size - 1))))
        records = [_Record(offset + n, 1_000 + offset + n) for n in remaining]
        timestamp = records[-1].timestamp if records else NO_TIMESTAMP
        batches.append(RecordBatch(iter(records), offset, offset + size, timestamp, size))
        offset += size
    return batches


@given(st.data(), st.integers(1, 12))
def test_parts_have_every_record_in_order(data: st.DataObject, size: int) -> None:
    batches = [batch._replace(records=list(batch.records)) for batch in data.draw(fetches())]
    expected = [record for batch in batches for record in batch.records]

    parts = list(in_parts(batches, size))

    assert [r for part in parts for batch in part for r in batch.records] == expected


@given(fetches(), st.integers(1, 12))
def test_parts_end_where_the_fetch_ends(batches: list[RecordBatch], size: int) -> None:
    parts = list(in_parts(batches, size))

    assert all(parts)
    assert bool(parts) == bool(batches)
    if batches:
        assert parts[-1][-1].next_offset == batches[-1].next_offset
    offsets = [batch.next_offset for part in parts for batch in part]
    assert all(a < b for a, b in pairwise(offsets))


@given(fetches(), st.integers(1, 12))
def test_no_part_has_more_than_twice_the_size_in_records(
    batches: list[RecordBatch], size: int
) -> None:
    for part in in_parts(batches, size):
        assert sum(len(list(batch.records)) for batch in part) < 2 * size


def test_a_batch_that_fits_is_passed_on_unread() -> None:
    batch = RecordBatch(iter([_Record(5, 1)]), 5, 6, 1, 1)

    ((passed,),) = in_parts([batch], 10)

    assert passed is batch
