"""Encode a conversation for the changelog: a header at fixed offsets, then msgpack. Pure.

::

    offset   u64   offset of the last record applied, plus one
    emitted  u32   number of usage records so far
    due      u64   when silence is settled (arrival time, ms); 0: never
    form     u8    bits: 1 packed with zlib; 2 a history was sealed; 4 no history has begun since;
                   8 rules follow the header; 16 a merge named the answer that it brought
    arrival  u64   the newest record timestamp (ms)
    rules    u8 + bytes, with bit 8: the policy version that the due time rests on

The first twelve bytes order the versions of one state: a record increases the offset, and a timer
increases the number of usage records. If they are equal, a sealed version is newer. So the newest
version is known even if two owners of a partition wrote theirs in the wrong order.

A reader rejects a form bit that it does not know. Otherwise, in a rolling upgrade, an older worker
that takes over a partition would drop what the newer worker stored, and write the rest back.
`docs/internals/state-format.md` has every byte, and the rules for a change.
"""

import struct
import zlib
from collections.abc import Callable

import msgspec

from pipeline.errors import UnknownStateError
from pipeline.events.model import MERGED
from pipeline.resolve.machine import Fold
from pipeline.resolve.values import has_two_ids
from pipeline.usage.conversation import Conversation
from pipeline.usage.history import may_have_merge

_HEADER = struct.Struct(">QIQBQ")
_HEADER_AND_LENGTH = struct.Struct(">QIQBQB")  # with the length of the rules
_HEADER_BYTES = _HEADER.size
_FORM = 20
PACKED, HAS_SEAL, SEALED, HAS_RULES, HAS_ANSWER_ID = 1, 2, 4, 8, 16
_KNOWN_FORM = PACKED | HAS_SEAL | SEALED | HAS_RULES | HAS_ANSWER_ID
ORDER_BYTES = 12
_PACKED_FROM_BYTES = 32_768  # a very long conversation must fit into a Kafka record

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Conversation).decode
_decode_fold = msgspec.msgpack.Decoder(Fold).decode
_offset_of = struct.Struct(">Q").unpack_from
_due_of = struct.Struct(">12xQ").unpack_from
_last_arrival_of = struct.Struct(">21xQ").unpack_from
# The numbers of a header, in the order of the table above.
header_of: Callable[[bytes], tuple[int, int, int, int, int]] = _HEADER.unpack_from


def encode_state(next_offset: int, conversation: Conversation, rules: bytes = b"") -> bytes:
    """Return the stored form of a conversation whose last record was at `next_offset - 1`.

    `rules` names the policy version that the due time, or the settled silence, rests on.
    """
    payload = _encode(conversation)
    form = 0
    if conversation.seal_mark is not None:
        form = HAS_SEAL if conversation.events else HAS_SEAL | SEALED
    if (form or may_have_merge(conversation.history)) and _has_answer_id(conversation):
        form |= HAS_ANSWER_ID
    if len(payload) >= _PACKED_FROM_BYTES:
        payload = zlib.compress(payload, 1)
        form |= PACKED
    due_ms = conversation.due_arrival_ms
    # 0 means that nothing is due, so a deadline at or before 1970 is stored as 1: it has passed
    # too.
    stored_due_ms = 0 if due_ms is None else max(due_ms, 1)
    # Kafka's -1 (no timestamp) is stored as 0.
    arrival_ms = max(conversation.arrival_ms, 0)
    emitted = conversation.emitted
    if not rules:
        return _HEADER.pack(next_offset, emitted, stored_due_ms, form, arrival_ms) + payload
    form |= HAS_RULES
    header = (next_offset, emitted, stored_due_ms, form, arrival_ms, len(rules))
    return _HEADER_AND_LENGTH.pack(*header) + rules + payload


def _has_answer_id(conversation: Conversation) -> bool:
    """Return whether a merge has named the answer that it brought: older versions do not know that."""
    if any(event.rank == MERGED and event.message_id for _, event in conversation.entries()):
        return True
    mark = conversation.seal_mark
    if mark is None:
        return False
    folds = [conversation.fold, _decode_fold(mark.fold)] if mark.fold else [conversation.fold]
    return any(
        (fold.standing is not None and has_two_ids(fold.standing.id))
        or (fold.charge is not None and has_two_ids(fold.charge.answer))
        for fold in folds
    )


def check_form(stored: bytes, key: bytes) -> None:
    """Check that this version can read a stored state.

    Raises:
        UnknownStateError: a form bit is set that this version does not know, or the state is cut.
    """
    if len(stored) <= _HEADER_BYTES:
        raise UnknownStateError(
            f"the state of {_named(key)} has {len(stored)} bytes; a state has more than "
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
    start = _HEADER_BYTES
    if stored[_FORM] & HAS_RULES:
        start += 1 + stored[start]
    payload = stored[start:]
    return _decode(zlib.decompress(payload) if stored[_FORM] & PACKED else payload)


def next_offset_of(stored: bytes) -> int:
    """Return the offset of the last record applied, plus one."""
    return int(_offset_of(stored)[0])


def due_arrival_ms_of(stored: bytes) -> int | None:
    """Return the arrival time (ms) at which silence is settled; None if nothing is due."""
    due_ms: int = _due_of(stored)[0]
    return due_ms or None


def last_arrival_ms_of(stored: bytes) -> int:
    """Return the newest record timestamp (ms)."""
    return int(_last_arrival_of(stored)[0])


def rules_in(stored: bytes) -> bytes:
    """Return the name of the policy version that the due time rests on; empty if there is none."""
    if not stored[_FORM] & HAS_RULES:
        return b""
    start = _HEADER_BYTES + 1
    return stored[start : start + stored[_HEADER_BYTES]]


def is_sealed(stored: bytes) -> bool:
    """Return whether the history was sealed and no new one has begun."""
    return stored[_FORM] & SEALED != 0


def newest(stored: bytes, other: bytes | None) -> bytes:
    """Return the newer of two versions of one state; the first if neither is newer."""
    if other is None:
        return stored
    order, of_other = stored[:ORDER_BYTES], other[:ORDER_BYTES]
    if order == of_other:
        return other if is_sealed(other) else stored
    return stored if order > of_other else other
