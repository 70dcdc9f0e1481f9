"""Read Kafka's record batches, also those with a record that aiokafka cannot read.

aiokafka's parser stops at the first record that it cannot read, such as one whose header name is not
UTF-8; brokers store such a record unchanged. The record must become a dead letter, and the records
after it must be decided. So keep the bytes of each batch. If aiokafka fails at a record, the parser
here reads that record and the rest of the batch. It decodes a byte that is not UTF-8 to a surrogate,
as Python does for file names: encoding the name again gives the same bytes.

The formats before Kafka 0.11 (magic 0 and 1) have no headers. Magic 0 has no timestamps either.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import decode_varint

from pipeline.events.model import UNREADABLE_HEADER
from pipeline.stream.fetched import NO_TIMESTAMP, RecordBatch, WholeBatch

_LENGTH = struct.Struct(">qi")  # the first offset, and the number of bytes that follow
_LENGTH_MIN = 14  # of a record of format 0
_MAGIC_AT = 16
_HEADERS_IN_FORMAT = 2
# attributes, last offset delta, first and last timestamp, producer's id, epoch and sequence, records
_HEADER = struct.Struct(">hiqqqhii")
_HEADER_AT, _RECORDS_AT = 21, 61
_LOG_APPEND_TIME = 0x08
_CODEC = 0x07
_DECODERS = {1: gzip_decode, 2: snappy_decode, 3: lz4_decode, 4: zstd_decode}
# What parsers raise for bytes that are not a record. UnicodeDecodeError is a ValueError.
_UNREADABLE = (CorruptRecordException, ValueError, IndexError)


class ParsedRecord(NamedTuple):
    """A record, as aiokafka's parser would return it."""

    offset: int
    timestamp: int  # ms
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class FetchedBatches:
    """The batches of a fetch, in place of aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._next = self._end_of(0)
        self._at = 0

    def _end_of(self, at: int) -> int | None:
        """Return where the batch at a position ends; None if the fetch does not have all of it."""
        if len(self._data) - at < _LENGTH.size:
            return None
        _, length = _LENGTH.unpack_from(self._data, at)
        end = at + _LENGTH.size + int(length)
        if length < _LENGTH_MIN or (end > len(self._data) and at == 0):
            # A broker always returns the first batch complete, so the length is damaged. The end of the
            # batch is unknown.
            return len(self._data)
        return None if end > len(self._data) else end

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        return self._next is not None

    def next_batch(self) -> WholeBatch | None:
        if self._next is None:
            return None
        raw = self._data[self._at : self._next]
        self._at, self._next = self._next, self._end_of(self._next)
        try:
            magic = raw[_MAGIC_AT]
            batch = _OldBatch(raw, magic) if magic < _HEADERS_IN_FORMAT else _Batch(raw)
            damage = "" if batch.is_intact else "the checksum does not match"
        except Exception as error:
            damage = f"it cannot be unpacked: {type(error).__name__}: {error}"
        return WholeBatch(_Damaged(raw, damage, self._offset_of_next()) if damage else batch)

    def _offset_of_next(self) -> int:
        if self._next is None or self._next - self._at < _RECORDS_AT:
            return 0
        return int(_LENGTH.unpack_from(self._data, self._at)[0])


class _Damaged:
    """A batch whose bytes changed after its producer sent it, on the broker's disk or in memory."""

    producer_id = None
    is_control_batch = False
    is_transactional = False

    def __init__(self, raw: memoryview, damage: str, offset_of_next: int) -> None:
        self.damage = damage
        self.next_offset = offset_of_next
        if not offset_of_next and len(raw) >= _RECORDS_AT:
            base_offset, last = (
                struct.unpack_from(">q", raw)[0],
                struct.unpack_from(">i", raw, 23)[0],
            )
            # A batch has at most as many records as bytes. Anything else is damaged too.
            self.next_offset = base_offset + last + 1 if 0 <= last < len(raw) else 0

    def validate_crc(self) -> bool:
        """Return True: otherwise aiokafka raises an error, and the whole fetch is lost."""
        return True


class _Batch:
    """A batch of the current format (magic 2).

    Raises:
        Exception: the batch cannot be unpacked.
    """

    damage = ""

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw
        self._parsed: Any = DefaultRecordBatch(raw)
        (self._count,) = struct.unpack_from(">i", raw, _RECORDS_AT - 4)
        self.is_intact = bool(self._parsed.validate_crc())
        # Unpack a compressed batch now, in the consumer's thread. A batch that compaction has emptied
        # cannot be unpacked.
        self._records = iter(self._parsed) if self.is_intact and self._count else iter(())

    def validate_crc(self) -> bool:
        return self.is_intact

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parsed, name)

    def __next__(self) -> Any:
        return next(self._parsed)

    def __iter__(self) -> Iterator[Any]:
        return self._tolerant(self._records)

    def _tolerant(self, records: Iterator[Any]) -> Iterator[Any]:
        read = 0
        try:
            for record in records:
                yield record
                read += 1
        except _UNREADABLE:
            yield from parse_records(self._raw, skip=read)


class _OldBatch:
    """A batch of a format before Kafka 0.11: one record, or several that are compressed together."""

    damage = ""
    producer_id = None
    is_control_batch = False
    is_transactional = False

    def __init__(self, raw: memoryview, magic: int) -> None:
        parsed: Any = LegacyRecordBatch(raw, magic)
        self.next_offset = int(parsed.next_offset)
        self.is_intact = bool(parsed.validate_crc())
        self._records = [
            ParsedRecord(
                record.offset,
                NO_TIMESTAMP if record.timestamp is None else record.timestamp,
                record.key,
                record.value,
                (),
            )
            for record in (parsed if self.is_intact else ())
        ]

    def validate_crc(self) -> bool:
        return self.is_intact

    @property
    def base_offset(self) -> int:
        # The offset in the batch is that of its last record.
        return self._records[0].offset if self._records else self.next_offset

    @property
    def max_timestamp(self) -> int:
        return max((record.timestamp for record in self._records), default=NO_TIMESTAMP)

    def __iter__(self) -> Iterator[ParsedRecord]:
        return iter(self._records)


def parse_records(raw: bytes | memoryview, skip: int = 0) -> Iterator[ParsedRecord]:
    """Yield the records of a batch of the current format (magic 2), with any header names.

    If a record's structure is invalid, yield its bytes as the value, with a header that every
    reader rejects. Only its producer can have written it: the checksum of a damaged batch does not
    match.

    Args:
        raw: the batch.
        skip: the number of records to leave out at the beginning.
    """
    attributes, _, first_ms, last_ms, _, _, _, count = _HEADER.unpack_from(raw, _HEADER_AT)
    (base_offset,) = struct.unpack_from(">q", raw)
    body = bytes(raw[_RECORDS_AT:])
    codec = attributes & _CODEC
    if codec:
        body = bytes(_DECODERS[codec](body))
    at = offset = 0
    for number in range(count):
        start = at
        try:
            length, at = decode_varint(body, at)
        except (ValueError, IndexError):
            length = -1
        end = at + length
        if length < 0 or end > len(body):
            # The start of the next record is unknown: treat the remaining bytes as one record.
            yield _spoilt(base_offset + number, last_ms, body[start:])
            return
        if number >= skip:
            try:
                record = _parse(body, at, end)
                offset = base_offset + record.offset
                appended = bool(attributes & _LOG_APPEND_TIME)
                timestamp = last_ms if appended else first_ms + record.timestamp
                yield record._replace(offset=offset, timestamp=timestamp)
            except (ValueError, IndexError):
                offset = base_offset + number
                yield _spoilt(offset, last_ms, body[at:end])
        at = end


def _spoilt(offset: int, timestamp: int, content: bytes) -> ParsedRecord:
    return ParsedRecord(offset, timestamp, None, content, [UNREADABLE_HEADER])


def _parse(body: bytes, at: int, end: int) -> ParsedRecord:
    """Return a record whose offset and timestamp are still relative to the batch's first.

    Raises:
        ValueError, IndexError: the bytes are not a record.
    """
    at += 1  # the record's attributes, which no version of Kafka uses
    timestamp, at = decode_varint(body, at)
    offset, at = decode_varint(body, at)
    key, at = _sized(body, at)
    value, at = _sized(body, at)
    count, at = decode_varint(body, at)
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        name, at = _sized(body, at)
        content, at = _sized(body, at)
        if name is None or at > end:
            raise ValueError("a header has no name, or ends after its record")
        headers.append((name.decode("utf-8", "surrogateescape"), content))
    if count < 0 or at != end:
        raise ValueError("the record does not end where its length says")
    return ParsedRecord(offset, timestamp, key, value, headers)


def _sized(body: bytes, at: int) -> tuple[bytes | None, int]:
    """Return the bytes after a length, and the position after them; a negative length means null."""
    length, at = decode_varint(body, at)
    if length < 0:
        return None, at
    if at + length > len(body):
        raise IndexError(at + length)
    return body[at : at + length], at + length


class FetchedRecords(PartitionRecords):  # type: ignore[misc]
    """aiokafka's iterator over the fetched records of a partition; it yields whole batches."""

    next_fetch_offset: int

    def _unpack_records(self) -> Any:
        behind = self.next_fetch_offset
        for fetched in super()._unpack_records():
            behind = fetched.next_offset
            if fetched.damage:
                # Return nothing after the damage, and keep the position at it.
                self.next_fetch_offset = fetched.offset
                yield fetched
                return
            yield fetched
        if self.next_fetch_offset > behind:
            # The fetch ended with markers and aborted records of transactions. They are not
            # yielded, but the position must move past them.
            end = self.next_fetch_offset
            yield RecordBatch((), behind, end, NO_TIMESTAMP, end - behind)

    def _consumer_record(self, _: Any, batch: WholeBatch) -> RecordBatch:
        return batch.since(self.next_fetch_offset)
