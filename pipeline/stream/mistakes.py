"""Count what producers did wrong, and log what must be looked at one by one."""

from typing import Any

from pipeline.metrics import WorkerMetrics
from pipeline.stream.batch import BatchResult

_LINES_MAX = 10  # for each batch: a broken producer repeats itself


class MistakeLog:
    """Counts the mistakes in batches, and logs each id that was used again."""

    def __init__(self, metrics: WorkerMetrics, log: Any, topic: str) -> None:
        self._metrics = metrics
        self._log = log
        self._topic = topic

    def note(self, partition: int, result: BatchResult) -> None:
        """Count and log the mistakes in a batch that was applied."""
        mistakes = result.mistakes
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
