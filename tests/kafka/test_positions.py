"""A worker notices when the log is no longer the one that its states were made from."""

from confluent_kafka import TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
)

from tests.kafka.run import PARTITIONS, Run, metric, net, readiness, wait_until
from tests.support.events import AT, KEY, Message, event, resolved


def test_a_worker_refuses_an_events_topic_that_was_made_again(run: Run) -> None:
    messages = [message for n in range(20) for message in resolved(f"c{n}")]
    decide(run, messages)
    before = run.usage_records()
    admin = AdminClient({"bootstrap.servers": run.servers})
    events = run.env["RESMETER_TOPICS__EVENTS"]
    old_id = make_again(run, admin, events)
    # The new topic is longer than the old one: no offset tells the two apart.
    run.produce([message for n in range(90) for message in resolved(f"new{n}")])

    worker = run.start("worker")

    assert worker.wait(60) == 1
    assert '"log_is_another"' in worker.log()
    assert f"{events}[" in worker.log()
    assert f"were made from the topic with the id {old_id}" in worker.log()
    assert "RESMETER_TOPICS__CHANGELOG" in worker.log()
    assert run.usage_records() == before


def test_a_worker_refuses_a_topic_that_got_partitions_although_the_settings_follow(
    run: Run,
) -> None:
    decide(run, [message for n in range(20) for message in resolved(f"c{n}")])
    before = run.usage_records()
    admin = AdminClient({"bootstrap.servers": run.servers})
    topics = [run.env["RESMETER_TOPICS__EVENTS"], run.env["RESMETER_TOPICS__CHANGELOG"]]
    more = PARTITIONS + 2
    for future in admin.create_partitions([NewPartitions(name, more) for name in topics]).values():
        future.result()

    worker = run.start("worker", RESMETER_TOPICS__PARTITIONS=str(more))

    assert worker.wait(60) == 1
    assert f"had {PARTITIONS} partitions" in worker.log()
    assert f"and has {more} now" in worker.log()
    assert run.usage_records() == before


def test_lost_records_are_reported_until_an_operator_acknowledges_them(run: Run) -> None:
    events = run.env["RESMETER_TOPICS__EVENTS"]
    read = [(KEY, value, at) for _, value, at in resolved("c1")]
    run.produce(read, partition=1)
    first = run.start("worker")
    run.until_decided(first, 3)
    first.stop()
    run.produce([(KEY, event(f"e{n}", at=AT + n), AT + n) for n in range(10, 15)], partition=1)
    delete_before(run, events, 1, 6)

    worker = run.start("worker")
    port = run.port(worker)
    wait_until(lambda: lost(port) == 3, "the loss is reported")
    run.until_decided(worker, 8)
    assert '"first_offset": 3' in worker.log()
    assert '"last_offset": 5' in worker.log()
    worker.stop()

    # It is still reported after a restart, although the offset has moved on.
    worker = run.start("worker")
    port = run.port(worker)
    wait_until(lambda: lost(port) == 3, "the loss is reported again")
    wrong = run.resmeter(*acknowledge(until=7))
    assert wrong.returncode == 2
    assert f"{events}[1] begins at offset 6" in wrong.stderr
    run.done(*acknowledge(until=6))
    wait_until(lambda: lost(port) == 0, "the worker has taken over the acknowledgement")
    assert '"who": "ada"' in worker.log()
    assert '"reason": "known"' in worker.log()
    worker.stop()

    worker = run.start("worker")
    port = run.port(worker)
    wait_until(lambda: readiness(port)[0] == 200, "it is ready")
    run.produce(resolved("c2"), partition=1)
    run.until_decided(worker, 11)
    assert lost(port) == 0
    assert net(run.usage_records().values())["acme", "c2"] == {"resolution": 1}


def test_records_that_are_deleted_while_the_worker_is_away_are_reported_though_none_follow(
    run: Run,
) -> None:
    events = run.env["RESMETER_TOPICS__EVENTS"]
    run.produce(resolved("c1"), partition=2)
    first = run.start("worker")
    run.until_decided(first, 3)
    first.stop()
    run.produce([(b"acme:c1", event("e9", at=AT + 9), AT + 9)], partition=2)
    delete_before(run, events, 2, 4)

    port = run.port(run.start("worker"))

    wait_until(lambda: lost(port) == 1, "the loss is reported")


def decide(run: Run, messages: list[Message]) -> None:
    run.produce(messages)
    worker = run.start("worker")
    run.until_decided(worker, len(messages))
    worker.stop()


def make_again(run: Run, admin: AdminClient, topic: str) -> str:
    """Delete a topic and create it again; return its old id."""
    described = admin.describe_topics(TopicCollection([topic]))[topic].result()
    admin.delete_topics([topic])[topic].result()
    wait_until(lambda: topic not in admin.list_topics(timeout=5).topics, "the topic is deleted")
    run.done("topics", "create")
    return str(described.topic_id)


def delete_before(run: Run, topic: str, partition: int, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": run.servers})
    (future,) = admin.delete_records([TopicPartition(topic, partition, offset)]).values()
    future.result()


def lost(port: int) -> float:
    return metric(port, "resmeter_events_lost")


def acknowledge(*, until: int) -> list[str]:
    return [
        "topics",
        "acknowledge",
        "--partition",
        "1",
        "--until",
        str(until),
        "--who",
        "ada",
        "--reason",
        "known",
    ]


def test_a_plan_takes_nothing_back_after_the_topic_was_made_again(run: Run) -> None:
    run.done("ledger", "upgrade")
    messages = [message for n in range(5) for message in resolved(f"c{n}")]
    run.start("sink")
    decide(run, messages)
    make_again(
        run, AdminClient({"bootstrap.servers": run.servers}), run.env["RESMETER_TOPICS__EVENTS"]
    )
    run.produce([message for n in range(9) for message in resolved(f"new{n}")])

    plan = run.resmeter("rebill", "plan", "--out", str(run.folder / "plan.ndjson"))

    assert b'"quantity":-1' not in (run.folder / "plan.ndjson").read_bytes()
    assert "5 conversations left out" in plan.stderr
    assert f"{run.env['RESMETER_TOPICS__EVENTS']}[0] " in plan.stderr


def test_topics_check_names_what_breaks_later_on_a_real_broker(run: Run) -> None:
    events, changelog = run.env["RESMETER_TOPICS__EVENTS"], run.env["RESMETER_TOPICS__CHANGELOG"]
    admin = AdminClient({"bootstrap.servers": run.servers})
    resources = [
        ConfigResource(
            ConfigResource.Type.TOPIC,
            name,
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            ],
        )
        for name, key, value in (
            (events, "retention.ms", "86400000"),
            (changelog, "max.message.bytes", "1048588"),
        )
    ]
    for future in admin.incremental_alter_configs(resources).values():
        future.result()

    checked = run.resmeter("topics", "check")

    assert checked.returncode == 2
    assert f"topic {events}: retention.ms is 86400000, and its timestamps are the" in checked.stderr
    assert f"topic {changelog}: max.message.bytes is 1048588" in checked.stderr
    assert f"--entity-name {changelog} --add-config max.message.bytes=16000000" in checked.stderr
    assert "warning: fewer than 3 replicas" in checked.stderr
