"""`resmeter explain` says why a conversation is not billed: the event, its time and the rule."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.replay.why_not import Reason
from tests.support.command import resmeter
from tests.support.events import AT, event
from tests.support.tenants import export_catalog

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
ASKED = event("q1", intent="help_request")
ANSWER = event("a1", "ai_message", AT + MINUTE, kind="answer")
CONFIRMED = event("q2", at=AT + 5 * MINUTE, intent="confirmation")
AS_OF = "2026-06-13T09:00:00Z"

Explain = Callable[..., dict[str, Any]]


@pytest.fixture
def explain(resmeter_env: dict[str, str], tmp_path: Path) -> Explain:
    def run(*lines: bytes, as_of: str = AS_OF, policy: str = "") -> dict[str, Any]:
        env = resmeter_env
        if policy:
            lines_of_policy = ['base = "fin-2026"', 'name = "own"', "version = 1", policy]
            if "effective_from" not in policy:
                lines_of_policy.append('effective_from = "1970-01-01T00:00:00Z"')
            (tmp_path / "own.toml").write_text("\n".join(lines_of_policy))
            (tmp_path / "tenants.toml").write_text('policy = "own"\npolicy_files = ["own.toml"]\n')
            env = {**env, "RESMETER_CONFIG": str(tmp_path / "tenants.toml")}
        result = resmeter(
            *("explain", "acme", "c1", "--events", "-", "--as-of", as_of, "--json"),
            env=env,
            given=b"\n".join(lines),
        )
        assert (result.returncode, result.stderr) == (0, b"")
        account = json.loads(result.stdout)
        assert (account["tenantid"], account["conversation"]) == ("acme", "c1")
        assert (account["net"], account["records"]) == ({}, [])
        answer: dict[str, Any] = account["why_not"]
        return answer

    return run


def later(event_id: str, type_: str = "customer_message", **data: Any) -> bytes:
    """Return an event ten minutes after the question."""
    return event(event_id, type_, AT + 10 * MINUTE, **data)


@pytest.mark.parametrize(
    ("cause", "reason", "words"),
    [
        (later("x", intent="help_request"), "answer_cleared", "the customer came back for help"),
        (later("x", intent="negative_feedback"), "answer_cleared", "the answer did not help"),
        (later("x"), "answer_cleared", "no classifier understood"),
        (later("x", intent="human_request"), "human_requested", "asks for a person"),
        (later("x", "ai_message", kind="clarifying_question"), "answer_cleared", "clarifying"),
        (later("x", "ai_message", kind="answer", billable=False), "answer_cleared", "not billable"),
        (later("x", "handoff", cause="workspace_rule"), "answer_cleared", "cause workspace_rule"),
        (later("x", "handoff", cause="customer_request"), "human_requested", "asks for a person"),
        (later("x", "rating", target="ai", score=1), "answer_cleared", "rated the AI below"),
        (later("x", "undelivered", message_id="a1"), "answer_cleared", "did not reach"),
        (later("x", "spam_flagged"), "spam", "while nothing was charged"),
        (later("x", "merged", role="secondary", other="c2"), "merged", "while nothing was charged"),
    ],
)
def test_the_event_that_took_the_answer_away_is_named(
    explain: Explain, cause: bytes, reason: str, words: str
) -> None:
    policy = "csat_reverses_below = 3" if b"rating" in cause else ""

    answer = explain(ASKED, ANSWER, cause, policy=policy)

    assert (answer["reason"], answer["event"]) == (reason, "x")
    assert answer["at"] == "2026-05-04T09:10:00.000Z"
    assert words in answer["why"]
    assert answer["why"].startswith("Event x of 2026-05-04T09:10:00.000Z (")
    assert answer["rule"] == "docs/reference/outcomes.md §3.6"
    assert answer["policy_version"] == 1


@pytest.mark.parametrize(
    ("cause", "reason", "words"),
    [
        (later("x", intent="help_request"), "taken_back", "the customer came back for help"),
        (later("x", intent="negative_feedback"), "taken_back", "the answer did not help"),
        (later("x", intent="human_request"), "human_requested", "charge before it was taken back"),
        (later("x", "spam_flagged"), "spam", "flagged as spam in time"),
        (later("x", "merged", role="secondary", other="c2"), "merged", "merged into another one"),
    ],
)
def test_the_event_that_took_the_charge_back_is_named(
    explain: Explain, cause: bytes, reason: str, words: str
) -> None:
    answer = explain(ASKED, ANSWER, CONFIRMED, cause)

    assert (answer["reason"], answer["event"]) == (reason, "x")
    assert words in answer["why"]


def test_an_open_window_says_until_when(explain: Explain) -> None:
    answer = explain(ASKED, ANSWER, as_of="2026-05-05T09:00:59.999Z")

    assert (answer["reason"], answer["event"]) == ("window_open", "a1")
    assert answer["until"] == "2026-05-05T09:01:00.000Z"
    assert answer["rule"] == "docs/reference/outcomes.md §3.3"


def test_silence_that_a_policy_never_bills_is_named(explain: Explain) -> None:
    answer = explain(ASKED, ANSWER, policy='silence = "never"')

    assert (answer["reason"], answer["event"], answer["policy"]) == ("silence_never", "a1", "own")
    assert 'silence = "never"' in answer["why"]


def test_an_answer_that_nobody_verified_is_named(explain: Explain) -> None:
    answer = explain(ASKED, ANSWER, policy='silence = "if_verified"')

    assert (answer["reason"], answer["event"]) == ("unverified", "a1")


def test_a_teammates_reply_that_voids_the_conversation_is_named(explain: Explain) -> None:
    reply = later("x", "human_message", visibility="public")

    answer = explain(ASKED, ANSWER, reply, policy='human_reply = "voids_conversation"')

    assert (answer["reason"], answer["event"]) == ("human_requested", "x")
    assert "a teammate's reply" in answer["why"]


def test_an_event_outside_live_excludes_and_the_units_it_would_owe_are_named(
    explain: Explain,
) -> None:
    test_event = CONFIRMED.replace(b'"data"', b'"environment":"preview","data"')

    answer = explain(ASKED, ANSWER, test_event)

    assert (answer["reason"], answer["event"], answer["owed"]) == (
        "excluded",
        "q2",
        {"resolution": 1},
    )
    assert answer["rule"] == "docs/reference/outcomes.md §3.8"


@pytest.mark.parametrize(
    ("lines", "words", "event_id"),
    [
        ((ASKED,), "has given no answer", None),
        ((ANSWER,), "the customer had not asked", "a1"),
        ((ASKED, later("x", "ai_message", kind="answer", billable=False)), "not billable", "x"),
        ((ASKED, later("x", "handoff", cause="default")), "does not bill its cause", "x"),
    ],
)
def test_a_conversation_without_a_standing_answer_says_what_it_lacks(
    explain: Explain, lines: tuple[bytes, ...], words: str, event_id: str | None
) -> None:
    answer = explain(*lines)

    assert (answer["reason"], answer["event"]) == ("no_answer", event_id)
    assert words in answer["why"]


def test_rejected_events_are_counted_by_reason(explain: Explain) -> None:
    broken = ANSWER.replace(b'"answer"', b'"reply"')

    assert explain(broken)["reason"] == "rejected"
    answer = explain(ASKED, broken, b"{garbage", broken.replace(b'"c1"', b'"c2"'))

    assert answer["reason"] == "no_answer"
    assert (answer["events"], answer["rejected"]) == (1, {"invalid_data": 1})


def test_events_that_owe_a_unit_say_so(explain: Explain) -> None:
    answer = explain(ASKED, ANSWER)

    assert (answer["reason"], answer["owed"]) == ("owed", {"resolution": 1})
    assert [line["effect"] for line in answer["history"]] == [
        "the customer has asked",
        "the answer stands, due 2026-05-05T09:01:00.000Z",
        "+1 resolution (silence)",
    ]


def test_text_fits_80_columns_and_has_each_events_effect(resmeter_env: dict[str, str]) -> None:
    lines = [ASKED, ANSWER, CONFIRMED, later("x", intent="help_request")]
    again = event("a2", "ai_message", AT + HOUR, kind="answer", billable=False)

    result = resmeter(
        *("explain", "acme", "c1", "--events", "-"),
        env={**resmeter_env, "COLUMNS": "80"},
        given=b"\n".join([*lines, again]),
    )

    assert (result.returncode, result.stderr) == (0, b"")
    text = result.stdout.decode()
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("Conversation c1 of acme: nothing is billed\n\nWhy not      Event x ")
    words = " ".join(text.split())
    assert "customer: help_request (x): -1 resolution (customer_returned)" in words
    assert "AI: answer (a2): nothing: the answer is not billable" in words


def test_unknown_conversation_and_missing_option_are_errors(resmeter_env: dict[str, str]) -> None:
    unknown = resmeter("explain", "acme", "c9", "--events", "-", env=resmeter_env, given=ASKED)
    without = resmeter("explain", "acme", "c1", "--as-of", AS_OF, env=resmeter_env)

    assert (unknown.returncode, unknown.stdout) == (1, b"")
    assert b"no event of conversation 'c9' of tenant 'acme'" in unknown.stderr
    assert (without.returncode, without.stdout) == (2, b"")
    assert b"--as-of needs --events" in without.stderr


def test_the_guide_lists_every_reason() -> None:
    guide = Path(__file__).resolve().parents[3] / "docs" / "guide" / "what-bills.md"
    _, _, section = guide.read_text("utf-8").partition("### Why nothing is billed\n")
    cells = re.findall(r"^\| (`[^|]*`) \|", section.partition("\n### ")[0], re.MULTILINE)

    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted([*get_args(Reason), "reason"])


def test_text_that_is_not_utf_8_is_bad_usage(resmeter_env: dict[str, str]) -> None:
    for arguments in (
        ("explain", "acme", "c\udcff"),
        ("usage", "--tenant", "\udcff"),
        ("deliveries", "show", "\udcff"),
    ):
        result = resmeter(*arguments, env=resmeter_env)

        assert (result.returncode, result.stdout) == (2, b"")
        assert b"is not UTF-8" in result.stderr


def test_catalog_of_an_export_decides_instead_of_the_tenant_file(
    resmeter_env: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "tenants.toml"
    file.write_text('[tenants.acme]\npolicy = "confirmed-only"\n')
    export = export_catalog(tmp_path / "other.ndjson", file)
    given = ("explain", "acme", "c1", "--catalog", export)

    result = resmeter(
        *given, "--events", "-", "--json", env=resmeter_env, given=ASKED + b"\n" + ANSWER
    )
    alone = resmeter(*given, env=resmeter_env)

    assert json.loads(result.stdout)["why_not"]["reason"] == "silence_never"
    assert (alone.returncode, b"--catalog needs --events" in alone.stderr) == (2, True)
