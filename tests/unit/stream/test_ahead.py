"""A partition that waits for a record's time says so, once, and is silent when it goes on."""

from prometheus_client import CollectorRegistry

from pipeline.metrics import WorkerMetrics
from pipeline.stream.ahead import AheadOfTime
from pipeline.stream.fetched import RecordBatch

T0 = 1_790_000_000_000
DAY_MS = 86_400_000


def waiting() -> tuple[AheadOfTime, WorkerMetrics]:
    metrics = WorkerMetrics(CollectorRegistry())
    return AheadOfTime("events", metrics.ahead), metrics


def seconds(metrics: WorkerMetrics) -> float:
    return float(metrics.ahead.labels(3)._value.get())


def test_the_records_and_their_time_are_named_until_the_partition_goes_on() -> None:
    ahead, metrics = waiting()

    ahead.wait(3, RecordBatch((), 70, 75, T0, 5), DAY_MS)

    (text,) = ahead.texts()
    assert text.startswith("events[3] stands still at offset 70: the records from there to 74")
    assert "2026-09-21" in text
    assert (ahead.has(3), ahead.has(4), seconds(metrics)) == (True, False, 86_400)
    ahead.drop([3, 4])
    assert (ahead.texts(), ahead.has(3), seconds(metrics)) == ([], False, 0)


def test_a_time_of_a_year_that_no_calendar_has_is_named_too() -> None:
    ahead, _ = waiting()

    ahead.wait(0, RecordBatch((), 1, 2, 2**62, 1), 2**62)

    assert "stands still at offset 1" in ahead.texts()[0]


def test_a_short_wait_is_no_warning() -> None:
    ahead, metrics = waiting()

    ahead.wait(3, RecordBatch((), 70, 75, T0, 5), 5_000)

    assert (ahead.texts(), ahead.has(3), seconds(metrics)) == ([], False, 5)
    ahead.drop([3])
    assert seconds(metrics) == 0
