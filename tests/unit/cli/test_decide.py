"""`resmeter decide` reads files of events and prints one decision per conversation."""

import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pipeline.catalog.policies import PRESETS
from tests.support.command import resmeter
from tests.support.tenants import export_catalog

SCENARIOS = [
    json.loads(line)
    for line in (Path(__file__).resolve().parents[2] / "scenarios.ndjson").read_bytes().splitlines()
]
AS_OF = "2026-06-13T09:00:00Z"

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def decide(resmeter_env: dict[str, str]) -> Run:
    def run(
        *arguments: str | Path, given: bytes = b"", as_of: str = AS_OF
    ) -> "subprocess.CompletedProcess[bytes]":
        return resmeter(
            *("decide", *map(str, arguments), "--as-of", as_of), env=resmeter_env, given=given
        )

    return run


def event(name: str, subject: str, minute: int, **data: object) -> bytes:
    members = {
        "specversion": "1.0",
        "id": f"m{minute}",
        "source": "/chat",
        "type": f"conversation.{name}",
        "subject": subject,
        "time": f"2026-05-04T09:{minute:02d}:00.000Z",
        "tenantid": "acme",
        "data": data,
    }
    return json.dumps(members).encode() + b"\n"


def answered(subject: str) -> bytes:
    """Return the events of a conversation that silence resolves."""
    return event("customer_message", subject, 0, intent="help_request") + event(
        "ai_message", subject, 1, kind="answer"
    )


def conversations(result: "subprocess.CompletedProcess[bytes]") -> list[str]:
    return [json.loads(line)["conversation"] for line in result.stdout.splitlines()]


def notes(result: "subprocess.CompletedProcess[bytes]") -> list[bytes]:
    """Return the lines on standard error."""
    return result.stderr.splitlines()


# --- decisions ------------------------------------------------------------------------------------


def situations() -> list[tuple[str, str, str]]:
    """Return each combination of policy, overrides and time, so that one run decides many scenarios."""
    return sorted({(s["policy"], json.dumps(s["policy_overrides"]), s["as_of"]) for s in SCENARIOS})


@pytest.mark.parametrize(("policy", "changes", "as_of"), situations())
def test_every_scenario_is_decided_as_expected(
    decide: Run, tmp_path: Path, policy: str, changes: str, as_of: str
) -> None:
    chosen = [
        scenario
        for scenario in SCENARIOS
        if (scenario["policy"], json.dumps(scenario["policy_overrides"]), scenario["as_of"])
        == (policy, changes, as_of)
    ]
    events = tmp_path / "events.ndjson"
    events.write_text("".join(f"{json.dumps(e)}\n" for s in chosen for e in s["events"]))
    named = policy
    if changes != "{}":
        overrides: dict[str, object] = json.loads(changes)
        lines = [f"{key} = {json.dumps(value)}" for key, value in overrides.items()]
        (tmp_path / "policy.toml").write_text("\n".join([f'base = "{policy}"', *lines]))
        named = str(tmp_path / "policy.toml")

    result = decide(events, "--policy", named, as_of=as_of)

    assert (result.returncode, notes(result)) == (0, [])
    decisions: dict[str, Any] = {}
    for line in result.stdout.splitlines():
        decision = json.loads(line)
        decisions[decision["conversation"]] = decision
    for scenario in chosen:
        expected = scenario["expected"]
        decision = decisions[scenario["events"][0]["subject"]]
        if "would_be" in decision:  # the scenarios have the transitions only
            decision["would_be"] = decision["would_be"]["transitions"]
        for transition in (*decision["transitions"], *decision.get("would_be", ())):
            assert transition.pop("evidence")
        assert {key: decision[key] for key in expected} == expected, scenario["title"]


def test_line_has_the_documented_members(decide: Run) -> None:
    result = decide("-", given=answered("c-1"))

    assert result.stdout == (
        b'{"tenantid":"acme","conversation":"c-1","excluded":false,"net":{"resolution":1},'
        b'"kind":"assumed","transitions":[{"at":"2026-05-05T09:01:00.000Z",'
        b'"outcome":"resolution","delta":1,"kind":"assumed","reason":"silence",'
        b'"evidence":["m1"]}]}\n'
    )


def test_excluded_conversation_owes_nothing_and_shows_what_it_would_owe(decide: Run) -> None:
    given = answered("c-1").replace(b'"data"', b'"environment": "sandbox", "data"')

    decision = json.loads(decide("-", given=given).stdout)

    assert decision["excluded"] is True
    assert (decision["net"], decision["transitions"]) == ({}, [])
    assert decision["would_be"]["net"] == {"resolution": 1}
    assert [t["reason"] for t in decision["would_be"]["transitions"]] == ["silence"]


def test_silence_counts_up_to_as_of(decide: Run) -> None:
    before = decide("-", given=answered("c-1"), as_of="2026-05-05T09:00:59.999Z")
    at = decide("-", given=answered("c-1"), as_of="2026-05-05T11:01:00+02:00")

    assert json.loads(before.stdout)["net"] == {}
    assert json.loads(at.stdout)["net"] == {"resolution": 1}


def test_order_and_repetition_of_lines_change_nothing(decide: Run) -> None:
    lines = (answered("c-2") + answered("c-1")).splitlines(keepends=True)

    expected = decide("-", given=b"".join(lines)).stdout
    shuffled = decide("-", given=b"".join([*reversed(lines), *lines])).stdout

    assert shuffled == expected


def test_conversations_are_sorted_by_tenant_and_id(decide: Run) -> None:
    given = answered("c-2") + answered("c-10") + answered("c-1")
    given += answered("c-3").replace(b'"acme"', b'"aaa"')

    assert conversations(decide("-", given=given)) == ["c-3", "c-1", "c-10", "c-2"]


# --- files ----------------------------------------------------------------------------------------


def test_standard_input_plain_and_packed_files_decide_the_same(decide: Run, tmp_path: Path) -> None:
    given = answered("c-1") + answered("c-2")
    (tmp_path / "plain.ndjson").write_bytes(given)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(given))
    (tmp_path / "packed.zst").write_bytes(zstandard.compress(given))

    expected = decide("-", given=given)

    assert (expected.returncode, conversations(expected)) == (0, ["c-1", "c-2"])
    for name in ("plain.ndjson", "packed.gz", "packed.zst"):
        result = decide(tmp_path / name)
        assert (result.returncode, result.stdout, notes(result)) == (0, expected.stdout, [])


def test_concatenated_packed_files_are_read_to_the_end(decide: Run, tmp_path: Path) -> None:
    one, other = answered("c-1"), answered("c-2")
    (tmp_path / "both.gz").write_bytes(gzip.compress(one) + gzip.compress(other))
    (tmp_path / "both.zst").write_bytes(zstandard.compress(one) + zstandard.compress(other))

    for name in ("both.gz", "both.zst"):
        assert conversations(decide(tmp_path / name)) == ["c-1", "c-2"]


def test_several_files_are_one_log(decide: Run, tmp_path: Path) -> None:
    question, answer = answered("c-1").splitlines(keepends=True)
    (tmp_path / "1.ndjson").write_bytes(question)
    (tmp_path / "2.gz").write_bytes(gzip.compress(answer))

    result = decide(tmp_path / "1.ndjson", tmp_path / "2.gz", "-", given=answered("c-2"))

    assert conversations(result) == ["c-1", "c-2"]
    assert all(json.loads(line)["net"] for line in result.stdout.splitlines())


@pytest.mark.parametrize("given", [b"", b"\n\n", b" \r\n"])
def test_empty_file_decides_nothing(decide: Run, given: bytes) -> None:
    result = decide("-", given=given)

    assert (result.returncode, result.stdout, notes(result)) == (0, b"", [])


def test_blank_lines_crlf_and_an_unfinished_last_line_are_read(decide: Run) -> None:
    given = b"\n" + answered("c-1").replace(b"\n", b"\r\n\r\n").strip()

    result = decide("-", given=given)

    assert (result.returncode, conversations(result)) == (0, ["c-1"])


def test_a_byte_order_mark_is_left_out(decide: Run) -> None:
    mark = b"\xef\xbb\xbf"

    result = decide("-", given=mark + answered("c-1") + mark + answered("c-2"))

    assert (result.returncode, conversations(result)) == (0, ["c-1", "c-2"])


def unfinished_gz(given: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(given) + packer.flush(zlib.Z_SYNC_FLUSH)


def unfinished_zst(given: bytes) -> bytes:
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(given) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


def damaged_gz(given: bytes) -> bytes:
    packed = gzip.compress(given)
    return packed[:10] + b"\xff" * 8 + packed[18:]


def damaged_zst(given: bytes) -> bytes:
    packed = zstandard.compress(given)
    return packed[:8] + b"\xff" * 8 + packed[16:]


@pytest.mark.parametrize("pack", [unfinished_gz, unfinished_zst, damaged_gz, damaged_zst])
def test_truncated_or_damaged_packed_file_fails_and_decides_nothing(
    decide: Run, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    # A truncated file yields whole lines first: only its missing end shows that lines are lost.
    path = tmp_path / f"wrong.{pack.__name__.rpartition('_')[2]}"
    path.write_bytes(pack(answered("c-1")))

    result = decide(path)

    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.startswith(f"error: {path}: cannot be read: ".encode())


@pytest.mark.parametrize("name", ["none.ndjson", "folder", "not.gz", "not.zst"])
def test_unreadable_file_is_named(decide: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "not.gz").write_bytes(b"plain text")
    (tmp_path / "not.zst").write_bytes(b"plain text")

    result = decide(tmp_path / name)

    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.startswith(f"error: {tmp_path / name}: cannot be read: ".encode())
    assert b"Traceback" not in result.stderr


# --- invalid lines --------------------------------------------------------------------------------


def test_invalid_lines_go_to_standard_error_and_the_rest_is_decided(decide: Run) -> None:
    given = b"nonsense\n\n" + answered("c-1") + event("rating", "c-1", 2, target="ai", score=6)

    result = decide("-", given=given)

    assert result.returncode == 3
    assert conversations(result) == ["c-1"]
    malformed, wrong = map(json.loads, notes(result))
    assert list(malformed) == ["line", "reason", "detail"]
    assert (malformed["line"], malformed["reason"]) == (1, "malformed_json")
    assert wrong == {
        "line": 5,
        "reason": "invalid_data",
        "detail": "data.score: is 6; it must be a whole number from 1 to 5",
    }


def test_with_several_files_an_invalid_line_names_its_file(decide: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.ndjson", tmp_path / "bad.ndjson"
    good.write_bytes(answered("c-1"))
    bad.write_bytes(answered("c-2") + b"{}\n")

    result = decide(good, bad)

    assert result.returncode == 3
    (line,) = map(json.loads, notes(result))
    assert (line["file"], line["line"], line["reason"]) == (str(bad), 3, "not_cloudevents")


# --- policies and usage ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "net"),
    [
        (name, {"resolution": 1})
        for name in PRESETS
        if name not in {"confirmed-only", "zendesk-2026"}
    ]
    + [("confirmed-only", {}), ("zendesk-2026", {})],
)
def test_policy_decides_whether_silence_is_charged(
    decide: Run, policy: str, net: dict[str, int]
) -> None:
    result = decide("-", "--policy", policy, given=answered("c-1"))

    assert json.loads(result.stdout)["net"] == net


def test_unknown_policy_is_bad_usage_and_lists_the_presets(decide: Run) -> None:
    result = decide("-", "--policy", "fin", given=answered("c-1"))

    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.startswith(b"error: policy: 'fin' is neither a preset (")
    assert all(name.encode() in result.stderr for name in PRESETS)


def test_all_errors_of_a_policy_file_are_reported(decide: Run, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('silence = "maybe"\ngrace = "soon"\n[window]\nfax = "1h"\n')

    result = decide("-", "--policy", policy, given=answered("c-1"))

    assert (result.returncode, result.stdout) == (2, b"")
    keys = [line.split(": ")[2] for line in result.stderr.decode().splitlines()]
    assert keys == ["silence", "grace", "window.fax"]


def test_invalid_time_is_bad_usage(decide: Run) -> None:
    result = decide("-", as_of="tomorrow")

    assert (result.returncode, result.stdout) == (2, b"")
    assert b"'tomorrow' is not a date such as 2026-11-01" in result.stderr
    assert b"or an RFC 3339 time" in result.stderr


def test_missing_file_argument_is_bad_usage(decide: Run) -> None:
    result = decide()

    assert (result.returncode, result.stdout) == (2, b"")
    assert b"FILE" in result.stderr


def test_decide_reads_no_setting_but_the_tenant_file(
    decide: Run, resmeter_env: dict[str, str]
) -> None:
    resmeter_env["RESMETER_WORKER__HTTP_PORT"] = "nonsense"

    assert decide("-", given=answered("c-1")).returncode == 0
    resmeter_env["RESMETER_CONFIG"] = "none.toml"
    assert decide("-", "--policy", "fin-2026", given=answered("c-1")).returncode == 0
    result = decide("-", given=answered("c-1"))
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"none.toml" in result.stderr


def test_each_tenant_has_its_policy_of_the_tenant_file_unless_one_is_given(
    decide: Run, resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "tenants.toml").write_text('[tenants.acme]\npolicy = "confirmed-only"\n')
    resmeter_env["RESMETER_CONFIG"] = str(tmp_path / "tenants.toml")
    given = answered("c-1") + answered("c-1").replace(b'"acme"', b'"globex"')

    own, one = decide("-", given=given), decide("-", "--policy", "fin-2026", given=given)

    nets = [[json.loads(line)["net"] for line in r.stdout.splitlines()] for r in (own, one)]
    assert nets == [[{}, {"resolution": 1}], [{"resolution": 1}, {"resolution": 1}]]


def test_a_terminal_gets_the_totals_and_a_program_does_not(
    decide: Run, resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    sandbox = answered("c-2").replace(b'"data"', b'"environment": "sandbox", "data"')
    handoff = event("handoff", "c-3", 1, cause="procedure")

    file = tmp_path / "events.ndjson"
    file.write_bytes(answered("c-1") + sandbox + handoff + b"nonsense\n")

    (rejected,) = notes(decide(file))
    on_terminal = on_a_terminal(["decide", str(file), "--as-of", AS_OF], resmeter_env)

    assert json.loads(rejected)["line"] == 6
    assert on_terminal.splitlines()[-1] == (
        "3 conversations, billed: 1 procedure_handoff, 1 resolution; 1 excluded, 1 line rejected"
    )


def test_a_terminal_is_warned_once_of_a_misspelt_name(
    decide: Run, resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(event("ai_message", "c1", 1, kind="answer", billabel=False) * 2)

    said = on_a_terminal(["decide", str(file), "--as-of", AS_OF], resmeter_env).splitlines()

    assert notes(decide(file)) == []
    assert [json.loads(line) for line in said[:-1]] == [
        {"line": 1, "warning": "data.billabel: is ignored; did you mean 'billable'?"}
    ]


def on_a_terminal(arguments: list[str], env: dict[str, str]) -> str:
    """Return what a command writes to standard error if that is a terminal."""
    ours, its = os.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=its,
            check=False,
        )
        return os.read(ours, 10_000).decode()
    finally:
        os.close(its)
        os.close(ours)


def test_catalog_of_an_export_decides_instead_of_the_tenant_file(
    decide: Run, resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "resmeter.toml"
    file.write_text('[tenants.acme]\npolicy = "confirmed-only"\n')
    export = export_catalog(tmp_path / "other.ndjson", file)

    given = decide("-", given=answered("c1"))
    by_export = decide("-", "--catalog", export, given=answered("c1"))

    assert json.loads(given.stdout)["net"] == {"resolution": 1}
    assert json.loads(by_export.stdout)["net"] == {}
    assert decide("-", "--catalog", export, "--policy", "gorgias").returncode == 2
    assert b"none.ndjson: cannot be read" in decide("-", "--catalog", "none.ndjson").stderr
