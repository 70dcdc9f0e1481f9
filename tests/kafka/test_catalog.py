"""The catalog's topic on a real broker: commands publish, and workers follow."""

import re
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.catalog.entry import Additions, entries_of
from pipeline.catalog.topic import CatalogTopic, publish, whole_catalog
from pipeline.errors import ConfigurationError
from tests.kafka.run import Run, metric, readiness, wait_until
from tests.support.events import resolved

TENANT = '[tenants.acme]\nstripe_customer = "cus_1"\n'
MOVED = TENANT + 'policy = "gorgias"\n'
CONTRACT = """
name = "acme-2026"
version = 1
effective_from = 2026-01-01T00:00:00Z
price.resolution = "0.80"
"""
WITH_CONTRACT = (
    f'contract_files = ["contract.toml"]\n{MOVED}[accounts.acme]\ncontract = "acme-2026"\n'
)
WHO = ("--who", "ada", "--reason", "test")


@pytest.fixture
def file(run: Run) -> Path:
    path = run.folder / "resmeter.toml"
    path.write_text(TENANT)
    run.begin_catalog(path)
    return path


def test_a_change_is_planned_applied_listed_and_withdrawn(run: Run, file: Path) -> None:
    assert run.resmeter("catalog", "plan", str(file)).returncode == 0

    file.write_text(MOVED)
    planned = run.resmeter("catalog", "plan", str(file))
    applied = run.done("catalog", "apply", str(file), *WHO)

    assert planned.returncode == 3
    assert planned.stdout == applied
    assert "+ tenant acme: gorgias from 20" in applied
    assert "instead of fin-2026" in applied
    assert "gorgias version 1" in run.done("catalog", "show", "--at", "2999-01-01")
    run.done("catalog", "withdraw", "2", *WHO)
    assert "gorgias version 1" not in run.done("catalog", "show", "--at", "2999-01-01")
    again = run.resmeter("catalog", "withdraw", "2", *WHO)
    assert again.returncode == 2
    assert "nothing was published: entry 2 has nothing that waits for a date" in again.stderr
    (first, second, third) = run.done("catalog", "log").splitlines()
    assert first.startswith("1 ")
    assert "ada: test; tenant acme" in second
    assert third.startswith("3 ")
    assert "withdraws" in third


def test_a_date_within_the_lead_is_refused_and_publishes_nothing(run: Run, file: Path) -> None:
    file.write_text(
        TENANT
        + 'policy = [{ name = "fin-2026" }, { name = "gorgias", from = 2026-01-01T00:00:00Z }]\n'
    )

    result = run.resmeter("catalog", "apply", str(file), *WHO)

    assert result.returncode == 2
    assert "would change the past" in result.stderr
    said = " ".join(result.stderr.split())
    assert "nobody knows how many conversations that touches: there is no ledger" in said
    assert len(run.done("catalog", "log").splitlines()) == 1


def test_an_export_is_restored_with_its_numbers_and_digests(run: Run, file: Path) -> None:
    (run.folder / "contract.toml").write_text(CONTRACT)
    file.write_text(WITH_CONTRACT)
    applied = run.done("catalog", "apply", str(file), *WHO)
    assert "resolution costs 0.8 usd (before: 0.99 usd)" in applied
    assert "contract acme-2026 version 1" in run.done("catalog", "show", "--at", "2999-01-01")
    export = str(run.folder / "export.ndjson")
    run.done("catalog", "export", export)
    shown = run.done("catalog", "log")
    taken = run.resmeter("catalog", "restore", export)
    assert taken.returncode == 2
    assert "has a catalog with 2 entries" in taken.stderr

    run.env["RESMETER_TOPICS__CATALOG"] += "-restored"
    run.done("catalog", "restore", export)

    assert run.done("catalog", "log") == shown


def test_a_worker_follows_without_a_restart_and_the_next_one_refuses_an_older_catalog(
    run: Run, file: Path
) -> None:
    older = run.env["RESMETER_TOPICS__CATALOG"]
    export = str(run.folder / "export.ndjson")
    run.done("catalog", "export", export)
    run.env["RESMETER_TOPICS__CATALOG"] += "-followed"
    run.done("catalog", "restore", export)
    run.produce([message for n in range(20) for message in resolved(f"c{n}")])
    worker = run.start("worker")
    port = run.port(worker)
    run.until_decided(worker, 60)
    assert metric(port, "resmeter_catalog_entry") == 1

    file.write_text(MOVED)
    run.done("catalog", "apply", str(file), *WHO)

    wait_until(lambda: metric(port, "resmeter_catalog_entry") == 2, "the worker follows")
    assert readiness(port)[0] == 200
    worker.stop()
    behind = run.start("worker", RESMETER_TOPICS__CATALOG=older)
    assert behind.wait(60) == 1
    assert "were decided under entry 2" in behind.log()
    assert re.search(r"of the catalog, [1-9]\d* in all", behind.log())
    assert "resmeter catalog restore FILE" in behind.log()


def test_a_worker_without_the_topic_says_what_to_run(run: Run) -> None:
    result = run.resmeter("worker", RESMETER_TOPICS__CATALOG="none.such")

    assert result.returncode == 2
    assert "topic none.such does not exist: run `resmeter topics create`" in result.stderr


def test_what_is_no_entry_is_void_and_stops_nobody(run: Run, file: Path) -> None:
    settings = run.settings()

    (verdict,) = publish(settings, [b"garbage"])

    assert "not an entry" in verdict.reason
    assert whole_catalog(settings).number == 1
    assert "void" in run.done("catalog", "log")


def test_an_entry_behind_an_open_transaction_counts_from_its_append_on(
    run: Run, file: Path
) -> None:
    """Workers decide as far as the lead allows, so they must not see it only when that one ends."""
    settings = run.settings()
    name = settings.topics.catalog
    other = Producer({"bootstrap.servers": run.servers, "transactional.id": f"{name}-other"})
    other.init_transactions()
    other.begin_transaction()
    other.produce(name, b"garbage")
    other.flush()

    with closing(CatalogTopic(settings)) as following:
        following.refresh()
        added = Additions(meters={"resolution": "solved"})
        (verdict,) = publish(settings, entries_of(added, following.catalog.digest, "ada", "test"))

        assert verdict.number == 2
        assert following.refresh().number == 2
    other.abort_transaction()
    assert whole_catalog(settings).number == 2


def test_a_topic_that_was_made_again_behind_a_reader_is_refused(run: Run, file: Path) -> None:
    settings = run.settings()
    name = settings.topics.catalog
    admin = AdminClient({"bootstrap.servers": run.servers})
    with closing(CatalogTopic(settings)) as following:
        following.refresh()
        admin.delete_topics([name])[name].result()
        wait_until(lambda: name not in admin.list_topics().topics, "the topic is gone")
        file.write_text(MOVED)
        run.begin_catalog(file, name)
        publish(settings, [b"garbage"])

        with pytest.raises(ConfigurationError, match="has another record at offset 0"):
            following.refresh()


def test_a_catalog_whose_first_entries_are_deleted_is_told_by_processes_that_know_it(
    run: Run, file: Path
) -> None:
    run.done("ledger", "upgrade")
    port = run.port(sink := run.start("sink"))
    with closing(CatalogTopic(run.settings())) as behind:
        behind.refresh()
        file.write_text(MOVED)
        run.done("catalog", "apply", str(file), *WHO)
        wait_until(lambda: metric(port, "resmeter_catalog_entry") == 2, "the sink knows both")
        admin = AdminClient({"bootstrap.servers": run.servers})
        place = TopicPartition(run.settings().topics.catalog, 0, 2)
        for future in admin.delete_records([place]).values():
            future.result()

        wait_until(lambda: metric(port, "resmeter_catalog_cut") == 2, "the sink says so")
        assert sink.log().count('"event": "catalog_cut"') == 1
        assert "the whole catalog, and goes on; no process can start" in sink.log()
        assert metric(port, "resmeter_catalog_entry") == 2
        with pytest.raises(ConfigurationError, match="its first 2 offsets are gone"):
            behind.refresh()  # it does not know the second
    with pytest.raises(ConfigurationError, match="its first 2 offsets are gone"):
        whole_catalog(run.settings())


def test_a_sink_and_commands_refuse_a_catalog_without_the_entry_that_priced_the_ledger(
    run: Run, file: Path
) -> None:
    run.done("ledger", "upgrade")
    export, older = str(run.folder / "export.ndjson"), run.env["RESMETER_TOPICS__CATALOG"]
    run.done("catalog", "export", export)
    run.env["RESMETER_TOPICS__CATALOG"] += "-followed"
    run.done("catalog", "restore", export)
    file.write_text(MOVED)
    run.done("catalog", "apply", str(file), *WHO)
    sink = run.start("sink")
    run.port(sink)
    sink.stop()

    refused = run.start("sink", RESMETER_TOPICS__CATALOG=older)
    usage = run.resmeter("usage", RESMETER_CATALOG_EXPORT=export)

    assert refused.wait(60) == 2
    assert "was priced under entry 2" in refused.log()
    assert usage.returncode == 2
    assert "export the catalog again" in " ".join(usage.stderr.split())
    run.done("ledger", "follow", "--yes", RESMETER_TOPICS__CATALOG=older)
    run.done("usage", RESMETER_TOPICS__CATALOG=older)
