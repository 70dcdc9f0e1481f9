"""Dead letters come back as what they were, and only those that can be taken now go out again."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.model import CUSTOMER_MESSAGE, REASONS, Event, Rejected
from pipeline.events.signature import SIGNATURE_HEADER, Key, sign
from pipeline.kafka.headers import DeadLetter
from pipeline.replay.redrive import (
    REDRIVES_MAX,
    REFUSED_SINCE,
    Letter,
    counts,
    headers_again,
    judge,
    read_letter,
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
def test_a_dead_letter_reads_back_as_the_record_that_it_was(
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
def test_whatever_lies_in_the_topic_is_read(headers: list[tuple[str, bytes | None]]) -> None:
    found = read_letter((0, 1), NOW, None, None, [*headers, ("resmeter-offset", b"x")])

    assert found.origin is None
    assert verdicts(found) == ["not written by resmeter"]


def test_what_is_an_event_by_now_is_sent_and_what_is_none_is_left() -> None:
    assert verdicts(letter(), letter(b"{", "malformed_json", 8)) == [
        "",
        "refused again: malformed_json",
    ]


def test_a_record_whose_dead_letter_was_written_twice_is_sent_once() -> None:
    assert verdicts(letter(), letter(), letter(offset=8)) == ["", "written twice", ""]


def test_a_reason_that_is_named_leaves_the_others() -> None:
    found = verdicts(
        letter(), letter(reason="invalid_data", offset=8), reasons=frozenset(["invalid_data"])
    )

    assert found == ["another reason", ""]


def test_what_depends_on_its_conversation_is_sent_only_when_it_is_named() -> None:
    late = letter(reason="too_late")

    assert verdicts(late) == ["depends on its conversation: name it with --reason"]
    assert verdicts(late, reasons=frozenset(["too_late"])) == [""]


def test_a_record_that_was_cut_is_not_sent() -> None:
    found = letter(b"x" * 900_000, "too_large")

    assert found.cut == "value=900000"
    assert verdicts(found) == ["cut: the original is in the events topic alone"]


def test_each_redrive_is_counted_in_the_record_and_the_last_one_ends_it() -> None:
    found = letter()
    for _ in range(REDRIVES_MAX):
        assert verdicts(found) == [""]
        again = tuple((name, content) for name, content in headers_again(found))
        found = letter(headers=again)  # type: ignore[arg-type]

    assert found.redrives == REDRIVES_MAX
    assert verdicts(found) == ["sent again 5 times already"]


def test_what_was_refused_again_goes_as_its_newest_letter_and_does_not_double() -> None:
    letters = [letter()]
    for run in range(1, 9):
        found = list(judge(letters, frozenset(), NOW))
        # All that goes is refused again, behind those that are there.
        for verdict in found:
            if not verdict.why_not:
                again: Any = tuple(headers_again(verdict.letter))
                letters.append(letter(offset=100 * run, headers=again))

    assert len(letters) == 1 + REDRIVES_MAX
    told = [verdict.why_not for verdict in judge(letters, frozenset(), NOW)]
    assert told == [REFUSED_SINCE] * REDRIVES_MAX + ["sent again 5 times already"]


def test_what_no_key_of_today_has_signed_is_left() -> None:
    keys = {"chat": Key(b"s" * 32, None)}
    signature = sign("chat", b"s" * 32, b"acme:c1", GOOD, [])
    signed = letter(reason="not_authorized", offset=8, headers=((SIGNATURE_HEADER, signature),))

    found = judge([letter(reason="not_authorized"), signed], frozenset(), NOW, keys)

    assert [verdict.why_not for verdict in found] == ["refused again: not_authorized", ""]


def test_letters_are_counted_by_reason_with_the_newest_as_the_example() -> None:
    found = counts([letter(), letter(offset=8, key=b"best:c2"), letter(reason="invalid_data")])

    assert {reason: count.letters for reason, count in found.items()} == {
        "future_time": 2,
        "invalid_data": 1,
    }
    assert found["future_time"].tenants == {"acme", "best"}
    assert found["future_time"].example == "why"
    assert found["future_time"].place == (0, 8)
