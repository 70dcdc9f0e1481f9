"""`resmeter corrections` on a real journal: what a person says is there for every ledger."""

import json
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry

from pipeline.config import KafkaSettings
from pipeline.kafka.single import SingleTopic
from pipeline.ledger import Ledger, open_ledger
from pipeline.ledger.month_entries import Approval
from pipeline.ledger.months import approvals_of
from pipeline.ledger.statements import prepare_closing
from pipeline.metrics import SinkMetrics
from pipeline.sink.journal import Journal
from tests.contract.test_ledger_statements import ACME, Bench, Prices, at
from tests.kafka.run import Run
from tests.support.bench import TENANT_FILE
from tests.support.ledger import record


@pytest.fixture
def journal(run: Run) -> Iterator[Journal]:
    """October 2024 is closed, with 120 units and a reversal without a charge that came later."""
    file = run.folder / "resmeter.toml"
    file.write_text(TENANT_FILE)
    run.begin_catalog(file)
    run.done("ledger", "upgrade")
    ledger = open_ledger(run.env["RESMETER_LEDGER__URL"])
    name = run.env["RESMETER_TOPICS__JOURNAL"]
    with (
        closing(ledger),
        closing(SingleTopic(KafkaSettings(bootstrap_servers=run.servers), name)) as topic,
    ):
        metrics = SinkMetrics(CollectorRegistry())
        journal = Journal(ledger, topic, name, "test", metrics, time.time)
        journal.open()
        journal.begin()
        journal.follow()
        bench = Bench(ledger)
        occurred_at = at("2024-10-05T00:00")
        bench.store("2024-10-06T00:00", record("c0", at=occurred_at))
        closed = prepare_closing(
            ledger, ACME, Prices("0.99"), "2024-10", at("2024-11-02T00:00"), lambda _: False
        )
        assert closed.closing is not None
        assert [each.why for each in journal.write([closed.closing])] == [None]
        late = [record(f"c{n}", at=occurred_at + n) for n in range(1, 121)]
        unmatched = record("gone", 2, -1, at=occurred_at, supersedes=1)
        bench.store("2024-11-03T00:00", *late, unmatched)
        yield journal


def said(ledger: Ledger) -> list[Approval]:
    with ledger.reading() as connection:
        return approvals_of(connection, "acme")


def test_what_a_person_says_is_in_the_journal_and_the_first_verdict_counts(
    run: Run, journal: Journal
) -> None:
    listed = run.resmeter("corrections", "list", "--json")
    adjusted, unmatched = (json.loads(line)["id"] for line in listed.stdout.splitlines())

    refused = run.resmeter("corrections", "reject", unmatched, "--reason", "why")
    done = run.resmeter("corrections", "reject", adjusted, "--reason", "agreed", "--who", "ann")
    again = run.resmeter("corrections", "reject", adjusted, "--reason", "again", "--who", "bob")
    other = run.resmeter("corrections", "approve", adjusted, unmatched, "--reason", "no")

    assert listed.returncode == 3
    assert (refused.returncode, done.returncode, again.returncode, other.returncode) == (2, 0, 0, 3)
    assert "earlier: rejected by ann" in again.stdout
    journal.follow()
    first, second = said(journal.ledger)
    assert (first.id, first.verdict, first.who, first.reason) == (
        adjusted,
        "rejected",
        "ann",
        "agreed",
    )
    assert (second.id, second.verdict) == (unmatched, "approved")
    assert run.done("corrections", "list") == ""
