"""What a broker says about a topic and its partitions. Pure."""

from collections.abc import Mapping
from typing import NamedTuple


class Bounds(NamedTuple):
    """Where a partition begins and ends.

    `low` is the first offset that retention has kept. `stable` is the end for a consumer that reads
    only committed records: the first record of an open transaction, or `high`. `high` is the offset
    after the last record. So records from `stable` to `high` are in the log and cannot be read yet.
    """

    low: int
    stable: int
    high: int


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
