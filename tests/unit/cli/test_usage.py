"""`resmeter usage`: what is owed, billed and pending, by tenant and outcome."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.text import Text

from pipeline.events.times import format_time, parse_time
from pipeline.ledger import Ledger, deliveries, leases, open_ledger, records, upgrade
from pipeline.ledger.entries import Conclusion, ConsumedRecord, Lease, Result, Stored
from pipeline.sink.grouping import Destination, freeze, group_records
from pipeline.sink.stripe.meter import body_sha256
from pipeline.usage.record import UsageRecord, encode_record
from tests.support.command import resmeter
from tests.support.journal import journalled
from tests.support.tenants import export_catalog

TOPIC = "usage.records"
T0 = 1_790_000_000_000
HOUR_MS = 3_600_000

Run = Callable[..., "subprocess.CompletedProcess[str]"]
HEADER = [
    *("tenant,", "outcome", "quantity", "confirmed", "assumed", "amount", "delivered", "pending")
]


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
    """Return a charge of acme for silence; with `supersedes`, a reversal of that charge."""
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


def stored(ledger: Ledger, *usage_records: UsageRecord) -> None:
    next_offset = records.offsets(ledger, TOPIC).get(0)
    consumed = [
        ConsumedRecord(0, offset, encode_record(usage_record))
        for offset, usage_record in enumerate(usage_records, next_offset or 0)
    ]
    result = records.store(ledger, TOPIC, consumed, {0: next_offset}, T0)
    assert isinstance(result, Stored)
    assert (result.records, result.quarantined) == (len(usage_records), ())


def sent(ledger: Ledger, result: Result, tenant_id: str = "acme") -> None:
    """Make meter events of all pending resolutions, and conclude a call for each with `result`."""
    grouping = group_records(deliveries.pending_records(ledger, tenant_id, "resolution", 1000))
    destination = Destination(tenant_id, "resolution", "cus_1", "m")
    planned = [freeze(group, destination, body_sha256) for group in grouping.groups]
    assert deliveries.store_planned(ledger, planned, T0)
    journalled(ledger)
    for item in planned:
        if item.event.value == 0:
            continue
        lease = leases.lease(
            ledger, item.event, "a", T0, until_ms=T0 + 30_000, remembered_from_ms=0
        )
        assert isinstance(lease, Lease)
        leases.conclude(ledger, lease, Conclusion(result=result), T0 + 5)


def lines(result: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def line(**changes: object) -> dict[str, Any]:
    """Return the line of one resolution of acme that was not sent."""
    return {
        "tenantid": "acme",
        "outcome": "resolution",
        "quantity": 1,
        "confirmed": 0,
        "assumed": 1,
        "amount": "0.99",
        "currency": "usd",
        "delivered": 0,
        "netted": 0,
        "settled": 0,
        "stated": 0,
        "late": 0,
        "pending": 1,
        "rejected": 0,
        "uncertain": 0,
        "altered": 0,
        **changes,
    }


# --- JSON -----------------------------------------------------------------------------------------


def test_line_has_the_documented_members_in_order(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1"))

    result = usage("--json")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        '{"tenantid":"acme","outcome":"resolution","quantity":1,"confirmed":0,"assumed":1,'
        '"amount":"0.99","currency":"usd","delivered":0,"netted":0,"settled":0,"stated":0,"late":0,'
        '"pending":1,"rejected":0,"uncertain":0,"altered":0}\n'
    )


def test_what_has_a_contract_is_told_from_amounts_at_the_prices_of_policies(
    ledger: Ledger, resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    contract = 'name = "group"\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\n'
    (tmp_path / "contract.toml").write_text(contract)
    tenant_file = tmp_path / "resmeter.toml"
    tenant_file.write_text(
        'contract_files = ["contract.toml"]\n[accounts.group]\ncontract = "group"\n'
        '[tenants.acme]\naccount = "group"\n[tenants.bluejay]\n'
    )
    export_catalog(tmp_path / "catalog.ndjson", tenant_file)
    stored(ledger, record("c1"), record("c1", tenant_id="bluejay"))

    def said(*arguments: str) -> str:
        return " ".join(resmeter(*arguments, env=resmeter_env).stderr.decode().split())

    note = (
        "note: amounts are at the prices of the policies. `resmeter statement ACCOUNT` has what "
        "accounts with a contract owe: group"
    )
    assert said("usage") == note
    assert said("usage", "--tenant", "bluejay") == ""
    assert said("explain", "acme", "c1", "--ledger-only") == note
    assert said("explain", "bluejay", "c1", "--ledger-only") == ""


def test_empty_ledger_has_no_lines(ledger: Ledger, usage: Run) -> None:
    result = usage("--json")

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_units_count_by_kind_and_by_whether_stripe_has_them(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1"), record("c-2", kind="confirmed", reason="confirmed"))
    sent(ledger, "delivered")
    stored(ledger, record("c-3"))

    assert lines(usage("--json")) == [
        line(quantity=3, confirmed=1, assumed=2, amount="2.97", delivered=2, pending=1)
    ]


def test_reversal_counts_where_its_charge_counted(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1", kind="confirmed", reason="confirmed"), record("c-2"))
    sent(ledger, "delivered")
    # The reversal itself is `assumed`; its charge was `confirmed`.
    stored(ledger, record("c-1", 2, supersedes="acme:c-1:1"))

    assert lines(usage("--json")) == [
        line(quantity=1, confirmed=0, assumed=1, amount="0.99", delivered=2, pending=-1)
    ]


def test_charge_reversed_before_it_was_sent_is_not_pending(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1"), record("c-1", 2, supersedes="acme:c-1:1"))
    sent(ledger, "delivered")

    assert lines(usage("--json")) == [
        line(quantity=0, assumed=0, amount="0.00", delivered=0, pending=0)
    ]


@pytest.mark.parametrize("result", ["rejected", "collision"])
def test_usage_that_stripe_turned_down_for_good_is_not_pending(
    ledger: Ledger, usage: Run, result: Result
) -> None:
    stored(ledger, record("c-1"))
    sent(ledger, result)
    stored(ledger, record("c-2"))

    assert lines(usage("--json")) == [
        line(quantity=2, assumed=2, amount="1.98", delivered=0, rejected=1, pending=1)
    ]


@pytest.mark.parametrize("result", ["failed", "refused", "halted"])
def test_usage_that_stripe_did_not_accept_yet_is_pending(
    ledger: Ledger, usage: Run, result: Result
) -> None:
    stored(ledger, record("c-1"))
    sent(ledger, result)

    is_rejected = result in {"rejected", "collision"}
    assert lines(usage("--json")) == [line(delivered=0, pending=1, rejected=int(is_rejected))]


def test_what_waits_for_an_operator_is_said_below_the_table(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1"), record("c-2"))
    sent(ledger, "rejected")

    result = usage()

    assert result.returncode == 0
    assert result.stderr == (
        "warning: of the resolution of acme, 2 rejected wait for you: see `resmeter "
        "deliveries list`\n"
    )


def test_each_tenant_and_outcome_has_a_line_and_lines_are_ordered(
    ledger: Ledger, usage: Run
) -> None:
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


def test_unit_has_the_price_of_its_policy_version_and_each_currency_has_a_line(
    ledger: Ledger, usage: Run, tmp_path: Path
) -> None:
    (tmp_path / "1.toml").write_text('name = "acme"\nversion = 1\n[price]\nresolution = 0.80\n')
    (tmp_path / "2.toml").write_text('name = "acme"\nversion = 2\n[price]\nresolution = "1.10"\n')
    (tmp_path / "3.toml").write_text('name = "acme"\nversion = 3\ncurrency = "eur"\n')
    (tmp_path / "resmeter.toml").write_text('policy_files = ["?.toml"]\n')
    export_catalog(tmp_path / "catalog.ndjson", tmp_path / "resmeter.toml")
    stored(
        ledger,
        *(record(f"c-{n}", policy="acme", policy_version=n) for n in (1, 2, 3)),
        # Reversed under the third version, at the price of the first.
        record("c-1", 2, policy="acme", policy_version=3, supersedes="acme:c-1:1"),
    )

    assert lines(usage("--json")) == [
        line(currency="eur", amount="0.99"),
        line(quantity=1, assumed=1, amount="1.10"),
    ]


def test_outcome_without_a_price_has_no_amount_and_a_warning(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1", outcome="signup", kind="reported", reason="reported"))

    result = usage("--json")

    assert lines(result) == [line(outcome="signup", assumed=0, amount=None, currency=None)]
    assert result.stderr == "warning: no policy names a price for signup\n"


def test_amounts_are_exact_decimals(ledger: Ledger, usage: Run, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('name = "acme"\nversion = 1\n[price]\nresolution = 0.1\n')
    (tmp_path / "resmeter.toml").write_text('policy_files = ["p.toml"]\n')
    export_catalog(tmp_path / "catalog.ndjson", tmp_path / "resmeter.toml")
    stored(ledger, *(record(f"c-{n}", policy="acme") for n in range(1000)))

    (priced,) = lines(usage("--json"))

    assert priced["amount"] == "100.0"


# --- selection ------------------------------------------------------------------------------------


def test_tenant_option_selects_one_tenant(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1"), record("c-2", tenant_id="globex"))

    assert lines(usage("--json", "--tenant", "globex")) == [line(tenantid="globex")]
    assert lines(usage("--json", "--tenant", "nobody")) == []


def test_time_range_includes_its_start_and_not_its_end(ledger: Ledger, usage: Run) -> None:
    stored(ledger, *(record(f"c-{n}", occurred_at=T0 + n * HOUR_MS) for n in range(4)))

    result = usage(
        "--json", "--from", format_time(T0 + HOUR_MS), "--to", format_time(T0 + 3 * HOUR_MS)
    )

    assert lines(result) == [line(quantity=2, assumed=2, amount="1.98", pending=2)]


@pytest.mark.parametrize("option", ["--from", "--to"])
def test_invalid_time_is_bad_usage(usage: Run, option: str) -> None:
    result = usage(option, "2026-11-31")

    assert (result.returncode, result.stdout) == (2, "")
    assert "'2026-11-31' is not a date such as 2026-11-01" in result.stderr
    assert "or an RFC 3339 time" in result.stderr


def test_date_is_midnight_utc(ledger: Ledger, usage: Run) -> None:
    midnight = parse_time("2026-11-02T00:00:00Z")
    stored(ledger, *(record(f"c-{n}", occurred_at=midnight + n - 1) for n in range(3)))

    assert lines(usage("--json", "--from", "2026-11-02")) == [
        line(quantity=2, assumed=2, amount="1.98", pending=2)
    ]
    assert lines(usage("--json", "--to", "2026-11-02")) == [line()]


def test_month_includes_its_first_and_its_last_millisecond(ledger: Ledger, usage: Run) -> None:
    edges = [parse_time("2026-11-01T00:00:00Z"), parse_time("2026-12-01T00:00:00Z")]
    times = [edge + ms for edge in edges for ms in (-1, 0)]
    stored(ledger, *(record(f"c-{n}", occurred_at=at) for n, at in enumerate(times)))

    assert lines(usage("--json", "--month", "2026-11")) == [
        line(quantity=2, assumed=2, amount="1.98", pending=2)
    ]


def test_month_excludes_from_and_to(usage: Run) -> None:
    result = usage("--month", "2026-11", "--to", "2026-11-15")

    assert (result.returncode, result.stdout) == (2, "")
    assert "give --month, or --from and --to, but not both" in result.stderr


@pytest.mark.parametrize(
    "month", ["2026-13", "2026", "0000-01", "9999-12", "2026-11-01", "november"]
)
def test_invalid_month_is_bad_usage(usage: Run, month: str) -> None:
    result = usage("--month", month)

    assert (result.returncode, result.stdout) == (2, "")
    assert f"'{month}' is not a month such as 2026-11" in result.stderr


# --- tables ---------------------------------------------------------------------------------------


def test_table_has_a_total_for_each_currency(ledger: Ledger, usage: Run) -> None:
    stored(
        ledger,
        record("c-1"),
        record("c-2", outcome="qualification", kind="confirmed"),
        record("c-3", outcome="signup", kind="reported"),
    )

    result = usage()

    assert result.returncode == 0
    header, *rows = (row.split() for row in result.stdout.splitlines())
    assert header == HEADER
    assert rows == [
        ["acme"],
        ["qualification", "1", "1", "0", "9.99", "usd", "0", "1"],
        ["resolution", "1", "0", "1", "0.99", "usd", "0", "1"],
        ["signup", "1", "0", "0", "no", "price", "0", "1"],
        ["total", "1", "0", "0", "no", "price", "0", "1"],
        ["total", "2", "1", "1", "10.98", "usd", "0", "2"],
    ]
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("columns", ["20", "60", "80"])
def test_narrow_terminal_cuts_no_figure_and_no_header(
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
    assert header == HEADER
    assert rows == [
        ["acme"],
        ["qualification", "1", "0", "0", "9.99", "usd", "0", "1"],
        ["contoso-travel"],
        ["resolution", "143", "0", "143", "141.57", "usd", "0", "143"],
        ["total", "144", "0", "143", "151.56", "usd", "0", "144"],
    ]


def test_unknown_tenant_is_reported_with_the_known_tenants(ledger: Ledger, usage: Run) -> None:
    stored(ledger, record("c-1"), record("c-2", tenant_id="globex"))

    result = usage("--tenant", "nobody")

    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "No usage for tenant 'nobody' (known tenants: acme, globex)\n"


def test_no_usage_says_why_without_a_table(ledger: Ledger, usage: Run) -> None:
    empty = usage()
    stored(ledger, record("c-1"))
    another_time = usage("--month", "2020-01")
    tenant = usage("--month", "2020-01", "--tenant", "acme")

    results = (empty, another_time, tenant)
    assert [(result.returncode, result.stdout) for result in results] == [(0, "")] * 3
    assert [result.stderr for result in results] == [
        "The ledger has no usage yet\n",
        "No usage at that time\n",
        "No usage for tenant 'acme' at that time\n",
    ]


# --- errors ---------------------------------------------------------------------------------------


def test_missing_ledger_is_reported_with_the_command_to_run(usage: Run) -> None:
    result = usage("--json")

    assert (result.returncode, result.stdout) == (2, "")
    assert "run `resmeter ledger upgrade`" in result.stderr
    assert "Traceback" not in result.stderr


def test_all_invalid_settings_are_reported(usage: Run, resmeter_env: dict[str, str]) -> None:
    resmeter_env["RESMETER_SINK__HTTP_PORT"] = "x"
    resmeter_env["RESMETER_LOG__LEVEL"] = "loud"

    result = usage("--json")

    assert (result.returncode, result.stdout) == (2, "")
    assert [row.split(": ")[:2] for row in result.stderr.splitlines()] == [
        ["error", "RESMETER_SINK__HTTP_PORT"],
        ["error", "RESMETER_LOG__LEVEL"],
    ]


@pytest.mark.parametrize("outcome", ["[/]", "[red]free", "a\x1b[2Jb"])
def test_outcome_is_printed_as_it_is_written_and_safe(
    ledger: Ledger, usage: Run, outcome: str
) -> None:
    stored(ledger, record("c1", outcome=outcome))

    result = usage()

    assert result.returncode == 0
    assert outcome.replace("\x1b", r"\u001b") in result.stdout
    assert "\x1b" not in result.stdout


def test_a_reversal_of_another_month_is_said_to_be_on_another_statement(
    ledger: Ledger, usage: Run
) -> None:
    october, november = parse_time("2026-10-30T00:00:00Z"), parse_time("2026-11-02T00:00:00Z")
    stored(
        ledger,
        record("c1", occurred_at=october),
        record("c1", 2, occurred_at=november, supersedes="acme:c1:1"),
    )

    note = (
        "note: a statement counts a reversal with its charge, and this table when it occurred: it "
    )
    assert usage("--month", "2026-11").stderr == f"{note}counts 1 of charges from another time\n"
    assert usage("--month", "2026-10").stderr == (
        f"{note}leaves out 1 of its charges that occurred at another time\n"
    )
    assert usage().stderr == ""
