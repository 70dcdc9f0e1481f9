"""Note which partitions stand still at a damaged batch, and say what to do about it."""

from collections.abc import Iterable

from pipeline.logs import get_logger
from pipeline.stream.fetched import RecordBatch


class Damages:
    """The damage of a worker's partitions. A partition that is not here moves."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._found: dict[int, str] = {}
        self._passed: dict[int, int] = {}  # partition → where it continued after damage
        self._log = get_logger("worker")

    def stop(self, number: int, batch: RecordBatch) -> None:
        """Note that a partition stands still at a batch; log it once."""
        text = (
            f"{self._topic}[{number}] is damaged from offset {batch.offset} on, up to "
            f"{batch.next_offset - 1} or beyond: {batch.damage}. Restore it from a replica, or give "
            f"these records up: resmeter topics step-over {number}:{batch.offset} --to "
            f"{batch.next_offset} --who NAME --reason TEXT"
        )
        if self._found.get(number) == text:
            return
        self._found[number] = text
        self._log.error(
            "partition_damaged",
            partition=number,
            first_offset=batch.offset,
            last_offset=batch.next_offset - 1,
            detail=text,
            consequence="the partition stands still, and no timer of it fires; the others continue",
        )

    def step_over(self, number: int, batch: RecordBatch, to: int) -> bool:
        """Log that an operator's decision takes a partition past a batch; False if that is known.

        The same batch may come twice: it was fetched again before the position moved.
        """
        if self._passed.get(number, 0) > batch.offset:
            return False
        self._passed[number] = to
        self._found.pop(number, None)
        self._log.warning(
            "damage_stepped_over", partition=number, first_offset=batch.offset, last_offset=to - 1
        )
        return True

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget partitions that another worker owns now."""
        for number in numbers:
            self._found.pop(number, None)
            self._passed.pop(number, None)

    def texts(self) -> list[str]:
        return list(self._found.values())
