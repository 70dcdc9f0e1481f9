"""The contract of an account over time: from which hour to which, and what holds around it."""

from pathlib import Path

import pytest

from pipeline.billing.contract import Contract
from pipeline.catalog.account_contract import contract_of
from pipeline.catalog.accounts import account_of, is_known
from pipeline.catalog.contracts import read_contracts
from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.catalog.value import Catalog, DatedAssignment, DatedContract
from pipeline.events.times import parse_time

FIRST = """
name = "first"
version = 1
effective_from = 2026-01-01T00:00:00Z
included.resolution = 31
minimum.amount = "310.00"
"""
SECOND = """
name = "second"
version = 1
effective_from = 2026-01-01T00:00:00Z
price.resolution = "0.50"
"""


def at(day: str) -> int:
    return parse_time(f"{day}T00:00:00Z")


def contract(*assigned: tuple[str, str | None]) -> Contract:
    """Return the contract of an account that has these, each from a day; no name: none."""
    versions = read_contracts({"1": FIRST, "2": SECOND}, lambda name: {"usd"})
    catalog = Catalog(
        contracts={(name, 1): DatedContract(of[0], 1) for name, of in versions.items()},
        accounts={
            "acme": tuple(
                DatedAssignment(name, None if day is None else at(day), 1) for name, day in assigned
            )
        },
    )
    found = contract_of(catalog, "acme")
    assert found is not None
    return found


def periods(of: Contract, first: str, count: int) -> list[tuple[str, int, int]]:
    """Return for each period its name, the included units, and the minimum."""
    found = [of.calendar.period_at(at(first))]
    while len(found) < count:
        found.append(of.calendar.after(found[-1]))
    terms = [of.terms_for(period) for period in found]
    return [
        (period.name, each.included.get("resolution", 0), each.minimum)
        for period, each in zip(found, terms, strict=True)
    ]


def test_a_contract_that_begins_and_ends_within_a_month_has_partial_periods() -> None:
    of = contract(("first", "2026-03-22"), ("", "2026-05-11"))

    assert periods(of, "2026-02-01", 6) == [
        ("2026-02-01", 0, 0),
        ("2026-03-01", 0, 0),
        ("2026-03-22", 10, 10000),
        ("2026-04-01", 31, 31000),
        ("2026-05-01", 10, 10000),
        ("2026-05-11", 0, 0),
    ]
    assert of.begins_ms == at("2026-03-22")


def test_a_contract_without_a_date_holds_from_its_first_version() -> None:
    of = contract(("first", None))

    assert periods(of, "2025-12-01", 2) == [("2025-12-01", 31, 0), ("2026-01-01", 31, 31000)]


def test_one_contract_follows_another() -> None:
    of = contract(("first", "2026-03-01"), ("second", "2026-04-16"))

    assert periods(of, "2026-03-01", 4) == [
        ("2026-03-01", 31, 31000),
        ("2026-04-01", 16, 15500),
        ("2026-04-16", 0, 0),
        ("2026-05-01", 0, 0),
    ]
    after = of.terms_for(of.calendar.named("2026-05"))
    assert str(after.price_at("resolution", 1, None)) == "0.50"


def test_of_two_contracts_from_one_time_the_later_entry_holds() -> None:
    of = contract(("first", "2026-03-01"), ("second", "2026-03-01"))

    assert periods(of, "2026-03-01", 1) == [("2026-03-01", 0, 0)]


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    file = tmp_path / "resmeter.toml"
    file.write_text(
        "[tenants.acme]\nstripe_customer = 'cus_1'\n"
        "[tenants.acme-eu]\naccount = 'acme'\n"
        "[tenants.moved]\n"
        "account = [{ name = 'moved' }, { name = 'acme', from = 2026-06-01T00:00:00Z }]\n"
    )
    return load_tenants(file)


def test_an_account_owns_its_tenants_units_of_the_time(tenants: Tenants) -> None:
    account = account_of(tenants, "acme")

    june = at("2026-06-01")
    assert account.tenant_ids == ("acme", "acme-eu", "moved")
    assert account.owns("acme-eu", 0)
    assert not account.owns("moved", june - 1)
    assert account.owns("moved", june)
    assert not account.owns("other", june)


def test_a_name_that_nothing_has_is_not_known(tenants: Tenants) -> None:
    assert is_known(tenants, "acme")
    assert is_known(tenants, "moved")
    assert not is_known(tenants, "acne")
