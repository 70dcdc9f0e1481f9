"""This file gives a conversation its stored form: a header that needs no decoding, then msgpack. Pure.

::

    offset   u64   of the last record applied, plus one
    emitted  u32   usage records so far
    due      u64   when silence is settled (arrival time, ms), or 0
    form     u8    bits: 1 packed with zlib, 2 a history was sealed, 4 and none has begun since
    heard    u64   the newest arrival (ms)

The first twelve bytes order the versions of one state: a record moves the offset, a timer moves
the number of usage records, and of two that are even a sealed one is the newer. The greatest is
the newest, whatever order a zombie's writes took.

A reader refuses a form bit that it does not know. In a rolling upgrade, an older worker that takes
over a partition would otherwise drop what the newer one stored, and write the rest back.
"""

import struct
import zlib
from collections.abc import Callable

import msgspec

from pipeline.errors import UnknownStateError
from pipeline.usage.conversation import Conversation

_HEADER = struct.Struct(">QIQBQ")
_HEADER_BYTES = _HEADER.size
_FORM = 20
PACKED, HAS_SEAL, SEALED = 1, 2, 4
_KNOWN_FORM = PACKED | HAS_SEAL | SEALED
ORDER_BYTES = 12
_PACKED_FROM_BYTES = 32_768  # a very long conversation must fit into a Kafka record

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Conversation).decode
_offset_of = struct.Struct(">Q").unpack_from
_due_of = struct.Struct(">12xQ").unpack_from
_heard_of = struct.Struct(">21xQ").unpack_from
# next offset, usage records, due or 0, form, heard
head_of: Callable[[bytes], tuple[int, int, int, int, int]] = _HEADER.unpack_from


def encode_state(next_offset: int, conversation: Conversation) -> bytes:
    """Return the stored form of a conversation whose last record was at `next_offset - 1`."""
    payload = _encode(conversation)
    form = 0
    if conversation.seal is not None:
        form = HAS_SEAL if conversation.events else HAS_SEAL | SEALED
    if len(payload) >= _PACKED_FROM_BYTES:
        payload = zlib.compress(payload, 1)
        form |= PACKED
    due = conversation.due_at
    # A due before 1970 is settled by any clock: 1 stands for it, as 0 means none.
    stored_due = 0 if due is None else max(due, 1)
    # Kafka's -1, for no timestamp, is as long ago as 0.
    heard = max(conversation.arrival, 0)
    return _HEADER.pack(next_offset, conversation.emitted, stored_due, form, heard) + payload


def check_form(stored: bytes, key: bytes) -> None:
    """Check that this version can read a stored state.

    Raises:
        UnknownStateError: a form bit is set that this version does not know, or the header is cut.
    """
    if len(stored) < _HEADER_BYTES:
        raise UnknownStateError(
            f"the state of {_named(key)} has {len(stored)} bytes; a state has at least "
            f"{_HEADER_BYTES}: the changelog holds something that no worker wrote"
        )
    unknown = stored[_FORM] & ~_KNOWN_FORM
    if unknown:
        bits = ", ".join(str(1 << n) for n in range(8) if unknown >> n & 1)
        raise UnknownStateError(
            f"the state of {_named(key)} has form bit {bits}, which this version does not know: "
            "a newer version of resmeter wrote it; run that version or a later one"
        )


def _named(key: bytes) -> str:
    return repr(key[:300].decode(errors="replace"))


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


def heard_of(stored: bytes) -> int:
    """Return the newest arrival."""
    return int(_heard_of(stored)[0])


def is_sealed(stored: bytes) -> bool:
    """Say whether the history was sealed and none has begun since."""
    return stored[_FORM] & SEALED != 0


def is_long(stored: bytes) -> bool:
    """Say whether a state may hold some thousands of events: a shorter one is not packed."""
    return stored[_FORM] & PACKED != 0


def newest(stored: bytes, other: bytes | None) -> bytes:
    """Return the newer of two versions of one state; the first where they are the same."""
    if other is None:
        return stored
    order, of_other = stored[:ORDER_BYTES], other[:ORDER_BYTES]
    if order == of_other:
        return other if is_sealed(other) else stored
    return stored if order > of_other else other
