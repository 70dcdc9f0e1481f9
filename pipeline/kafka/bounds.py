"""Where a partition begins and ends. Pure."""

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
