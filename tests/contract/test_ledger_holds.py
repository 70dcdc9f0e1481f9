"""Holding the deliveries of an outdated ledger: the same on SQLite and PostgreSQL."""

import pytest
from prometheus_client import CollectorRegistry

from pipeline.ledger import Ledger, adoption, holds
from pipeline.ledger.holds import Hold
from pipeline.metrics import SinkMetrics
from pipeline.sink.position import LedgerPosition
from tests.support.journal import JOURNAL
from tests.support.ledger import T0, TOPIC, record, stored


@pytest.fixture
def position(ledger: Ledger) -> LedgerPosition:
    metrics = SinkMetrics(CollectorRegistry())
    return LedgerPosition(
        ledger, TOPIC, "sinks", metrics, now=lambda: T0 / 1000, journal_topic=JOURNAL
    )


def test_nothing_is_delivered_before_kafka_has_said_how_far_the_group_is(
    position: LedgerPosition,
) -> None:
    assert position.is_held()

    position.learn({}, committed=True)

    assert not position.is_held()


def test_a_ledger_as_far_as_its_group_holds_nothing(
    ledger: Ledger, position: LedgerPosition
) -> None:
    stored(ledger, record("c1"), record("c2"))

    position.learn({0: 2}, committed=True)

    assert not position.is_held()
    assert holds.open_holds(ledger) == []


@pytest.mark.parametrize(("has", "offset"), [(0, None), (1, 1)])
def test_a_ledger_behind_its_group_holds_every_partition(
    ledger: Ledger, position: LedgerPosition, has: int, offset: int | None
) -> None:
    if has:
        stored(ledger, *[record(f"c{n}") for n in range(has)])

    position.learn({0: 2, 1: 0}, committed=True)

    assert position.is_held()
    assert holds.open_holds(ledger) == [
        Hold(topic=TOPIC, partition=0, ledger_offset=offset, reached_offset=2, noticed_at=T0),
        Hold(topic=TOPIC, partition=1, ledger_offset=None, reached_offset=0, noticed_at=T0),
    ]
    assert "resmeter ledger resume" in (position.problem() or "")
    assert not position.may_commit()


def test_a_ledger_that_goes_back_while_the_sink_runs_is_held(
    ledger: Ledger, position: LedgerPosition
) -> None:
    position.learn({}, committed=True)
    stored(ledger, record("c1"))

    position.learn({0: 5})  # stored before a failover to a replica that lagged

    assert position.is_held()


def test_a_hold_stays_when_the_ledger_catches_up(ledger: Ledger, position: LedgerPosition) -> None:
    position.learn({0: 2}, committed=True)
    assert position.is_held()

    stored(ledger, record("c1"), record("c2"), record("c3"))

    assert position.is_held()


def test_a_ledger_that_follows_the_journal_is_not_held(
    ledger: Ledger, position: LedgerPosition
) -> None:
    """It knows what was sent, whatever it lacks."""
    position.learn({0: 2}, committed=True)
    assert position.is_held()

    adoption.begin(ledger, JOURNAL)

    assert not position.is_held()
    assert position.problem() is None
    assert position.may_commit()


def test_an_answer_ends_the_hold_until_the_ledger_goes_back_again(
    ledger: Ledger, position: LedgerPosition
) -> None:
    position.learn({0: 2}, committed=True)
    assert position.is_held()

    holds.answer(ledger, "never_sent", who="ops", reason="a new cluster", now_ms=T0)

    assert not position.is_held()
    assert position.may_commit()
    position.learn({0: 2}, committed=True)  # the group has not committed a lower offset yet
    assert not position.is_held()
    position.learn({0: 3}, committed=True)
    assert position.is_held()
