"""Encode the journal's entries, and read what any version wrote. Pure."""

from collections.abc import Iterable

import msgspec

from pipeline.decoding import json_decoder
from pipeline.ledger.journal import Conclusion, Entry, Item, Withdrawal
from pipeline.ledger.month_entries import MonthItem

FORMAT = 2  # of an entry with an item that format 1 lacks: an older version must not pass over it
# What an entry says of records and identifiers, in bytes of JSON; Kafka compresses it. A meter event of
# very many records makes an entry of its own, which can be larger.
ENTRY_BYTES = 512 * 1024


class NewerFormatError(ValueError):
    """A newer version wrote the entry. Without it, nothing after it can be understood."""


_encode = msgspec.json.Encoder().encode
_decode = json_decoder(Entry)


class _Header(msgspec.Struct):
    format: int
    run: str
    items: list[msgspec.Raw]


_decode_header = json_decoder(_Header)


def encode_entry(entry: Entry) -> bytes:
    """Return the entry with the lowest format that has its items."""
    if not all(map(_is_of_format_1, entry.items)):
        entry = msgspec.structs.replace(entry, format=FORMAT)
    return _encode(entry)


def _is_of_format_1(item: Item) -> bool:
    if isinstance(item, Conclusion):
        return item.state in ("delivered", "rejected")
    return not isinstance(item, Withdrawal | MonthItem)


def encode_items(run: str, items: Iterable[Item]) -> list[bytes]:
    """Return the entries with these items in this order, each of about `ENTRY_BYTES` at most."""
    entries: list[bytes] = []
    part: list[Item] = []
    size = 0
    for item in items:
        length = len(_encode(item))
        if part and size + length > ENTRY_BYTES:
            entries.append(encode_entry(Entry(run=run, items=tuple(part))))
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        entries.append(encode_entry(Entry(run=run, items=tuple(part))))
    return entries


def decode_entry(value: bytes | None) -> Entry | None:
    """Return an entry, or None for a record that no version of resmeter wrote.

    Raises:
        NewerFormatError: a newer version wrote it.
    """
    try:
        header = _decode_header(value or b"")
    except ValueError:
        return None
    if header.format > FORMAT:
        raise NewerFormatError(f"it has the format {header.format}, this version knows {FORMAT}")
    try:
        return _decode(value or b"")
    except ValueError:
        return None
