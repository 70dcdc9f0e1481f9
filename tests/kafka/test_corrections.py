"""`resmeter corrections` on a real journal: what a person says is there for every ledger."""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

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
from tests.support.ledger import record
from tests.support.stripe_account import Account, open_account

OCTOBER_5 = at("2024-10-05T00:00")


class Books(NamedTuple):
    """A journal, and a ledger that follows it, in which October 2024 is closed with one unit."""

    journal: Journal
    bench: Bench
    stripe: Account

    def close(self, month: str, closed_at: str) -> None:
        found = prepare_closing(
            self.journal.ledger, ACME, Prices("0.99"), month, at(closed_at), lambda _: False
        )
        assert found.closing is not None, found.missing
        assert [each.why for each in self.journal.write([found.closing])] == [None]


@pytest.fixture
def books(run: Run) -> Iterator[Books]:
    with open_account() as stripe:
        file = run.folder / "resmeter.toml"
        file.write_text(f'[tenants.acme]\nstripe_customer = "{stripe.customer}"\n')
        run.begin_catalog(file)
        run.env["RESMETER_STRIPE__BASE_URL"] = stripe.base_url
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
            books = Books(journal, Bench(ledger), stripe)
            books.bench.store("2024-10-06T00:00", record("c0", at=OCTOBER_5))
            books.close("2024-10", "2024-11-02T00:00")
            yield books


def said(ledger: Ledger) -> list[Approval]:
    with ledger.reading() as connection:
        return approvals_of(connection, "acme")


def test_what_a_person_says_is_in_the_journal_and_the_first_verdict_counts(
    run: Run, books: Books
) -> None:
    """120 units came late, and a reversal without a charge."""
    late = [record(f"c{n}", at=OCTOBER_5 + n) for n in range(1, 121)]
    unmatched = record("gone", 2, -1, at=OCTOBER_5, supersedes=1)
    books.bench.store("2024-11-03T00:00", *late, unmatched)
    listed = run.resmeter("corrections", "list", "--json")
    adjusted, unmatched = (json.loads(line)["id"] for line in listed.stdout.splitlines())

    refused = run.resmeter("corrections", "reject", unmatched, "--reason", "why")
    done = run.resmeter("corrections", "reject", adjusted, "--reason", "agreed", "--who", "ann")
    again = run.resmeter("corrections", "reject", adjusted, "--reason", "again", "--who", "bob")
    other = run.resmeter("corrections", "approve", adjusted, unmatched, "--reason", "no")

    assert listed.returncode == 3
    assert (refused.returncode, done.returncode, again.returncode, other.returncode) == (2, 0, 0, 3)
    assert "earlier: rejected by ann" in again.stdout
    books.journal.follow()
    first, second = said(books.journal.ledger)
    assert (first.id, first.verdict, first.who, first.reason) == (
        adjusted,
        "rejected",
        "ann",
        "agreed",
    )
    assert (second.id, second.verdict) == (unmatched, "approved")
    assert run.done("corrections", "list") == ""


def test_what_is_carried_goes_back_by_one_credit_note_however_often_it_is_asked_for(
    run: Run, books: Books
) -> None:
    taken_back = record("c0", 2, -1, at=OCTOBER_5, supersedes=1)
    books.bench.store("2024-11-03T00:00", taken_back)
    books.close("2024-11", "2024-12-02T00:00")
    v1, customer = books.stripe.v1, books.stripe.customer
    v1.invoice_items.create({"customer": customer, "amount": 99, "currency": "usd"})
    params = {"customer": customer, "pending_invoice_items_behavior": "include"}
    invoice = v1.invoices.create(params).id
    v1.invoices.pay(invoice)
    credit = ("corrections", "credit", "acme")
    wanted = (*credit, "--invoice", invoice, "--refund")

    shown = run.done(*credit)
    planned = run.done(*wanted)
    made = run.done(*wanted, "--reason", "the contract ended", "--apply")
    again = run.resmeter(*wanted, "--reason", "again", "--apply")

    assert shown.startswith("acme carries 0.99 USD (since 2024-11-01)")
    assert "add --apply" in planned
    assert made.splitlines()[-1] == "acme carries 0.00 USD"
    assert again.returncode == 2
    assert "no final statement carries anything" in again.stderr
    (note,) = v1.credit_notes.list({"invoice": invoice}).data
    assert (note.total, note.customer_balance_transaction) == (99, None)
    assert books.stripe.balance() == 0
