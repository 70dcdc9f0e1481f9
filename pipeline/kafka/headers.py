"""This file makes dead letters: the original bytes, why, and where they came from. Pure.

A record can be larger than any that we may write: Kafka's limit is on what is compressed. Its dead
letter is cut, or one record would stop its partition for ever.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.events.model import Reason, Rejected

BYTES_MAX = 800_000  # of key, headers and value: what a topic takes by default, less a margin
DETAIL_CHARACTERS_MAX = 1_000
ORIGIN_HEADER = "resmeter-origin"
CUT_HEADER = "resmeter-cut"
_HEADER_BYTES = 8  # what Kafka adds to each, at most

Header = tuple[str, bytes]  # with a content that may be null all the same, as Kafka allows


class DeadLetter(msgspec.Struct, frozen=True):
    """A rejected record as it is written: key and value as they came, the rest in headers.

    What is too large is cut: `resmeter-cut` says of what parts, and how many bytes each had.
    """

    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    reason: Reason
    offset: int

    @classmethod
    def of(cls, record: Any, topic: str, partition: int, rejected: Rejected) -> "DeadLetter":
        """Make the dead letter of a record of the events topic."""
        origin: Sequence[tuple[str, str | int]] = (
            ("resmeter-reason", rejected.reason),
            ("resmeter-detail", rejected.detail[:DETAIL_CHARACTERS_MAX]),
            ("resmeter-topic", topic),
            ("resmeter-partition", partition),
            ("resmeter-offset", record.offset),
            ("resmeter-timestamp", record.timestamp),
        )
        ours = tuple((name, str(content).encode("utf-8", "replace")) for name, content in origin)
        key, headers, value, cut = _fitted(record.key, tuple(record.headers), record.value)
        if cut:
            ours = (*ours, (CUT_HEADER, cut.encode()))
        return cls(key, value, (*headers, *ours), rejected.reason, record.offset)


def _fitted(
    key: bytes | None, headers: tuple[Header, ...], value: bytes | None
) -> tuple[bytes | None, tuple[Header, ...], bytes | None, str]:
    """Return key, headers and value so that they fit, and which were cut: "value=60000000"."""
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
                headers, size = (), 0  # noqa: PLW2901 - half a header says nothing
            else:
                value = (value or b"")[:left]
        left -= min(size, left)
    return key, headers, value, ",".join(cut)
