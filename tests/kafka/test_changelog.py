"""On a real broker, a changelog that has lost states is refused, and made again from the events."""

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition as Place
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.config import KafkaSettings
from pipeline.kafka.bounds import StatesEnd, encode_note
from pipeline.kafka.positions import Positions
from pipeline.kafka.writer import TopicWriter
from tests.kafka.run import PARTITIONS, Run, wait_until
from tests.support.events import resolved


def _make_changelog_again(run: Run) -> None:
    changelog = run.env["RESMETER_TOPICS__CHANGELOG"]
    admin = AdminClient({"bootstrap.servers": run.servers})
    admin.delete_topics([changelog])[changelog].result()
    wait_until(
        lambda: changelog not in admin.list_topics(timeout=5).topics, "the changelog is deleted"
    )
    run.done("topics", "create")


def test_a_worker_refuses_a_changelog_that_has_lost_its_end_and_rebuilds_it(run: Run) -> None:
    messages = [message for n in range(20) for message in resolved(f"c{n}")]
    run.produce(messages)
    first = run.start("worker")
    run.until_decided(first, len(messages))
    first.stop()
    before = run.usage_records()
    kept = [m for m in run.messages("CHANGELOG") if m.offset < 4]
    _make_changelog_again(run)
    changelog = run.env["RESMETER_TOPICS__CHANGELOG"]
    with TopicWriter({"bootstrap.servers": run.servers}, changelog) as writer:
        for message in kept:
            writer.write(message.key, message.value, [], partition=message.partition)

    for _ in range(2):  # no start brings the end closer to where it was
        result = run.resmeter("worker")
        assert result.returncode == 2
        assert "states of its conversations are lost" in result.stderr
    events = run.env["RESMETER_TOPICS__EVENTS"]
    starts = [TopicPartition(events, number, 0) for number in range(PARTITIONS)]
    group = ConsumerGroupTopicPartitions(run.env["RESMETER_WORKER__GROUP"], starts)
    admin = AdminClient({"bootstrap.servers": run.servers})
    (reset,) = admin.alter_consumer_group_offsets([group]).values()
    reset.result()
    run.until_decided(run.start("worker"), len(messages))

    assert run.usage_records() == before


def test_a_worker_whose_changelog_is_made_again_ends_and_the_next_one_says_why(run: Run) -> None:
    run.produce([message for n in range(20) for message in resolved(f"c{n}")])
    worker = run.start("worker")
    run.until_decided(worker, 60)
    _make_changelog_again(run)
    run.produce([message for n in range(20, 40) for message in resolved(f"c{n}")])

    assert worker.wait(60) == 1
    result = run.resmeter("worker")
    assert result.returncode == 2
    assert "states of its conversations are lost" in result.stderr


async def test_what_a_worker_commits_with_an_offset_is_read_whatever_its_length(run: Run) -> None:
    """The client that reads it returns it with bytes that follow it in memory."""
    events, changelog = run.env["RESMETER_TOPICS__EVENTS"], run.env["RESMETER_TOPICS__CHANGELOG"]
    positions = Positions(KafkaSettings(bootstrap_servers=run.servers))
    group = run.env["RESMETER_WORKER__GROUP"]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=run.servers, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([Place(events, 0)])
        for end in (10**length for length in range(18)):
            await consumer.commit({Place(events, 0): (5, encode_note(end))})

            found = await positions.states_ends(group, events, changelog, [0, 1])

            assert found == {0: StatesEnd(at_commit=end, now=0)}
    finally:
        await consumer.stop()
