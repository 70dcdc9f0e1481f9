"""Count what producers did wrong, and log what must be looked at one by one."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pipeline.kafka.partitioners import Agreement
from pipeline.metrics import WorkerMetrics
from pipeline.stream.batch import BatchResult

_LINES_MAX = 10  # for each batch: a broken producer repeats itself


class MistakeLog:
    """Counts the mistakes in batches; logs ids that were used again, and partitioners that differ."""

    def __init__(self, metrics: WorkerMetrics, log: Any, topic: str) -> None:
        self._metrics = metrics
        self._log = log
        self._topic = topic
        self._keys: Counter[str] = Counter()  # since the start, as in `Mistakes`
        self._warn_from = 1  # misplaced keys; then at each doubling

    def _note_keys(self, keys: Mapping[Agreement, int]) -> None:
        for agreement, number in keys.items():
            self._metrics.keys.labels(agreement).inc(number)
        self._keys.update(keys)
        by_murmur2, by_crc32, elsewhere = (
            self._keys[name] for name in ("murmur2", "crc32", "neither")
        )
        misplaced = min(by_murmur2, by_crc32) + elsewhere
        if misplaced >= self._warn_from:
            self._warn_from = 2 * misplaced
            self._log.warning(
                "partitioners_differ",
                topic=self._topic,
                by_murmur2=by_murmur2,
                by_crc32=by_crc32,
                by_neither=elsewhere,
                consequence="conversations are split over partitions, and billed in parts",
                fix="let all producers use one partitioner: librdkafka needs "
                "partitioner=murmur2_random to agree with Java; then set "
                "RESMETER_TOPICS__PARTITIONER",
            )

    def note(self, partition: int, result: BatchResult) -> None:
        """Count and log the mistakes in a batch that was applied."""
        mistakes = result.mistakes
        if mistakes.keys:
            self._note_keys(mistakes.keys)
        count = self._metrics.mistakes.labels
        count("after_end").inc(mistakes.after_end)
        count("same_millisecond").inc(mistakes.same_millisecond)
        count("reused_id").inc(len(mistakes.reused_ids))
        for tenant_id, conversation_id, reused in mistakes.reused_ids[:_LINES_MAX]:
            self._log.warning(
                "event_id_reused",
                topic=self._topic,
                partition=partition,
                offset=reused.offset,
                tenantid=tenant_id,
                conversation=conversation_id,
                source=reused.event.source,
                id=reused.event.id,
                type=reused.event.type,
                first_type=reused.first.type,
                consequence="only the first event counts",
            )
        if (more := len(mistakes.reused_ids) - _LINES_MAX) > 0:
            self._log.warning("event_ids_reused", partition=partition, more=more)
