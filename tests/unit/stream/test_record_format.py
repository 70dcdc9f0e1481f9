"""Damage to a batch is found, costs nothing before it, and hides nothing after it."""

import struct

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.fetched import RecordBatch
from pipeline.stream.record_format import FetchedBatches, FetchedRecords
from tests.support.batches import COMPRESSIONS, Sent, batch, batch_of
from tests.support.events import AT, KEY

GOOD = batch([Sent(KEY, b"{}"), Sent(KEY, b"{}")], 5, AT)
OTHER = batch([Sent(KEY, b"{}" * 20)] * 3, 7, AT, "lz4")


class Fetched:
    """The iterator over a fetch from an offset, and the batches that it gave."""

    def __init__(self, data: bytes, offset: int) -> None:
        self.iterator = FetchedRecords(
            TopicPartition("events", 0),
            FetchedBatches(data),
            [],
            offset,
            None,
            None,
            True,
            READ_COMMITTED,
        )
        self.batches: list[RecordBatch] = list(self.iterator)


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 0x40]) + raw[at + 1 :]


@given(st.integers(21, len(OTHER) - 1))
def test_a_flipped_bit_stops_the_position_before_the_batch(at: int) -> None:
    fetched = Fetched(GOOD + flipped(OTHER, at) + batch([Sent(KEY, b"{}")], 10, AT), 5)

    good, damaged = fetched.batches
    assert len(list(good.records)) == 2
    assert (damaged.offset, damaged.next_offset) == (7, 10)
    assert "checksum" in damaged.damage
    assert not list(damaged.records)
    assert fetched.iterator.next_fetch_offset == 7


@given(st.binary(min_size=1, max_size=200), st.integers(0, 300))
def test_no_bytes_of_a_broker_raise_an_error(garbage: bytes, at: int) -> None:
    data = bytearray(GOOD + OTHER)
    data[at : at + len(garbage)] = garbage

    fetched = Fetched(bytes(data), 5)

    read = [record for one in fetched.batches for record in one.records]
    assert all(one.damage == "" for one in fetched.batches[:-1])
    assert len(read) <= 5


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name != "none"])
def test_a_batch_that_cannot_be_unpacked_is_damaged(compression: str) -> None:
    raw = bytearray(batch_of(b"no records", 2, 7, AT, compression))
    intact = batch_of(bytes(raw[61:]) + b"\xff" * 40, 2, 7, AT)
    # Say that these bytes are compressed, with the right checksum for that.
    attributes = struct.pack(">h", COMPRESSIONS[compression][0])
    spoilt = _with_checksum(intact[:21] + attributes + b"\x00" * 0 + intact[23:61] + b"\xff" * 40)

    (damaged,) = Fetched(spoilt, 7).batches

    assert "cannot be unpacked" in damaged.damage
    assert (damaged.offset, damaged.next_offset) == (7, 9)


def test_a_damaged_length_stops_the_position_at_the_fetched_offset() -> None:
    raw = bytearray(GOOD + OTHER)
    struct.pack_into(">i", raw, 8, 2**30)

    fetched = Fetched(bytes(raw), 6)

    (damaged,) = fetched.batches
    assert damaged.damage
    assert fetched.iterator.next_fetch_offset == damaged.offset == 6


def _with_checksum(raw: bytes) -> bytes:
    from aiokafka.record.util import calc_crc32c

    length = struct.pack(">i", len(raw) - 12)
    return raw[:8] + length + raw[12:17] + struct.pack(">I", calc_crc32c(raw[21:])) + raw[21:]
