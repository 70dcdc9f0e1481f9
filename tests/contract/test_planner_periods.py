"""Meter events are planned by the periods of accounts, and have only what the subscription charges."""

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import select, update

from pipeline.catalog.accounts import account_of
from pipeline.catalog.tenants import load_tenants
from pipeline.events.times import parse_time
from pipeline.ledger import Ledger, months, reports
from pipeline.ledger.month_entries import Closing
from pipeline.ledger.statements import prepare_grant
from pipeline.ledger.tables import meter_event, usage_record
from pipeline.sink.chargeable import Why
from pipeline.sink.metering import Metering, Reckonings
from pipeline.sink.planner import LedgerPlans, Planned, plan_pending
from pipeline.sink.prospects import ways
from pipeline.sink.stripe.meter import body_sha256
from pipeline.sink.stripe.wanted import charged_to
from pipeline.usage.record import UsageRecord
from tests.support.ledger import record, stored

HOUR_MS = 3_600_000
OCTOBER = parse_time("2026-10-01T00:00:00Z")
NOVEMBER = parse_time("2026-11-01T00:00:00Z")
NOW = parse_time("2026-11-02T12:00:00Z")
CUSTOMER = '[tenants.acme]\nstripe_customer = "cus_acme"\n'
CONTRACT = """
contract_files = ["contract.toml"]
[accounts.group]
stripe_customer = "cus_group"
contract = "group"
[tenants.acme]
account = "group"
[tenants.bluejay]
account = "group"
"""


def terms(text: str) -> str:
    return f'name = "group"\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\n{text}'


class Bench:
    """A ledger, a tenant file, and a planner that sends nothing."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ledger = ledger
        self.reckonings = Reckonings(lambda: 0.0)  # a reckoning takes no time
        self._folder = folder
        self.declare(CUSTOMER)

    def declare(self, text: str, contract: str | None = None) -> None:
        if contract is not None:
            (self._folder / "contract.toml").write_text(terms(contract))
        file = self._folder / "resmeter.toml"
        file.write_text(text)
        self.tenants = load_tenants(file)

    def plan(self, *usage: UsageRecord, now: int = NOW, chunk: int = 10_000) -> Planned:
        if usage:
            stored(self.ledger, *usage)
        metering = Metering(self.ledger, self.tenants, charged_to, now, self.reckonings)
        plans = LedgerPlans(self.ledger, now)
        return plan_pending(metering, body_sha256, plans, chunk_records=chunk)

    def ways(self, conversation: str) -> dict[str, str]:
        """Return what the receipt says about units that are in no meter event, by id."""
        receipts = reports.receipts(self.ledger, "acme", conversation)
        return dict(ways(self.ledger, self.tenants, receipts, NOW))

    def close(self, account: str, start_ms: int) -> None:
        closed = Closing(
            account=account,
            period_start=start_ms,
            period_end=start_ms + 1,
            closed_at=NOW,
            topic="usage.records",
            offsets={},
            grants=0,
            statement="{}",
        )
        with self.ledger.writing() as connection:
            months.enter(connection, closed)

    def price(self, record_id: str, price: str, currency: str = "usd") -> None:
        """Fix the price of a stored record, as the sink does when it stores one."""
        with self.ledger.writing() as connection:
            priced = update(usage_record).where(usage_record.c.id == record_id)
            connection.execute(priced.values(price=price, currency=currency))

    def grant(self, line: dict[str, Any]) -> None:
        account = account_of(self.tenants, line["account"])
        item = prepare_grant(self.ledger, account, self.tenants, orjson.dumps(line))
        with self.ledger.writing() as connection:
            months.enter(connection, item)

    def months(self) -> dict[str, int]:
        """Return the units of meter events by month."""
        units: Counter[str] = Counter()
        with self.ledger.reading() as connection:
            for row in connection.execute(select(meter_event.c.timestamp, meter_event.c.value)):
                units["October" if row.timestamp * 1000 < NOVEMBER else "November"] += row.value
        return {month: number for month, number in units.items() if number}


@pytest.fixture
def bench(ledger: Ledger, tmp_path: Path) -> Bench:
    return Bench(ledger, tmp_path)


def of(planned: Planned) -> dict[Why, int]:
    """Return the units that stay pending, by why."""
    units: Counter[Why] = Counter()
    for kept, number in planned.kept.items():
        units[kept.why] += number
    return dict(units)


def charges(
    number: int, from_ms: int, tenant_id: str = "acme", first: int = 0
) -> list[UsageRecord]:
    return [
        record(f"c{n}", at=from_ms + n * 1000, tenant_id=tenant_id)
        for n in range(first, first + number)
    ]


def reversal(name: str, at: int, tenant_id: str = "acme") -> UsageRecord:
    return record(name, 2, -1, at=at, supersedes=1, tenant_id=tenant_id)


# --- periods --------------------------------------------------------------------------------------


def test_a_reversal_does_not_lessen_what_the_next_month_owes(bench: Bench) -> None:
    bench.plan(record("c1", at=OCTOBER))

    result = bench.plan(reversal("c1", NOVEMBER), record("c2", at=NOVEMBER))

    assert bench.months() == {"October": 1, "November": 1}
    assert of(result) == {"carried": -1}


def test_a_reversal_lessens_a_later_event_of_its_own_month(bench: Bench) -> None:
    bench.plan(record("c1", at=OCTOBER))

    result = bench.plan(
        reversal("c1", NOVEMBER), *charges(2, OCTOBER + HOUR_MS, first=2), record("c9", at=NOVEMBER)
    )

    assert bench.months() == {"October": 2, "November": 1}
    assert of(result) == {}


def test_a_charge_and_its_reversal_of_the_next_month_cancel_out(bench: Bench) -> None:
    result = bench.plan(record("c1", at=OCTOBER), reversal("c1", NOVEMBER))

    assert (bench.months(), result.netted, of(result)) == ({}, 1, {})


def test_a_chunk_never_parts_a_charge_from_its_reversal(bench: Bench) -> None:
    usage = [
        each for n in range(5) for each in (record(f"c{n}", at=OCTOBER + n), reversal(f"c{n}", NOW))
    ]

    result = bench.plan(*usage, chunk=3)

    assert (bench.months(), of(result)) == ({}, {})


def test_many_units_of_one_millisecond_fit_into_one_chunk(bench: Bench) -> None:
    result = bench.plan(*(record(f"c{n}", at=OCTOBER) for n in range(7)), chunk=3)

    assert (bench.months(), of(result)) == ({"October": 7}, {})


def test_a_reversal_without_its_charge_lessens_nothing(bench: Bench) -> None:
    result = bench.plan(reversal("unknown", OCTOBER), record("c1", at=OCTOBER))

    assert bench.months() == {"October": 1}
    assert of(result) == {"unmatched": -1}


def test_a_charge_that_comes_after_its_reversal_is_not_sent(bench: Bench) -> None:
    bench.plan(reversal("c1", NOVEMBER))

    result = bench.plan(record("c1", at=OCTOBER))

    assert (bench.months(), of(result)) == ({}, {})


def test_units_of_a_closed_period_wait_for_the_next_statement(bench: Bench) -> None:
    bench.plan(record("c1", at=OCTOBER))
    bench.close("acme", OCTOBER)

    result = bench.plan(
        record("c2", at=OCTOBER),
        reversal("c1", NOW),
        record("c3", at=OCTOBER - 1),
        record("c4", at=NOVEMBER),
    )

    assert bench.months() == {"October": 1, "November": 1}
    assert of(result) == {
        "late": 1
    }  # two units, one of them from before the first period, less one


def test_a_period_is_that_of_the_contract(bench: Bench) -> None:
    """On the 15th: a reversal of the 14th and a charge of the 15th are of two periods."""
    bench.declare(CONTRACT, "period.anchor = 2026-01-15T00:00:00Z")
    middle = parse_time("2026-10-15T00:00:00Z")
    bench.plan(record("c1", at=middle - 1))

    result = bench.plan(reversal("c1", middle), record("c2", at=middle))

    assert bench.months() == {"October": 2}
    assert of(result) == {"carried": -1}


def test_a_reversal_stays_with_the_account_that_the_tenant_has_left(bench: Bench) -> None:
    moved = OCTOBER + 10 * HOUR_MS
    bench.declare(
        '[accounts.old]\nstripe_customer = "cus_old"\n[accounts.new]\nstripe_customer = "cus_new"\n'
        '[tenants.acme]\naccount = [{ name = "old" }, { name = "new", from = 2026-10-01T10:00:00Z }]\n'
    )
    bench.plan(record("c1", at=moved - 1))

    result = bench.plan(reversal("c1", moved), record("c2", at=moved))

    assert bench.months() == {"October": 2}
    assert of(result) == {"carried": -1}


# --- what the subscription charges ----------------------------------------------------------------


def test_a_unit_without_a_price_is_not_sent(bench: Bench) -> None:
    result = bench.plan(record("c1", at=OCTOBER), record("c2", at=OCTOBER, policy_version=9))

    assert bench.months() == {"October": 1}
    assert of(result) == {"unpriced": 1}


def test_without_a_contract_units_at_any_price_are_sent(bench: Bench) -> None:
    stored(bench.ledger, *charges(2, OCTOBER))
    bench.price("acme:c0:1", "0.50")

    result = bench.plan()

    assert (bench.months(), of(result)) == ({"October": 2}, {})


def test_under_a_contract_a_unit_at_another_price_than_the_subscriptions_is_not_sent(
    bench: Bench,
) -> None:
    bench.declare(CONTRACT, 'cap.units = 1\ncap.action = "alert"')
    stored(bench.ledger, *charges(3, OCTOBER))
    bench.price("acme:c0:1", "0.50")
    bench.price("acme:c1:1", "0.99", "eur")

    result = bench.plan()

    assert bench.months() == {"October": 1}
    assert of(result) == {"held": 1, "unpriced": 1}


def test_under_a_contract_with_tiers_every_unit_is_sent(bench: Bench) -> None:
    bench.declare(CONTRACT, 'tiers.resolution = [{ up_to = 1, price = "2" }, { price = "1" }]')

    result = bench.plan(*charges(3, OCTOBER))

    assert (bench.months(), of(result)) == ({"October": 3}, {})


def test_included_units_are_not_sent(bench: Bench) -> None:
    bench.declare(CONTRACT, "included.resolution = 2")

    result = bench.plan(
        *charges(2, OCTOBER),
        *charges(2, OCTOBER, "bluejay", first=2),
        *charges(1, NOVEMBER, first=9),
    )

    assert bench.months() == {"October": 2}
    assert of(result) == {"held": 3}


def test_a_receipt_says_that_an_included_unit_is_not_sent(bench: Bench) -> None:
    bench.declare(CONTRACT, "included.resolution = 1")
    stored(bench.ledger, *charges(2, OCTOBER))

    assert (bench.ways("c0"), bench.ways("c1")) == ({"acme:c0:1": "held"}, {"acme:c1:1": "sent"})


def test_a_receipt_says_that_a_unit_has_no_price_or_no_customer(bench: Bench) -> None:
    stored(bench.ledger, record("c1", at=OCTOBER, outcome="disqualified"), *charges(1, OCTOBER))

    assert bench.ways("c1") == {"acme:c1:1": "unpriced"}
    bench.declare("[tenants.acme]\n")
    assert bench.ways("c0") == {"acme:c0:1": "parked"}


def test_a_unit_that_moves_into_the_included_ones_keeps_the_next_from_being_sent(
    bench: Bench,
) -> None:
    bench.declare(CONTRACT, "included.resolution = 2")
    bench.plan(*charges(3, OCTOBER))

    result = bench.plan(reversal("c0", NOVEMBER), record("c9", at=OCTOBER + HOUR_MS))

    # One is metered, and one was sent: c2 then, c9 now.
    assert bench.months() == {"October": 1}
    assert of(result) == {"held": 2}


def test_the_reversal_of_a_sent_unit_lessens_the_next_metered_one(bench: Bench) -> None:
    bench.declare(CONTRACT, "included.resolution = 2")
    bench.plan(*charges(3, OCTOBER))

    first = bench.plan(reversal("c2", NOVEMBER))
    result = bench.plan(*charges(2, OCTOBER + HOUR_MS, first=3))

    assert of(first) == {"held": 2, "carried": -1}
    assert bench.months() == {"October": 2}
    assert of(result) == {"held": 2}


def test_units_over_a_cap_that_stops_are_not_sent(bench: Bench) -> None:
    bench.declare(CONTRACT, 'cap.units = 2\ncap.action = "stop"')

    result = bench.plan(*charges(3, OCTOBER))

    assert bench.months() == {"October": 2}
    assert of(result) == {"held": 1}


def test_units_in_a_pack_are_not_sent(bench: Bench) -> None:
    bench.declare(CONTRACT, 'price.resolution = "2"')
    pack = {"kind": "pack", "id": "p", "account": "group", "outcomes": ["resolution"], "units": 2}
    since = "2026-09-01T00:00:00Z"
    bench.grant({**pack, "price": "1.00", "starts_at": since, "created_at": since})

    result = bench.plan(*charges(3, OCTOBER))

    assert bench.months() == {"October": 1}
    assert of(result) == {"held": 2}


def test_an_account_that_cannot_be_reckoned_is_held_and_holds_up_no_other(bench: Bench) -> None:
    """It has a pack, no contract, and units in two currencies."""
    bench.declare(CUSTOMER + '[tenants.bluejay]\nstripe_customer = "cus_bluejay"\n')
    since = "2026-09-01T00:00:00Z"
    pack = {"kind": "pack", "id": "p", "account": "acme", "outcomes": ["resolution"], "units": 1}
    bench.grant({**pack, "price": "1.00", "starts_at": since, "created_at": since})
    stored(bench.ledger, *charges(2, OCTOBER), *charges(1, OCTOBER, "bluejay", first=2))
    bench.price("acme:c0:1", "1", "eur")

    result = bench.plan()

    assert (bench.months(), of(result)) == ({"October": 1}, {"held": 2})
    assert result.units("held") == {"acme": 2}
    assert list(bench.reckonings.failed) == ["acme"]


def test_what_is_reckoned_takes_a_twentieth_of_the_time_and_no_period_end_waits(
    bench: Bench,
) -> None:
    seconds = [0.0]

    def stopwatch() -> float:
        seconds[0] += 1.0  # a reckoning takes one second
        return seconds[0]

    bench.reckonings = Reckonings(stopwatch)
    bench.declare(CONTRACT, "included.resolution = 1")
    bench.plan(*charges(2, OCTOBER), now=NOVEMBER - 10)

    early = bench.plan(record("c7", at=OCTOBER + 7000), now=NOVEMBER - 9)
    held = bench.months()
    at_the_end = bench.plan(now=NOVEMBER)
    later = bench.plan(record("c8", at=OCTOBER + 8000), now=NOVEMBER + 1)
    seconds[0] += 19.0
    last = bench.plan(now=NOVEMBER + 2)

    assert [of(each) for each in (early, at_the_end, later, last)] == [
        {"held": 2},
        {"held": 1},
        {"held": 2},
        {"held": 1},
    ]
    assert (held, bench.months()) == ({"October": 1}, {"October": 3})
