"""Record batches, whole, as aiokafka fetches them; large ones are cut into parts.

A Kafka producer sends records in batches, and the broker stores and returns the same batches.
aiokafka takes each apart and returns single records. Keeping the batch whole lets a record be
parsed, decoded and dropped while the processor's cache still has it: a fifth less time than
parsing everything that was fetched first.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

NO_TIMESTAMP = -1


class RecordBatch(NamedTuple):
    """A record batch as a producer made it. Its records are parsed as they are iterated over."""

    records: Iterable[Any]  # can be iterated over once
    offset: int  # of the first record
    next_offset: int  # after the last record
    timestamp: int  # ms: the latest of the records'; NO_TIMESTAMP where there are none
    size: int  # in offsets: compaction and transactions may leave fewer records


class WholeBatch:
    """Stand in for one record, so that aiokafka leaves the records of a batch to us.

    aiokafka iterates over a batch and makes a consumer record of each item. This one yields itself
    as the only item, with the offset of the batch's last record.
    """

    __slots__ = ("_batch", "offset")

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self.offset = batch.next_offset - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator["WholeBatch"]:
        yield self

    def __next__(self) -> Any:
        """Return the marker of a control batch: aiokafka asks for it by `next`."""
        return next(self._batch)

    def since(self, offset: int) -> RecordBatch:
        """Return the batch without the records before an offset."""
        batch = self._batch
        # A compressed batch is unpacked here, in the consumer's thread, beside the event loop's.
        records = iter(batch)
        if batch.base_offset < offset:
            records = [record for record in batch if record.offset >= offset]
        first, end = max(batch.base_offset, offset), batch.next_offset
        return RecordBatch(records, first, end, batch.max_timestamp, end - first)


class WholeBatches:
    """Wrap what aiokafka reads the batches of a fetch from: each comes as a `WholeBatch`."""

    def __init__(self, records: Any) -> None:
        self.has_next = records.has_next
        self._next_batch = records.next_batch

    def next_batch(self) -> WholeBatch:
        return WholeBatch(self._next_batch())


def in_parts(batches: Iterable[RecordBatch], size: int) -> Iterator[list[RecordBatch]]:
    """Yield batches in lists of about `size` records; cut a batch that is larger."""
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
