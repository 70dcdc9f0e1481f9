"""Bytes become an event, or a reason; both readers of the codec and both modes say the same."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.codec import Headers, _read_structured, decode, decode_value
from pipeline.events.model import (
    AI_MESSAGE,
    EVENT_BYTES_MAX,
    FUTURE_MS_MAX,
    TYPES,
    Addressed,
    Event,
    Rejected,
)
from pipeline.events.times import format_time, parse_time

EXAMPLES = sorted(
    (Path(__file__).resolve().parents[3] / "schemas" / "examples").glob("conversation.*.json")
)
NOW = parse_time("2026-05-04T09:01:00.000Z")
STRUCTURED: Headers = [("content-type", b"application/cloudevents+json")]
ANSWER = {
    "specversion": "1.0",
    "id": "ev-2",
    "source": "/chat/eu-1",
    "type": "conversation.ai_message",
    "subject": "c-1042",
    "time": "2026-05-04T09:01:00.000Z",
    "tenantid": "acme",
    "data": {"kind": "answer", "agent": "fin"},
}
EXPECTED = Addressed("acme", "c-1042", Event(NOW, AI_MESSAGE, "/chat/eu-1", "ev-2", kind="answer"))


def named(path: Path) -> str:
    return path.name


def read(path: Path) -> dict[str, Any]:
    event = json.loads(path.read_text("utf-8"))
    assert isinstance(event, dict)
    return event


def event(**changes: object) -> bytes:
    return json.dumps({**ANSWER, **changes}).encode()


def without(*names: str) -> bytes:
    return json.dumps({name: ANSWER[name] for name in ANSWER if name not in names}).encode()


def data(**members: object) -> bytes:
    return event(data=members)


def rejected(
    value: bytes | None, headers: Headers = (), *, key: bytes | None = b"acme:c-1042", at: int = NOW
) -> tuple[str, str]:
    """Reason and the name of what is wrong."""
    found = decode(value, key, at, headers)
    assert isinstance(found, Rejected), found
    return found.reason, found.detail.split(": ")[0]


def taken(value: bytes, headers: Headers = ()) -> Event:
    found = decode_value(value, headers)
    assert isinstance(found, Addressed), found
    return found.event


def binary(attributes: dict[str, str], prefix: str = "ce_") -> list[tuple[str, bytes]]:
    made = [(f"{prefix}{name}", value.encode()) for name, value in attributes.items()]
    return [*made, ("content-type", b"application/json")]


ATTRIBUTES = {name: str(value) for name, value in ANSWER.items() if name != "data"}


# --- what is read ---------------------------------------------------------------------------------


def test_an_event_is_read_with_its_tenant_and_conversation() -> None:
    assert decode(event(), b"acme:c-1042", NOW, STRUCTURED) == EXPECTED


def test_attributes_that_are_not_stated_stand_at_their_defaults() -> None:
    found = taken(event())

    assert (found.channel, found.live, found.sequence, found.billable) == (
        "messenger",
        True,
        "",
        True,
    )


def test_optional_attributes_are_read() -> None:
    found = taken(event(channel="email", environment="sandbox", sequence="0009"))

    assert (found.channel, found.live, found.sequence) == ("email", False, "0009")


def test_null_is_as_absent_and_what_is_not_known_is_passed_over() -> None:
    value = event(channel=None, dataschema=None, traceparent="00-1", other={"deep": [1, None]})

    assert decode_value(value, STRUCTURED) == EXPECTED


@pytest.mark.parametrize(
    ("kind", "members", "expected"),
    [
        ("started", {"initiated_by": "outbound"}, {}),
        ("customer_message", {"intent": "confirmation"}, {"intent": "confirmation"}),
        ("customer_message", {}, {"intent": "unknown"}),
        ("ai_message", {"kind": "greeting"}, {"kind": "greeting"}),
        (
            "ai_message",
            {"kind": "answer", "billable": False},
            {"kind": "answer", "billable": False},
        ),
        ("human_message", {"visibility": "internal"}, {"internal": True}),
        ("human_message", {}, {"internal": False}),
        ("handoff", {"cause": "procedure"}, {"cause": "procedure"}),
        ("outcome_reported", {"outcome": "qualification"}, {"outcome": "qualification"}),
        ("rating", {"target": "ai", "score": 1}, {"rates_ai": True, "score": 1}),
        (
            "rating",
            {"target": "human", "score": 5.0, "intent": "help_request"},
            {"score": 5, "intent": "help_request"},
        ),
        ("verdict", {"verified": True}, {"verified": True}),
        ("undelivered", {"message_id": "ev-1"}, {"message_id": "ev-1"}),
        ("closed", {"actor": "workflow"}, {}),
        ("reopened", {"actor": "customer"}, {}),
        (
            "merged",
            {"role": "primary", "other": "c-7", "last_answer_at": "2026-05-04T10:00:00+02:00"},
            {"last_answer_at": parse_time("2026-05-04T08:00:00Z")},
        ),
        ("merged", {"role": "secondary", "other": "c-7"}, {"secondary": True}),
        ("spam_flagged", {}, {}),
        ("redacted", {}, {}),
        ("deleted", {}, {}),
    ],
)
def test_the_members_of_each_type_are_read(
    kind: str, members: dict[str, object], expected: dict[str, Any]
) -> None:
    name = f"conversation.{kind}"

    found = taken(event(type=name, data=members))

    assert found == Event(NOW, TYPES.index(name), "/chat/eu-1", "ev-2", **expected)


@pytest.mark.parametrize("kind", ["closed", "handoff", "rating"])
def test_data_that_is_left_out_is_an_empty_object(kind: str) -> None:
    absent = event(type=f"conversation.{kind}", data=None)
    empty = event(type=f"conversation.{kind}", data={})

    assert decode_value(absent, STRUCTURED) == decode_value(empty, STRUCTURED)


# --- both modes, as the CloudEvents SDK writes them -----------------------------------------------


def sdk_event(example: dict[str, Any]) -> CloudEvent:
    attributes = {name: value for name, value in example.items() if name != "data"}
    attributes |= {
        "time": datetime.fromisoformat(example["time"]),
        "datacontenttype": "application/json",
    }
    return CloudEvent(attributes, example.get("data"))


def from_sdk(write: Callable[..., KafkaMessage], example: dict[str, Any]) -> Addressed | Rejected:
    def key_of(made: CloudEvent) -> str:
        return f"{made.get_extension('tenantid')}:{made.get_subject()}"

    message = write(sdk_event(example), key_mapper=key_of)
    key = str(message.key).encode()
    arrival = parse_time(example["time"])
    return decode(message.value, key, arrival, list(message.headers.items()))


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_both_modes_of_the_sdk_read_as_the_example_does(path: Path) -> None:
    example = read(path)

    expected = decode_value(path.read_bytes(), STRUCTURED)

    assert isinstance(expected, Addressed)
    assert from_sdk(to_structured_event, example) == expected
    assert from_sdk(to_binary_event, example) == expected


@pytest.mark.parametrize("change", [{"tenantid": "a b"}, {"channel": "fax"}, {"type": "other"}])
@pytest.mark.parametrize("write", [to_structured_event, to_binary_event])
def test_both_modes_of_the_sdk_are_rejected_for_one_reason(
    write: Callable[..., KafkaMessage], change: dict[str, str]
) -> None:
    expected = decode_value(event(**change), STRUCTURED)

    assert isinstance(expected, Rejected)
    assert from_sdk(write, {**ANSWER, **change}) == expected


def test_microseconds_of_the_sdk_are_cut() -> None:
    example = {**ANSWER, "time": "2026-05-04T09:01:00.000999Z"}

    assert from_sdk(to_binary_event, example) == EXPECTED
    assert from_sdk(to_structured_event, example) == EXPECTED


@pytest.mark.parametrize("prefix", ["ce_", "CE_", "Ce_"])
def test_in_binary_mode_the_case_of_header_names_does_not_matter(prefix: str) -> None:
    value = json.dumps(ANSWER["data"]).encode()

    assert decode_value(value, binary(ATTRIBUTES, prefix)) == EXPECTED


@pytest.mark.parametrize(
    "headers",
    [
        [],
        STRUCTURED,
        [("content-type", b"application/cloudevents+json; charset=utf-8")],
        [("Content-Type", b"application/cloudevents+json"), ("traceparent", b"00-1")],
        [("traceparent", None)],
        # A bridge that copied attributes into headers and left the value as it was.
        [*binary(ATTRIBUTES)[:-1], ("content-type", b"application/cloudevents+json")],
        [("ce_id", b"ev-9")],
    ],
    ids=str,
)
def test_without_the_marks_of_binary_mode_the_value_is_the_event(headers: Headers) -> None:
    assert decode_value(event(), headers) == EXPECTED


def test_in_binary_mode_an_empty_value_is_no_data() -> None:
    closed = {**ATTRIBUTES, "type": "conversation.closed"}
    deleted = {**ATTRIBUTES, "type": "conversation.deleted"}

    assert taken(b"", binary(deleted)).type == "conversation.deleted"
    assert rejected(b"", binary(closed)) == ("invalid_data", "data.actor")
    assert rejected(None, binary(closed)) == ("invalid_data", "data.actor")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"{", ("malformed_json", "the value is not JSON in UTF-8")),
        (b"\xff", ("malformed_json", "the value is not JSON in UTF-8")),
        (b"[" * 100_000, ("malformed_json", "the value is nested too deep")),
        (b"[1]", ("invalid_data", "data")),
        (b'{"kind": "answr"}', ("invalid_data", "data.kind")),
    ],
    ids=["cut off", "not UTF-8", "deep", "a list", "a wrong member"],
)
def test_in_binary_mode_wrong_data_is_rejected(value: bytes, expected: tuple[str, str]) -> None:
    assert rejected(value, binary(ATTRIBUTES)) == expected


def test_in_binary_mode_a_header_that_is_not_utf8_is_rejected_by_its_name() -> None:
    headers = [*binary(ATTRIBUTES), ("ce_sequence", b"\xff")]

    assert rejected(b'{"kind": "answer"}', headers) == ("invalid_attribute", "sequence")


def test_in_binary_mode_an_attribute_that_is_missing_is_rejected_by_its_name() -> None:
    for name in ("id", "source", "type", "subject", "time", "tenantid"):
        headers = binary({key: ATTRIBUTES[key] for key in ATTRIBUTES if key != name})

        assert rejected(b'{"kind": "answer"}', headers) == ("missing_attribute", name)


# --- what is rejected -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, b""], ids=["absent", "empty"])
def test_an_empty_value_is_malformed(value: bytes | None) -> None:
    assert rejected(value) == ("malformed_json", "the value is empty")


@pytest.mark.parametrize(
    "value",
    [
        b" ",
        b"{",
        b"nonsense",
        b"\x00\x01",
        b"{'id': 1}",
        event()[:-1],
        event() + b"}",
        event().replace(b"fin", b"f\xffn"),
        event().replace(b'"ev-2"', b"NaN"),
    ],
)
def test_what_is_no_json_is_malformed(value: bytes) -> None:
    assert rejected(value) == ("malformed_json", "the value is not JSON in UTF-8")


def test_text_that_is_not_utf8_is_malformed_even_in_what_is_passed_over() -> None:
    value = event(note="NOTE").replace(b"NOTE", b"gar\xe7on")

    assert rejected(value) == ("malformed_json", "the value is not JSON in UTF-8")


@pytest.mark.parametrize("value", [b"[" * 100_000, b'{"a":' * 40_000], ids=["lists", "objects"])
def test_what_is_nested_without_end_is_malformed(value: bytes) -> None:
    assert rejected(value) == ("malformed_json", "the value is nested too deep")


@pytest.mark.parametrize("value", [b"null", b"1", b'"text"', b"[]", b"{}", b"true"])
def test_json_that_is_no_cloudevent_is_rejected_as_such(value: bytes) -> None:
    assert rejected(value)[0] == "not_cloudevents"


def test_300_kib_are_too_large_in_either_mode_whatever_they_hold() -> None:
    size = 300 * 1024

    for headers in ((), STRUCTURED, binary(ATTRIBUTES)):
        for value in (b"x" * size, event(note="x" * size), b"\xff" * size):
            found = decode_value(value, headers)

            assert isinstance(found, Rejected)
            assert found.reason == "too_large"
            assert found.detail == f"{len(value)} bytes; at most {EVENT_BYTES_MAX} are taken"


@pytest.mark.parametrize(
    "key",
    [None, b"", b"acme", b"acme:c-1042 ", b"Acme:c-1042", b"c-1042", b"\xff\xfe", b"x" * 1000],
    ids=str,
)
def test_another_key_than_tenant_and_subject_is_rejected_with_both(key: bytes | None) -> None:
    found = decode(event(), key, NOW, STRUCTURED)

    assert isinstance(found, Rejected)
    assert found.reason == "key_mismatch"
    assert "'acme:c-1042'" in found.detail
    assert len(found.detail) < 400


def test_a_key_of_a_conversation_in_any_language_is_taken() -> None:
    value = event(subject="gespräch:1")

    assert isinstance(decode(value, "acme:gespräch:1".encode(), NOW, STRUCTURED), Addressed)


@pytest.mark.parametrize("headers", [STRUCTURED, binary(ATTRIBUTES)], ids=["structured", "binary"])
def test_a_time_further_ahead_than_the_limit_is_rejected_with_both_times(headers: Headers) -> None:
    value = event() if headers == STRUCTURED else b'{"kind": "answer"}'
    arrival = NOW - FUTURE_MS_MAX

    assert decode(value, b"acme:c-1042", arrival, headers) == EXPECTED
    found = decode(value, b"acme:c-1042", arrival - 1, headers)
    assert isinstance(found, Rejected)
    assert found.reason == "future_time"
    assert format_time(NOW) in found.detail
    assert format_time(arrival - 1) in found.detail


def test_an_event_of_long_ago_is_taken() -> None:
    value = event(time="1999-12-31T23:59:59.999Z")

    assert isinstance(decode(value, b"acme:c-1042", NOW, STRUCTURED), Addressed)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # The envelope before what is in it; the value before its key and its arrival.
        (event(specversion="0.3", type="other"), ("not_cloudevents", "specversion")),
        (event(type="other", id=None), ("unknown_type", "type")),
        (event(id=None, source=""), ("missing_attribute", "id")),
        (event(source="", data={}), ("invalid_attribute", "source")),
        (event(subject="c-7", data={}), ("invalid_data", "data.kind")),
        (event(subject="c-7", time="2030-01-01T00:00:00Z"), ("key_mismatch", "key is 'acme")),
    ],
)
def test_of_several_faults_the_outermost_is_told(value: bytes, expected: tuple[str, str]) -> None:
    reason, detail = rejected(value)

    assert reason == expected[0]
    assert detail.startswith(expected[1])


def test_a_long_value_is_shown_cut() -> None:
    found = decode_value(event(channel="x" * 10_000))

    assert isinstance(found, Rejected)
    assert len(found.detail) < 200


# --- whatever comes -------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(
    value=st.none() | st.binary(max_size=300) | st.builds(lambda j: json.dumps(j).encode(), JSON),
    key=st.none() | st.binary(max_size=30),
    timestamp=st.integers(0, 2**45),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["ce_specversion", "ce_id", "ce_type", "content-type", "other"]),
            st.none() | st.binary(max_size=30) | st.just(b"1.0"),
        ),
        max_size=4,
    ),
)
def test_whatever_comes_is_an_event_or_a_reason(
    value: bytes | None, key: bytes | None, timestamp: int, headers: list[tuple[str, bytes | None]]
) -> None:
    found = decode(value, key, timestamp, headers)

    assert isinstance(found, Addressed | Rejected)
    if isinstance(found, Rejected):
        assert found.detail


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: JSON
            for name in (*ATTRIBUTES, "channel", "environment", "sequence", "data")
            if name != "type"
        },
    )
)
def test_both_readers_say_the_same_of_a_changed_attribute(changes: dict[str, object]) -> None:
    value = event(**changes)

    assert decode_value(value) == _read_structured(value)


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_both_readers_say_the_same_of_an_example(path: Path) -> None:
    assert decode_value(path.read_bytes()) == _read_structured(path.read_bytes())
