"""A conversation's events as bytes: append, search, decode. Pure.

A history is a series of `(offset, event)` entries in msgpack, without the header of an array. A
worker appends to the bytes and searches them; it rarely decodes them, for instance when an event
arrives late. `docs/internals/state-format.md` shows the format.

The conversation keeps the source of its first event once, outside the history. In the history, an
event from the same source has an empty source, and `decode_entries` restores it.
"""

from functools import lru_cache
from zlib import crc32

import msgspec

from pipeline.events.model import EVENTS_IN_CONVERSATION_MAX, HISTORY_BYTES_MAX, Event

# No entry is longer: four texts of 256 characters, and the rest of the event.
_ENTRY_BYTES_MAX = 5_000
# A history that is stored uncompressed is shorter than 32 KiB. This many events always fit after it.
ALWAYS_FIT_EVENTS = HISTORY_BYTES_MAX // _ENTRY_BYTES_MAX - 10

# A source of this many ASCII characters can be replaced by searching an encoding for its bytes: the
# name of the member, the head of a short string, the characters. They cannot be part of a number,
# which has at most eight bytes. They cannot be part of another text, because in UTF-8 the head of a
# short string never follows a letter.
_SHARED_SOURCE_MIN, _SHARED_SOURCE_MAX = 8, 31
_SOURCE_MEMBER = b"\xa1s"
_EMPTY_SOURCE_MEMBER = b"\xa1s\xa0"
_ID_MEMBER = b"\xa1i"
# Up to the id: the head of a short string and 31 bytes.
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
    """Return the bit for an event's id in a set of 64 bits.

    If the bit of an id is not set, the history does not have an event with that id.
    """
    return _BITS[crc32(event_id.encode()) & 63]


def capacity_of(history: bytes, events: int) -> int:
    """Return how many more events are sure to fit, however long their texts are."""
    return min(
        EVENTS_IN_CONVERSATION_MAX - events,
        (HISTORY_BYTES_MAX - len(history)) // _ENTRY_BYTES_MAX,
    )


def is_full(history: bytes, events: int) -> bool:
    """Return whether a history accepts no more events."""
    return events >= EVENTS_IN_CONVERSATION_MAX or len(history) >= HISTORY_BYTES_MAX


def encode_entries(entries: list[tuple[int, Event]], source: str) -> bytes:
    """Return the bytes to append for these events.

    Args:
        entries: offset and event, in order of arrival; at least one.
        source: the source of the history's first event.
    """
    # Leave out the header of the array: one byte for up to 15 entries, three bytes for more.
    encoded = _encode(entries)[1 if len(entries) < 16 else 3 :]
    member = _source_member(source)
    return encoded if member is None else encoded.replace(member, _EMPTY_SOURCE_MEMBER)


def decode_entries(history: bytes, events: int, source: str) -> list[tuple[int, Event]]:
    """Return (offset, event) for each entry, in order of arrival."""
    return [
        (offset, event if event.source else msgspec.structs.replace(event, source=source))
        for offset, event in _decode_entries(_as_array(history, events))
    ]


def offsets_by_id(history: bytes, events: int) -> dict[str, int]:
    """Return the offset at which each event id first arrived."""
    offsets: dict[str, int] = {}
    for place in _decode_places(_as_array(history, events)):
        offsets.setdefault(place.event.id, place.offset)
    return offsets


def may_have(history: bytes, source: str, event: Event) -> bool:
    """Return whether a history may have an event of the same source and id.

    Source and id are adjacent in an encoding, so one search for their bytes finds the event. These
    bytes cannot be part of a number, which has fewer. If the source is shorter than 32 bytes, they
    cannot be part of a text either: in UTF-8 the head of such a source never follows a letter. If
    the source is longer, a match may be part of a text: decode the history to be certain.
    """
    return _run_of(source, event) in history


def has_same(history: bytes, source: str, event: Event) -> bool:
    """Return whether a history has an equal event; never true if the source is long."""
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
    """Return the source member of an encoded event, or None if it must not be replaced."""
    if not (_SHARED_SOURCE_MIN <= len(source) <= _SHARED_SOURCE_MAX and source.isascii()):
        return None
    return _SOURCE_MEMBER + _encode(source)


def _as_array(history: bytes, events: int) -> bytes:
    return b"\xdd" + events.to_bytes(4, "big") + history
