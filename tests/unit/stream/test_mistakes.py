"""What producers do wrong is counted and named, and changes nothing about what is owed."""

import io
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from pipeline.catalog.policies import preset
from pipeline.config import LogSettings
from pipeline.events.times import format_time
from pipeline.logs import configure, get_logger
from pipeline.metrics import MISTAKES, WorkerMetrics
from pipeline.replay.comparison import split_conversations
from pipeline.replay.partition import PartitionReplay
from pipeline.resolve.policy import Timeline
from pipeline.stream.batch import BatchResult
from pipeline.stream.mistakes import MistakeLog
from pipeline.stream.partition import Partition
from tests.support.events import Record

CASES = Path(__file__).parent.parent.parent / "cases"
TIMELINE = Timeline([preset("fin-2026")])
T0 = 1_777_885_200_000
DAY_MS = 86_400_000


def _value(event_id: str, kind: str, data: dict[str, Any], at: int = T0, **more: str) -> bytes:
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/chat/long-source-of-more-than-31-bytes",
        "type": f"conversation.{kind}",
        "subject": "c1",
        "time": format_time(at),
        "tenantid": "acme",
        "data": data,
    }
    return orjson.dumps(event | more)


def _records(values: list[bytes], at: int = T0 + 10) -> list[Record]:
    return [Record(n, at, b"acme:c1", value) for n, value in enumerate(values)]


QUESTION = _value("m1", "customer_message", {"intent": "help_request"})
ANSWER = _value("m2", "ai_message", {"kind": "answer"}, T0 + 1)
HUMAN_PLEASE = _value("m2", "customer_message", {"intent": "human_request"}, T0 + 2)


def _apply(records: list[Record]) -> BatchResult:
    partition = Partition("events", 0, lambda _: TIMELINE)
    partition.schedule_all()
    return partition.apply(records)


def _replayed(records: list[Record], seal_after_ms: int = DAY_MS) -> PartitionReplay:
    replay = PartitionReplay(len(records), lambda _: TIMELINE, seal_after_ms=seal_after_ms)
    for record in records:
        replay.take(record.offset, record.timestamp, record.key, record.value, record.headers)
    return replay


def _case(name: str) -> list[Record]:
    lines = (CASES / f"{name}.ndjson").read_bytes().splitlines()
    events = [orjson.loads(line) for line in lines]
    return [
        Record(n, T0 + DAY_MS, f"{event['tenantid']}:{event['subject']}".encode(), line)
        for n, (event, line) in enumerate(zip(events, lines, strict=True))
    ]


# --- one id for two events ------------------------------------------------------------------------


def test_an_id_used_again_for_another_event_is_told_with_both_types() -> None:
    result = _apply(_records([QUESTION, ANSWER, HUMAN_PLEASE]))

    (reused,) = result.mistakes.reused_ids
    assert reused.reused.offset == 2
    assert reused.reused.event.type == "conversation.customer_message"
    assert reused.reused.first.type == "conversation.ai_message"
    assert result.duplicates == 1


@pytest.mark.parametrize("again", [QUESTION, ANSWER])
def test_the_same_event_again_is_a_duplicate_and_no_mistake(again: bytes) -> None:
    result = _apply(_records([QUESTION, ANSWER, again, again]))

    assert result.duplicates == 2
    assert result.mistakes.reused_ids == []


def test_an_event_that_only_the_slow_reader_reads_has_the_same_content() -> None:
    # The zone and the stated default are read by the authority, and say the same.
    event = orjson.loads(ANSWER)
    event["time"] = event["time"].replace("Z", "+00:00")
    event["data"] = {"kind": "answer", "billable": True, "agent": "another text"}
    event["environment"] = "live"

    result = _apply(_records([QUESTION, ANSWER, orjson.dumps(event)]))

    assert result.duplicates == 1
    assert result.mistakes.reused_ids == []


def test_many_reused_ids_are_counted_all_and_logged_in_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    configure(LogSettings(format="json"))
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)

    mistakes = MistakeLog(metrics, get_logger("worker"), "events")
    mistakes.note(3, _apply(_records([QUESTION, ANSWER, *[HUMAN_PLEASE] * 15])))

    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["event_id_reused"] * 10 + ["event_ids_reused"]
    assert {key: lines[0][key] for key in ("partition", "offset", "id", "type", "first_type")} == {
        "partition": 3,
        "offset": 2,
        "id": "m2",
        "type": "conversation.customer_message",
        "first_type": "conversation.ai_message",
    }
    assert lines[-1]["more"] == 5
    name = "resmeter_producer_mistakes_total"
    assert registry.get_sample_value(name, {"mistake": "reused_id"}) == 15


def test_the_audit_names_an_id_that_was_used_again() -> None:
    (finding,) = _replayed(_records([QUESTION, ANSWER, HUMAN_PLEASE])).reused_ids

    assert (finding.kind, finding.tenant_id, finding.conversation) == ("reused_id", "acme", "c1")
    assert "offset 2" in finding.detail
    assert "conversation.customer_message" in finding.detail
    assert "conversation.ai_message" in finding.detail


def test_the_audit_names_an_id_that_was_used_again_after_a_seal() -> None:
    later = T0 + 3 * DAY_MS
    again = _value("m2", "customer_message", {"intent": "human_request"}, later)
    records = [*_records([QUESTION, ANSWER]), Record(2, later, b"acme:c1", again)]

    (finding,) = _replayed(records).reused_ids

    assert "offset 2" in finding.detail


def test_the_audit_names_a_conversation_on_two_partitions() -> None:
    places: dict[tuple[str, str], int] = {}
    replay = _replayed(_records([QUESTION, ANSWER]))

    assert split_conversations(replay, 1, places, "events") == []
    (finding,) = split_conversations(replay, 4, places, "events")
    assert (finding.kind, finding.conversation) == ("split", "c1")
    assert "partitions 1 and 4" in finding.detail


# --- events after the end, and ties ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "after_end", "same_millisecond"),
    [("merged_reply", 1, 0), ("merged_bounce", 0, 0), ("same_second", 0, 6), ("spam_reply", 2, 0)],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_mistakes_of_a_producer_are_counted_for_every_size_of_batch(
    name: str, after_end: int, same_millisecond: int, size: int
) -> None:
    partition = Partition("events", 0, lambda _: TIMELINE)
    partition.schedule_all()
    records = _case(name)

    results = [
        partition.apply(records[start : start + size]) for start in range(0, len(records), size)
    ]

    assert sum(result.mistakes.after_end for result in results) == after_end
    assert sum(result.mistakes.same_millisecond for result in results) == same_millisecond


def test_events_sent_again_after_the_end_are_no_mistake() -> None:
    records = _case("spam_reply")
    before_end = [record for record in records if b'"id": "x1"' not in (record.value or b"")][:2]
    again = [record._replace(offset=100 + n) for n, record in enumerate(before_end)]

    partition = Partition("events", 0, lambda _: TIMELINE)
    partition.apply(records)

    assert partition.apply(again).mistakes.after_end == 0


def test_a_sequence_orders_events_of_one_millisecond_so_they_are_no_mistake() -> None:
    question = _value("m1", "customer_message", {"intent": "help_request"}, sequence="0001")
    answer = _value("m2", "ai_message", {"kind": "answer"}, sequence="0002")

    assert _apply(_records([question, answer])).mistakes.same_millisecond == 0


def test_types_that_decide_nothing_are_no_mistake_in_one_millisecond() -> None:
    started = _value("m0", "started", {"initiated_by": "customer"})
    closed = _value("m9", "closed", {"actor": "customer"})

    assert _apply(_records([started, QUESTION, closed])).mistakes.same_millisecond == 0


def test_every_mistake_has_a_series_from_the_start() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)

    for mistake in MISTAKES:
        labels = {"mistake": mistake}
        assert registry.get_sample_value("resmeter_producer_mistakes_total", labels) == 0
