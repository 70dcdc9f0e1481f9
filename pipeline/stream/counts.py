"""Count in the worker's metrics what a batch of records was and what it emitted."""

from collections import Counter

from pipeline.events.model import TYPES
from pipeline.metrics import WorkerMetrics, remove_partition
from pipeline.stream.batch import BatchResult


def count_applied(metrics: WorkerMetrics, work: BatchResult) -> None:
    """Count the records of a batch by what became of them, and what they emitted."""
    metrics.records.inc(work.records_read)
    accounted = sum(work.events_by_type) + len(work.dead_letters) + work.redelivered
    metrics.unaccounted.inc(work.records_read - accounted)
    for kind, count in zip(TYPES, work.events_by_type, strict=True):
        if count:
            metrics.events.labels(kind).inc(count)
    for reason, count in Counter(letter.reason for letter in work.dead_letters).items():
        metrics.rejected.labels(reason).inc(count)
    metrics.duplicates.inc(work.duplicates)
    metrics.redelivered.inc(work.redelivered)
    count_emitted(metrics, work)


def count_emitted(metrics: WorkerMetrics, work: BatchResult) -> None:
    """Count the usage records that were emitted, and the conversations that were sealed."""
    metrics.sealed.inc(work.histories_sealed)
    emitted = Counter(
        (output.record.outcome, f"{output.record.quantity:+d}", output.record.reason)
        for output in work.outputs
    )
    for labels, count in emitted.items():
        metrics.transitions.labels(*labels).inc(count)


def drop_partition(metrics: WorkerMetrics, partition: int) -> None:
    """Remove the series of a partition that another worker owns now."""
    for gauge in (metrics.lag_records, metrics.lag_seconds, metrics.commit_age):
        remove_partition(gauge, partition)
