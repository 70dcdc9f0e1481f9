"""This file makes dead letters: the original bytes, why, and where they came from. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.events.model import Reason, Rejected


class DeadLetter(msgspec.Struct, frozen=True):
    """A rejected record as it is written: key and value as they came, the rest in headers."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    reason: Reason
    offset: int

    @classmethod
    def of(cls, record: Any, topic: str, partition: int, rejected: Rejected) -> "DeadLetter":
        """Make the dead letter of a record of the events topic."""
        origin: Sequence[tuple[str, str | int]] = (
            ("resmeter-reason", rejected.reason),
            ("resmeter-detail", rejected.detail),
            ("resmeter-topic", topic),
            ("resmeter-partition", partition),
            ("resmeter-offset", record.offset),
            ("resmeter-timestamp", record.timestamp),
        )
        ours = tuple((name, str(content).encode("utf-8", "replace")) for name, content in origin)
        return cls(
            record.key, record.value, (*record.headers, *ours), rejected.reason, record.offset
        )
