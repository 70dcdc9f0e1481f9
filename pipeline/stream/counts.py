"""Count a batch's records and results in the worker's metrics."""

from collections import Counter

from pipeline.events.model import TYPES
from pipeline.metrics import WorkerMetrics, remove_partition
from pipeline.stream.batch import BatchResult


def count_applied(metrics: WorkerMetrics, result: BatchResult) -> None:
    """Count the records of a batch (accepted, rejected, redelivered) and its results."""
    metrics.records.inc(result.records_read)
    accounted = sum(result.events_by_type) + len(result.dead_letters) + result.redelivered
    metrics.unaccounted.inc(result.records_read - accounted)
    for kind, count in zip(TYPES, result.events_by_type, strict=True):
        if count:
            metrics.events.labels(kind).inc(count)
    letters = Counter((letter.source, letter.reason) for letter in result.dead_letters)
    for (source, reason), count in letters.items():
        metrics.rejected.labels(reason, source).inc(count)
    metrics.duplicates.inc(result.duplicates)
    metrics.redelivered.inc(result.redelivered)
    count_emitted(metrics, result)


def count_emitted(metrics: WorkerMetrics, result: BatchResult) -> None:
    """Count the usage records that were emitted, and the conversations that were sealed."""
    metrics.sealed.inc(result.histories_sealed)
    emitted = Counter(
        (output.record.outcome, f"{output.record.quantity:+d}", output.record.reason)
        for output in result.outputs
    )
    for labels, count in emitted.items():
        metrics.transitions.labels(*labels).inc(count)


def drop_partition(metrics: WorkerMetrics, partition: int) -> None:
    """Remove the series of a partition that another worker owns now."""
    for gauge in (metrics.lag_records, metrics.lag_seconds, metrics.commit_age):
        remove_partition(gauge, partition)
