"""This file gives a conversation its stored form: a header that needs no decoding, then msgpack.

::

    offset   u64   of the last record applied, plus one
    emitted  u32   usage records so far
    due      u64   when silence is settled (arrival time, ms), or 0
    packing  u8    0 as it is, 1 zlib

The first twelve bytes order the versions of one state: a record moves the offset, a timer moves
the number of usage records. The greatest is the newest, whatever order a zombie's writes took.
"""

import struct
import zlib

import msgspec

from pipeline.usage.conversation import Conversation

_HEADER = struct.Struct(">QIQB")
_HEADER_BYTES = _HEADER.size
ORDER_BYTES = 12
_PACKED_FROM_BYTES = 32_768  # a very long conversation must fit into a Kafka record

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Conversation).decode
_offset_of = struct.Struct(">Q").unpack_from
_due_of = struct.Struct(">12xQ").unpack_from


def encode_state(next_offset: int, conversation: Conversation) -> bytes:
    """Return the stored form of a conversation whose last record was at `next_offset - 1`."""
    payload = _encode(conversation)
    packing = 0
    if len(payload) >= _PACKED_FROM_BYTES:
        payload, packing = zlib.compress(payload, 1), 1
    due = conversation.due_at
    # A due before 1970 is settled by any clock: 1 stands for it, as 0 means none.
    stored_due = 0 if due is None else max(due, 1)
    return _HEADER.pack(next_offset, conversation.emitted, stored_due, packing) + payload


def decode_state(stored: bytes) -> Conversation:
    """Return the conversation in a stored state."""
    payload = stored[_HEADER_BYTES:]
    return _decode(zlib.decompress(payload) if is_long(stored) else payload)


def next_offset_of(stored: bytes) -> int:
    """Return the offset after that of the last record applied."""
    return int(_offset_of(stored)[0])


def due_of(stored: bytes) -> int | None:
    """Return when silence is settled, or None where it cannot be."""
    due: int = _due_of(stored)[0]
    return due or None


def is_long(stored: bytes) -> bool:
    """Say whether a state may hold some thousands of events: a shorter one is not packed."""
    return stored[_HEADER_BYTES - 1] != 0


def newest(stored: bytes, other: bytes | None) -> bytes:
    """Return the newer of two versions of one state; the first where they are the same."""
    if other is None or stored[:ORDER_BYTES] >= other[:ORDER_BYTES]:
        return stored
    return other
