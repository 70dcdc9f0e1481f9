"""Count a batch's records and results in the worker's metrics."""

from collections import Counter
from collections.abc import Iterable

from pipeline.events.model import TYPES
from pipeline.metrics import WorkerMetrics, remove_partition
from pipeline.stream.batch import BatchResult
from pipeline.stream.partition import Partition
from pipeline.stream.state import due_arrival_ms_of

_OVERDUE_COUNTED_MAX = 100_000  # entries; counting them takes some 30 ms


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


def count_overdue(partitions: Iterable[Partition], now_ms: int) -> int:
    """Count the conversations whose window ended a minute ago or more and that are not settled.

    A conversation may be in the queue twice, or be decided already: look at its state. Too many
    entries would block the event loop; then count them as they are.
    """
    buckets = [(p.states, keys) for p in partitions for keys in p.due_queue.until(now_ms)]
    entries = sum(len(keys) for _, keys in buckets)
    if entries > _OVERDUE_COUNTED_MAX:
        return entries
    overdue = {
        key
        for states, keys in buckets
        for key in keys
        if (stored := states.get(key)) is not None
        and (due_ms := due_arrival_ms_of(stored)) is not None
        and due_ms <= now_ms
    }
    return len(overdue)


def drop_partition(metrics: WorkerMetrics, partition: int) -> None:
    """Remove the series of a partition that another worker owns now."""
    for gauge in (
        metrics.lag_records,
        metrics.lag_seconds,
        metrics.commit_age,
        metrics.events_lost,
        metrics.clock_behind,
        metrics.open_transaction,
        metrics.ahead,
    ):
        remove_partition(gauge, partition)
