"""A record is read as an event or rejected, alike in both readers and both modes."""

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

from pipeline.events.model import (
    AI_MESSAGE,
    EVENT_BYTES_MAX,
    FUTURE_MS_MAX,
    TYPES,
    Addressed,
    Event,
    Headers,
    Rejected,
)
from pipeline.events.reader import read_structured
from pipeline.events.times import format_time, parse_time
from pipeline.events.wire import read_event, read_record

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
    """Return the reason of a rejection, and the name at the start of its detail."""
    result = read_record(value, key, at, headers)
    assert isinstance(result, Rejected), result
    return result.reason, result.detail.split(": ")[0]


def accepted(value: bytes, headers: Headers = ()) -> Event:
    result = read_event(value, headers)
    assert isinstance(result, Addressed), result
    return result.event


def binary(attributes: dict[str, str], prefix: str = "ce_") -> list[tuple[str, bytes]]:
    headers = [(f"{prefix}{name}", value.encode()) for name, value in attributes.items()]
    return [*headers, ("content-type", b"application/json")]


ATTRIBUTES = {name: str(value) for name, value in ANSWER.items() if name != "data"}


# --- valid events ---------------------------------------------------------------------------------


def test_an_event_is_read_with_its_tenant_and_conversation() -> None:
    assert read_record(event(), b"acme:c-1042", NOW, STRUCTURED) == EXPECTED


def test_attributes_that_are_left_out_have_their_defaults() -> None:
    result = accepted(event())

    assert (result.channel, result.is_live, result.sequence, result.billable) == (
        "messenger",
        True,
        "",
        True,
    )


def test_optional_attributes_are_read() -> None:
    result = accepted(event(channel="email", environment="sandbox", sequence="0009"))

    assert (result.channel, result.is_live, result.sequence) == ("email", False, "0009")


def test_null_means_absent_and_unknown_members_are_ignored() -> None:
    value = event(channel=None, dataschema=None, traceparent="00-1", other={"deep": [1, None]})

    assert read_event(value, STRUCTURED) == EXPECTED


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

    result = accepted(event(type=name, data=members))

    assert result == Event(NOW, TYPES.index(name), "/chat/eu-1", "ev-2", **expected)


@pytest.mark.parametrize("kind", ["closed", "handoff", "rating"])
def test_absent_data_means_an_empty_object(kind: str) -> None:
    absent = event(type=f"conversation.{kind}", data=None)
    empty = event(type=f"conversation.{kind}", data={})

    assert read_event(absent, STRUCTURED) == read_event(empty, STRUCTURED)


# --- both modes, as the CloudEvents SDK writes them -----------------------------------------------


def sdk_event(example: dict[str, Any]) -> CloudEvent:
    attributes = {name: value for name, value in example.items() if name != "data"}
    attributes |= {
        "time": datetime.fromisoformat(example["time"]),
        "datacontenttype": "application/json",
    }
    return CloudEvent(attributes, example.get("data"))


def from_sdk(write: Callable[..., KafkaMessage], example: dict[str, Any]) -> Addressed | Rejected:
    def key_of(event: CloudEvent) -> str:
        return f"{event.get_extension('tenantid')}:{event.get_subject()}"

    message = write(sdk_event(example), key_mapper=key_of)
    key = str(message.key).encode()
    arrival = parse_time(example["time"])
    return read_record(message.value, key, arrival, list(message.headers.items()))


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_both_modes_of_the_sdk_give_the_event_of_the_example(path: Path) -> None:
    example = read(path)

    expected = read_event(path.read_bytes(), STRUCTURED)

    assert isinstance(expected, Addressed)
    assert from_sdk(to_structured_event, example) == expected
    assert from_sdk(to_binary_event, example) == expected


@pytest.mark.parametrize("change", [{"tenantid": "a b"}, {"channel": "fax"}, {"type": "other"}])
@pytest.mark.parametrize("write", [to_structured_event, to_binary_event])
def test_both_modes_of_the_sdk_are_rejected_for_the_same_reason(
    write: Callable[..., KafkaMessage], change: dict[str, str]
) -> None:
    expected = read_event(event(**change), STRUCTURED)

    assert isinstance(expected, Rejected)
    assert from_sdk(write, {**ANSWER, **change}) == expected


def test_microseconds_from_the_sdk_are_cut_off() -> None:
    example = {**ANSWER, "time": "2026-05-04T09:01:00.000999Z"}

    assert from_sdk(to_binary_event, example) == EXPECTED
    assert from_sdk(to_structured_event, example) == EXPECTED


@pytest.mark.parametrize("prefix", ["ce_", "CE_", "Ce_"])
def test_in_binary_mode_the_case_of_header_names_does_not_matter(prefix: str) -> None:
    value = json.dumps(ANSWER["data"]).encode()

    assert read_event(value, binary(ATTRIBUTES, prefix)) == EXPECTED


@pytest.mark.parametrize(
    "headers",
    [
        [],
        STRUCTURED,
        [("content-type", b"application/cloudevents+json; charset=utf-8")],
        [("Content-Type", b"application/cloudevents+json"), ("traceparent", b"00-1")],
        [("traceparent", None)],
        # A bridge copied the attributes into headers and left the value unchanged.
        [*binary(ATTRIBUTES)[:-1], ("content-type", b"application/cloudevents+json")],
        [("ce_id", b"ev-9")],
    ],
    ids=str,
)
def test_without_the_headers_of_binary_mode_the_value_is_the_event(headers: Headers) -> None:
    assert read_event(event(), headers) == EXPECTED


def test_in_binary_mode_an_empty_value_means_empty_data() -> None:
    closed = {**ATTRIBUTES, "type": "conversation.closed"}
    deleted = {**ATTRIBUTES, "type": "conversation.deleted"}

    assert accepted(b"", binary(deleted)).type == "conversation.deleted"
    assert rejected(b"", binary(closed)) == ("invalid_data", "data.actor")
    assert rejected(None, binary(closed)) == ("invalid_data", "data.actor")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"{", ("malformed_json", "the value is not JSON in UTF-8")),
        (b"\xff", ("malformed_json", "the value is not JSON in UTF-8")),
        (b"[" * 100_000, ("malformed_json", "the value is nested too deeply")),
        (b"[1]", ("invalid_data", "data")),
        (b'{"kind": "answr"}', ("invalid_data", "data.kind")),
    ],
    ids=["cut off", "not UTF-8", "deep", "a list", "a wrong member"],
)
def test_in_binary_mode_wrong_data_is_rejected(value: bytes, expected: tuple[str, str]) -> None:
    assert rejected(value, binary(ATTRIBUTES)) == expected


def test_in_binary_mode_a_header_that_is_not_utf8_is_rejected_with_its_name() -> None:
    headers = [*binary(ATTRIBUTES), ("ce_sequence", b"\xff")]

    assert rejected(b'{"kind": "answer"}', headers) == ("invalid_attribute", "sequence")


def test_in_binary_mode_a_missing_attribute_is_rejected_with_its_name() -> None:
    for name in ("id", "source", "type", "subject", "time", "tenantid"):
        headers = binary({key: ATTRIBUTES[key] for key in ATTRIBUTES if key != name})

        assert rejected(b'{"kind": "answer"}', headers) == ("missing_attribute", name)


# --- rejected records -----------------------------------------------------------------------------


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
def test_invalid_json_is_malformed(value: bytes) -> None:
    assert rejected(value) == ("malformed_json", "the value is not JSON in UTF-8")


def test_text_that_is_not_utf8_is_malformed_even_in_an_ignored_member() -> None:
    value = event(note="NOTE").replace(b"NOTE", b"gar\xe7on")

    assert rejected(value) == ("malformed_json", "the value is not JSON in UTF-8")


@pytest.mark.parametrize("value", [b"[" * 100_000, b'{"a":' * 40_000], ids=["lists", "objects"])
def test_endless_nesting_is_malformed(value: bytes) -> None:
    assert rejected(value) == ("malformed_json", "the value is nested too deeply")


@pytest.mark.parametrize("value", [b"null", b"1", b'"text"', b"[]", b"{}", b"true"])
def test_json_that_is_not_a_cloudevent_is_rejected(value: bytes) -> None:
    assert rejected(value)[0] == "not_cloudevents"


def test_300_kib_are_too_large_in_both_modes_with_any_content() -> None:
    size = 300 * 1024

    for headers in ((), STRUCTURED, binary(ATTRIBUTES)):
        for value in (b"x" * size, event(note="x" * size), b"\xff" * size):
            result = read_event(value, headers)

            assert isinstance(result, Rejected)
            assert result.reason == "too_large"
            assert result.detail == f"{len(value)} bytes; the limit is {EVENT_BYTES_MAX}"


@pytest.mark.parametrize(
    "key",
    [None, b"", b"acme", b"acme:c-1042 ", b"Acme:c-1042", b"c-1042", b"\xff\xfe", b"x" * 1000],
    ids=str,
)
def test_a_key_other_than_tenant_and_subject_is_rejected_with_both_keys(key: bytes | None) -> None:
    result = read_record(event(), key, NOW, STRUCTURED)

    assert isinstance(result, Rejected)
    assert result.reason == "key_mismatch"
    assert "'acme:c-1042'" in result.detail
    assert len(result.detail) < 400


def test_the_key_of_a_conversation_may_be_in_any_language() -> None:
    value = event(subject="gespräch:1")

    assert isinstance(read_record(value, "acme:gespräch:1".encode(), NOW, STRUCTURED), Addressed)


@pytest.mark.parametrize("headers", [STRUCTURED, binary(ATTRIBUTES)], ids=["structured", "binary"])
def test_a_time_too_far_in_the_future_is_rejected_with_both_times(headers: Headers) -> None:
    value = event() if headers == STRUCTURED else b'{"kind": "answer"}'
    arrival = NOW - FUTURE_MS_MAX

    assert read_record(value, b"acme:c-1042", arrival, headers) == EXPECTED
    result = read_record(value, b"acme:c-1042", arrival - 1, headers)
    assert isinstance(result, Rejected)
    assert result.reason == "future_time"
    assert format_time(NOW) in result.detail
    assert format_time(arrival - 1) in result.detail


def test_an_old_event_is_accepted() -> None:
    value = event(time="1999-12-31T23:59:59.999Z")

    assert isinstance(read_record(value, b"acme:c-1042", NOW, STRUCTURED), Addressed)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # The envelope is checked before its data, and the value before the key and the arrival.
        (event(specversion="0.3", type="other"), ("not_cloudevents", "specversion")),
        (event(type="other", id=None), ("unknown_type", "type")),
        (event(id=None, source=""), ("missing_attribute", "id")),
        (event(source="", data={}), ("invalid_attribute", "source")),
        (event(subject="c-7", data={}), ("invalid_data", "data.kind")),
        (event(subject="c-7", time="2030-01-01T00:00:00Z"), ("key_mismatch", "key is 'acme")),
    ],
)
def test_of_several_faults_the_outermost_is_reported(
    value: bytes, expected: tuple[str, str]
) -> None:
    reason, detail = rejected(value)

    assert reason == expected[0]
    assert detail.startswith(expected[1])


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (
            event(type="customer_message"),
            (
                "type: unknown event type 'customer_message'; "
                "did you mean 'conversation.customer_message'?"
            ),
        ),
        (
            event(type="conversation.ai_mesage"),
            (
                "type: unknown event type 'conversation.ai_mesage'; "
                "did you mean 'conversation.ai_message'?"
            ),
        ),
        (event(type="order.placed"), "type: unknown event type 'order.placed'"),
        (
            b"[{}, {}]",
            "expected one JSON object, got an array of 2; one record is one event: send each event as its own record",
        ),
        (
            b"[]",
            "expected one JSON object, got an empty array; one record is one event: send each event as its own record",
        ),
        (b'"event"', "expected one JSON object, got the string 'event'"),
        (b"null", "expected one JSON object, got null"),
        (
            event(time="2026-05-04T09:01:00"),
            "time: '2026-05-04T09:01:00' has no time zone: add Z or an offset such as +00:00",
        ),
        (
            event(channel="sms ", data={}),
            (
                "channel: is 'sms '; it must be one of messenger, email, sms, voice, social, api"
                "; also data.kind: is missing"
            ),
        ),
        (event(sequence=7), "sequence: is 7; it must be a string"),
        (event(id=True), "id: is true; it must be a string"),
        (event(source="x" * 300), "source: has 300 characters; it must have 1 to 256"),
        (event(subject="a\0"), "subject: contains a NUL character; remove it"),
        (event(tenantid="a b"), "tenantid: is 'a b'; it may contain only A-Z a-z 0-9 . _ -"),
        (event(id=None), "id: is missing"),
        (data(), "data.kind: is missing"),
        (event(data=[]), "data: expected a JSON object, got an empty array"),
        (data(kind="answer", billable=None), "data.billable: is null; it must be true or false"),
        (
            event(type="conversation.rating", data={"target": "ai", "score": 6}),
            "data.score: is 6; it must be a whole number from 1 to 5",
        ),
    ],
)
def test_the_detail_says_what_is_wrong_and_what_to_do(value: bytes, detail: str) -> None:
    for read in (read_event, read_structured):
        result = read(value)

        assert isinstance(result, Rejected)
        assert result.detail == detail


def test_a_long_value_is_cut_in_the_detail() -> None:
    result = read_event(event(channel="x" * 10_000))

    assert isinstance(result, Rejected)
    assert len(result.detail) < 200


# --- any input -------------------------------------------------------------------------------

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
def test_any_record_is_an_event_or_a_reason(
    value: bytes | None, key: bytes | None, timestamp: int, headers: list[tuple[str, bytes | None]]
) -> None:
    result = read_record(value, key, timestamp, headers)

    assert isinstance(result, Addressed | Rejected)
    if isinstance(result, Rejected):
        assert result.detail


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
def test_both_readers_agree_on_a_changed_attribute(changes: dict[str, object]) -> None:
    value = event(**changes)

    assert read_event(value) == read_structured(value)


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_both_readers_agree_on_an_example(path: Path) -> None:
    assert read_event(path.read_bytes()) == read_structured(path.read_bytes())
