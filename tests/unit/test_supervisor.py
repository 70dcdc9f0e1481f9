"""The metrics of several processes are merged into one text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pipeline.metrics import WorkerMetrics
from pipeline.supervisor import merge_metrics


def _text(events: int) -> str:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    Counter("seen", "Seen.", ["type"], registry=registry).labels('a "b"\\').inc(events)
    Gauge("held", "Held.", registry=registry).set(events / 2)
    Histogram("took", "Took.", buckets=(1, 2), registry=registry).observe(1.5)
    return generate_latest(registry).decode()


def _samples(text: str) -> list[Sample]:
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


def test_each_sample_of_each_process_appears_once_with_its_process() -> None:
    texts = {0: _text(3), 1: _text(5)}

    merged = _samples(merge_metrics(texts).decode())

    expected = [
        (s.name, {**s.labels, "process": str(process)}, s.value)
        for process, text in texts.items()
        for s in _samples(text)
    ]
    key = repr
    assert sorted(((s.name, dict(sorted(s.labels.items())), s.value) for s in merged), key=key) == (
        sorted(((n, dict(sorted(labels.items())), v) for n, labels, v in expected), key=key)
    )


def test_help_and_type_appear_once_as_in_one_process() -> None:
    def heads(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("#")]

    assert heads(merge_metrics({0: _text(1), 1: _text(2)}).decode()) == heads(_text(1))


def test_a_process_that_does_not_respond_is_left_out() -> None:
    merged = _samples(merge_metrics({1: _text(5)}).decode())

    assert {s.labels["process"] for s in merged} == {"1"}
