"""Write and read resmeter's headers, and the format of dead letters. Pure.

docs/reference/dead-letter-format.md describes the format for readers of the topic.
"""

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from pipeline.events.model import REASONS, Headers, Reason, Rejected
from pipeline.events.signature import SIGNATURE_HEADER

ORIGIN_HEADER = "resmeter-origin"  # on a usage record: the events that caused it
REDRIVES_HEADER = "resmeter-redrives"  # on an event: how often it was redriven, as its sender says
REASON_HEADER = "resmeter-reason"
DETAIL_HEADER = "resmeter-detail"
TOPIC_HEADER = "resmeter-topic"
PARTITION_HEADER = "resmeter-partition"
OFFSET_HEADER = "resmeter-offset"
TIMESTAMP_HEADER = "resmeter-timestamp"
CUT_HEADER = "resmeter-cut"
# In place of a header whose name is not UTF-8, which many clients cannot read: the name in hex digits
# follows. The header's value is unchanged.
NAME_PREFIX = "resmeter-name-"
_OURS = "resmeter-"
OTHER_SOURCE = "other"  # of a record that no configured producer has signed

BYTES_MAX = 800_000  # for key, headers and value: a topic's default limit, less a margin
DETAIL_CHARACTERS_MAX = 1_000
_STORED_NAME = re.compile(NAME_PREFIX + "(?:[0-9a-f]{2})+", re.ASCII)
_MS_MAX = 253_402_300_799_999  # the last millisecond of the year 9999
_COUNT = re.compile(b"[0-9]{1,9}")
REDRIVES_CLAIMED_MAX = 999_999_999
_HEADER_BYTES = 8  # what Kafka adds to each header, at most


class Record(Protocol):
    """The members of a Kafka record that a dead letter needs, as in `ConsumerRecord`."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...


class DeadLetter(msgspec.Struct, frozen=True):
    """A rejected record as the dead-letter topic stores it: unchanged, with our headers added.

    Kafka limits the compressed size of a record, so a rejected record can be too large for us to
    write uncompressed. Then its dead letter is cut; otherwise the worker could never get past the
    record. The header `resmeter-cut` names the parts that were cut, and how many bytes each had.
    """

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]  # the record's headers, then ours
    reason: Reason
    offset: int
    source: str = OTHER_SOURCE  # the id of the key that signed the record

    @classmethod
    def of(
        cls,
        record: Record,
        topic: str,
        partition: int,
        rejected: Rejected,
        source: str = OTHER_SOURCE,
    ) -> "DeadLetter":
        """Make the dead letter of a record of the events topic."""
        contents: Sequence[tuple[str, str | int]] = (
            (REASON_HEADER, rejected.reason),
            (DETAIL_HEADER, _cut_detail(rejected.detail)),
            (TOPIC_HEADER, topic),
            (PARTITION_HEADER, partition),
            (OFFSET_HEADER, record.offset),
            (TIMESTAMP_HEADER, record.timestamp),
        )
        ours = tuple((name, str(content).encode("utf-8", "replace")) for name, content in contents)
        named = tuple((_stored_name(name), content) for name, content in record.headers)
        key, headers, value, cut = _cut_to_fit(record.key, named, record.value)
        if cut:
            ours = (*ours, (CUT_HEADER, cut.encode()))
        return cls(key, value, (*headers, *ours), rejected.reason, record.offset, source)


class DeadLetterHeaders(msgspec.Struct, frozen=True):
    """The contents of a dead letter's headers.

    Another program may write a record whose headers are missing or invalid. Then `reason` is empty
    if it is missing or unknown, and `origin` is None if a part of it is missing.
    """

    reason: str
    detail: str
    origin: tuple[str, int, int] | None  # topic, partition, offset of the rejected record
    arrived_ms: int | None
    redrives: int
    cut: str  # "value=60000000": the parts that were cut, and how many bytes each had
    original: tuple[tuple[str, bytes | None], ...]  # the headers that the record had


def read_dead_letter_headers(headers: Headers) -> DeadLetterHeaders:
    """Return the contents of a dead letter's headers; if a header occurs twice, the last counts."""
    ours = {
        name: (content or b"").decode("utf-8", "replace")
        for name, content in headers
        if name.startswith(_OURS)
    }
    reason = ours.get(REASON_HEADER, "")
    origin: tuple[str, int, int] | None = None
    arrived_ms: int | None = None
    try:
        partition = _number(ours[PARTITION_HEADER], 2**31 - 1)
        offset = _number(ours[OFFSET_HEADER], 2**63 - 1)
        origin = (ours[TOPIC_HEADER], partition, offset)
        arrived_ms = _number(ours[TIMESTAMP_HEADER], _MS_MAX)
    except (KeyError, ValueError):
        pass
    return DeadLetterHeaders(
        reason=reason if reason in REASONS else "",
        detail=ours.get(DETAIL_HEADER, ""),
        origin=origin,
        arrived_ms=arrived_ms,
        redrives=redrives_in(headers),
        cut=ours.get(CUT_HEADER, ""),
        # The producer wrote the signature, so it belongs to the record.
        original=tuple(
            (_original_name(name), content)
            for name, content in headers
            if not name.startswith(_OURS) or name == SIGNATURE_HEADER or _is_stored_name(name)
        ),
    )


def redrives_in(headers: Headers) -> int:
    """Return how often a record was redriven, by its own account: any producer can write the header."""
    claims = [content or b"" for name, content in headers if name == REDRIVES_HEADER]
    return int(claims[-1]) if claims and _COUNT.fullmatch(claims[-1]) else 0


def _number(text: str, highest: int) -> int:
    """Return a whole number; raise ValueError if it is below 0 or above `highest`."""
    number = int(text)
    if not 0 <= number <= highest:
        raise ValueError(f"{number} is out of range")
    return number


def _stored_name(name: str) -> str:
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        return NAME_PREFIX + name.encode("utf-8", "surrogateescape").hex()
    return name


def _is_stored_name(name: str) -> bool:
    return _STORED_NAME.fullmatch(name) is not None


def _original_name(name: str) -> str:
    if not _is_stored_name(name):
        return name
    return bytes.fromhex(name.removeprefix(NAME_PREFIX)).decode("utf-8", "surrogateescape")


def _cut_detail(detail: str) -> str:
    if len(detail) <= DETAIL_CHARACTERS_MAX:
        return detail
    return detail[: DETAIL_CHARACTERS_MAX - 3] + "..."


def _cut_to_fit(
    key: bytes | None, headers: tuple[tuple[str, bytes | None], ...], value: bytes | None
) -> tuple[bytes | None, tuple[tuple[str, bytes | None], ...], bytes | None, str]:
    """Return key, headers and value that fit into a record, and what was cut: "value=60000000"."""
    sizes = {
        "key": len(key or b""),
        "headers": sum(
            len(name.encode()) + len(content or b"") + _HEADER_BYTES for name, content in headers
        ),
        "value": len(value or b""),
    }
    if sum(sizes.values()) <= BYTES_MAX:
        return key, headers, value, ""
    cut = []
    left = BYTES_MAX
    for part, size in sizes.items():
        if size > left:
            cut.append(f"{part}={size}")
            if part == "key":
                key = (key or b"")[:left]
            elif part == "headers":
                headers, size = (), 0  # noqa: PLW2901 - a part of the headers would mislead
            else:
                value = (value or b"")[:left]
        left -= min(size, left)
    return key, headers, value, ",".join(cut)
