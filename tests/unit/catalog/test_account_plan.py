"""Accounts and contracts: what the files would change for each tenant, in words, and what is refused."""

from pathlib import Path

import pytest

from pipeline.catalog.charges import Charging
from pipeline.catalog.declared import CatalogPlan
from pipeline.catalog.entry import entries_of, withdrawal
from pipeline.catalog.exported import decode_export, encode_export
from pipeline.catalog.log import Appended, Verdict, read
from pipeline.catalog.planning import beginning, plan
from pipeline.catalog.tenants import Tenants, read_declared
from pipeline.catalog.value import LEAD_MS_MIN, Catalog
from pipeline.errors import ConfigurationError
from pipeline.events.times import parse_time
from tests.support.tenants import taken

NOW = parse_time("2026-11-27T12:00:00Z")
EARLIEST = NOW + LEAD_MS_MIN
FROM = parse_time("2026-11-27T12:10:00Z")
FIRST = """
[accounts.acme]
stripe_customer = "cus_1"
[tenants.acme-eu]
account = "acme"
[tenants.bluejay]
stripe_customer = "cus_2"
"""
CONTRACT = """
name = "acme-2026"
version = 1
effective_from = 2026-01-01T00:00:00Z
currency = "usd"
[price]
resolution = "0.80"
procedure_handoff = "0.80"
[included]
resolution = 50
[cap]
amount = "500.00"
action = "stop"
"""
WITH_CONTRACT = FIRST.replace(
    "[tenants.acme-eu]",
    'contract = [{ name = "acme-2026", from = 2027-01-01T00:00:00Z }]\n[tenants.acme-eu]',
)


class Files:
    """A tenant file with contract files, and a catalog that began without contracts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contracts = {"c1.toml": CONTRACT}
        self.catalog = Catalog()
        self.verdicts: list[Verdict] = []
        declared, _ = read_declared(self.write(FIRST))
        declared = declared._replace(contracts={})
        self.take(entries_of(beginning(declared), "", "ada", "start", LEAD_MS_MIN), NOW - 10**9)

    def take(self, values: list[bytes], at_ms: int) -> None:
        self.catalog, verdicts = taken(self.catalog, values, at_ms, len(self.verdicts))
        self.verdicts += verdicts

    def write(self, text: str) -> Path:
        for name, contract in self.contracts.items():
            (self.folder / name).write_text(contract)
        file = self.folder / "resmeter.toml"
        file.write_text(f'contract_files = ["c*.toml"]\npolicy_files = ["p*.toml"]\n{text}')
        (self.folder / "p.toml").write_text(
            'name = "euro"\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\ncurrency = "eur"\n'
            'outcomes_billed = ["demo"]\n'
        )
        return file

    def plan(self, text: str) -> CatalogPlan:
        declared, _ = read_declared(self.write(text))
        return plan(self.catalog, declared, EARLIEST, FROM)

    def apply(self, text: str) -> CatalogPlan:
        planned = self.plan(text)
        assert not planned.refused
        self.take(entries_of(planned.additions, self.catalog.digest, "ada", "test"), NOW)
        return planned


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# --- what changes ---------------------------------------------------------------------------------


def test_a_plan_says_what_a_contract_changes_for_each_tenant(files: Files) -> None:
    planned = files.apply(WITH_CONTRACT)

    assert planned.changes == [
        "contract acme-2026 version 1 is new, from 2026-01-01T00:00:00Z",
        "account acme: contract acme-2026 from 2027-01-01T00:00:00Z",
        (
            "2 tenants: acme, acme-eu from 2027-01-01T00:00:00Z: "
            "procedure_handoff costs 0.8 usd (before: 0.99 usd); "
            "resolution costs 0.8 usd (before: 0.99 usd); "
            "units of resolution included in a period are 50 (before: none); "
            "the cap is 500.00 usd, which stops charging (before: none); "
            "its account is acme (before: none); the period begins on 2027-01-01 (before: none)"
        ),
    ]
    again = files.plan(WITH_CONTRACT)
    assert again.additions.is_empty
    assert (again.changes, again.notes, again.refused) == ([], [], [])


def test_a_new_version_holds_from_the_next_period(files: Files) -> None:
    files.apply(WITH_CONTRACT)
    files.contracts["c2.toml"] = next_version().replace("0.80", "0.75")

    planned = files.apply(WITH_CONTRACT)

    assert planned.changes == [
        "contract acme-2026 version 2 is new, from 2027-02-10T00:00:00Z",
        (
            "2 tenants: acme, acme-eu from 2027-03-01T00:00:00Z: "
            "procedure_handoff costs 0.75 usd (before: 0.8 usd); "
            "resolution costs 0.75 usd (before: 0.8 usd)"
        ),
    ]


def next_version() -> str:
    return CONTRACT.replace("version = 1", "version = 2").replace("2026-01-01", "2027-02-10")


def test_an_assignment_ends_at_its_date(files: Files) -> None:
    until = WITH_CONTRACT.replace("00Z }", "00Z, to = 2027-07-01T00:00:00Z }")

    planned = files.apply(until)

    assert "account acme: no contract from 2027-07-01T00:00:00Z" in planned.changes
    tenants = Charging(files.catalog)
    june, july = parse_time("2027-06-30T23:00:00Z"), parse_time("2027-07-01T00:00:00Z")
    assert tenants.at("acme", june)["resolution costs"] == "0.8 usd"
    assert tenants.at("acme", july)["resolution costs"] == "0.99 usd"
    assert files.plan(until).additions.is_empty


def test_what_has_no_date_begins_at_the_next_hour(files: Files) -> None:
    planned = files.apply(FIRST + '[tenants.bluejay-2]\naccount = "bluejay"\n')

    assert planned.changes[1:] == [
        "tenant bluejay-2: its units from 2026-11-27T13:00:00Z belong to account bluejay",
    ]
    assert planned.notes[0].startswith("tenant bluejay-2 moves: where a unit from before is taken")


def test_a_units_customer_is_that_of_its_tenants_account_at_the_time(files: Files) -> None:
    moved = '[{ name = "acme" }, { name = "bluejay", from = 2027-01-01T00:00:00Z }]'
    files.apply(FIRST.replace('account = "acme"', f"account = {moved}"))

    tenants = Tenants(files.catalog)

    new_year = parse_time("2027-01-01T00:00:00Z")
    assert tenants.customer_for("acme-eu", new_year - 1) == "cus_1"
    assert tenants.customer_for("acme-eu", new_year) == "cus_2"
    assert tenants.customer_for("acme", new_year) == "cus_1"
    assert tenants.customer_for("other", new_year) is None
    assert tenants.is_billed("acme-eu")
    assert not tenants.is_billed("other")


def test_what_the_files_leave_out_stays(files: Files) -> None:
    files.apply(WITH_CONTRACT)
    files.contracts = {}
    (files.folder / "c1.toml").write_text(CONTRACT.replace("acme-2026", "other"))

    planned = files.plan("[tenants.bluejay]\nstripe_customer = 'cus_2'\n")

    assert planned.notes == [
        "not in the file, and keeps its policy and its customer: tenant acme",
        (
            "not in the files, and stays: contract acme-2026 version 1, "
            "the account of tenant acme-eu, the contract of account acme"
        ),
    ]


def test_an_anchor_that_changes_is_noted(files: Files) -> None:
    files.apply(WITH_CONTRACT)
    files.contracts["c2.toml"] = next_version() + "[period]\nanchor = 2026-01-15T00:00:00Z\n"

    planned = files.plan(WITH_CONTRACT)

    assert "the period begins on 2027-02-15 (before: 2027-02-01)" in planned.changes[-1]
    assert planned.notes == [
        (
            "contract acme-2026 version 2 has another anchor: close what is open before, with nothing "
            "carried and every credit used or void"
        )
    ]


# --- what is refused ------------------------------------------------------------------------------


def test_a_version_that_was_edited_is_refused(files: Files) -> None:
    files.apply(WITH_CONTRACT)
    files.contracts["c1.toml"] = CONTRACT.replace('amount = "500.00"', 'amount = "900.00"')

    assert files.plan(WITH_CONTRACT).refused == [
        (
            "contract acme-2026 version 1 was edited: cap_amount (50000 in the catalog, 90000 in the "
            "file). A version never changes. Put it back, and write the next version with a date"
        )
    ]


def test_equal_prices_written_differently_are_no_edit(files: Files) -> None:
    files.apply(WITH_CONTRACT)
    files.contracts["c1.toml"] = CONTRACT.replace('"0.80"', "0.8")

    assert files.plan(WITH_CONTRACT).additions.is_empty


def test_a_version_that_would_change_the_past_is_refused(files: Files) -> None:
    files.apply(WITH_CONTRACT.replace("2027-01-01", "2026-11-28"))
    files.contracts["c2.toml"] = next_version().replace("2027-02-10", "2026-11-01")

    declared, _ = read_declared(files.write(WITH_CONTRACT.replace("2027-01-01", "2026-11-28")))
    in_december = parse_time("2026-12-05T00:00:00Z")
    planned = plan(files.catalog, declared, in_december, in_december)

    assert planned.refused == [
        (
            "contract acme-2026 version 2 takes effect at 2026-11-01T00:00:00Z, and accounts have that "
            "contract: it would change the past. 2026-12-05T00:00:00Z is the earliest date: set "
            "effective_from"
        )
    ]


def test_an_outcome_that_may_bill_and_has_no_price_is_refused(files: Files) -> None:
    planned = files.plan(FIRST.replace('account = "acme"', 'account = "acme"\npolicy = "euro"'))

    assert planned.refused == [
        (
            "tenant acme-eu: demo may bill under policy euro version 1 and has no price: write "
            "price.demo in the contract or in the policy, as a new version"
        )
    ]


def test_a_policys_price_in_another_currency_is_refused(files: Files) -> None:
    files.contracts["c1.toml"] = CONTRACT.replace("[included]", 'demo = "5"\n[included]').replace(
        'procedure_handoff = "0.80"\n', ""
    )

    planned = files.plan(
        WITH_CONTRACT.replace('account = "acme"', 'account = "acme"\npolicy = "euro"')
    )

    assert (
        "tenant acme-eu: procedure_handoff costs 0.99 eur under policy euro version 1, and the "
        "currency of contract acme-2026 version 1 is usd: write price.procedure_handoff in the contract"
    ) in planned.refused


def test_a_cap_below_the_first_price_of_a_policy_is_refused(files: Files) -> None:
    files.contracts["c1.toml"] = (
        'name = "acme-2026"\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\n'
        'cap.amount = "0.98"\n'
    )

    assert files.plan(WITH_CONTRACT).refused == [
        (
            "2 tenants: acme, acme-eu: cap.amount of contract acme-2026 version 1 is 0.98, below the "
            "first price 0.99: no unit would ever be charged"
        )
    ]


def test_a_contract_without_a_version_in_force_is_refused(files: Files) -> None:
    files.contracts["c1.toml"] = CONTRACT.replace("2026-01-01", "2027-05-01")

    assert files.plan(WITH_CONTRACT).refused == [
        (
            "account acme: contract acme-2026 from 2027-01-01T00:00:00Z has no version in force then: "
            "its first takes effect at 2027-05-01T00:00:00Z: date the account from then, with `from` in "
            "the file or with --from"
        )
    ]


def test_two_periods_that_begin_on_one_day_are_refused(files: Files) -> None:
    files.contracts["c2.toml"] = next_version() + "[period]\nanchor = 2026-01-01T05:00:00Z\n"

    assert files.plan(WITH_CONTRACT).refused == [
        (
            "contract acme-2026 version 2: period.anchor: two periods would begin on 2027-03-01: write an "
            "anchor on another day"
        )
    ]


def test_a_contract_in_another_currency_than_the_policies_is_noted(files: Files) -> None:
    prices = "".join(f'{outcome} = "1"\n' for outcome in ("qualification", "disqualification"))
    files.contracts["c1.toml"] = CONTRACT.replace('"usd"', '"eur"').replace(
        "[included]", f"{prices}[included]"
    )

    planned = files.plan(WITH_CONTRACT)

    assert (planned.refused, planned.notes) == (
        [],
        [
            (
                "account acme: its statements are in eur; units that a policy prices in usd, such as "
                "those from before its contract, are not billed by them"
            )
        ],
    )


def test_a_contract_in_another_currency_is_refused_for_an_account_that_has_one(
    files: Files,
) -> None:
    files.contracts["c2.toml"] = CONTRACT.replace("acme-2026", "euro").replace('"usd"', '"eur"')
    both = WITH_CONTRACT.replace("00Z }]", '00Z }, { name = "euro", from = 2027-06-01T00:00:00Z }]')

    assert (
        "account acme: contract euro is in eur, and its other contracts in usd: an account has one "
        "currency: begin another account"
    ) in files.plan(both).refused


def test_a_contract_that_begins_within_the_first_day_of_a_period_is_refused(files: Files) -> None:
    assert files.plan(WITH_CONTRACT.replace("2027-01-01T00", "2027-01-01T05")).refused == [
        (
            "account acme: from 2027-01-01T05:00:00Z: two periods would begin on 2027-01-01: write a date "
            "on which a period begins, or another day"
        )
    ]


@pytest.mark.parametrize(
    ("contract", "problem"),
    [
        (
            CONTRACT + "[minimum]\namount = 501\n",
            "minimum.amount: is 501, above cap.amount, which is 500.00",
        ),
        (CONTRACT.replace('"500.00"', '"0.50"'), "cap.amount: is 0.50, below the first price 0.80"),
        (CONTRACT.replace("version = 1\n", ""), "version: is missing"),
        (CONTRACT.replace("effective_from", "account = 'acme'\neffective_from"), "account: in a"),
        (CONTRACT.replace("500.00", "500.005"), "cap.amount: 500.005 has more digits"),
        (CONTRACT.replace("included", "includes"), "includes: unknown key; did you mean included?"),
    ],
)
def test_a_wrong_contract_is_named_with_what_to_do(
    files: Files, contract: str, problem: str
) -> None:
    files.contracts["c1.toml"] = contract

    with pytest.raises(ConfigurationError) as refused:
        files.plan(WITH_CONTRACT)

    assert any(f"c1.toml: {problem}" in each for each in refused.value.problems)


def test_a_file_may_have_all_versions_of_a_contract(files: Files) -> None:
    files.contracts["c1.toml"] = (
        'name = "acme-2026"\nprice.resolution = "0.80"\n'
        "[[versions]]\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\n"
        "[[versions]]\nversion = 2\neffective_from = 2027-02-01T00:00:00Z\n"
        'price.resolution = "0.75"\n'
    )

    planned = files.plan(WITH_CONTRACT)

    assert not planned.refused
    assert [each.version for each in planned.additions.contracts] == [1, 2]


def test_a_contract_without_a_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "resmeter.toml"
    file.write_text("[accounts.a]\ncontract = 'x'\n")

    with pytest.raises(ConfigurationError, match="name their files in contract_files"):
        read_declared(file)


def test_versions_of_one_contract_have_one_currency(files: Files) -> None:
    files.contracts["c2.toml"] = next_version().replace('"usd"', '"eur"')

    with pytest.raises(ConfigurationError, match="all versions have the same"):
        files.plan(WITH_CONTRACT)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[accounts]\nacme = 1\n", "accounts.acme: must be a table: write [accounts.acme]"),
        (
            "[accounts.a]\ncontract = 'x'\n",
            "accounts.a.contract: is 'x'; it must be one of acme-2026",
        ),
        ("tenants = []\n[accounts.a]\ncontract = 'acme-2026'\n", "tenants: must be a table"),
        ("[accounts.a]\ncontracts = 'x'\n", "accounts.a.contracts: unknown key; did you mean"),
        ("[accounts.a]\nstripe_customer = 'x'\n", "accounts.a.stripe_customer: is 'x'"),
        ("[accounts.'a b']\n", "accounts.a b: an account's name must be 1 to 128 characters"),
        ("[accounts.a]\ncontract = []\n", "accounts.a.contract: is empty"),
        (
            "[accounts.a]\ncontract = [{ name = 'acme-2026' }, { name = 'acme-2026' }]\n",
            "accounts.a.contract: entry 2: from: is missing",
        ),
        (
            "[accounts.a]\ncontract = [{ name = 'acme-2026', from = 2027-01-01T00:30:00Z }]\n",
            "entry 1: from: must be on the whole hour",
        ),
        (
            (
                "[accounts.a]\ncontract = [{ name = 'acme-2026', from = 2027-01-01T00:00:00Z, "
                "to = 2027-01-01T00:00:00Z }]\n"
            ),
            "entry 1: to: must be later than the date before it",
        ),
        (
            "[tenants.a]\naccount = [{ name = 'b', to = 2027-01-01T00:00:00Z }]\n",
            "tenants.a.account: entry 1 must be { name",
        ),
        (
            "[tenants.a]\naccount = 'b'\nstripe_customer = 'cus_9'\n",
            "tenants.a.stripe_customer: would never be billed, because the tenant is in account b",
        ),
        (
            "[tenants.a]\nstripe_customer = 'cus_9'\n[accounts.a]\nstripe_customer = 'cus_8'\n",
            "accounts.a.stripe_customer: is 'cus_8', and tenants.a has 'cus_9'",
        ),
    ],
)
def test_a_wrong_account_is_named_with_what_to_do(files: Files, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        files.plan(text)

    assert any(problem in each for each in refused.value.problems)


# --- the log --------------------------------------------------------------------------------------


def test_an_older_version_does_not_pass_over_an_entry_with_accounts(files: Files) -> None:
    files.apply(WITH_CONTRACT)

    assert [verdict.entry.form for verdict in files.verdicts if verdict.entry] == [3, 3]
    declared, _ = read_declared(files.write("[tenants.a]\nstripe_customer = 'cus_1'\n"))
    (value,) = entries_of(beginning(declared._replace(contracts={})), "", "ada", "why", LEAD_MS_MIN)
    assert b'"form":1' in value
    assert not any(part in value for part in (b'"contracts"', b'"accounts"', b'"members"'))


def test_an_export_has_accounts_and_contracts(files: Files) -> None:
    files.apply(WITH_CONTRACT)

    restored, _ = decode_export("export", encode_export(files.verdicts))

    assert restored == files.catalog
    assert restored.account_of("acme-eu", NOW) == "acme"
    assert [each.version for each in restored.contract_versions("acme-2026")] == [1]


def test_a_withdrawal_takes_a_contract_back_until_it_holds(files: Files) -> None:
    before = files.catalog
    files.apply(WITH_CONTRACT)
    digest = files.catalog.digest

    files.take([withdrawal(digest, digest, "ada", "wrong price")], NOW)

    assert (files.catalog.contracts, files.catalog.accounts) == ({}, {})
    assert files.catalog.members == before.members


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (b'[null,"0.80"]', b'[5,"0.80"]'),
        (b'[[null,"0.80"]]', b"[]"),
        (b'[[null,"0.80"]]', b'[[2,"1"],[1,"1"],[null,"1"]]'),
        (b'"0.80"', b'"NaN"'),
        (b'"0.80"', b'"-1"'),
        (b'"included":{"resolution":50}', b'"included":{"resolution":-1}'),
        (b'"cap_amount":50000', b'"cap_amount":-1'),
        (b'"anchor_ms":1767225600000', b'"anchor_ms":1767225600001'),
        (b'"effective_from":1767225600000', b'"effective_from":1000000000000000000'),
        (b'"from_ms":1798761600000', b'"from_ms":1000000000000000000'),
    ],
)
def test_an_entry_that_no_file_can_make_is_void(files: Files, text: bytes, other: bytes) -> None:
    planned = files.plan(WITH_CONTRACT)
    (value,) = entries_of(planned.additions, files.catalog.digest, "ada", "test")
    assert text in value

    catalog, verdict = read(files.catalog, Appended(9, NOW, value.replace(text, other)))

    assert verdict.reason
    assert catalog is files.catalog


def test_an_entry_that_dates_a_contract_in_the_past_is_void(files: Files) -> None:
    planned = files.plan(WITH_CONTRACT)
    values = entries_of(planned.additions, files.catalog.digest, "ada", "test")

    _, verdict = read(files.catalog, Appended(9, parse_time("2027-01-01T00:00:00Z"), values[0]))

    assert verdict.reason.startswith(
        "account acme: acme-2026 from 2027-01-01T00:00:00Z, which changes the past"
    )
