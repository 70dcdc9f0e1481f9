"""Find the ledger's usage records of the conversations that a partition has now.

A usage record keeps the place of its evidence as it was when it was stored. If the events were copied
to another topic, a replay finds them elsewhere.
"""

from collections.abc import Collection, Iterator

from pipeline.ledger import Ledger, reports
from pipeline.replay.comparison import by_conversation
from pipeline.replay.partition import PartitionReplay
from pipeline.usage.record import UsageRecord


class StoredRecords:
    """The ledger's usage records, by the partition of the events topic that has their conversation.

    Args:
        ledger: the ledger.
        topic: the events topic.
        partitions: its partitions.
    """

    def __init__(self, ledger: Ledger, topic: str, partitions: Collection[int]) -> None:
        self._ledger = ledger
        self._topic = topic
        self._elsewhere = by_conversation(reports.decided_elsewhere(ledger, topic, partitions))

    def of(self, partition: int, replay: PartitionReplay) -> Iterator[UsageRecord]:
        """Yield the records of a partition; those of a conversation in the order in which they came."""
        if self._elsewhere:
            for replayed in replay.conversations():
                yield from self._elsewhere.pop(replayed.place, ())
        yield from reports.decided_from(self._ledger, self._topic, partition)

    def left(self) -> list[UsageRecord]:
        """Return, after all partitions, the records of conversations that none of them has."""
        return [record for records in self._elsewhere.values() for record in records]
