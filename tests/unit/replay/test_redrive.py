"""A dead letter reads back as its record, and only what is accepted now is sent again."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.model import CUSTOMER_MESSAGE, REASONS, Event, Rejected
from pipeline.events.signature import SIGNATURE_HEADER, Key, sign
from pipeline.kafka.headers import DeadLetter
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
from tests.properties.test_partition import Record

NOW = 1_790_000_000_000
GOOD = value(Event(NOW, CUSTOMER_MESSAGE, "/s", "m1", intent="help_request"), "acme", "c1")


def letter(
    content: bytes | None = GOOD,
    reason: Any = "future_time",
    offset: int = 7,
    headers: tuple[tuple[str, bytes], ...] = (),
    key: bytes | None = b"acme:c1",
) -> Letter:
    made = DeadLetter.of(
        Record(offset, NOW - 9, key, content, headers), "events", 3, Rejected(reason, "why")
    )
    return read_letter((0, offset), NOW, made.key, made.value, made.headers)


def verdicts(*letters: Letter, reasons: frozenset[str] = frozenset()) -> list[str]:
    return [found.why_not for found in judge(letters, reasons, NOW)]


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
    made = DeadLetter.of(
        Record(5, NOW, key, content, tuple(headers)), "events", 2, Rejected(reason, detail)
    )

    found = read_letter((0, 1), NOW + 1, made.key, made.value, made.headers)

    assert (found.key, found.value, list(found.headers)) == (key, content, headers)
    assert (found.reason, found.origin, found.arrived) == (reason, ("events", 2, 5), NOW)
    assert found.detail == detail.encode("utf-8", "replace").decode()


@given(st.lists(st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=20))))
def test_any_record_in_the_dead_letter_topic_can_be_read(
    headers: list[tuple[str, bytes | None]],
) -> None:
    found = read_letter((0, 1), NOW, None, None, [*headers, ("resmeter-offset", b"x")])

    assert found.origin is None
    assert verdicts(found) == ["not written by resmeter"]


def test_valid_event_is_sent_and_invalid_one_is_left() -> None:
    assert verdicts(letter(), letter(b"{", "malformed_json", 8)) == [
        "",
        "would be rejected again: malformed_json",
    ]


def test_record_with_two_dead_letters_is_sent_once() -> None:
    assert verdicts(letter(), letter(), letter(offset=8)) == ["", DUPLICATE, ""]


def test_named_reason_leaves_the_others() -> None:
    found = verdicts(
        letter(), letter(reason="invalid_data", offset=8), reasons=frozenset(["invalid_data"])
    )

    assert found == ["other reason", ""]


def test_reason_that_depends_on_the_conversation_must_be_named() -> None:
    late = letter(reason="too_late")

    assert verdicts(late) == ["depends on its conversation; to send it, select its reason"]
    assert verdicts(late, reasons=frozenset(["too_late"])) == [""]


def test_truncated_record_is_not_sent() -> None:
    found = letter(b"x" * 900_000, "too_large")

    assert found.cut == "value=900000"
    assert verdicts(found) == ["too large to be kept whole; only the events topic has the original"]


def test_record_counts_its_redrives_and_is_left_after_the_last() -> None:
    found = letter()
    for _ in range(REDRIVES_MAX):
        assert verdicts(found) == [""]
        again = tuple((name, content) for name, content in redriven_headers(found))
        found = letter(headers=again)  # type: ignore[arg-type]

    assert found.redrives == REDRIVES_MAX
    assert verdicts(found) == ["already sent again 5 times"]


def test_record_rejected_again_is_sent_as_its_newest_dead_letter_only() -> None:
    letters = [letter()]
    for run in range(1, 9):
        found = list(judge(letters, frozenset(), NOW))
        # Everything that is sent is rejected again, after the dead letters that exist.
        for verdict in found:
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

    found = judge([letter(reason="not_authorized"), signed], frozenset(), NOW, keys)

    assert [verdict.why_not for verdict in found] == ["would be rejected again: not_authorized", ""]


def test_dead_letters_are_counted_by_reason_with_the_newest_as_the_example() -> None:
    found = count_by_reason(
        [letter(), letter(offset=8, key=b"best:c2"), letter(reason="invalid_data")]
    )

    assert {reason: count.letters for reason, count in found.items()} == {
        "future_time": 2,
        "invalid_data": 1,
    }
    assert found["future_time"].tenants == {"acme", "best"}
    assert found["future_time"].example == "why"
    assert found["future_time"].position == (0, 8)


def test_redrive_is_complete_where_only_unselected_letters_are_left() -> None:
    assert Redriven(1, Counter({OTHER_REASON: 2, DUPLICATE: 1})).is_complete
    assert not Redriven(1, Counter({OTHER_REASON: 2, OVER_LIMIT: 1})).is_complete


def test_selection_is_by_reason_and_by_time_with_an_exclusive_end() -> None:
    found = letter(reason="too_late")

    assert Selection().contains(found)
    assert Selection(frozenset(["too_late"]), NOW, NOW + 1).contains(found)
    assert not Selection(frozenset(["future_time"])).contains(found)
    assert not Selection(from_ms=NOW + 1).contains(found)
    assert not Selection(to_ms=NOW).contains(found)
