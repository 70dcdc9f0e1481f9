"""`resmeter deliveries`: what waits for an operator, and what an operator decides."""

import getpass
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.ledger import Ledger, open_ledger, reports, upgrade
from pipeline.ledger.entries import Result
from tests.support.command import resmeter
from tests.support.ledger import conclude, leased, planned, record, stored
from tests.support.tenants import export_catalog

Run = Callable[..., "subprocess.CompletedProcess[str]"]
TENANTS = (
    '[tenants.acme]\nstripe_customer = "cus_1"\n[tenants.bluejay]\nstripe_customer = "cus_2"\n'
)


@pytest.fixture
def ledger(resmeter_env: dict[str, str], tmp_path: Path) -> Iterator[Ledger]:
    (tmp_path / "resmeter.toml").write_text(TENANTS)
    export_catalog(tmp_path / "catalog.ndjson", tmp_path / "resmeter.toml")
    upgrade(resmeter_env["RESMETER_LEDGER__URL"])
    opened = open_ledger(resmeter_env["RESMETER_LEDGER__URL"])
    yield opened
    opened.close()


@pytest.fixture
def run(resmeter_env: dict[str, str]) -> Run:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        ended = resmeter("deliveries", *arguments, env={**resmeter_env, "COLUMNS": "80"})
        return subprocess.CompletedProcess(
            ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
        )

    return run


def waiting(ledger: Ledger, *results: Result, tenant_id: str = "acme") -> str:
    stored(ledger, record("c1", tenant_id=tenant_id))
    (event,) = planned(ledger, tenant_id)
    for result in results:
        conclude(ledger, leased(ledger, event), result)
    return event.identifier


def state_of(ledger: Ledger, tenant_id: str = "acme") -> str:
    (receipt,) = reports.receipts(ledger, tenant_id, "c1")
    assert receipt.meter_event is not None
    return receipt.meter_event.state


def test_list_shows_what_waits_on_80_columns(ledger: Ledger, run: Run) -> None:
    identifier = waiting(ledger, "rejected")
    waiting(ledger, "delivered", tenant_id="bluejay")

    result = run("list")

    assert result.returncode == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    header, figures, name, last = result.stdout.splitlines()
    assert header.split() == ["state", "tenant", "units", "hour", "since"]
    assert figures.split()[:3] == ["rejected", "acme", "1"]
    assert name.strip() == identifier
    assert last.strip() == "resolution, 1 call; the last: rejected (HTTP 500)"


def test_list_prints_json_and_filters(ledger: Ledger, run: Run) -> None:
    identifier = waiting(ledger, "rejected")
    waiting(ledger, "collision", tenant_id="bluejay")

    found = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    of_acme = run("list", "--json", "--tenant", "acme", "--state", "rejected").stdout
    later = run("list", "--json", "--since", "2030-01-01").stdout

    assert {each["tenantid"] for each in found} == {"acme", "bluejay"}
    assert json.loads(of_acme)["identifier"] == identifier
    assert {each["tenantid"]: each["perhaps_counted"] for each in found} == {
        "acme": False,
        "bluejay": True,
    }
    assert later == ""


def test_an_empty_list_says_so(ledger: Ledger, run: Run) -> None:
    result = run("list")

    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "no meter event waits for you\n"


def test_show_lists_calls_and_decisions(ledger: Ledger, run: Run) -> None:
    identifier = waiting(ledger, "refused", "rejected")
    run("release", identifier, "--reason", "the meter was inactive", "--who", "ann", "--apply")

    shown = run("show", identifier, f"{identifier}_r1").stdout

    assert "call 1 " in shown
    assert "call 2 " in shown
    assert f"sent again as {identifier}_r1, by ann at" in shown
    assert "the meter was inactive" in shown
    assert "released" in shown
    assert "planned" in shown


def test_an_unknown_identifier_is_bad_usage(ledger: Ledger, run: Run) -> None:
    result = run("show", "rm_0")

    assert result.returncode == 2
    assert "the ledger has no meter event rm_0" in result.stderr


@pytest.mark.parametrize("action", ["release", "settle"])
def test_without_apply_nothing_changes(ledger: Ledger, run: Run, action: str) -> None:
    identifier = waiting(ledger, "rejected")

    result = run(action, identifier)

    assert result.returncode == 0
    past = {"release": "released", "settle": "settled"}[action]
    assert f"1 meter event would be {past}, 1 unit; add --apply to do it" in result.stdout
    what = {"release": f"sent again as {identifier}_r1", "settle": "settled"}[action]
    assert f"): would be {what}, by " in " ".join(result.stdout.split())
    assert state_of(ledger) == "rejected"


def test_release_sends_again_and_is_safe_to_repeat(ledger: Ledger, run: Run) -> None:
    identifier = waiting(ledger, "rejected")

    arguments = ("release", identifier, "--reason", "fixed", "--apply")
    first, second = run(*arguments), run(*arguments)

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert f"sent again as {identifier}_r1, by {getpass.getuser()} at" in first.stdout
    assert second.stdout.startswith("earlier")
    assert state_of(ledger) == "planned"


def test_settle_by_filter_counts_as_billed(ledger: Ledger, run: Run) -> None:
    waiting(ledger, "rejected")
    waiting(ledger, "rejected", tenant_id="bluejay")

    result = run("settle", "--tenant", "acme", "--reason", "billed by hand", "--apply")

    assert result.returncode == 0
    assert (state_of(ledger), state_of(ledger, "bluejay")) == ("settled", "rejected")


def test_what_stripe_may_have_counted_is_left_until_the_operator_has_looked(
    ledger: Ledger, run: Run
) -> None:
    identifier = waiting(ledger, "failed", "rejected")
    arguments = ("release", "--state", "rejected", "--reason", "fixed", "--apply")

    left = run(*arguments)
    released = run(*arguments, "--stripe-checked")

    assert left.returncode == 3
    assert "Stripe may have counted it" in left.stdout
    assert "1 left" in left.stdout
    assert released.returncode == 0
    assert f"{identifier}_r1" in released.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("release",), "give identifiers, or select meter events by"),
        (("settle", "rm_1", "--tenant", "acme"), "give identifiers, or select meter events by"),
        (("settle", "rm_1", "--apply"), "--apply needs --reason"),
        (("release", "rm_1", "--apply", "--reason", " "), "--apply needs --reason"),
    ],
)
def test_a_decision_needs_a_choice_and_a_reason(
    ledger: Ledger, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    result = run(*arguments)

    assert result.returncode == 2
    assert message in result.stderr


def test_text_of_others_is_made_safe(ledger: Ledger, run: Run) -> None:
    waiting(ledger, "rejected", tenant_id="a\u202ecme")

    for arguments in (("list",), ("list", "--json")):
        assert "\u202e" not in run(*arguments).stdout
