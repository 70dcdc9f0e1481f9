"""A misspelt name gets a hint, all faults of a record are listed, and no verdict changes."""

from typing import Any

import orjson
import pytest

from pipeline.events.model import Addressed, Headers, Rejected
from pipeline.events.reader import hints_for, read_binary, read_structured
from pipeline.events.wire import read_event

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "m1",
    "source": "/chat",
    "type": "conversation.ai_message",
    "subject": "c1",
    "time": "2026-05-04T09:00:00Z",
    "tenantid": "acme",
    "data": {"kind": "answer"},
}


def _rejected(event: dict[str, Any]) -> Rejected:
    value = orjson.dumps(event)
    found = read_event(value)
    assert isinstance(found, Rejected)
    assert read_structured(value) == found
    return found


def _with(**members: Any) -> dict[str, Any]:
    return EVENT | members


def _without(*names: str, **members: Any) -> dict[str, Any]:
    return {name: member for name, member in _with(**members).items() if name not in names}


@pytest.mark.parametrize("name", ["tenantId", "tenant_id", "tenantID", "tenant-id", "tennantid"])
def test_a_misspelt_attribute_gets_a_hint(name: str) -> None:
    found = _rejected(_without("tenantid", **{name: "acme"}))

    assert found.reason == "missing_attribute"
    assert found.detail == f"tenantid: is missing; there is {name!r}: did you mean 'tenantid'?"


def test_a_misspelt_member_of_data_gets_a_hint() -> None:
    found = _rejected(_with(data={"kinds": "answer"}))

    assert found.detail == "data.kind: is missing; there is 'kinds': did you mean 'kind'?"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("last_answer_time", "last_answer_at"),
        ("lastAnswerTimestamp", "last_answer_at"),
        ("last-answer-date", "last_answer_at"),
        ("lastAnswerAt", "last_answer_at"),
        ("last_answer_uuid", "last_answer_id"),
        ("lastAnswerId", "last_answer_id"),
        ("last_anser_id", "last_answer_id"),
    ],
)
def test_a_time_is_not_taken_for_an_id_nor_an_id_for_a_time(name: str, meant: str) -> None:
    merge = _with(type="conversation.merged", data={"role": "primary", name: "x"})

    assert hints_for(orjson.dumps(merge)) == [f"data.{name}: is ignored; did you mean {meant!r}?"]


def test_a_misspelt_optional_member_is_accepted_and_named_in_a_warning() -> None:
    value = orjson.dumps(_with(data={"kind": "answer", "billabel": False}, Channel="email"))

    assert isinstance(read_event(value), Addressed)
    assert hints_for(value) == [
        "Channel: is ignored; did you mean 'channel'?",
        "data.billabel: is ignored; did you mean 'billable'?",
    ]


def test_a_letter_names_a_misspelt_optional_member_beside_its_fault() -> None:
    found = _rejected(_with(time="today", data={"kind": "answer", "billabel": False}))

    assert found.reason == "invalid_attribute"
    assert found.detail.startswith("time: ")
    assert found.detail.endswith("; also data.billabel: is ignored; did you mean 'billable'?")


@pytest.mark.parametrize(
    "event",
    [
        EVENT,
        _with(traceparent="00-x", dataschema="/s", datacontenttype="application/json"),
        _with(channel="email", channels=["email"]),
        _with(data={"kind": "answer", "text_length": 7, "agent": "a", "locale": "de"}),
        _with(data=None, type="conversation.redacted"),
    ],
)
def test_names_that_are_like_no_absent_member_get_no_hint(event: dict[str, Any]) -> None:
    assert isinstance(read_event(orjson.dumps(event)), Addressed)
    assert hints_for(orjson.dumps(event)) == []


def test_all_faults_are_listed_and_the_first_of_the_specification_is_the_reason() -> None:
    found = _rejected(
        _without(
            "subject",
            "tenantid",
            id="",
            time="today",
            channel="fax",
            data={"kind": "reply", "billable": "no"},
        )
    )

    assert found.reason == "missing_attribute"
    names = [fault.partition(":")[0] for fault in found.detail.split("; also ")]
    assert names == ["subject", "tenantid", "id", "time", "channel", "data.kind", "data.billable"]


def test_faults_are_listed_beside_an_unknown_type() -> None:
    found = _rejected(_with(type="conversation.ai_mesage", tenantid="a b"))

    assert found.reason == "unknown_type"
    assert "did you mean 'conversation.ai_message'?; also tenantid: is" in found.detail


def test_an_object_without_anything_lists_what_an_event_has() -> None:
    found = _rejected({})

    assert found.reason == "not_cloudevents"
    assert found.detail.count("missing") == 7


def test_the_list_of_faults_is_bounded() -> None:
    many = {f"data{n}": n for n in range(1_000)} | {f"channel_{n}": n for n in range(10)}

    found = _rejected(many)

    assert len(found.detail) < 2_000
    assert found.detail.count("; also ") <= 12


def test_binary_mode_lists_the_same_faults() -> None:
    attributes = {name: member for name, member in EVENT.items() if name not in {"data", "id"}}

    found = read_binary(attributes, orjson.dumps({"kind": "reply"}))

    assert found == read_structured(orjson.dumps(attributes | {"data": {"kind": "reply"}}))
    assert isinstance(found, Rejected)
    assert found.reason == "missing_attribute"
    assert "data.kind" in found.detail


@pytest.mark.parametrize(
    ("headers", "hint"),
    [
        (
            [("ce_specversion", b"1.0"), ("content-type", b"application/cloudevents+json")],
            "set content-type to that of data; specversion: is missing",
        ),
        ([("ce_id", b"1")], "ce_specversion is missing, so the other ce_ headers have no effect; "),
        (
            [("ce-specversion", b"1.0")],
            "the header 'ce-specversion' has no effect: in Kafka, names",
        ),
        ([("ce-id", None)], "the header 'ce-id' has no effect"),
    ],
)
def test_a_record_that_was_meant_for_binary_mode_says_what_its_headers_lack(
    headers: Headers, hint: str
) -> None:
    found = read_event(orjson.dumps({"kind": "answer"}), headers)

    assert isinstance(found, Rejected)
    assert found.reason == "not_cloudevents"
    assert hint in found.detail
    empty = read_event(None, headers)
    assert isinstance(empty, Rejected)
    assert hint.partition(";")[0] in empty.detail


def test_a_member_of_data_outside_of_data_is_named() -> None:
    outside = {name: member for name, member in EVENT.items() if name != "data"}

    found = _rejected(outside | {"kind": "answer"})

    assert found.reason == "invalid_data"
    assert "kind: is ignored outside of data; did you mean 'data.kind'?" in found.detail


@pytest.mark.parametrize("value", [b"[1,2]", b"[]", b"[{}]"])
def test_an_array_says_that_one_record_is_one_event(value: bytes) -> None:
    found = read_event(value)

    assert isinstance(found, Rejected)
    assert found.reason == "not_cloudevents"
    assert "one record is one event" in found.detail
