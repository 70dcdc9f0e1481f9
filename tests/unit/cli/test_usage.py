"""`resmeter usage`: what is owed, billed and pending, by tenant and outcome."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.text import Text

from pipeline.events.times import format_time
from pipeline.ledger import Ledger, deliveries, open_ledger, records, upgrade
from pipeline.ledger.entries import Arrival, Claim, Result, Stored
from pipeline.sink.grouping import fix, plan
from pipeline.usage.record import UsageRecord, encode_record
from tests.support.command import resmeter

TOPIC = "usage.records"
T0 = 1_790_000_000_000
HOUR_MS = 3_600_000

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ledger(resmeter_env: dict[str, str]) -> Iterator[Ledger]:
    upgrade(resmeter_env["RESMETER_LEDGER__URL"])
    opened = open_ledger(resmeter_env["RESMETER_LEDGER__URL"])
    yield opened
    opened.close()


@pytest.fixture
def usage(resmeter_env: dict[str, str]) -> Run:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        ended = resmeter("usage", *arguments, env=resmeter_env)
        return subprocess.CompletedProcess(
            ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
        )

    return run


def record(conversation: str, n: int = 1, **changes: object) -> UsageRecord:
    """A charge of acme for silence; with `supersedes`, what takes that one back."""
    fields: dict[str, object] = {
        "tenant_id": "acme",
        "conversation": conversation,
        "outcome": "resolution",
        "quantity": 1 if changes.get("supersedes") is None else -1,
        "kind": "assumed",
        "reason": "silence" if changes.get("supersedes") is None else "customer_returned",
        "occurred_at": T0,
        "policy": "fin-2026",
        "policy_version": 1,
        "evidence": (f"{conversation}-m{n}",),
        **changes,
    }
    fields["id"] = f"{fields['tenant_id']}:{conversation}:{n}"
    return msgspec.convert(fields, UsageRecord)


def stored(ledger: Ledger, *found: UsageRecord) -> None:
    stands = records.offsets(ledger, TOPIC).get(0)
    arrivals = [
        Arrival(0, offset, encode_record(one)) for offset, one in enumerate(found, stands or 0)
    ]
    result = records.store(ledger, TOPIC, arrivals, {0: stands}, T0)
    assert isinstance(result, Stored)
    assert (result.records, result.refused) == (len(found), ())


def sent(ledger: Ledger, result: Result, tenant_id: str = "acme") -> None:
    """Make meter events of all resolutions that are pending, and let Stripe answer so."""
    made = plan(deliveries.pending_records(ledger, tenant_id, "resolution", 1000))
    fixed = [fix(group, tenant_id, "resolution", "cus_1", "m") for group in made.groups]
    assert deliveries.store_plan(ledger, fixed, T0)
    for item in fixed:
        if item.event.value == 0:
            continue
        claim = deliveries.claim(ledger, item.event, "a", T0, T0 + 30_000, 0)
        assert isinstance(claim, Claim)
        deliveries.conclude(
            ledger,
            item.event,
            claim,
            "a",
            T0 + 5,
            result=result,
            http_status=None,
            request_id=None,
            replayed=False,
            detail=None,
        )


def lines(result: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def line(**changes: object) -> dict[str, Any]:
    """What is owed for one resolution of acme that nobody has sent."""
    return {
        "tenantid": "acme",
        "outcome": "resolution",
        "quantity": 1,
        "confirmed": 0,
        "assumed": 1,
        "amount": "0.99",
        "currency": "usd",
        "delivered": 0,
        "pending": 1,
        **changes,
    }


# --- JSON -----------------------------------------------------------------------------------------


def test_a_line_has_these_members_in_this_order(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1"))

    result = usage("--json")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        '{"tenantid":"acme","outcome":"resolution","quantity":1,"confirmed":0,"assumed":1,'
        '"amount":"0.99","currency":"usd","delivered":0,"pending":1}\n'
    )


def test_an_empty_ledger_has_no_lines(ledger: Ledger, usage: Run) -> None:
    result = usage("--json")

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_units_are_told_apart_by_kind_and_by_whether_stripe_has_them(
    ledger: Ledger, usage: Run
) -> None:
    stored(ledger, record("c-1"), record("c-2", kind="confirmed", reason="confirmed"))
    sent(ledger, "delivered")
    stored(ledger, record("c-3"))

    assert lines(usage("--json")) == [
        line(quantity=3, confirmed=1, assumed=2, amount="2.97", delivered=2, pending=1)
    ]


def test_a_unit_taken_back_counts_where_it_was_charged(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1", kind="confirmed", reason="confirmed"), record("c-2"))
    sent(ledger, "delivered")
    # A reversal is `assumed` on its own; what it takes back was `confirmed`.
    stored(ledger, record("c-1", 2, supersedes="acme:c-1:1"))

    assert lines(usage("--json")) == [
        line(quantity=1, confirmed=0, assumed=1, amount="0.99", delivered=2, pending=-1)
    ]


def test_charges_that_were_taken_back_before_they_were_sent_are_not_pending(
    ledger: Ledger, usage: Run
) -> None:
    stored(ledger, record("c-1"), record("c-1", 2, supersedes="acme:c-1:1"))
    sent(ledger, "delivered")

    assert lines(usage("--json")) == [
        line(quantity=0, assumed=0, amount="0.00", delivered=0, pending=0)
    ]


@pytest.mark.parametrize("result", ["failed", "refused", "rejected", "collision", "halted"])
def test_what_stripe_did_not_take_is_pending(ledger: Ledger, usage: Run, result: Result) -> None:
    stored(ledger, record("c-1"))
    sent(ledger, result)

    assert lines(usage("--json")) == [line(delivered=0, pending=1)]


def test_tenants_and_outcomes_have_lines_of_their_own_in_order(ledger: Ledger, usage: Run) -> None:
    stored(
        ledger,
        record("c-1", tenant_id="globex"),
        record("c-2"),
        record("c-3", outcome="qualification", kind="reported", reason="reported"),
        record("c-4"),
    )

    assert lines(usage("--json")) == [
        line(outcome="qualification", assumed=0, amount="9.99"),
        line(quantity=2, assumed=2, amount="1.98", pending=2),
        line(tenantid="globex"),
    ]


def test_each_unit_has_the_price_of_its_version_and_each_currency_its_line(
    ledger: Ledger, usage: Run, resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "1.toml").write_text('name = "acme"\nversion = 1\n[price]\nresolution = 0.80\n')
    (tmp_path / "2.toml").write_text('name = "acme"\nversion = 2\n[price]\nresolution = "1.10"\n')
    (tmp_path / "3.toml").write_text('name = "acme"\nversion = 3\ncurrency = "eur"\n')
    (tmp_path / "resmeter.toml").write_text('policy_files = ["?.toml"]\n')
    resmeter_env["RESMETER_CONFIG"] = str(tmp_path / "resmeter.toml")
    stored(
        ledger,
        *(record(f"c-{n}", policy="acme", policy_version=n) for n in (1, 2, 3)),
        # Taken back under the third version, at the price of the first.
        record("c-1", 2, policy="acme", policy_version=3, supersedes="acme:c-1:1"),
    )

    assert lines(usage("--json")) == [
        line(currency="eur", amount="0.99"),
        line(quantity=1, assumed=1, amount="1.10"),
    ]


def test_what_no_policy_prices_has_no_amount_and_a_warning(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1", outcome="signup", kind="reported", reason="reported"))

    result = usage("--json")

    assert lines(result) == [line(outcome="signup", assumed=0, amount=None, currency=None)]
    assert result.stderr == "warning: no policy names a price for signup\n"


def test_a_thousand_tenths_are_a_hundred(
    ledger: Ledger, usage: Run, resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "p.toml").write_text('name = "acme"\nversion = 1\n[price]\nresolution = 0.1\n')
    (tmp_path / "resmeter.toml").write_text('policy_files = ["p.toml"]\n')
    resmeter_env["RESMETER_CONFIG"] = str(tmp_path / "resmeter.toml")
    stored(ledger, *(record(f"c-{n}", policy="acme") for n in range(1000)))

    (found,) = lines(usage("--json"))

    assert found["amount"] == "100.0"


# --- what is chosen -------------------------------------------------------------------------------


def test_one_tenant_can_be_asked_for(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1"), record("c-2", tenant_id="globex"))

    assert lines(usage("--json", "--tenant", "globex")) == [line(tenantid="globex")]
    assert lines(usage("--json", "--tenant", "nobody")) == []


def test_a_time_span_holds_its_begin_and_not_its_end(ledger: Ledger, usage: Run) -> None:
    stored(ledger, *(record(f"c-{n}", occurred_at=T0 + n * HOUR_MS) for n in range(4)))

    result = usage(
        "--json", "--from", format_time(T0 + HOUR_MS), "--to", format_time(T0 + 3 * HOUR_MS)
    )

    assert lines(result) == [line(quantity=2, assumed=2, amount="1.98", pending=2)]


@pytest.mark.parametrize("option", ["--from", "--to"])
def test_a_time_that_is_none_is_bad_usage(usage: Run, option: str) -> None:
    result = usage(option, "2026-11-01")

    assert (result.returncode, result.stdout) == (2, "")
    assert "'2026-11-01' is not an RFC 3339 time" in result.stderr


# --- for people -----------------------------------------------------------------------------------


def test_without_json_there_is_a_table_with_a_total_for_each_currency(
    ledger: Ledger, usage: Run
) -> None:
    stored(
        ledger,
        record("c-1"),
        record("c-2", outcome="qualification", kind="confirmed"),
        record("c-3", outcome="signup", kind="reported"),
    )

    result = usage()

    assert result.returncode == 0
    header, *rows = (row.split() for row in result.stdout.splitlines())
    assert header == ["tenant", *list(line())[1:]]
    assert rows == [
        ["acme", "qualification", "1", "1", "0", "9.99", "usd", "0", "1"],
        ["acme", "resolution", "1", "0", "1", "0.99", "usd", "0", "1"],
        ["acme", "signup", "1", "0", "0", "-", "-", "0", "1"],
        ["total", "1", "0", "0", "-", "-", "0", "1"],
        ["total", "2", "1", "1", "10.98", "usd", "0", "2"],
    ]


@pytest.mark.parametrize("columns", ["20", "60", "80"])
def test_a_narrow_terminal_cuts_no_figure_and_no_header(
    ledger: Ledger, usage: Run, resmeter_env: dict[str, str], columns: str
) -> None:
    resmeter_env |= {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": columns}
    stored(
        ledger,
        *(record(f"c-{n}", tenant_id="contoso-travel") for n in range(143)),
        record("c-q", outcome="qualification", kind="reported", reason="reported"),
    )

    result = usage()

    header, *rows = (row.split() for row in Text.from_ansi(result.stdout).plain.splitlines())
    assert header == ["tenant", *list(line())[1:]]
    assert rows == [
        ["acme", "qualification", "1", "0", "0", "9.99", "usd", "0", "1"],
        ["contoso-travel", "resolution", "143", "0", "143", "141.57", "usd", "0", "143"],
        ["total", "144", "0", "143", "151.56", "usd", "0", "144"],
    ]


def test_a_table_without_rows_says_why(ledger: Ledger, usage: Run) -> None:
    result = usage("--tenant", "nobody")

    assert result.returncode == 0
    assert result.stderr == "the ledger holds no usage here\n"


# --- what is not there ----------------------------------------------------------------------------


def test_a_ledger_that_is_not_there_is_told_with_what_to_run(usage: Run) -> None:
    result = usage("--json")

    assert (result.returncode, result.stdout) == (2, "")
    assert "run `resmeter ledger upgrade`" in result.stderr
    assert "Traceback" not in result.stderr


def test_all_wrong_settings_are_told(usage: Run, resmeter_env: dict[str, str]) -> None:
    resmeter_env["RESMETER_SINK__HTTP_PORT"] = "x"
    resmeter_env["RESMETER_LOG__LEVEL"] = "loud"

    result = usage("--json")

    assert (result.returncode, result.stdout) == (2, "")
    assert [row.split(": ")[:2] for row in result.stderr.splitlines()] == [
        ["error", "RESMETER_SINK__HTTP_PORT"],
        ["error", "RESMETER_LOG__LEVEL"],
    ]


@pytest.mark.parametrize("outcome", ["[/]", "[red]free", "a\x1b[2Jb"])
def test_an_outcome_is_shown_as_it_is_written(ledger: Ledger, usage: Run, outcome: str) -> None:
    stored(ledger, record("c1", outcome=outcome))

    result = usage()

    assert result.returncode == 0
    assert outcome.replace("\x1b", r"\u001b") in result.stdout
    assert "\x1b" not in result.stdout
