"""Journals that others have cut, copied, made again or written to."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from pipeline.errors import BrokenInvariantError, ConfigurationError
from pipeline.ledger import holds, open_ledger, upgrade
from pipeline.ledger.journal import Entry
from pipeline.ledger.journal_encoding import encode_entry
from pipeline.sink.journal import Journal
from tests.support.bench import T0, Bench, record


@pytest.fixture
def new(bench: Bench) -> Iterator[Bench]:
    """The bench with another ledger, which is empty."""
    url = f"sqlite:///{bench.folder}/new.sqlite"
    upgrade(url)
    with closing(open_ledger(url)) as ledger:
        yield bench._replace(ledger=ledger)


def _with_entries(bench: Bench, count: int) -> Journal:
    for _ in range(count):
        bench.topic.append([encode_entry(Entry(run="x", items=()))])
    return bench.journal()


def test_a_journal_behind_its_ledger_is_refused(bench: Bench) -> None:
    _with_entries(bench, 3)
    del bench.topic.records[2]

    with pytest.raises(ConfigurationError, match="up to offset 3, but it ends at 2"):
        bench.journal()


def test_a_journal_that_was_made_again_is_refused(bench: Bench) -> None:
    _with_entries(bench, 1)
    bench.topic.id = "second"

    with pytest.raises(ConfigurationError, match="was made again"):
        bench.journal()


def test_a_journal_whose_beginning_is_deleted_cannot_fill_a_new_ledger(
    bench: Bench, new: Bench
) -> None:
    _with_entries(bench, 3)
    bench.topic.first = 2

    bench.journal()
    with pytest.raises(ConfigurationError, match="restore a newer backup"):
        new.journal()


def test_an_entry_of_a_newer_version_stops_the_sink_and_a_foreign_record_does_not(
    bench: Bench,
) -> None:
    _with_entries(bench, 1)
    bench.topic.append([b"hello"])
    bench.journal()
    assert bench.value("resmeter_journal_foreign_total") == 1

    bench.topic.append([b'{"format":9,"run":"x","items":[]}'])
    with pytest.raises(BrokenInvariantError, match="Run the newer resmeter"):
        bench.journal()


def test_a_held_ledger_is_free_once_it_follows_the_journal(bench: Bench) -> None:
    holds.place(bench.ledger, "usage.records", {}, {0: 5}, T0)
    _with_entries(bench, 1)

    assert holds.open_holds(bench.ledger) == []


def test_a_record_that_somebody_else_wrote_does_not_say_what_was_sent(bench: Bench) -> None:
    """So an older copy of a ledger stays held, and the journal has no beginning yet."""
    holds.place(bench.ledger, "usage.records", {}, {0: 5}, T0)
    bench.topic.append([b"hello"])

    journal = bench.journal()

    assert not journal.is_followed()
    assert len(holds.open_holds(bench.ledger)) == 1
    journal.begin()
    assert bench.journal().is_followed()
    assert len(bench.topic.records) == 2


async def test_the_marker_of_somebody_elses_transaction_stops_no_delivery(bench: Bench) -> None:
    await bench.flush()
    bench.topic.append([b"hello"])
    bench.topic.end_transaction()
    bench.store(record("c1"))

    await bench.flush(T0 / 1000 + 60)

    assert bench.delivered() == {"acme": 1}


def test_the_journals_id_is_asked_again_if_no_broker_has_said_it(bench: Bench) -> None:
    _with_entries(bench, 1)
    bench.topic.id = ""
    journal = bench.journal("b")
    bench.topic.id = "second"

    with pytest.raises(ConfigurationError, match="was made again"):
        journal.follow()


@pytest.mark.parametrize(("minutes", "side"), [(-31, "behind"), (31, "ahead of")])
async def test_a_sink_whose_clock_is_wrong_sends_nothing_until_it_is_right(
    bench: Bench, minutes: int, side: str
) -> None:
    """Another ledger's call of 23.5 hours ago would count as recent, and Stripe has forgotten it."""
    bench.store(record("c1"))
    sink = bench.sink(T0 / 1000 + 60)
    bench.topic.now_ms = lambda: T0 + 60_000 - minutes * 60_000

    await sink.flush()

    assert bench.at_stripe() == {}
    assert bench.value("resmeter_sink_clock_offset_seconds") == minutes * 60
    assert f"31 minutes {side} the clock of the broker" in (sink.journal.clock_problem or "")
    bench.topic.now_ms = lambda: T0 + 60_000
    await sink.flush()
    await sink.close()
    assert bench.at_stripe() == {"cus_acme": 1}
    assert sink.journal.clock_problem is None
