"""A dead letter is read back as its record, and only records that are accepted now are sent again."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.model import CUSTOMER_MESSAGE, REASONS, Event, Rejected
from pipeline.events.signature import SIGNATURE_HEADER, Key, sign
from pipeline.kafka.headers import REDRIVES_HEADER, DeadLetter
from pipeline.replay.deadletters import Letter, Selection, count_by_reason, read_letter
from pipeline.replay.redrive import (
    DUPLICATE,
    OTHER_REASON,
    OVER_LIMIT,
    REDRIVES_MAX,
    REJECTED_SINCE,
    Redriven,
    judge,
    redriven_headers,
)
from tests.oracle.wire import value
from tests.support.events import Record

NOW = 1_790_000_000_000
GOOD = value(Event(NOW, CUSTOMER_MESSAGE, "/s", "m1", intent="help_request"), "acme", "c1")


def letter(
    content: bytes | None = GOOD,
    reason: Any = "future_time",
    offset: int = 7,
    headers: tuple[tuple[str, bytes], ...] = (),
    key: bytes | None = b"acme:c1",
) -> Letter:
    dead_letter = DeadLetter.of(
        Record(offset, NOW - 9, key, content, headers), "events", 3, Rejected(reason, "why")
    )
    return read_letter((0, offset), NOW, dead_letter.key, dead_letter.value, dead_letter.headers)


def verdicts(*letters: Letter, reasons: frozenset[str] = frozenset()) -> list[str]:
    return [verdict.why_not for verdict in judge(letters, reasons, NOW)]


@given(
    st.none() | st.binary(max_size=40),
    st.none() | st.binary(max_size=40),
    st.lists(st.tuples(st.sampled_from(["ce_id", "content-type", "x"]), st.binary(max_size=9))),
    st.sampled_from(REASONS),
    st.text(max_size=40),
)
def test_dead_letter_reads_back_as_its_record(
    key: bytes | None,
    content: bytes | None,
    headers: list[tuple[str, bytes]],
    reason: Any,
    detail: str,
) -> None:
    dead_letter = DeadLetter.of(
        Record(5, NOW, key, content, tuple(headers)), "events", 2, Rejected(reason, detail)
    )

    restored = read_letter((0, 1), NOW + 1, dead_letter.key, dead_letter.value, dead_letter.headers)

    assert (restored.key, restored.value, list(restored.headers)) == (key, content, headers)
    assert (restored.reason, restored.origin, restored.arrived) == (reason, ("events", 2, 5), NOW)
    assert restored.detail == detail.encode("utf-8", "replace").decode()


@given(st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=20))))
def test_any_record_in_the_dead_letter_topic_can_be_read(
    headers: list[tuple[str, bytes | None]],
) -> None:
    restored = read_letter((0, 1), NOW, None, None, [*headers, ("resmeter-offset", b"x")])

    assert restored.origin is None
    assert verdicts(restored) == ["not written by resmeter"]


def test_valid_event_is_sent_and_invalid_one_is_left() -> None:
    assert verdicts(letter(), letter(b"{", "malformed_json", 8)) == [
        "",
        "would be rejected again: malformed_json",
    ]


def test_record_with_two_dead_letters_is_sent_once() -> None:
    assert verdicts(letter(), letter(), letter(offset=8)) == ["", DUPLICATE, ""]


def test_selected_reason_leaves_dead_letters_of_other_reasons() -> None:
    why_not = verdicts(
        letter(), letter(reason="invalid_data", offset=8), reasons=frozenset(["invalid_data"])
    )

    assert why_not == ["other reason", ""]


def test_reason_that_depends_on_the_conversation_must_be_selected() -> None:
    late = letter(reason="too_late")

    assert verdicts(late) == ["depends on its conversation; to send it, select its reason"]
    assert verdicts(late, reasons=frozenset(["too_late"])) == [""]


def test_truncated_record_is_not_sent() -> None:
    truncated = letter(b"x" * 900_000, "too_large")

    assert truncated.cut == "value=900000"
    assert verdicts(truncated) == [
        "too large to be kept whole; only the events topic has the original"
    ]


def test_record_counts_its_redrives_and_is_left_after_the_last() -> None:
    letters = [letter()]
    for run in range(1, REDRIVES_MAX + 1):
        assert verdicts(*letters)[-1] == ""
        again: Any = tuple(redriven_headers(letters[-1]))
        letters.append(letter(offset=100 * run, headers=again))

    assert letters[-1].redrives == REDRIVES_MAX
    assert verdicts(*letters)[-1] == "already sent again 5 times"


@pytest.mark.parametrize("count", [b"5", b"99", b"999999999", b"9" * 5_000, b"-1", b"", None])
def test_a_count_that_a_producer_wrote_does_not_keep_its_record_from_being_sent(
    count: bytes | None,
) -> None:
    headers: Any = ((REDRIVES_HEADER, count),)
    forged = letter(offset=8, headers=headers)

    assert verdicts(forged) == [""]


def test_a_copy_with_a_forged_count_does_not_keep_the_record_from_being_sent() -> None:
    forged = letter(offset=8, headers=((REDRIVES_HEADER, b"99"),))

    assert verdicts(letter(), forged) == [REJECTED_SINCE, ""]
    again: Any = tuple(redriven_headers(forged))
    assert letter(offset=9, headers=again).redrives == 100


def test_record_rejected_again_is_sent_as_its_newest_dead_letter_only() -> None:
    letters = [letter()]
    for run in range(1, 9):
        judged = list(judge(letters, frozenset(), NOW))
        # Each record that is sent is rejected again: its new dead letter comes after all others.
        for verdict in judged:
            if not verdict.why_not:
                again: Any = tuple(redriven_headers(verdict.letter))
                letters.append(letter(offset=100 * run, headers=again))

    assert len(letters) == 1 + REDRIVES_MAX
    reasons = [verdict.why_not for verdict in judge(letters, frozenset(), NOW)]
    assert reasons == [REJECTED_SINCE] * REDRIVES_MAX + ["already sent again 5 times"]


def test_event_that_no_current_key_signed_is_left() -> None:
    keys = {"chat": Key(b"s" * 32, None)}
    signature = sign("chat", b"s" * 32, b"acme:c1", GOOD, [])
    signed = letter(reason="not_authorized", offset=8, headers=((SIGNATURE_HEADER, signature),))

    judged = judge([letter(reason="not_authorized"), signed], frozenset(), NOW, keys)

    assert [verdict.why_not for verdict in judged] == [
        "would be rejected again: not_authorized",
        "",
    ]


def test_dead_letters_are_counted_by_reason_with_the_newest_as_the_example() -> None:
    counts = count_by_reason(
        [letter(), letter(offset=8, key=b"best:c2"), letter(reason="invalid_data")]
    )

    assert {reason: count.letters for reason, count in counts.items()} == {
        "future_time": 2,
        "invalid_data": 1,
    }
    assert counts["future_time"].tenants == {"acme", "best"}
    assert counts["future_time"].example == "why"
    assert counts["future_time"].position == (0, 8)


def test_redrive_is_complete_if_only_duplicates_and_other_reasons_are_left() -> None:
    assert Redriven(1, Counter({OTHER_REASON: 2, DUPLICATE: 1})).is_complete
    assert not Redriven(1, Counter({OTHER_REASON: 2, OVER_LIMIT: 1})).is_complete


def test_selection_is_by_reason_and_by_time_with_an_exclusive_end() -> None:
    late = letter(reason="too_late")

    assert Selection().contains(late)
    assert Selection(frozenset(["too_late"]), NOW, NOW + 1).contains(late)
    assert not Selection(frozenset(["future_time"])).contains(late)
    assert not Selection(from_ms=NOW + 1).contains(late)
    assert not Selection(to_ms=NOW).contains(late)
