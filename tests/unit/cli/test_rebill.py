"""`resmeter rebill`, without a broker."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pipeline.catalog.policies import preset
from pipeline.catalog.tenants import load_tenants
from pipeline.cli.rebill import report
from pipeline.errors import UnavailableError
from pipeline.events.times import format_time
from pipeline.replay.corrections import Correctable, Correction
from pipeline.replay.planfile import FORM, Candidate, Header, Total, decode_plan, encode_plan
from pipeline.replay.rebill import AppliedPlan
from pipeline.usage.record import Origin, UsageRecord
from tests.support.command import resmeter

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def rebill(resmeter_env: dict[str, str]) -> Run:
    def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        ended = resmeter("rebill", *map(str, arguments), env=resmeter_env)
        return subprocess.CompletedProcess(
            ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode()
        )

    return run


def header(*totals: Total) -> Header:
    return Header(
        resmeter_plan=FORM,
        made_at="2026-06-01T00:00:00.000Z",
        tenant=None,
        from_=None,
        to=None,
        topic="conversation.events",
        log={"0": (0, 7)},
        conversations=0,
        unsettled=0,
        unjudged=0,
        totals=totals,
    )


def written(folder: Path, plan_header: Header, *correctables: Correctable) -> Path:
    file = folder / "plan.ndjson"
    file.write_bytes(encode_plan(plan_header, correctables, load_tenants(None))[1])
    return file


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


# --- show -----------------------------------------------------------------------------------------


def test_zero_has_no_sign(rebill: Run, tmp_path: Path) -> None:
    file = written(
        tmp_path,
        header(
            Total("acme", "qualification", 0, 1, "0", "9.99", "usd"),
            Total("acme", "resolution", 2, 0, "1.98", "0", "usd"),
            Total("acme", "signup", 1, 1, None, None, None),
        ),
    )

    result = rebill("show", file)

    assert result.returncode == 0
    assert rows(result.stdout)[1:] == [
        ["acme"],
        ["qualification", "0", "-1", "0.00", "usd", "-9.99", "usd", "-1"],
        ["resolution", "+2", "0", "+1.98", "usd", "0.00", "usd", "+2"],
        ["signup", "+1", "-1", "no", "price", "no", "price", "0"],
    ]
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("total", "way"),
    [
        (Total("acme", "resolution", 2, 2, "2.58", "1.98", "usd"), "Stripe gets no units, as it"),
        (Total("acme", "resolution", 2, 1, "1.98", "0.99", "usd"), "Stripe gets the units of open"),
    ],
    ids=["money alone", "units"],
)
def test_a_plan_says_how_it_gets_onto_an_invoice(
    rebill: Run, tmp_path: Path, total: Total, way: str
) -> None:
    result = rebill("show", written(tmp_path, header(total)))

    assert result.stderr.startswith(way)
    assert "in a closed period is on the next statement" in result.stderr


@pytest.mark.parametrize("outcome", ["[/red]", "[red]free", "a\x1b[2Jb"])
def test_outcome_is_printed_as_it_is_written_and_safe(
    rebill: Run, tmp_path: Path, outcome: str
) -> None:
    file = written(tmp_path, header(Total("acme", outcome, 1, 0, "0.99", "0", "usd")))

    result = rebill("show", file)

    assert result.returncode == 0
    assert outcome.replace("\x1b", r"\u001b") in result.stdout
    assert "\x1b" not in result.stdout


def test_empty_plan_says_so(rebill: Run, tmp_path: Path) -> None:
    result = rebill("show", written(tmp_path, header()))

    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "there is nothing to correct\n"


def test_plan_of_an_earlier_version_is_read(rebill: Run, tmp_path: Path) -> None:
    total = Total("acme", "resolution", 1, 0, "0.99", "0", "usd")
    earlier = msgspec.structs.replace(header(total), resmeter_plan=1)
    file = written(tmp_path, earlier)

    assert b"catalog" not in file.read_bytes()
    assert rows(rebill("show", file).stdout)[2][0] == "resolution"


def test_plan_under_another_policy_keeps_what_it_enters_in_the_catalog(tmp_path: Path) -> None:
    candidate = Candidate.of(preset("gorgias"), "ada", "wrong contract")
    planned = msgspec.structs.replace(
        header(),
        tenant="acme",
        from_="2026-04-01T00:00:00.000Z",
        to="2026-05-01T00:00:00.000Z",
        catalog=(3, "abc"),
        policy=candidate,
    )
    file = written(tmp_path, planned)

    read = decode_plan(str(file), file.read_bytes()).header

    assert (read.catalog, read.policy) == ((3, "abc"), candidate)
    amendment = read.amendment
    assert amendment is not None
    assert (amendment.tenant_id, amendment.plan) == ("acme", read.id)
    assert format_time(amendment.made_ms) == read.made_at
    assert header().amendment is None


# --- plan -----------------------------------------------------------------------------------------


def test_missing_folder_is_reported_before_anything_is_read(rebill: Run, tmp_path: Path) -> None:
    result = rebill("plan", "--out", tmp_path / "none" / "plan.ndjson")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: {tmp_path}/none is not a folder: no plan can be written there\n"
    )


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="root may write everywhere else")
def test_folder_that_is_not_writable_is_reported_before_anything_is_read(
    rebill: Run,
) -> None:
    result = rebill("plan", "--out", "/proc/self/plan.ndjson")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: the folder /proc/self is not writable: ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--policy EDITED --month 2026-05 --who ada --reason x", "of fin-2026 with other terms"),
        (
            "--policy gorgias --month 2999-01 --who ada --reason x",
            "--to 2999-02-01T00:00:00Z is not past yet. Publish",
        ),
        ("--policy gorgias --month 2026-05", "needs --from and --to (or --month), and --reason"),
        ("--policy gorgias --from 2026-05-01 --reason x", "needs --from and --to"),
        (
            "--policy gorgias --from 2026-05-02 --to 2026-05-02 --reason x",
            "must be earlier than --to",
        ),
        ("--policy none --month 2026-05 --reason x", "neither a preset"),
        ("--reason x", "--reason and --who need --policy"),
    ],
)
def test_policy_that_cannot_be_used_is_reported_before_anything_is_read(
    rebill: Run, resmeter_env: dict[str, str], tmp_path: Path, arguments: str, problem: str
) -> None:
    assert resmeter("ledger", "upgrade", env=resmeter_env).returncode == 0
    edited = tmp_path / "edited.toml"
    edited.write_text(
        'name = "fin-2026"\nversion = 1\neffective_from = 2026-01-01T00:00:00Z\n'
        'price = { resolution = "0.50" }\n'
    )

    given = arguments.replace("EDITED", str(edited)).split()
    result = rebill("plan", *given, "--out", tmp_path / "plan")

    assert (result.returncode, result.stdout) == (2, "")
    assert problem in " ".join(result.stderr.split())
    assert not (tmp_path / "plan").exists()


# --- apply ----------------------------------------------------------------------------------------


def correctable(conversation: str, records: int = 1) -> Correctable:
    corrections = (
        Correction(
            UsageRecord(
                id=f"acme:{conversation}:r{n}",
                tenant_id="acme",
                conversation=conversation,
                outcome="resolution",
                quantity=1,
                kind="assumed",
                reason="rebill",
                occurred_at=0,
                policy="fin-2026",
                policy_version=1,
                evidence=("m1",),
            ),
            Origin("conversation.events", 0, (1,)),
            0,
        )
        for n in range(records)
    )
    return Correctable("acme", conversation, "basis", "why", tuple(corrections))


def test_conversations_that_the_plan_corrected_before_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(AppliedPlan([correctable("c1", 2), correctable("c2")], [correctable("c3")], [], set()))

    assert capsys.readouterr().out.splitlines() == [
        "3 corrections of 2 conversations are in the ledger",
        "1 conversation had been corrected by this plan before",
    ]


def test_quarantined_corrections_are_not_counted_as_in_the_ledger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(
        UnavailableError, match="of 2 conversations, the first acme c1: see the sink"
    ):
        report(
            AppliedPlan(
                [correctable("c1"), correctable("c2", 2), correctable("c3")],
                [],
                [],
                {"acme:c1:r0", "acme:c2:r1"},
            )
        )

    assert capsys.readouterr().out == "2 corrections of 2 conversations are in the ledger\n"


def test_two_corrections_of_one_conversation_are_counted_in_good_english(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(AppliedPlan([correctable("c1", 2)], [], [], set()))

    assert capsys.readouterr().out == "2 corrections of 1 conversation are in the ledger\n"


def test_quarantine_is_reported_beside_conversations_that_have_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UnavailableError, match="quarantined corrections of 1 conversation,"):
        report(AppliedPlan([correctable("c1")], [], [correctable("c2")], {"acme:c1:r0"}))

    assert "left: acme c2 has changed" in capsys.readouterr().out


def test_changed_conversations_give_exit_status_3() -> None:
    with pytest.raises(SystemExit, match="3"):
        report(AppliedPlan([], [], [correctable("c2")], set()))
