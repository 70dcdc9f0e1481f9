"""`resmeter rebill`, as far as no broker is needed."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.catalog.tenants import load_tenants
from pipeline.cli.rebill import report
from pipeline.errors import UnavailableError
from pipeline.replay.corrections import Correctable, Correction
from pipeline.replay.planfile import FORM, Header, Total, write_plan
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


def written(folder: Path, of: Header, *found: Correctable) -> Path:
    file = folder / "plan.ndjson"
    file.write_bytes(write_plan(of, found, load_tenants(None))[1])
    return file


def rows(shown: str) -> list[list[str]]:
    return [line.split() for line in shown.splitlines()]


# --- show -----------------------------------------------------------------------------------------


def test_what_is_nothing_has_no_sign(rebill: Run, tmp_path: Path) -> None:
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
        ["acme", "qualification", "0", "-1", "0.00", "usd", "-9.99", "usd", "-1"],
        ["acme", "resolution", "+2", "0", "+1.98", "usd", "0.00", "usd", "+2"],
        ["acme", "signup", "+1", "-1", "no", "price", "no", "price", "0"],
    ]


@pytest.mark.parametrize("outcome", ["[/red]", "[red]free", "a\x1b[2Jb"])
def test_an_outcome_is_shown_as_it_is_written(rebill: Run, tmp_path: Path, outcome: str) -> None:
    file = written(tmp_path, header(Total("acme", outcome, 1, 0, "0.99", "0", "usd")))

    result = rebill("show", file)

    assert result.returncode == 0
    assert outcome.replace("\x1b", r"\u001b") in result.stdout
    assert "\x1b" not in result.stdout


def test_an_empty_plan_says_that_it_is(rebill: Run, tmp_path: Path) -> None:
    result = rebill("show", written(tmp_path, header()))

    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr == "there is nothing to correct\n"


# --- plan -----------------------------------------------------------------------------------------


def test_a_plan_into_no_folder_is_refused_before_anything_is_read(
    rebill: Run, tmp_path: Path
) -> None:
    result = rebill("plan", "--out", tmp_path / "none" / "plan.ndjson")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: {tmp_path}/none is no folder: no plan can be written there\n"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="root may write everywhere else")
def test_a_plan_into_a_folder_that_takes_no_file_is_refused_before_anything_is_read(
    rebill: Run,
) -> None:
    result = rebill("plan", "--out", "/proc/self/plan.ndjson")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: /proc/self takes no file: ")


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


def test_a_plan_that_the_ledger_has_is_told_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    report([correctable("c1", 2), correctable("c2")], [correctable("c3")], [], set())

    assert capsys.readouterr().out.splitlines() == [
        "3 corrections of 2 conversations are in the ledger",
        "1 conversations had been corrected by this plan before",
    ]


def test_what_the_sink_refused_is_not_told_as_in_the_ledger(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UnavailableError, match="of 2 conversations, the first acme c1: see its"):
        report(
            [correctable("c1"), correctable("c2", 2), correctable("c3")],
            [],
            [],
            {"acme:c1:r0", "acme:c2:r1"},
        )

    assert capsys.readouterr().out == "2 corrections of 2 conversations are in the ledger\n"


def test_a_refusal_is_told_beside_conversations_that_have_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UnavailableError, match="refused corrections of 1 conversations"):
        report([correctable("c1")], [], [correctable("c2")], {"acme:c1:r0"})

    assert "left: acme c2 has changed" in capsys.readouterr().out


def test_conversations_that_have_changed_are_something_found() -> None:
    with pytest.raises(SystemExit, match="3"):
        report([], [], [correctable("c2")], set())
