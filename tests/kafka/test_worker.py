"""On a real broker, the worker decides by the rules, even if processes or the broker fail."""

import contextlib
import random
import time
from collections import Counter
from importlib import resources
from pathlib import Path

import orjson
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.dev.broker import running_kafka
from tests.kafka.conftest import Load
from tests.kafka.run import (
    PARTITIONS,
    SECONDS_MAX,
    Run,
    decided,
    metric,
    net,
    readiness,
    running,
    wait_until,
)
from tests.support.events import AT, KEY, event, resolved

AS_OF = "2030-01-01T00:00:00Z"  # after every window of every file
DATA = resources.files("pipeline.dev") / "data" / "airline_support.events.ndjson"


def test_the_worker_decides_the_real_conversations_as_decide_does(run: Run) -> None:
    run.done("produce", str(DATA))
    worker = run.start("worker")

    run.until_decided(worker, 3081)

    billed = net(run.usage_records().values())
    assert billed == decided(run.done("decide", str(DATA), "--as-of", AS_OF).encode())
    assert Counter(tenant_id for tenant_id, _ in billed) == {
        "bluejay": 33,
        "aurora": 32,
        "contoso-travel": 30,
        "northwind-air": 30,
        "fly-kite": 18,
    }
    port = run.port(worker)
    assert metric(port, "resmeter_events_total") == 3081
    charged = metric(port, "resmeter_transitions_total", delta="+1")
    assert charged - metric(port, "resmeter_transitions_total", delta="-1") == 143


def test_a_worker_whose_catalog_changes_the_past_of_an_open_window_bills_nothing_and_says_why(
    run: Run,
) -> None:
    changed = run.folder / "resmeter.toml"
    changed.write_text('policy = "confirmed-only"\n')
    now_ms = int(time.time() * 1000)
    run.produce(
        [
            (KEY, event("m1", at=now_ms - 1, intent="help_request"), now_ms - 1),
            (KEY, event("a1", "ai_message", now_ms, kind="answer"), now_ms),
        ]
    )
    worker = run.start("worker")
    port = run.port(worker)
    wait_until(lambda: metric(port, "resmeter_open_conversations") == 1, "the window is open")
    wait_until(lambda: run.committed() == 2, "both events are committed")
    worker.stop()

    right_catalog = run.env["RESMETER_TOPICS__CATALOG"]
    run.begin_catalog(changed)
    wrong = run.start("worker")
    wait_until(lambda: "log_is_another" in wrong.log(), "the worker refuses")
    assert "its conversations were decided under entry 1" in wrong.log()

    right = run.start("worker", RESMETER_TOPICS__CATALOG=right_catalog)
    port = run.port(right)
    wait_until(lambda: readiness(port)[0] == 200, "the worker is ready")
    assert metric(port, "resmeter_open_conversations") == 1
    assert run.usage_records() == {}


def test_an_undisturbed_run_equals_decide_conversation_by_conversation(
    load: Load, run: Run
) -> None:
    expected = decided(run.done("decide", load.file, "--as-of", AS_OF).encode())

    assert net(load.records.values()) == expected


def test_worker_and_sink_are_not_ready_while_the_broker_is_down(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        kafka = stack.enter_context(running_kafka(tmp_path / "kafka"))
        run = stack.enter_context(running(kafka.bootstrap_servers, tmp_path))
        run.done("ledger", "upgrade")
        processes = [run.start(name) for name in ("worker", "sink")]
        ports = [run.port(process) for process in processes]
        for port in ports:
            wait_until(lambda port=port: readiness(port)[0] == 200, "it is ready")  # type: ignore[misc]

        kafka.kill()

        for port in ports:
            wait_until(lambda port=port: readiness(port)[0] == 503, "it is not ready")  # type: ignore[misc]
            assert any(kafka.bootstrap_servers in why for why in readiness(port)[1]["reasons"])
        for process in processes:
            process.find('"event": "(not_ready)"', SECONDS_MAX)
            process.kill()

    # A broker away is some lines, each of them JSON, and not one for each attempt to connect.
    logged = [
        [orjson.loads(line)["event"] for line in process.log().splitlines()]
        for process in processes
    ]
    assert [len(events) < 40 for events in logged] == [True, True], logged
    assert all({"partitions_assigned", "ready", "not_ready"} <= set(events) for events in logged)
    assert "states_read" in logged[0]
    assert "kafka_unreachable" in logged[1]


def test_sigterm_stops_a_worker_whose_broker_is_down(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        kafka = stack.enter_context(running_kafka(tmp_path / "kafka"))
        run = stack.enter_context(running(kafka.bootstrap_servers, tmp_path))
        worker = run.start("worker", RESMETER_WORKER__STOP_SECONDS_MAX="2")
        port = run.port(worker)
        wait_until(lambda: readiness(port)[0] == 200, "it is ready")
        kafka.kill()
        wait_until(lambda: readiness(port)[0] == 503, "it is not ready")

        worker.stop()

        assert worker.status == 1
        assert '"stopped_without_commit"' in worker.log()


def test_a_worker_that_takes_over_midway_changes_no_result(load: Load, loaded_run: Run) -> None:
    run = loaded_run
    slow = {"RESMETER_WORKER__BATCH_EVENTS_MAX": "5", "RESMETER_WORKER__INFLIGHT_BATCHES_MAX": "1"}
    first = run.start("worker", **slow)
    wait_until(lambda: run.committed() > 0, "the first worker is in the middle")
    second = run.start("worker", **slow)
    port = run.port(second)
    wait_until(lambda: metric(port, "resmeter_events_total") > 0, "the second worker shares")
    first.stop()

    run.until_decided(second, load.size)

    assert run.usage_records() == load.records


def test_killing_workers_loses_and_duplicates_nothing(load: Load, loaded_run: Run) -> None:
    run = loaded_run
    draw = random.Random(3)
    slow = {"RESMETER_WORKER__BATCH_EVENTS_MAX": "300"}
    for kill in range(1, 3):
        worker = run.start("worker", **slow)
        until = load.size * kill // 5 + draw.randrange(1_000)
        wait_until(lambda until=until: run.committed() > until, "the worker is in the middle")  # type: ignore[misc]
        worker.kill()
    last = run.start("worker")

    run.until_decided(last, load.size)

    assert run.usage_records() == load.records


def test_a_restarted_worker_emits_nothing_twice(load: Load, loaded_run: Run) -> None:
    run = loaded_run
    first = run.start("worker")
    run.until_decided(first, load.size)
    first.stop()
    before = len(run.messages("RECORDS"))
    again = run.start("worker")
    port = run.port(again)
    wait_until(lambda: readiness(port)[0] == 200, "the worker is ready again")

    wait_until(
        lambda: metric(port, "resmeter_conversations") > 0, "its states are back from the changelog"
    )

    assert len(run.messages("RECORDS")) == before
    assert metric(port, "resmeter_open_conversations") == 0


def test_sigterm_commits_leaves_the_group_and_exits_with_0(load: Load, loaded_run: Run) -> None:
    run = loaded_run
    worker = run.start("worker")
    run.until_decided(worker, load.size)

    worker.stop()

    assert worker.wait(1) == 0
    assert run.committed() == load.size
    assert '"worker_stopped"' in worker.log()


def test_silence_is_billed_by_the_brokers_clock_without_new_events(run: Run) -> None:
    at = "2026-05-04T09:00:00.000Z"
    run.produce(
        [
            (b"acme:c1", _event("s1", "started", at, initiated_by="customer"), _MS),
            (b"acme:c1", _event("m1", "customer_message", at, intent="help_request"), _MS),
            (b"acme:c1", _event("a1", "ai_message", at, kind="answer"), _MS),
        ]
    )
    worker = run.start("worker")

    run.until_decided(worker, 3)

    (record,) = run.usage_records().values()
    assert b'"reason":"silence"' in record
    assert b'"occurred_at":"2026-05-05T09:00:00.000Z"' in record


@pytest.mark.parametrize("partitions", [PARTITIONS + 1])
def test_a_worker_does_not_start_if_topics_differ_from_the_settings(
    run: Run, partitions: int
) -> None:
    result = run.resmeter("worker", RESMETER_TOPICS__PARTITIONS=str(partitions))

    assert result.returncode == 2
    assert f"has {PARTITIONS} partitions, but the settings say {partitions}" in result.stderr
    assert f"set RESMETER_TOPICS__PARTITIONS={PARTITIONS}" in result.stderr


def test_topics_check_reports_missing_replicas(run: Run) -> None:
    result = run.resmeter("topics", "check", RESMETER_TOPICS__REPLICATION_FACTOR="3")

    assert result.returncode == 2
    assert result.stderr.count("has 1 of the 3 replicas") == 6


def test_topics_create_is_safe_to_run_again(run: Run) -> None:
    result = run.resmeter("topics", "create")

    assert result.returncode == 0
    assert result.stderr.count(": exists, ") == 7
    assert "catalog: exists, up to entry 1" in result.stderr
    assert run.resmeter("topics", "check").returncode == 0


_MS = 1_777_885_200_000  # 2026-05-04T09:00:00Z


def _event(identity: str, type_: str, at: str, **data: object) -> bytes:
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": identity,
            "source": "/chat",
            "type": f"conversation.{type_}",
            "subject": "c1",
            "time": at,
            "tenantid": "acme",
            "data": data,
        }
    )


def test_a_worker_does_not_start_without_its_changelog_and_rebuilds_it_from_the_events(
    run: Run,
) -> None:
    messages = [*resolved("c1"), (KEY, b"{garbage", AT)]
    run.produce(messages)
    first = run.start("worker")
    run.until_decided(first, len(messages))
    first.stop()
    before = run.usage_records()
    changelog = run.env["RESMETER_TOPICS__CHANGELOG"]
    admin = AdminClient({"bootstrap.servers": run.servers})
    admin.delete_topics([changelog])[changelog].result()
    wait_until(
        lambda: changelog not in admin.list_topics(timeout=5).topics, "the changelog is deleted"
    )
    run.done("topics", "create")

    result = run.resmeter("worker")

    assert result.returncode == 2
    assert f"{changelog}[" in result.stderr
    assert "the states of its conversations are lost" in result.stderr
    events = run.env["RESMETER_TOPICS__EVENTS"]
    starts = [TopicPartition(events, number, 0) for number in range(PARTITIONS)]
    group = ConsumerGroupTopicPartitions(run.env["RESMETER_WORKER__GROUP"], starts)
    (reset,) = admin.alter_consumer_group_offsets([group]).values()
    reset.result()
    run.until_decided(run.start("worker"), len(messages))
    assert run.usage_records() == before


def test_a_worker_can_resume_a_partition_that_has_only_dead_letters(run: Run) -> None:
    run.produce([(KEY, b"{garbage", AT)])
    first = run.start("worker")
    run.until_decided(first, 1)
    first.stop()
    run.produce([(KEY, b"{garbage", AT + 1)])

    run.until_decided(run.start("worker"), 2)

    origins = {m.headers["resmeter-offset"] for m in run.messages("DEAD_LETTERS")}
    assert origins == {b"0", b"1"}  # each at least once


def test_records_of_aborted_transactions_are_ignored(run: Run) -> None:
    producer = Producer(
        {"bootstrap.servers": run.servers, "transactional.id": run.env["RESMETER_TOPICS__EVENTS"]}
    )
    producer.init_transactions()
    assumed = resolved("kept-too")[:2]  # not confirmed: a timer settles it
    garbage: list[tuple[bytes | None, bytes | None, int]] = [(KEY, b"garbage", AT)]
    for messages, is_kept in [
        (resolved("kept"), True),
        (resolved("aborted"), False),
        (assumed, True),
        (garbage, False),
    ]:
        producer.begin_transaction()
        for key, value, timestamp in messages:
            producer.produce(run.env["RESMETER_TOPICS__EVENTS"], value, key, timestamp=timestamp)
        producer.commit_transaction() if is_kept else producer.abort_transaction()

    worker = run.start("worker")

    run.until_decided(worker, 5)
    port = run.port(worker)
    assert net(run.usage_records().values()) == {
        ("acme", "kept"): {"resolution": 1},
        ("acme", "kept-too"): {"resolution": 1},
    }
    assert run.messages("DEAD_LETTERS") == []
    assert metric(port, "resmeter_events_total") == 5
    wait_until(lambda: metric(port, "resmeter_lag_records") == 0, "it has read to the end")


def test_no_timer_overtakes_a_follow_up_behind_an_open_transaction(run: Run) -> None:
    topic = run.env["RESMETER_TOPICS__EVENTS"]
    quiet = [(b"acme:c1", value, at) for _, value, at in resolved("c1")[:2]]
    run.produce(quiet, partition=0)
    producer = Producer({"bootstrap.servers": run.servers, "transactional.id": topic})
    producer.init_transactions()
    producer.begin_transaction()
    returned = event("m2", at=AT + 60_000, intent="human_request")
    producer.produce(topic, returned, b"acme:c1", partition=0, timestamp=AT + 60_000)
    assert producer.flush(10) == 0
    worker = run.start("worker")
    port = run.port(worker)

    # The window ended long ago, and everything that can be read was read.
    wait_until(
        lambda: metric(port, "resmeter_open_transaction_seconds", partition="0") > 0, "it is seen"
    )
    wait_until(
        lambda: metric(port, "resmeter_open_transaction_seconds", partition="0") > 4, "it stays"
    )

    assert run.messages("RECORDS") == []
    producer.commit_transaction()
    run.until_decided(worker, 4)  # the transaction's marker has an offset too
    assert run.messages("RECORDS") == []
    wait_until(
        lambda: metric(port, "resmeter_open_transaction_seconds", partition="0") == 0, "it is over"
    )
