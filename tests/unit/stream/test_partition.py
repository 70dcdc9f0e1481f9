"""A partition's counts, queue and states stay right and bounded."""

from collections.abc import Iterable, Iterator

import orjson
import pytest
from prometheus_client import CollectorRegistry

from pipeline.catalog.policies import preset
from pipeline.events.times import format_time
from pipeline.metrics import WorkerMetrics
from pipeline.resolve.policy import Timeline
from pipeline.stream.batch import BatchResult, PendingConversation
from pipeline.stream.counts import count_applied, count_overdue
from pipeline.stream.partition import Partition
from tests.support.events import Record

TIMELINE = Timeline([preset("fin-2026")])
T0 = 1_777_885_200_000
DAY_MS = 86_400_000
CONVERSATIONS = 50


def _day(number: int, *, confirmed: bool) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield a question and an answer of every conversation, and if confirmed, the thanks."""
    steps = [
        ("customer_message", {"intent": "help_request"}),
        ("ai_message", {"kind": "answer"}),
        ("customer_message", {"intent": "confirmation"}),
    ]
    for n, (kind, data) in enumerate(steps if confirmed else steps[:2]):
        for conversation in range(CONVERSATIONS):
            at = T0 + number * DAY_MS + n
            event = {
                "specversion": "1.0",
                "id": f"{number}-{n}",
                "source": "/test",
                "type": f"conversation.{kind}",
                "subject": f"c{conversation}",
                "time": format_time(at),
                "tenantid": "acme",
                "data": data,
            }
            yield at, f"acme:c{conversation}".encode(), orjson.dumps(event)


def _partition() -> Partition:
    partition = Partition("events", 0, lambda _: TIMELINE)
    partition.schedule_all()
    return partition


def test_the_queue_stays_bounded_over_a_backlog_in_which_no_timer_runs() -> None:
    partition, offset = _partition(), 0

    for number in range(200):
        for at, key, value in _day(number, confirmed=True):
            partition.apply([Record(offset, at, key, value)])
            offset += 1

    assert len(partition.states) == CONVERSATIONS
    assert len(partition.due_queue) <= 2 * CONVERSATIONS + 1_000
    assert partition.open_conversations == 0


def test_a_conversation_is_open_until_its_window_ends() -> None:
    partition = _partition()
    counts = []

    for number, confirmed in enumerate((True, False, False)):
        records = [
            Record(n + 1_000 * number, *rest)
            for n, rest in enumerate(_day(number, confirmed=confirmed))
        ]
        partition.apply(records)
        counts.append(partition.open_conversations)
    partition.settle(T0 + 10 * DAY_MS, 1_000)

    assert counts == [0, CONVERSATIONS, CONVERSATIONS]
    assert partition.open_conversations == 0


def test_only_windows_that_ended_unsettled_are_overdue() -> None:
    """The queue still has the conversations that were decided before their window ended."""
    decided, open_ = _partition(), _partition()
    for partition, confirmed in ((decided, True), (open_, False)):
        for n, (at, key, value) in enumerate(_day(0, confirmed=confirmed)):
            partition.apply([Record(n, at, key, value)])
    later = T0 + 10 * DAY_MS

    assert sum(map(len, decided.due_queue.until(later))) == CONVERSATIONS
    assert count_overdue([decided, open_], later) == CONVERSATIONS
    assert count_overdue([decided, open_], T0) == 0
    open_.settle(later, 1_000)
    assert count_overdue([decided, open_], later) == 0


def test_a_record_that_gets_lost_is_unaccounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant the fault that the series is there for: a record is read and nothing becomes of it."""
    read = Partition._read

    def read_all_but_one(
        self: Partition,
        records: Iterable[Record],
        batch: dict[bytes, PendingConversation],
        result: BatchResult,
    ) -> None:
        def remaining() -> Iterator[Record]:
            for record in records:
                if record.offset == 7:
                    result.records_read += 1
                else:
                    yield record

        read(self, remaining(), batch, result)

    monkeypatch.setattr(Partition, "_read", read_all_but_one)
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)

    result = _partition().apply(
        [Record(n, *rest) for n, rest in enumerate(_day(0, confirmed=False))]
    )
    count_applied(metrics, result)

    assert registry.get_sample_value("resmeter_records_unaccounted") == 1


def test_open_conversations_are_counted_again_after_recovery() -> None:
    partition, again = _partition(), _partition()
    result = partition.apply([Record(n, *rest) for n, rest in enumerate(_day(0, confirmed=False))])

    again.restore(Record(n, 0, key, state) for n, (key, state) in enumerate(result.states))
    again.schedule_all()

    assert again.open_conversations == partition.open_conversations == CONVERSATIONS


def test_events_beyond_a_full_conversation_are_dead_letters_even_within_one_batch() -> None:
    long = "\U0001f600" * 250
    records = [
        Record(
            n,
            T0 + n,
            b"acme:c1",
            orjson.dumps(
                {
                    "specversion": "1.0",
                    "id": f"{n:06}{long}",
                    "source": long,
                    "sequence": long,
                    "type": "conversation.undelivered",
                    "subject": "c1",
                    "time": format_time(T0 + n),
                    "tenantid": "acme",
                    "data": {"message_id": long},
                }
            ),
        )
        for n in range(1_200)
    ]
    at_once, one_by_one = _partition(), _partition()

    result = at_once.apply(records)
    letters = [letter for record in records for letter in one_by_one.apply([record]).dead_letters]

    assert {letter.reason for letter in letters} == {"conversation_too_long"}
    assert [letter.offset for letter in result.dead_letters] == [
        letter.offset for letter in letters
    ]
    assert at_once.states == one_by_one.states
    assert result.records_read == len(records)
