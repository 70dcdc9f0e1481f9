"""`resmeter corrections`: what waits for a person, on 80 columns and as JSON."""

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from pipeline.events.times import parse_time
from pipeline.ledger import Ledger, open_ledger, upgrade
from pipeline.ledger.statements import prepare_closing
from pipeline.usage.record import UsageRecord
from tests.contract.test_ledger_statements import ACME, Bench, Prices
from tests.support.command import resmeter
from tests.support.journal import written
from tests.support.ledger import record

UNITS = 120
OCTOBER, NOVEMBER = "2024-10", "2024-11"


def at(day: str) -> int:
    return parse_time(f"{day}T00:00:00Z")


def charges(first: int, number: int) -> list[UsageRecord]:
    return [record(f"conversation-{n}", at=at("2024-10-05") + n) for n in range(first, number)]


@pytest.fixture
def ledger(resmeter_env: dict[str, str]) -> Iterator[Ledger]:
    """October is closed; 120 of its units came later, and a reversal without a charge."""
    upgrade(resmeter_env["RESMETER_LEDGER__URL"])
    ledger = open_ledger(resmeter_env["RESMETER_LEDGER__URL"])
    bench = Bench(ledger)
    bench.store("2024-10-06T00:00", *charges(0, 1))
    closing = prepare_closing(
        ledger, ACME, Prices("0.99"), OCTOBER, at("2024-11-02"), lambda _: False
    ).closing
    assert closing is not None
    written(ledger, [closing], "a")
    unmatched = record("gone", 2, -1, at=at("2024-11-03"), supersedes=1)
    bench.store("2024-11-03T00:00", *charges(1, UNITS + 1), unmatched)
    yield ledger
    ledger.close()


def run(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return resmeter("corrections", *arguments, env=env)


def test_what_waits_is_listed_and_is_exit_status_3(
    ledger: Ledger, resmeter_env: dict[str, str]
) -> None:
    ended = run(resmeter_env, "list", "--json")
    adjusted, unmatched = map(json.loads, ended.stdout.splitlines())

    assert ended.returncode == 3
    assert re.fullmatch("[0-9a-f]{16}", adjusted.pop("id"))
    assert adjusted == {
        "account": "acme",
        "period": "2024-11-01",
        "what": "adjusted",
        "adjusted_period": "2024-10-01",
        "reversal": None,
        "currency": "usd",
        "amount": "118.80",
        "state": "waits",
        "who": None,
        "reason": None,
        "at": None,
    }
    assert (unmatched["what"], unmatched["reversal"]) == ("unmatched", "acme:gone:2")


def test_the_limit_is_a_setting(ledger: Ledger, resmeter_env: dict[str, str]) -> None:
    env = resmeter_env | {"RESMETER_CORRECTIONS__AMOUNT_MAX": "118.80"}

    waits = [json.loads(line)["what"] for line in run(env, "list", "--json").stdout.splitlines()]
    shown = run(env, "list", "--all", "--json").stdout.splitlines()

    assert waits == ["unmatched"]
    assert [json.loads(line)["state"] for line in shown] == ["below limit", "waits"]


def test_tables_fit_80_columns(ledger: Ledger, resmeter_env: dict[str, str]) -> None:
    listed = on_a_terminal(resmeter_env, "list")
    adjusted, unmatched = (line.split()[0] for line in listed.splitlines()[1:3])
    shown = on_a_terminal(resmeter_env, "show", adjusted, "--limit", "1")
    of_reversal = on_a_terminal(resmeter_env, "show", unmatched)

    assert max(map(len, (listed + shown + of_reversal).splitlines())) <= 80
    assert "118.80 USD  waits" in listed
    assert "units: 120 came late" in shown
    assert "and 119 more: add --limit 120" in shown
    assert "conversation conversation-1\n" in shown
    assert "acme:gone:2" in of_reversal


def on_a_terminal(env: dict[str, str], *arguments: str) -> str:
    ended = run(env | {"COLUMNS": "80"}, *arguments)
    assert not ended.stderr, ended.stderr
    return ended.stdout.decode()


def test_an_id_that_no_statement_has_is_refused_with_what_to_do(
    ledger: Ledger, resmeter_env: dict[str, str]
) -> None:
    ended = run(resmeter_env, "show", "0123456789abcdef")

    assert ended.returncode == 2
    assert b"run `resmeter corrections list`" in ended.stderr


def test_a_decision_needs_a_reason(ledger: Ledger, resmeter_env: dict[str, str]) -> None:
    missing = run(resmeter_env, "approve", "0123456789abcdef")
    empty = run(resmeter_env, "reject", "0123456789abcdef", "--reason", " ")

    assert (missing.returncode, empty.returncode) == (2, 2)
    assert b"--reason" in missing.stderr
    assert b"--reason is empty" in empty.stderr
