"""What is missing before a period can be closed, and what its invoice needs."""

from pathlib import Path

import pytest
from sqlalchemy import update

from pipeline.billing.approvals import AMOUNT_MAX
from pipeline.catalog.accounts import account_of
from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.events.times import parse_time
from pipeline.ledger import Ledger, leases
from pipeline.ledger.tables import usage_record
from pipeline.replay.closing import Checks, Missing, Readiness, undecided
from pipeline.replay.decided import Decided
from pipeline.sink.metering import Metering
from pipeline.sink.planner import LedgerPlans, plan_pending
from pipeline.sink.stripe.meter import body_sha256
from pipeline.sink.stripe.wanted import charged_to
from tests.support.journal import journalled
from tests.support.ledger import deliver, planned, record, stored
from tests.support.tenants import tenants_with

OCTOBER_2 = parse_time("2026-10-02T10:00:00Z")
NOVEMBER = parse_time("2026-11-01T00:00:00Z")
NOW = parse_time("2026-11-01T02:00:00Z")
ALL_DECIDED = [Decided(number, NOW, unread=0, due=0, lost=0) for number in range(4)]


@pytest.fixture
def tenants() -> Tenants:
    return tenants_with({"acme": "cus_1"}, meters={"resolution": "m"})


def deliver_all(ledger: Ledger) -> None:
    for event in planned(ledger):
        deliver(ledger, event)


def check(
    ledger: Ledger, tenants: Tenants, name: str = "acme", period: str | None = None
) -> Readiness:
    checks = Checks(ledger, tenants, ALL_DECIDED, NOW, AMOUNT_MAX)
    return checks.readiness(account_of(tenants, name), period)


def test_a_period_is_ready_once_its_usage_is_delivered(ledger: Ledger, tenants: Tenants) -> None:
    stored(ledger, record("c1", at=OCTOBER_2), record("c2", at=OCTOBER_2 + 1))
    before = check(ledger, tenants)
    deliver_all(ledger)

    after = check(ledger, tenants)

    assert [(each.what, each.number) for each in before.missing] == [("undelivered", 2)]
    assert after.missing == ()
    assert after.stated.statement.period.name == "2026-10-01"
    assert after.stated.statement.total == 198
    assert after.invoice is not None
    assert (after.invoice.send, after.invoice.items) == ({}, ())


def test_a_unit_that_was_taken_back_after_it_was_sent_is_an_item_of_the_invoice(
    ledger: Ledger, tenants: Tenants
) -> None:
    stored(ledger, record("c1", at=OCTOBER_2), record("c2", at=OCTOBER_2 + 1))
    deliver_all(ledger)
    stored(ledger, record("c1", 2, -1, at=OCTOBER_2 + 2, supersedes=1))

    found = check(ledger, tenants)

    assert found.missing == ()  # a reversal holds up nothing
    assert found.invoice is not None
    assert [(item.amount, item.description) for item in found.invoice.items] == [
        (-99, "resolution: 1 of 2 counted are not charged")
    ]


def test_units_that_the_meter_does_not_count_hold_up_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    """One is included, one would be at another price than the subscription's, and one is sent."""
    (tmp_path / "contract.toml").write_text(
        'name = "c"\nversion = 1\neffective_from = 2026-10-01T00:00:00Z\nincluded.resolution = 1\n'
    )
    file = tmp_path / "resmeter.toml"
    file.write_text(
        'contract_files = ["contract.toml"]\n[accounts.acme]\nstripe_customer = "cus_1"\n'
        'contract = "c"\n[tenants.acme]\naccount = "acme"\n'
    )
    tenants = load_tenants(file)
    stored(ledger, *(record(f"c{n}", at=OCTOBER_2 + n) for n in range(3)))
    with ledger.writing() as connection:
        other = update(usage_record).where(usage_record.c.id == "acme:c1:1")
        connection.execute(other.values(price="0.50", currency="usd"))
    before = check(ledger, tenants)
    metering = Metering(ledger, tenants, charged_to, NOW)
    plan_pending(metering, body_sha256, LedgerPlans(ledger, NOW))
    journalled(ledger)
    for event in leases.due(ledger, NOW, 10):
        deliver(ledger, event)

    after = check(ledger, tenants)

    assert [(each.what, each.number) for each in before.missing] == [("undelivered", 1)]
    assert after.missing == ()
    assert after.invoice is not None
    assert [item.amount for item in after.invoice.items] == [50]
    assert after.invoice.send == {}


def test_usage_without_a_customer_is_parked_and_its_account_has_no_invoice(
    ledger: Ledger, tenants: Tenants
) -> None:
    stored(ledger, record("c1", tenant_id="bluejay", at=OCTOBER_2))

    found = check(ledger, tenants, "bluejay")

    assert [(each.what, each.number) for each in found.missing] == [("parked", 1)]
    assert found.invoice is None


def test_a_reversal_whose_charge_is_unknown_is_missing(ledger: Ledger, tenants: Tenants) -> None:
    stored(ledger, record("c1", 2, -1, at=OCTOBER_2, supersedes=1))

    (missing,) = check(ledger, tenants, period="2026-10").missing

    assert (missing.what, missing.number) == ("unmatched", 1)


def test_a_period_that_has_not_ended_cannot_be_closed(ledger: Ledger, tenants: Tenants) -> None:
    found = check(ledger, tenants, period="2026-11")

    assert ("order", "ends only at 2026-12-01T00:00:00.000Z") in [
        (each.what, each.detail) for each in found.missing
    ]


def test_what_workers_have_not_decided_or_have_lost_is_missing() -> None:
    decided = [*ALL_DECIDED[:2], Decided(2, NOVEMBER - 1, 5, 1, 0), Decided(3, NOW, 0, 0, 7)]

    behind, lost = undecided(decided, NOVEMBER)

    assert (behind.what, behind.number) == ("undecided", 1)
    assert "2026-10-31T23:59:59.999Z" in behind.detail
    assert lost == Missing("lost", 7, lost.detail)
    assert undecided(ALL_DECIDED, NOVEMBER) == []


def test_usage_that_is_decided_and_not_stored_holds_up_the_close(
    ledger: Ledger, tenants: Tenants
) -> None:
    stored(ledger, record("c1", at=OCTOBER_2))
    deliver_all(ledger)

    def missing(written: dict[int, int]) -> list[tuple[str, int]]:
        checks = Checks(ledger, tenants, ALL_DECIDED, NOW, AMOUNT_MAX, written)
        found = checks.readiness(account_of(tenants, "acme"), None)
        return [(each.what, each.number) for each in found.missing]

    assert missing({0: 1}) == []
    assert missing({0: 2, 3: 1}) == [("unstored", 2)]
