"""`resmeter catalog show` and `log`: who has which policy, account and contract, and who pays."""

from pathlib import Path

import pytest

from pipeline.catalog.entry import entries_of
from pipeline.catalog.log import Appended, Verdict, read
from pipeline.catalog.planning import beginning
from pipeline.catalog.tenants import read_declared
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.cli.views.catalog import print_catalog, print_log
from pipeline.events.times import parse_time

AT = parse_time("2026-11-27T12:00:00Z")
ACCOUNTS = """
contract_files = ["acme.toml"]
[accounts.acme]
stripe_customer = "cus_1"
contract = [
  { name = "acme-2026", from = 2026-06-01T00:00:00Z, to = 2027-06-01T00:00:00Z },
]
[tenants.acme-eu]
account = "acme"
"""
CONTRACT = """
name = "acme-2026"
version = 1
effective_from = 2026-01-01T00:00:00Z
price.resolution = "0.80"
"""


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Catalog, Verdict]:
    (tmp_path / "acme.toml").write_text(CONTRACT)
    (tmp_path / "resmeter.toml").write_text(ACCOUNTS)
    declared, _ = read_declared(tmp_path / "resmeter.toml")
    (value,) = entries_of(beginning(declared), "", "ada", "start", LEAD_MS_MIN)
    return read(Catalog(), Appended(0, AT, value))


def test_each_tenant_has_its_account_its_contract_and_who_pays(
    begun: tuple[Catalog, Verdict], capsys: pytest.CaptureFixture[str]
) -> None:
    print_catalog(begun[0], AT, None)

    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["tenant", "policy", "from", "account", "contract", "customer"]
    fin = ["fin-2026", "version", "1", "the", "start"]
    contract = ["contract", "acme-2026", "version", "1"]
    assert rows[2:] == [
        ["acme", *fin, "acme", *contract, "cus_1"],
        ["acme-eu", *fin, "acme", *contract, "cus_1"],
    ]


def test_a_tenant_shows_its_accounts_and_contracts_with_their_times(
    begun: tuple[Catalog, Verdict], capsys: pytest.CaptureFixture[str]
) -> None:
    print_catalog(begun[0], AT, "acme-eu")

    assert capsys.readouterr().out.splitlines()[1:] == [
        "* in account acme from the start",
        "* contract acme-2026 version 1 from 2026-06-01T00:00:00Z to 2027-06-01T00:00:00Z",
        "  billed to cus_1",
    ]


def test_a_tenant_that_the_catalog_does_not_name_is_said_to_have_what_all_others_have(
    begun: tuple[Catalog, Verdict], capsys: pytest.CaptureFixture[str]
) -> None:
    print_catalog(begun[0], AT, "acmee")

    said = "the catalog does not name tenant acmee: what all others have holds"
    assert capsys.readouterr().err.split() == said.split()
    print_catalog(begun[0], AT, "acme-eu")
    assert capsys.readouterr().err == ""


def test_the_log_names_contracts_and_counts_accounts(
    begun: tuple[Catalog, Verdict], capsys: pytest.CaptureFixture[str]
) -> None:
    print_log([begun[1]])

    printed = " ".join(capsys.readouterr().out.split())
    assert printed.endswith(
        "2 tenants: acme, acme-eu; contract acme-2026 version 1 from 2026-01-01T00:00:00Z; "
        "1 account; the accounts of 1 tenant"
    )
