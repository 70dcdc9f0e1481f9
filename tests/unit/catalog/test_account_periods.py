"""A unit belongs to the account of its tenant at its time, and to the period of that account."""

from pipeline.catalog.account_periods import AccountPeriods
from pipeline.catalog.contracts import read_contracts
from pipeline.catalog.value import Catalog, DatedAssignment, DatedContract
from pipeline.events.times import parse_time

CONTRACT = """
name = "group"
version = 1
effective_from = 2026-01-01T00:00:00Z
period.anchor = 2026-01-15T00:00:00Z
included.resolution = 31
"""


def at(day: str) -> int:
    return parse_time(f"{day}:00:00Z")


def periods() -> AccountPeriods:
    """acme has an account of its own, and belongs to one with a contract from 20 October, 05:00, on."""
    (contract,) = read_contracts({"1": CONTRACT}, lambda name: {"usd"})["group"]
    return AccountPeriods(
        Catalog(
            contracts={("group", 1): DatedContract(contract, 1)},
            accounts={"group": (DatedAssignment("group", None, 1),)},
            members={"acme": (DatedAssignment("group", at("2026-10-20T05"), 1),)},
        )
    )


def test_without_a_contract_a_period_is_a_calendar_month() -> None:
    found = periods().at("acme", at("2026-10-02T00"))

    assert (found.account, found.period.name, found.terms) == ("acme", "2026-10-01", None)


def test_a_tenant_that_moves_has_a_part_of_each_accounts_period() -> None:
    moved = at("2026-10-20T05")

    before, after = (periods().at("acme", ms) for ms in (moved - 1, moved))

    assert (before.account, before.from_ms, before.to_ms) == ("acme", at("2026-10-01T00"), moved)
    assert (after.account, after.from_ms, after.to_ms) == ("group", moved, at("2026-11-15T00"))
    assert after.period.name == "2026-10-15"
    assert after.terms is not None
    assert (after.currency, after.terms.included) == ("usd", {"resolution": 31})


def test_the_periods_between_two_times_have_both() -> None:
    found = periods().between("group", at("2026-10-14T23"), at("2026-11-15T00"))

    assert [each.name for each in found] == ["2026-09-15", "2026-10-15", "2026-11-15"]
