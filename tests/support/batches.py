"""Encode record batches byte by byte, as any Kafka producer could: also those that aiokafka cannot."""

import asyncio
import gzip
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.codec import lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c, encode_varint

COMPRESSIONS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "none": (0, bytes),
    "gzip": (1, gzip.compress),
    "snappy": (2, snappy_encode),
    "lz4": (3, lz4_encode),
    "zstd": (4, zstd_encode),
}
NESTED = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"  # JSON that parsers give up on
_CONTROL = 0x20
_TRANSACTIONAL = 0x10


class Sent(NamedTuple):
    """A record to encode; the names of its headers may be any bytes."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    timestamp: int | None = None  # ms; None: the batch's


def batch(
    records: Sequence[Sent],
    offset: int = 0,
    timestamp: int = 0,
    compression: str = "none",
    *,
    is_control: bool = False,
) -> bytes:
    """Return a batch of today's format, whose records have the offsets from `offset` on."""
    body = bytearray()
    given = [timestamp if record.timestamp is None else record.timestamp for record in records]
    timestamp = given[0] if given else timestamp
    for number, (record, own) in enumerate(zip(records, given, strict=True)):
        encoded = _record(number, record, own - timestamp)
        encode_varint(len(encoded), body.append)
        body += encoded
    return batch_of(
        bytes(body),
        len(records),
        offset,
        timestamp,
        compression,
        timestamp_max=max(given, default=timestamp),
        is_control=is_control,
    )


def batch_of(
    body: bytes,
    count: int,
    offset: int = 0,
    timestamp: int = 0,
    compression: str = "none",
    *,
    timestamp_max: int | None = None,
    is_control: bool = False,
) -> bytes:
    """Return a batch around the bytes of its records, whatever these are; its checksum is right."""
    codec, compress = COMPRESSIONS[compression]
    attributes = codec | (_CONTROL | _TRANSACTIONAL if is_control else 0)
    producer = 7 if is_control else -1
    covered = struct.pack(
        ">hiqqqhii",
        attributes,
        max(count, 1) - 1,
        timestamp,
        timestamp if timestamp_max is None else timestamp_max,
        producer,
        -1,
        -1,
        count,
    )
    covered += compress(body)
    rest = struct.pack(">ibI", -1, 2, calc_crc32c(covered)) + covered
    return struct.pack(">qi", offset, len(rest)) + rest


def old_batch(
    records: Sequence[Sent], offset: int, timestamp: int, magic: int, compression: str
) -> bytes:
    """Return records in a format before Kafka 0.11; they have no headers."""
    codec, _ = COMPRESSIONS[compression]
    builder = LegacyRecordBatchBuilder(magic, codec, 100_000_000)
    for number, record in enumerate(records):
        # A broker gives compressed records of magic 1 offsets from 0 on.
        own = number if codec and magic else offset + number
        builder.append(own, timestamp if magic else None, record.key, record.value)
    raw = bytearray(builder.build())
    if codec:
        struct.pack_into(">q", raw, 0, offset + len(records) - 1)
    return bytes(raw)


def _record(number: int, record: Sent, timestamp: int) -> bytes:
    encoded = bytearray(b"\x00")
    encode_varint(timestamp, encoded.append)
    encode_varint(number, encoded.append)
    _sized(encoded, record.key)
    _sized(encoded, record.value)
    encode_varint(len(record.headers), encoded.append)
    for name, content in record.headers:
        _sized(encoded, name)
        _sized(encoded, content)
    return bytes(encoded)


def _sized(encoded: bytearray, content: bytes | None) -> None:
    encode_varint(-1 if content is None else len(content), encoded.append)
    encoded += content or b""


class _Built:
    """Stands for aiokafka's builder of a batch, with a batch that is built already."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def build(self) -> bytearray:
        return bytearray(self._raw)

    def size(self) -> int:
        return len(self._raw)


def produce_batch(
    servers: str, topic: str, partition: int, records: Sequence[Sent], timestamp: int
) -> None:
    """Produce records as one batch of a topic's partition."""

    async def produce() -> None:
        async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
            builder = producer.create_batch()
            builder._builder = _Built(batch(records, 0, timestamp))
            builder._relative_offset = len(records)
            await (await producer.send_batch(builder, topic, partition=partition))

    asyncio.run(produce())
