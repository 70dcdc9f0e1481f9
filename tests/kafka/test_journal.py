"""The journal on a real broker: its topic, and sinks whose ledgers are lost, rebuilt and moved."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Producer

from pipeline.config import KafkaSettings
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.server import Emulator
from pipeline.dev.emulator.server import running as running_emulator
from pipeline.errors import ConfigurationError
from pipeline.kafka.single import SingleTopic
from pipeline.kafka.writer import TopicWriter
from pipeline.ledger import open_ledger, reports
from pipeline.usage.record import encode_record
from tests.kafka.run import Run, metric, readiness, wait_until
from tests.support.bench import T0, TENANT_FILE, record
from tests.support.journal import MemoryTopic


@pytest.fixture(params=["in memory", "kafka"])
def topic(request: pytest.FixtureRequest) -> Iterator[SingleTopic | MemoryTopic]:
    if request.param == "in memory":
        yield MemoryTopic(lambda: T0)
        return
    run: Run = request.getfixturevalue("run")
    settings = KafkaSettings(bootstrap_servers=run.servers)
    with closing(SingleTopic(settings, run.env["RESMETER_TOPICS__JOURNAL"])) as opened:
        yield opened


def test_what_is_appended_is_read_in_its_order_from_any_offset(
    topic: SingleTopic | MemoryTopic,
) -> None:
    assert topic.bounds() == (0, 0)
    values = [b"%d" % n for n in range(1_200)]

    topic.append(values[:700])
    topic.append(values[700:])

    assert topic.bounds() == (0, 1_200)
    for start in (0, 1, 699, 1_199):
        read = [each for batch in topic.read(start, 1_200) for each in batch]
        assert [each.value for each in read] == values[start:]
        assert [each.offset for each in read] == list(range(start, 1_200))
        assert all(each.at > 0 for each in read)
    assert topic.topic_id()


def test_what_ends_with_the_marker_of_a_transaction_is_read_to_its_end(run: Run) -> None:
    name = run.env["RESMETER_TOPICS__JOURNAL"]
    writer = Producer({"bootstrap.servers": run.servers, "transactional.id": f"{name}-other"})
    with closing(SingleTopic(KafkaSettings(bootstrap_servers=run.servers), name)) as topic:
        topic.append([b"ours"])
        writer.init_transactions()
        writer.begin_transaction()
        writer.produce(name, b"theirs")
        writer.commit_transaction()
        wait_until(lambda: topic.bounds() == (0, 3), "the marker is in the log")

        for start, expected in (
            (0, [b"ours", b"theirs"]),
            (1, [b"theirs"]),
            (2, []),
            (0, [b"ours"]),
        ):
            end = 1 if expected == [b"ours"] else 3
            assert [each.value for batch in topic.read(start, end) for each in batch] == expected


def test_an_entry_may_be_large(topic: SingleTopic | MemoryTopic) -> None:
    large = b"".join(b"%064x" % (n * 2**200 + n) for n in range(100_000))

    topic.append([large])

    assert [[each.value for each in batch] for batch in topic.read(0, 1)] == [[large]]


def test_a_journal_that_does_not_exist_is_named(broker: str) -> None:
    settings = KafkaSettings(bootstrap_servers=broker)
    with (
        closing(SingleTopic(settings, "no-such-journal")) as topic,
        pytest.raises(ConfigurationError, match="run `resmeter topics create`"),
    ):
        topic.bounds()


# --- sinks ----------------------------------------------------------------------------------------


@pytest.fixture
def stripe(run: Run) -> Iterator[Emulator]:
    emulator = Emulator(clock=Clock(T0 / 1000 + 60))
    emulator.state.prepare(["cus_acme", "cus_bluejay"], ["resmeter_resolution"], 0)
    file = run.folder / "resmeter.toml"
    file.write_text(TENANT_FILE)
    with running_emulator(emulator) as base_url:
        run.begin_catalog(file)
        run.env["RESMETER_STRIPE__BASE_URL"] = base_url
        yield emulator


def owe(run: Run, *conversations: str) -> None:
    """Write usage records of one unit each."""
    options = {"bootstrap.servers": run.servers}
    with TopicWriter(options, run.env["RESMETER_TOPICS__RECORDS"]) as writer:
        for conversation in conversations:
            usage = record(conversation, at=T0)
            writer.write(f"acme:{conversation}".encode(), encode_record(usage), [])


def use_ledger(run: Run, name: str) -> None:
    run.env["RESMETER_LEDGER__URL"] = f"sqlite:///{run.folder}/{name}.sqlite"


def billed(run: Run) -> int:
    ledger = open_ledger(run.env["RESMETER_LEDGER__URL"])
    with closing(ledger):
        return sum(usage.delivered for usage in reports.usage(ledger))


def at_stripe(stripe: Emulator) -> int:
    return sum(entry["sum"] for entry in stripe.state.sums()["sums"])


def test_a_sink_on_an_empty_ledger_adopts_what_was_sent(run: Run, stripe: Emulator) -> None:
    run.done("ledger", "upgrade")
    owe(run, *(f"c{n}" for n in range(50)))
    sink = run.start("sink")
    wait_until(lambda: billed(run) == 50, "everything is billed")
    sink.stop()
    use_ledger(run, "new")
    run.done("ledger", "upgrade")

    owe(run, "later")
    again = run.start("sink")
    wait_until(lambda: billed(run) == 51, "the new ledger has everything")

    assert at_stripe(stripe) == 51
    assert metric(run.port(again), "resmeter_journal_adopted_total") >= 1
    wait_until(lambda: readiness(run.port(again))[0] == 200, "the sink is ready")


def test_two_sinks_with_two_ledgers_bill_each_unit_once(run: Run, stripe: Emulator) -> None:
    other = {
        "RESMETER_LEDGER__URL": f"sqlite:///{run.folder}/other.sqlite",
        # Each of them reads all usage records.
        "RESMETER_SINK__GROUP": f"{run.env['RESMETER_SINK__GROUP']}-other",
    }
    run.done("ledger", "upgrade")
    run.done("ledger", "upgrade", **other)
    owe(run, *(f"a{n}" for n in range(100)))
    run.start("sink")
    run.start("sink", **other)
    for part in range(5):
        owe(run, *(f"b{part}-{n}" for n in range(20)))
        wanted = 100 + 20 * (part + 1)
        wait_until(lambda wanted=wanted: at_stripe(stripe) >= wanted, "the units arrive")  # type: ignore[misc]
    wait_until(lambda: billed(run) == 200, "the first ledger has everything")

    assert at_stripe(stripe) == 200


def test_a_lost_ledger_is_rebuilt_and_moved(
    run: Run, stripe: Emulator, postgres_database: str
) -> None:
    run.done("ledger", "upgrade")
    owe(run, *(f"c{n}" for n in range(20)))
    sink = run.start("sink")
    wait_until(lambda: billed(run) == 20, "everything is billed")
    refused = run.resmeter("ledger", "move", postgres_database)
    assert "stop them first" in refused.stderr
    sink.stop()
    use_ledger(run, "rebuilt")

    run.done("ledger", "rebuild")
    assert billed(run) == 20
    run.done("ledger", "move", postgres_database)
    run.env["RESMETER_LEDGER__URL"] = postgres_database
    owe(run, "later")
    run.start("sink")
    wait_until(lambda: billed(run) == 21, "the moved ledger goes on")

    assert at_stripe(stripe) == 21


def test_a_journal_that_was_deleted_is_refused_until_somebody_says_that_it_is_another(
    run: Run, stripe: Emulator
) -> None:
    run.done("ledger", "upgrade")
    owe(run, "c1")
    sink = run.start("sink")
    wait_until(lambda: billed(run) == 1, "everything is billed")
    sink.stop()
    run.env["RESMETER_TOPICS__JOURNAL"] += "-new"
    run.done("topics", "create")

    run.done("ledger", "follow", "--yes")
    owe(run, "c2")
    run.start("sink")
    wait_until(lambda: billed(run) == 2, "the ledger follows the new journal")

    assert at_stripe(stripe) == 2
