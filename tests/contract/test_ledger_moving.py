"""Moving a ledger to another database and back, and noticing every row that differs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from pipeline.errors import BrokenInvariantError, UnavailableError
from pipeline.ledger import Ledger, moving, open_ledger, upgrade
from pipeline.ledger.tables import meter_event, pending_record, usage_record
from tests.contract.test_ledger_decisions import decide, rejected
from tests.support.journal import journalled
from tests.support.ledger import count, planned, record, stored


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path}/other/ledger.sqlite"
    upgrade(url)
    opened = open_ledger(url)
    yield opened
    opened.close()


def filled(ledger: Ledger) -> None:
    event = rejected(ledger, "failed", "rejected", units=3)
    decide(ledger, event, "release", stripe_checked=True)
    journalled(ledger)
    stored(ledger, record("ü-1", tenant_id="Ä"), record("z"), record("Z", tenant_id="a_b"))


def test_a_ledger_is_moved_to_another_database_and_back(ledger: Ledger, other: Ledger) -> None:
    filled(other)

    counts = moving.copy(other, ledger)
    moving.compare(other, ledger)

    assert counts["usage_record"] == 6
    assert count(ledger, pending_record) == 3
    stored(ledger, record("new"))  # the numbers continue
    assert planned(ledger)


def test_a_moved_ledger_can_be_moved_back(ledger: Ledger, other: Ledger) -> None:
    filled(ledger)

    moving.copy(ledger, other)

    moving.compare(ledger, other)


def test_a_ledger_is_not_moved_over_another_one(ledger: Ledger, other: Ledger) -> None:
    stored(ledger, record("c1"))
    stored(other, record("c2"))

    with pytest.raises(UnavailableError, match="is not empty"):
        moving.copy(ledger, other)

    assert count(other, usage_record) == 1


@pytest.mark.parametrize(
    "change",
    [update(meter_event).values(value=9), delete(pending_record)],
    ids=["another value", "a missing row"],
)
def test_every_difference_is_noticed(ledger: Ledger, other: Ledger, change: object) -> None:
    filled(ledger)
    moving.copy(ledger, other)
    with other.writing() as connection:
        connection.execute(change)  # type: ignore[call-overload]

    with pytest.raises(BrokenInvariantError, match="the ledgers differ in"):
        moving.compare(ledger, other)
