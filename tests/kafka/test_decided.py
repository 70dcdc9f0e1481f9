"""On a real broker: up to when everything that happened has been decided."""

import time

import orjson
from confluent_kafka import Producer

from pipeline.config import KafkaSettings, Settings
from pipeline.ledger import open_ledger
from pipeline.replay.decided import Decided, read_decided, read_written
from pipeline.settings import TopicSettings, WorkerSettings
from tests.kafka.run import PARTITIONS, Run, metric, wait_until
from tests.support.events import AT, event, resolved

KEY = b"acme:c1"


def _settings(run: Run) -> Settings:
    return Settings(
        kafka=KafkaSettings(bootstrap_servers=run.servers),
        topics=TopicSettings(
            events=run.env["RESMETER_TOPICS__EVENTS"],
            changelog=run.env["RESMETER_TOPICS__CHANGELOG"],
            records=run.env["RESMETER_TOPICS__RECORDS"],
        ),
        worker=WorkerSettings(group=run.env["RESMETER_WORKER__GROUP"]),
    )


def _of_first(run: Run) -> Decided:
    found = read_decided(_settings(run))
    assert [each.partition for each in found] == list(range(PARTITIONS))
    return found[0]


def test_events_that_no_worker_has_read_are_not_decided(run: Run) -> None:
    run.produce(
        [(KEY, value, AT + n) for n, (_, value, _) in enumerate(resolved("c1"))], partition=0
    )
    before_ms = int(time.time() * 1000)

    first, *others = read_decided(_settings(run))

    assert first == Decided(0, AT, unread=len(resolved("c1")), due=0, lost=0)
    assert all(each.until_ms >= before_ms and not each.unread for each in others)


def test_silence_that_is_not_complete_yet_is_not_decided(run: Run) -> None:
    now_ms = int(time.time() * 1000)
    run.produce(
        [
            (KEY, event("m1", at=now_ms - 1, intent="help_request"), now_ms - 1),
            (KEY, event("a1", "ai_message", now_ms, kind="answer"), now_ms),
        ],
        partition=0,
    )
    run.start("worker")
    wait_until(lambda: run.committed() == 2, "both events are committed")

    now, in_a_week = (
        read_decided(_settings(run), until_ms=ms)[0] for ms in (None, now_ms + 7 * 86_400_000)
    )

    assert now.until_ms > now_ms
    assert (now.unread, now.due, now.lost) == (0, 0, 0)
    assert in_a_week.due == 1


def test_what_is_settled_is_decided_up_to_now(run: Run) -> None:
    run.produce([(KEY, value, AT) for _, value, _ in resolved("c1")], partition=0)
    worker = run.start("worker")
    run.until_decided(worker, len(resolved("c1")))
    before_ms = int(time.time() * 1000)

    first = _of_first(run)

    assert first.until_ms >= before_ms
    assert (first.unread, first.due) == (0, 0)


def test_what_is_behind_an_open_transaction_is_not_decided(run: Run) -> None:
    topic = run.env["RESMETER_TOPICS__EVENTS"]
    producer = Producer({"bootstrap.servers": run.servers, "transactional.id": topic})
    producer.init_transactions()
    producer.begin_transaction()
    returned = event("m2", at=AT, intent="human_request")
    producer.produce(topic, returned, KEY, partition=0, timestamp=AT)
    assert producer.flush(10) == 0

    assert _of_first(run) == Decided(0, AT, unread=1, due=0, lost=0)
    producer.abort_transaction()


def test_usage_records_are_written_until_the_ledger_has_stored_them(run: Run) -> None:
    run.produce([(KEY, value, AT) for _, value, _ in resolved("c1")], partition=0)
    run.until_decided(run.start("worker"), len(resolved("c1")))
    run.done("ledger", "upgrade")
    ledger = open_ledger(run.env["RESMETER_LEDGER__URL"])

    assert read_written(_settings(run), ledger) == {0: 1}
    port = run.port(run.start("sink"))
    wait_until(lambda: metric(port, "resmeter_pending_units") == 1, "the unit is stored")

    assert read_written(_settings(run), ledger) == {}
    ledger.close()


def test_close_says_what_is_missing_for_each_account(run: Run) -> None:
    run.produce([(KEY, value, AT) for _, value, _ in resolved("c1")], partition=0)
    run.until_decided(run.start("worker"), len(resolved("c1")))
    run.done("ledger", "upgrade")
    sink = run.start("sink")
    port = run.port(sink)
    wait_until(lambda: metric(port, "resmeter_pending_units") == 1, "the unit is stored")

    result = run.resmeter("close", "--check", "--period", "2026-05", "--json")

    assert result.returncode == 3
    found = orjson.loads(result.stdout)
    assert (found["account"], found["period"], found["total"]) == ("acme", "2026-05-01", "0.99")
    assert [each["what"] for each in found["missing"]] == ["parked"]
    assert found["invoice"] is None
