"""The headers that resmeter writes, and the format of dead letters, written and read. Pure.

docs/reference/dead-letter-format.md describes the format for people who read the topic.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from pipeline.events.model import REASONS, Headers, Reason, Rejected
from pipeline.events.signature import SIGNATURE_HEADER

ORIGIN_HEADER = "resmeter-origin"  # of a usage record: the events that it follows from
REDRIVES_HEADER = "resmeter-redrives"  # of an event: how often it was sent again
REASON_HEADER = "resmeter-reason"
DETAIL_HEADER = "resmeter-detail"
TOPIC_HEADER = "resmeter-topic"
PARTITION_HEADER = "resmeter-partition"
OFFSET_HEADER = "resmeter-offset"
TIMESTAMP_HEADER = "resmeter-timestamp"
CUT_HEADER = "resmeter-cut"
_OURS = "resmeter-"

BYTES_MAX = 800_000  # of key, headers and value: a topic's default limit, less a margin
DETAIL_CHARACTERS_MAX = 1_000
_HEADER_BYTES = 8  # what Kafka adds to each, at most


class Record(Protocol):
    """A Kafka record, as far as its dead letter needs it; aiokafka's `ConsumerRecord` is one."""

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
    """A rejected record as it is written: key and value unchanged, the rest in headers.

    A record can be larger than any that we may write, as Kafka limits the compressed size. Then
    its dead letter is cut, or one record would stop its partition for ever; the header
    `resmeter-cut` names the parts that were cut, with the bytes that each had.
    """

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]  # those of the record, then ours
    reason: Reason
    offset: int

    @classmethod
    def of(cls, record: Record, topic: str, partition: int, rejected: Rejected) -> "DeadLetter":
        """Make the dead letter of a record of the events topic."""
        contents: Sequence[tuple[str, str | int]] = (
            (REASON_HEADER, rejected.reason),
            (DETAIL_HEADER, rejected.detail[:DETAIL_CHARACTERS_MAX]),
            (TOPIC_HEADER, topic),
            (PARTITION_HEADER, partition),
            (OFFSET_HEADER, record.offset),
            (TIMESTAMP_HEADER, record.timestamp),
        )
        ours = tuple((name, str(content).encode("utf-8", "replace")) for name, content in contents)
        key, headers, value, cut = _cut_to_fit(record.key, tuple(record.headers), record.value)
        if cut:
            ours = (*ours, (CUT_HEADER, cut.encode()))
        return cls(key, value, (*headers, *ours), rejected.reason, record.offset)


class DeadLetterHeaders(msgspec.Struct, frozen=True):
    """What the headers of a dead letter say.

    If headers are missing or invalid, `reason` is empty and `origin` None: another program wrote
    the record.
    """

    reason: str
    detail: str
    origin: tuple[str, int, int] | None  # topic, partition, offset of the rejected record
    arrived_ms: int | None
    redrives: int
    cut: str  # "value=60000000": the parts that were cut, with the bytes that each had
    original: tuple[tuple[str, bytes | None], ...]  # the headers that the record had


def read_dead_letter_headers(headers: Headers) -> DeadLetterHeaders:
    """Return what the headers of a dead letter say; of headers that occur twice, the last counts."""
    ours = {
        name: (content or b"").decode("utf-8", "replace")
        for name, content in headers
        if name.startswith(_OURS)
    }
    reason, redrives = ours.get(REASON_HEADER, ""), ours.get(REDRIVES_HEADER, "0")
    origin: tuple[str, int, int] | None = None
    arrived_ms: int | None = None
    try:
        partition, offset = int(ours[PARTITION_HEADER]), int(ours[OFFSET_HEADER])
        origin = (ours[TOPIC_HEADER], partition, offset)
        arrived_ms = int(ours[TIMESTAMP_HEADER])
    except (KeyError, ValueError):
        pass
    return DeadLetterHeaders(
        reason=reason if reason in REASONS else "",
        detail=ours.get(DETAIL_HEADER, ""),
        origin=origin,
        arrived_ms=arrived_ms,
        redrives=int(redrives) if redrives.isdecimal() else 0,
        cut=ours.get(CUT_HEADER, ""),
        # The signature is the producer's, and part of the record.
        original=tuple(
            (name, content)
            for name, content in headers
            if not name.startswith(_OURS) or name == SIGNATURE_HEADER
        ),
    )


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
                headers, size = (), 0  # noqa: PLW2901 - some of the headers would mislead
            else:
                value = (value or b"")[:left]
        left -= min(size, left)
    return key, headers, value, ",".join(cut)
