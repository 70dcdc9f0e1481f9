"""`resmeter statement`: one JSON object for programs, a table for people, CSV for spreadsheets."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.billing.contract import Contract, Terms
from pipeline.billing.grants import Credit, Pack
from pipeline.billing.run import ClosesAfter, statements
from pipeline.billing.units import Entered
from pipeline.cli.views.statement import print_statement
from pipeline.events.times import parse_time
from pipeline.ledger import Ledger, open_ledger, records, upgrade
from pipeline.ledger.entries import ConsumedRecord
from tests.support.command import resmeter
from tests.support.tenants import export_catalog

RECORD = {
    "id": "acme:c1:1",
    "tenantid": "acme",
    "conversation": "c1",
    "outcome": "resolution",
    "quantity": 1,
    "kind": "assumed",
    "reason": "silence",
    "occurred_at": "2026-10-30T10:00:00.000Z",
    "policy": "fin-2026",
    "policy_version": 1,
    "evidence": ["m1"],
    "supersedes": None,
}
REVERSAL = RECORD | {
    "id": "acme:c1:2",
    "quantity": -1,
    "occurred_at": "2026-11-03T00:00:00.000Z",
    "supersedes": "acme:c1:1",
}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def statement(resmeter_env: dict[str, str], tmp_path: Path) -> Run:
    def run(
        *arguments: str, records: list[dict[str, object]], contract: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        usage, terms = tmp_path / "usage.ndjson", tmp_path / "acme.toml"
        usage.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        terms.write_text(contract)
        files = ("--records", str(usage), "--contract", str(terms), "--as-of", "2026-12-02")
        ended = resmeter("statement", *files, *arguments, env=resmeter_env)
        return subprocess.CompletedProcess(
            ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
        )

    return run


def test_a_program_gets_one_object(statement: Run) -> None:
    ended = statement("--period", "2026-11", records=[RECORD, REVERSAL])

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        '{"account":"acme","period":"2026-11-01","state":"final","currency":"usd","units":{"known":0,'
        '"taken_back":0,"included":0,"pack":0,"metered":0,"over_cap":0,"late":1,"unmatched":0},'
        '"lines":[{"kind":"adjusted","period":"2026-10-01","outcome":"resolution","quantity":-1,'
        '"price":"0.99","amount":"-0.99"},{"kind":"carried_forward","amount":"0.99"}],'
        '"subtotal":"-0.99","total":"0.00","closing":{"carried":"-0.99","packs":{},"credits":{}}}\n'
    )


def test_units_adds_a_line_a_unit(statement: Run) -> None:
    ended = statement("--period", "2026-11", "--units", records=[RECORD, REVERSAL])

    assert [json.loads(line) for line in ended.stdout.splitlines()[1:]] == [
        {
            "id": "acme:c1:1",
            "period": "2026-10-01",
            "state": "taken_back",
            "grant": None,
            "price": None,
            "adjusted": "2026-11-01",
        }
    ]


def test_csv_has_a_row_a_line(statement: Run) -> None:
    ended = statement("--period", "2026-10", "--csv", records=[RECORD, REVERSAL])

    assert ended.stdout == (
        "account,statement,state,currency,kind,period,outcome,quantity,price,grant,amount\n"
        "acme,2026-10-01,final,usd,metered,,resolution,1,0.99,,0.99\n"
    )


def test_a_spreadsheet_takes_no_name_for_a_formula(statement: Run) -> None:
    record = RECORD | {"outcome": "=1+1"}
    contract = 'price."=1+1" = "0.99"'
    ended = statement("--period", "2026-10", "--csv", records=[record], contract=contract)

    assert ended.stdout.splitlines()[1] == "acme,2026-10-01,final,usd,metered,,'=1+1,1,0.99,,0.99"


def test_csv_of_units_has_a_row_a_unit(statement: Run) -> None:
    ended = statement("--period", "2026-10", "--csv", "--units", records=[RECORD, REVERSAL])

    assert ended.stdout == (
        "id,period,state,grant,price,adjusted\nacme:c1:1,2026-10-01,metered,,0.99,2026-11-01\n"
    )


def test_a_missing_price_is_a_warning_and_exit_status_3(statement: Run) -> None:
    record = RECORD | {"policy": "special"}
    ended = statement("--period", "2026-10", records=[record], contract='currency = "eur"')

    assert ended.returncode == 3
    assert json.loads(ended.stdout)["units"]["unpriced"] == 1
    assert ended.stderr.startswith("warning: 1 units of outcome 'resolution' have no price in eur")


def test_bad_files_are_exit_status_2_with_every_problem(statement: Run) -> None:
    ended = statement(
        "--period",
        "2026-10",
        records=[RECORD | {"quantity": 2}, RECORD | {"occurred_at": "yesterday"}],
        contract="included.resolution = -1\nmystery = 1\n",
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    found = ended.stderr.splitlines()
    assert [problem.rpartition("/")[2].split(": ")[0] for problem in found] == [
        "usage.ndjson",
        "usage.ndjson",
        "acme.toml",
        "acme.toml",
    ]


def test_the_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    october = parse_time("2026-10-01T00:00:00Z")
    credit = Credit(id="goodwill-2026", created_at=october, amount=5_000_000, starts_at=october)
    pack = Pack(
        id="pack-2026",
        created_at=october,
        outcomes=frozenset({"procedure_handoff"}),
        units=100_000,
        starts_at=october,
    )
    records = [
        Entered(
            id=f"acme:c{number}:1",
            tenant_id="acme",
            outcome=outcome,
            quantity=1,
            occurred_at=october + number,
            stored_at=october + number + number % 2 * 40 * 86_400_000,
        )
        for number, outcome in enumerate(
            ["resolution", "procedure_handoff", "disqualification"] * 9
        )
    ]
    terms = Terms(
        effective_from=october, minimum=1_000_000_000, tiers={"resolution": ()}, included={}
    )
    contract = Contract("usd", [terms])
    calendar = contract.calendar
    closes = ClosesAfter(calendar, 0)
    through = calendar.named("2026-11")

    for each in statements(contract, records, [credit, pack], closes, through, through.end_ms):
        print_statement("acme-of-europe", each, each.units)

    out, _ = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 80
    assert "minimum" in out


def test_a_terminal_of_80_columns_gets_the_counts_on_two_lines(
    resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    usage, terms, grants = (tmp_path / name for name in ("usage", "terms", "grants"))
    charges = [
        RECORD | {"id": f"c{n}", "occurred_at": f"2026-10-0{n}T10:00:00.000Z"} for n in range(1, 7)
    ]
    charges[2] |= {"outcome": "qualification", "policy": "special"}
    usage.write_text("".join(f"{json.dumps(charge)}\n" for charge in charges))
    terms.write_text(
        'cap = { units = 1, action = "stop" }\nincluded.resolution = 1\nprice.resolution = "0.99"\n'
    )
    pack = {"kind": "pack", "id": "p", "outcomes": ["resolution"], "units": 1}
    grants.write_text(json.dumps(pack | {"created_at": "2026-10-01T00:00:00Z"}))
    files = ["--records", str(usage), "--contract", str(terms), "--grants", str(grants)]
    times = ["--period", "2026-10", "--as-of", "2026-12-02"]

    ours, its = os.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "pipeline", "statement", *files, *times],
            env=resmeter_env | {"COLUMNS": "80"},
            stdout=its,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        said = os.read(ours, 65_536).decode().splitlines()
    finally:
        os.close(ours)
        os.close(its)

    first = next(number for number, line in enumerate(said) if line.startswith("units"))
    assert said[first : first + 2] == [
        "units: 6 (1 included, 1 from packs, 1 charged, 2 over the cap, 1 without a",
        "  price)",
    ]


# --- the ledger -----------------------------------------------------------------------------------


@pytest.fixture
def ledger(resmeter_env: dict[str, str]) -> Iterator[Ledger]:
    upgrade(resmeter_env["RESMETER_LEDGER__URL"])
    opened = open_ledger(resmeter_env["RESMETER_LEDGER__URL"])
    yield opened
    opened.close()


def test_a_tenants_statement_comes_from_the_ledger(
    ledger: Ledger, resmeter_env: dict[str, str]
) -> None:
    consumed = [
        ConsumedRecord(0, offset, json.dumps(record).encode())
        for offset, record in enumerate([RECORD, REVERSAL])
    ]
    records.store(ledger, "usage.records", consumed, {0: None}, parse_time("2026-11-03T00:00:00Z"))

    def run(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
        return resmeter("statement", "acme", *arguments, env=resmeter_env)

    october = json.loads(run("--period", "2026-10", "--as-of", "2026-10-31").stdout)
    later = json.loads(run("--period", "2026-10", "--as-of", "2026-11-03").stdout)
    assert (october["state"], october["units"]["known"], later["total"]) == ("open", 0, "0.00")
    assert later["units"]["taken_back"] == 1
    assert run().returncode == 0


def test_an_account_that_nobody_knows_is_bad_usage(
    ledger: Ledger, resmeter_env: dict[str, str]
) -> None:
    ended = resmeter("statement", "nobody", env=resmeter_env)

    assert (ended.returncode, ended.stderr.decode()) == (
        2,
        "error: no account 'nobody': the ledger has no usage of it, and the catalog does not name it\n",
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "name the ACCOUNT, or give --records"),
        (("--records", "x"), "with --records, give --period and --as-of"),
        (("acme", "--contract", "x"), "--contract, --grants and --close-after need --records"),
        (("acme", "--json", "--csv"), "give --json or --csv, but not both"),
    ],
)
def test_options_that_do_not_go_together_are_bad_usage(
    resmeter_env: dict[str, str], arguments: tuple[str, ...], problem: str
) -> None:
    ended = resmeter("statement", *arguments, env=resmeter_env)

    assert ended.returncode == 2
    assert problem in ended.stderr.decode()


def test_an_accounts_statement_has_all_its_tenants_by_its_contract(
    ledger: Ledger, resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "contract.toml").write_text(
        'name = "acme-2026"\nversion = 1\neffective_from = 2026-06-01T00:00:00Z\n'
        'price.resolution = "0.80"\nincluded.resolution = 1\n'
    )
    file = tmp_path / "accounts.toml"
    file.write_text(
        'contract_files = ["contract.toml"]\n'
        '[accounts.group]\ncontract = "acme-2026"\n'
        '[tenants.acme]\naccount = "group"\n[tenants.acme-eu]\naccount = "group"\n'
    )
    records_of_both = [
        RECORD,
        RECORD | {"id": "acme-eu:c1:1", "tenantid": "acme-eu"},
        RECORD | {"id": "acme-eu:c2:1", "tenantid": "acme-eu", "conversation": "c2"},
    ]
    consumed = [
        ConsumedRecord(0, offset, json.dumps(record).encode())
        for offset, record in enumerate(records_of_both)
    ]
    records.store(ledger, "usage.records", consumed, {0: None}, parse_time("2026-10-30T12:00:00Z"))
    env = resmeter_env | {"RESMETER_CATALOG_EXPORT": export_catalog(tmp_path / "export", file)}
    arguments = ("--period", "2026-10", "--as-of", "2026-10-31", "--json")

    group = json.loads(resmeter("statement", "group", *arguments, env=env).stdout)
    member = resmeter("statement", "acme", *arguments, env=env)

    assert (group["account"], group["units"]["included"], group["total"]) == ("group", 1, "1.60")
    assert json.loads(member.stdout)["units"]["known"] == 0
    assert member.stderr.decode() == "note: tenant acme is in account group; see its statement\n"
