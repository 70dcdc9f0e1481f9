"""Statements of the ledger: prices are fixed when usage is stored, closed periods never change."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from pipeline.billing.contract import BilledAccount, Contract, Terms
from pipeline.billing.periods import Calendar, Period
from pipeline.billing.run import Stated
from pipeline.billing.statement import statement_object
from pipeline.errors import BrokenInvariantError, ConfigurationError
from pipeline.events.times import parse_time
from pipeline.ledger import Ledger, records
from pipeline.ledger.entries import Stored
from pipeline.ledger.month_entries import Closing, MonthItem
from pipeline.ledger.statements import prepare_closing, prepare_grant, state_account
from pipeline.usage.record import UsageRecord
from tests.support.journal import written
from tests.support.ledger import TOPIC, arrivals, record

ACME = BilledAccount("acme", ("acme",), lambda currencies: Contract("usd", [Terms()]))
CALENDAR = Calendar()
OCTOBER, NOVEMBER, DECEMBER = map(CALENDAR.named, ("2026-10", "2026-11", "2026-12"))


class Prices:
    """One price for all outcomes."""

    def __init__(self, price: str | None) -> None:
        self._price = price

    def price_for(
        self, tenant_id: str, outcome: str, policy: str, version: int
    ) -> tuple[Decimal, str] | None:
        return None if self._price is None else (Decimal(self._price), "usd")

    def priced_by(self, policy: str, version: int) -> str:
        return "digest"


def at(text_: str) -> int:
    return parse_time(f"{text_}:00Z")


class Bench:
    """A ledger that stores records at given times."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._next: int | None = None

    def store(self, stored_at: str, *stored: UsageRecord, price: str | None = "0.99") -> None:
        batch = arrivals(list(stored), self._next or 0)
        prices = None if price is None else Prices(price)
        result = records.store(self.ledger, TOPIC, batch, {0: self._next}, at(stored_at), prices)
        assert isinstance(result, Stored)
        self._next = result.offsets[0]

    def state(self, period: str, as_of: str, price: str | None = "0.99") -> Stated:
        return state_account(self.ledger, ACME, Prices(price), period, at(as_of))

    def lines(self, period: str, as_of: str) -> list[tuple[str, str | None, int]]:
        lines = self.state(period, as_of).statement.lines
        return [(line.kind, line.period, line.amount) for line in lines]

    def prepare(
        self, period: Period, closed_at: str, price: str | None = "0.99"
    ) -> tuple[list[str], Closing | None]:
        """Return what is missing, without what is not sent; and the closing."""
        found = prepare_closing(
            self.ledger, ACME, Prices(price), period.name, at(closed_at), lambda _: False
        )
        return [f"{each.what}: {each.detail}" for each in found.missing], found.closing

    def close(self, period: Period, closed_at: str) -> None:
        missing, closing = self.prepare(period, closed_at)
        assert closing is not None, missing
        self.enter(closing)

    def grant(self, **line: object) -> None:
        self.enter(prepare_grant(self.ledger, ACME, Prices("0.99"), json.dumps(line).encode()))

    def enter(self, item: MonthItem) -> None:
        (verdict,) = written(self.ledger, [item], "a")
        assert verdict.why is None


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    return Bench(ledger)


def charge(name: str, occurred_at: str) -> UsageRecord:
    return record(name, at=at(occurred_at))


def reversal(name: str, occurred_at: str) -> UsageRecord:
    return record(name, 2, -1, at=at(occurred_at), supersedes=1)


def test_a_price_is_fixed_when_the_usage_is_stored(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", charge("c1", "2026-10-02T00:00"), price="0.50")

    assert bench.state("2026-10", "2026-10-03T00:00", price="9.99").statement.total == 50
    with bench.ledger.reading() as connection:
        row = connection.execute(
            text("SELECT price, currency, priced_by, stored_at FROM usage_record")
        ).one()
    assert tuple(row) == ("0.50", "usd", "digest", at("2026-10-02T00:00"))


def test_usage_that_an_earlier_version_stored_has_the_price_of_its_policy(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", charge("c1", "2026-10-02T00:00"))
    with bench.ledger.writing() as connection:
        connection.execute(
            text("UPDATE usage_record SET price = NULL, currency = NULL, stored_at = NULL")
        )

    assert bench.state("2026-10", "2026-10-03T00:00", price="9.99").statement.total == 999


def test_usage_without_a_price_is_visible_and_blocks_the_close(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", charge("c1", "2026-10-02T00:00"), price=None)

    stated = bench.state("2026-10", "2026-10-03T00:00", price=None)
    (missing,), closing = bench.prepare(OCTOBER, "2026-11-01T00:45", price=None)

    assert closing is None
    assert missing.startswith("unpriced: 1 units of outcome 'resolution' have no price in usd")
    assert (stated.statement.counts.unpriced, stated.statement.total) == (1, 0)
    assert len(stated.missing) == 1


def test_an_open_statement_knows_what_was_stored_until_its_time(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", charge("c1", "2026-10-02T00:00"))
    bench.store("2026-10-04T00:00", charge("c2", "2026-10-02T01:00"))

    assert bench.lines("2026-10", "2026-10-03T23:59") == [("metered", None, 99)]
    assert bench.lines("2026-10", "2026-10-04T00:00") == [("metered", None, 198)]


def test_what_is_stored_after_the_close_is_on_the_next_statement(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", charge("c1", "2026-10-02T00:00"))
    bench.close(OCTOBER, "2026-11-01T00:45")
    bench.store("2026-11-02T00:00", reversal("c1", "2026-11-02T00:00"))
    bench.store(
        "2026-11-03T00:00", charge("c2", "2026-10-30T00:00"), charge("c3", "2026-11-03T00:00")
    )

    assert bench.lines("2026-10", "2026-11-20T00:00") == [("metered", None, 99)]
    assert bench.state("2026-10", "2026-11-20T00:00").statement.is_final
    november = bench.state("2026-11", "2026-11-20T00:00")
    assert november.statement.counts.late == 2
    # One unit of October for another at the same price: nothing to adjust.
    assert bench.lines("2026-11", "2026-11-20T00:00") == [("metered", None, 99)]


@pytest.mark.parametrize("clock", ["2026-10-31T23:00", "2026-11-01T02:00"])
def test_a_close_knows_what_it_knew_whatever_the_clock_of_the_sink(
    bench: Bench, clock: str
) -> None:
    bench.store("2026-11-01T02:00", charge("c1", "2026-10-02T00:00"))
    bench.close(OCTOBER, "2026-11-01T00:45")
    bench.store(clock, charge("c2", "2026-10-03T00:00"))

    assert bench.lines("2026-10", "2026-11-20T00:00") == [("metered", None, 99)]
    assert bench.lines("2026-11", "2026-11-20T00:00") == [("adjusted", "2026-10-01", 99)]


def test_periods_are_closed_once_and_in_order(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", charge("c1", "2026-10-02T00:00"))

    def missing(period: Period, closed_at: str) -> str:
        (found,), closing = bench.prepare(period, closed_at)
        assert closing is None
        return found

    assert "in order; the next is 2026-10-01" in missing(NOVEMBER, "2026-12-01T00:45")
    assert "ends only at 2026-11-01" in missing(OCTOBER, "2026-10-31T00:00")
    bench.close(OCTOBER, "2026-11-01T00:45")
    assert "is closed already" in missing(OCTOBER, "2026-11-01T00:46")
    assert "in order; the next is 2026-11-01" in missing(DECEMBER, "2027-01-01T00:45")


def test_a_period_before_any_usage_has_an_empty_statement(bench: Bench) -> None:
    stated = bench.state("2026-09", "2026-11-20T00:00").statement

    assert (stated.period.name, stated.lines, stated.total) == ("2026-09-01", (), 0)


def test_a_reversal_without_its_charge_blocks_the_close(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", reversal("c1", "2026-10-02T00:00"))

    (missing,), closing = bench.prepare(OCTOBER, "2026-11-01T00:45")

    assert closing is None
    assert missing.startswith("unmatched: 1 reversal names a charge that the ledger lacks")


def test_a_final_statement_that_is_no_longer_what_it_was_is_an_error(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", charge("c1", "2026-10-02T00:00"))
    bench.close(OCTOBER, "2026-11-01T00:45")
    with bench.ledger.writing() as connection:
        connection.execute(text("UPDATE usage_record SET price = '0.98'"))

    with pytest.raises(BrokenInvariantError, match="the final statement of acme for 2026-10-01"):
        bench.state("2026-10", "2026-11-20T00:00")


def test_grants_pay_and_enter_once(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", *(charge(f"c{n}", "2026-10-02T00:00") for n in range(3)))
    bench.grant(
        kind="pack",
        id="p",
        outcomes=["resolution"],
        units=5,
        created_at="2026-10-01T00:00:00Z",
        starts_at="2026-10-01T00:00:00Z",
    )
    bench.grant(kind="credit", id="c", amount="5.00", created_at="2026-10-01T00:00:00Z")

    def refused(**line: object) -> str:
        with pytest.raises(ConfigurationError) as error:
            bench.grant(**line)
        return str(error.value)

    created: Mapping[str, Any] = {"created_at": "2026-10-09T00:00:00Z"}
    assert "another grant" in refused(kind="credit", id="p", amount="1.00", **created)
    assert "more than was left" in refused(kind="void", grant="p", takes=3, **created)
    bench.grant(kind="void", grant="p", takes=2, **created)
    assert "void already" in refused(kind="void", grant="p", takes=0, **created)
    stated = bench.state("2026-10", "2026-10-20T00:00").statement
    assert (stated.counts.pack, stated.lines) == (3, ())
    assert (stated.closing.packs, stated.closing.credits) == ({}, {"c": 500})


def test_a_grant_from_before_the_last_close_is_refused(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", charge("c1", "2026-10-02T00:00"))
    bench.close(OCTOBER, "2026-11-01T00:45")

    with pytest.raises(ConfigurationError, match="never changes a final statement"):
        bench.grant(kind="credit", id="c", amount="1.00", created_at="2026-11-01T00:44:59Z")
    bench.grant(kind="credit", id="c", amount="1.00", created_at="2026-11-01T00:45:00Z")


def test_another_tenants_usage_is_on_another_statement(bench: Bench) -> None:
    bench.store(
        "2026-10-02T00:00",
        charge("c1", "2026-10-02T00:00"),
        record("c1", tenant_id="acme2", at=at("2026-10-02T00:00")),
        record("c1", tenant_id="acme.2", at=at("2026-10-02T00:00")),
    )

    assert bench.state("2026-10", "2026-10-03T00:00").statement.counts.known == 1


def test_the_stored_statement_is_the_one_that_is_printed(bench: Bench) -> None:
    bench.store("2026-10-02T00:00", charge("c1", "2026-10-02T00:00"))
    bench.close(OCTOBER, "2026-11-01T00:45")

    with bench.ledger.reading() as connection:
        stored = connection.execute(text("SELECT statement FROM closing")).scalar_one()
    stated = bench.state("2026-10", "2026-11-20T00:00")
    assert json.loads(stored) == statement_object(stated.account, stated.statement)


def test_a_unit_is_on_the_statement_of_its_tenants_account_at_the_time(bench: Bench) -> None:
    """The reversal follows its charge, although the tenant has moved since."""
    moved = at("2026-10-15T00:00")
    accounts = [
        BilledAccount(name, ("acme",), ACME.contract_of, owns)
        for name, owns in (
            ("old", lambda tenant_id, at_ms: at_ms < moved),
            ("new", lambda tenant_id, at_ms: at_ms >= moved),
        )
    ]
    bench.store("2026-10-10T00:00", record("c1", at=at("2026-10-10T00:00")))
    bench.store("2026-10-20T00:00", record("c2", at=at("2026-10-20T00:00")))
    bench.store("2026-10-21T00:00", record("c1", 2, -1, at=at("2026-10-21T00:00"), supersedes=1))

    old, new = (
        state_account(bench.ledger, each, Prices("0.99"), "2026-10", at("2026-10-25T00:00"))
        for each in accounts
    )

    assert (old.statement.counts.known, old.statement.counts.taken_back, old.statement.total) == (
        *(1, 1),
        0,
    )
    assert (new.statement.counts.known, new.statement.counts.unmatched, new.statement.total) == (
        *(1, 0),
        99,
    )
