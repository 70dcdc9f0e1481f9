"""Keep the record batches of a fetch whole, and cut large ones into parts.

A Kafka producer sends records in batches, and the broker stores and returns the same batches.
aiokafka unpacks each batch and returns single records. With whole batches, a record is parsed,
decoded and dropped while it is still in the processor's cache. That takes less processor time than
first parsing everything that was fetched.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

NO_TIMESTAMP = -1
_LAST = 2**62


class RecordBatch(NamedTuple):
    """A record batch as a producer sent it. Iterating over the records parses them."""

    records: Iterable[Any]  # can be iterated over once
    offset: int  # of the first record
    next_offset: int  # after the last record
    timestamp: int  # ms: the latest record's; NO_TIMESTAMP if there are no records
    size: int  # number of offsets; after compaction or transactions, records may be fewer
    damage: str = ""  # why the bytes are not what the broker stored; then there are no records


class WholeBatch:
    """Stand in for a batch and for its only record, so that aiokafka does not unpack the batch.

    aiokafka iterates over a batch and makes a consumer record of each item. A `WholeBatch` yields
    itself as the only item, with the offset of the batch's last record.
    """

    __slots__ = ("_batch", "offset")

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        # aiokafka leaves out an item before the offset that it has asked for.
        self.offset = _LAST if batch.damage else batch.next_offset - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator["WholeBatch"]:
        yield self

    def __next__(self) -> Any:
        """Return the marker of a control batch: aiokafka calls `next` for it."""
        return next(self._batch)

    def since(self, offset: int) -> RecordBatch:
        """Return the batch without the records before an offset."""
        batch = self._batch
        if batch.damage:
            # Nothing in the batch can be trusted, its own offset neither.
            end = max(batch.next_offset, offset + 1)
            return RecordBatch((), offset, end, NO_TIMESTAMP, 0, batch.damage)
        records = iter(batch)
        if batch.base_offset < offset:
            records = [record for record in records if record.offset >= offset]
        first, end = max(batch.base_offset, offset), batch.next_offset
        return RecordBatch(records, first, end, batch.max_timestamp, end - first)


def in_parts(batches: Iterable[RecordBatch], size: int) -> Iterator[list[RecordBatch]]:
    """Yield lists of batches with about `size` records each; cut a batch that is larger."""
    part: list[RecordBatch] = []
    left = size
    for whole in batches:
        for batch in _cut(whole, size) if whole.size > size else (whole,):
            part.append(batch)
            left -= batch.size
            if left <= 0:
                yield part
                part, left = [], size
    if part:
        yield part


def _cut(whole: RecordBatch, size: int) -> Iterator[RecordBatch]:
    records = list(whole.records)
    for start in range(0, len(records), size):
        part = records[start : start + size]
        end = whole.next_offset if start + size >= len(records) else part[-1].offset + 1
        yield RecordBatch(part, part[0].offset, end, part[-1].timestamp, len(part))
    if not records:
        # Compaction may have removed every record, and a control batch never had any.
        yield whole
