"""What a broker says about a topic and its partitions. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from pipeline.decoding import json_decoder


class Bounds(NamedTuple):
    """Where a partition begins and ends.

    `low` is the first offset that retention has kept. `stable` is the end for a consumer that reads
    only committed records: the first record of an open transaction, or `high`. `high` is the offset
    after the last record. So records from `stable` to `high` are in the log and cannot be read yet.
    """

    low: int
    stable: int
    high: int


class StatesEnd(NamedTuple):
    """Where a partition of the changelog ended at the group's last commit, and where it ends now.

    A changelog only grows. If it ends before, states that were acknowledged are gone.
    """

    at_commit: int  # 0: the commit does not say it
    now: int


class TopicFacts(NamedTuple):
    """A topic as it is now. A topic that is deleted and made again gets another id."""

    topic_id: str  # "" if the brokers are too old to give one
    leaders: Mapping[int, int]  # partition → id of the broker that leads it

    @property
    def partitions(self) -> int:
        return len(self.leaders)


class Acknowledgement(NamedTuple):
    """What an operator has acknowledged: records before `until` are lost, and it is known."""

    until: int
    who: str
    reason: str
    at: str  # RFC 3339
    topic_id: str


class CommitNote(msgspec.Struct):
    """What a worker stores with each offset that it commits."""

    states_end: int  # the offset after the last state that it has written to the changelog


_decode_note = json_decoder(CommitNote)


def encode_note(states_end: int) -> str:
    """Return what to store with a committed offset."""
    return msgspec.json.encode(CommitNote(states_end)).decode()


def states_end_in(note: str | None) -> int:
    """Return the end of the changelog in a note; 0 if a tool or an older version committed."""
    try:
        return _decode_note(note or "").states_end
    except ValueError:
        return 0
