"""A conversation's events as bytes: append, search, decode. Pure.

A history is the msgpack encodings of `(offset, event)`, one after the other, without a header
around them. A worker appends to it and searches it as bytes; it decodes a history only where an
event arrives late. `docs/internals/state-format.md` has the bytes.

The source of the first event is kept once, beside the history: an event from the same source has
an empty string in its place, and `entries` puts the source back.
"""

from functools import lru_cache
from zlib import crc32

import msgspec

from pipeline.events.model import EVENTS_IN_CONVERSATION_MAX, HISTORY_BYTES_MAX, Event

# The bytes that one event takes at most: four texts of 256 characters, and the rest.
_ENTRY_BYTES_MAX = 5_000
# So many events always fit behind a history that is stored unpacked: it is shorter than 32 KiB.
ALWAYS_FIT_EVENTS = HISTORY_BYTES_MAX // _ENTRY_BYTES_MAX - 10

# A source is found in an encoding by its bytes: its member's name, the head of a short string, and
# so many ASCII characters. These bytes cannot be part of a number, which has eight of them, nor of
# another text, as the head of a short string never follows a letter in UTF-8.
_SHARED_SOURCE_MIN, _SHARED_SOURCE_MAX = 8, 31
_SOURCE_MEMBER = b"\xa1s"
_EMPTY_SOURCE_MEMBER = b"\xa1s\xa0"
_ID_MEMBER = b"\xa1i"
# Of a source that is a short string, with the one byte of its head, up to the id.
_SHORT_RUN_BYTES = len(_SOURCE_MEMBER) + 32 + len(_ID_MEMBER)

_BITS = tuple(1 << n for n in range(64))


class _Id(msgspec.Struct, frozen=True, gc=False):
    id: str = msgspec.field(name="i")  # as `Event` spells it


class _Place(msgspec.Struct, array_like=True, frozen=True, gc=False):
    offset: int
    event: _Id


_encode = msgspec.msgpack.Encoder().encode
_decode_entries = msgspec.msgpack.Decoder(list[tuple[int, Event]]).decode
_decode_places = msgspec.msgpack.Decoder(list[_Place]).decode


def bit_of(event_id: str) -> int:
    """Return the bit that stands for an event's id in a set of 64.

    Where the bit of an id is not set, the history does not have the event.
    """
    return _BITS[crc32(event_id.encode()) & 63]


def capacity_of(history: bytes, events: int) -> int:
    """Return how many more events fit for sure, however long their texts are."""
    return min(
        EVENTS_IN_CONVERSATION_MAX - events,
        (HISTORY_BYTES_MAX - len(history)) // _ENTRY_BYTES_MAX,
    )


def is_full(history: bytes, events: int) -> bool:
    """Say whether a history takes no more events."""
    return events >= EVENTS_IN_CONVERSATION_MAX or len(history) >= HISTORY_BYTES_MAX


def encode_entries(entries: list[tuple[int, Event]], source: str) -> bytes:
    """Return the bytes to append for these events.

    Args:
        entries: offset and event, in order of arrival; at least one.
        source: the source of the history's first event.
    """
    # Without the header of the array: one byte for up to 15 entries, three bytes for more.
    encoded = _encode(entries)[1 if len(entries) < 16 else 3 :]
    member = _source_member(source)
    return encoded if member is None else encoded.replace(member, _EMPTY_SOURCE_MEMBER)


def decode_entries(history: bytes, events: int, source: str) -> list[tuple[int, Event]]:
    """Return offset and event of each entry, in order of arrival."""
    return [
        (offset, event if event.source else msgspec.structs.replace(event, source=source))
        for offset, event in _decode_entries(_as_array(history, events))
    ]


def offsets_by_id(history: bytes, events: int) -> dict[str, int]:
    """Return the offset of the first arrival of each event, by the event's id."""
    offsets: dict[str, int] = {}
    for place in _decode_places(_as_array(history, events)):
        offsets.setdefault(place.event.id, place.offset)
    return offsets


def may_have(history: bytes, source: str, event: Event) -> bool:
    """Say whether a history may have an event of the same source and id; if not, it has none.

    Source and id stand side by side in an encoding, so an event is found by one run of bytes. The
    run cannot be part of a number, which has fewer bytes. It cannot be part of a text either, if its
    source is shorter than 32 bytes: the head of such a source never follows a letter in UTF-8. For a
    longer source, the history must be decoded to know.
    """
    return _run_of(source, event) in history


def has_same(history: bytes, source: str, event: Event) -> bool:
    """Say whether a history has just this event. If not, it may have it with a longer source."""
    is_short = len(_run_of(source, event)) - len(_encode(event.id)) <= _SHORT_RUN_BYTES
    # An entry's encoding, without the head of the entry and the offset 0.
    return is_short and encode_entries([(0, event)], source)[2:] in history


def _run_of(source: str, event: Event) -> bytes:
    member = _EMPTY_SOURCE_MEMBER
    if event.source != source or _source_member(source) is None:
        member = _SOURCE_MEMBER + _encode(event.source)
    return member + _ID_MEMBER + _encode(event.id)


@lru_cache(1_000)
def _source_member(source: str) -> bytes | None:
    """Return the bytes of a source in an event's encoding, or None where it must stay there."""
    if not (_SHARED_SOURCE_MIN <= len(source) <= _SHARED_SOURCE_MAX and source.isascii()):
        return None
    return _SOURCE_MEMBER + _encode(source)


def _as_array(history: bytes, events: int) -> bytes:
    return b"\xdd" + events.to_bytes(4, "big") + history
