"""Reading never raises, and the fast reader gives the same event as the authority, byte for byte."""

import json
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.model import REASONS, Addressed, Event, Rejected
from pipeline.events.reader import read_structured
from pipeline.events.wire import read_event, read_record
from tests.oracle.strategies import histories
from tests.oracle.wire import cloudevent, value

EXAMPLES = [
    path.read_bytes()
    for path in sorted((Path(__file__).parents[2] / "schemas" / "examples").rglob("conversation.*"))
]
SOME = st.sampled_from(EXAMPLES)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
# JSON texts that are nearly valid: cases in which two readers could differ.
NEARLY = st.sampled_from(
    [
        "null",
        '""',
        '" "',
        "{}",
        "[]",
        "true",
        '"true"',
        "0",
        "1",
        "5",
        "6",
        "5.0",
        "5.5",
        "1e0",
        "-0",
        "NaN",
        "12345678901234567890123",
        '"5"',
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\u0000"',
        '"' + "a" * 256 + '"',
        '"' + "a" * 257 + '"',
        '"' + "é" * 256 + '"',
        '"' + "a" * 129 + '"',
        '"acme\\n"',
        '"ai"',
        '"messenger"',
        '"Messenger"',
        '"live"',
        '"1.0"',
        '"conversation.deleted"',
        '"conversation.customer_message"',
        '"2026-05-04T09:00:00Z"',
        '"2026-05-04t09:00:00.1239z"',
        '"2026-05-04T09:00:60.000Z"',
        '"2026-05-04T09:00:61.000Z"',
        '"2026-05-04T24:00:00.000Z"',
        '"2026-02-30T09:00:00.000Z"',
        '"2026-05-04T09:00:00.000+23:59"',
        '"2026-05-04T09:00:00.000-00:00"',
        '"2026-05-04T09:00:00"',
        '"2026-05-04 09:00:00.000Z"',
        '"2026-05-04T09:00:00.000Z\\n"',
        '"\\uff12026-05-04T09:00:00.000Z"',
        '"0001-01-01T00:00:00.000+00:01"',
        '"9999-12-31T23:59:60.000Z"',
        '"0000-01-01T00:00:00.000Z"',
    ]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ce_id", "CE_type", "ce_specversion", "cE_time", "content-type", "x", "ce_", ""]
        ),
        st.none()
        | st.binary(max_size=20)
        | st.sampled_from([b"1.0", b"application/cloudevents+json", b"APPLICATION/json", b"\xff"]),
    ),
    max_size=5,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return an example with changed bytes or members."""
    original = draw(SOME)
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(original)))
        return (
            original[:at] + draw(st.binary(max_size=3)) + original[at + draw(st.integers(0, 3)) :]
        )
    event: dict[str, Any] = orjson.loads(original)
    members = [(name, json.dumps(member)) for name, member in event.items() if name != "data"]
    data = event.get("data")
    inner = (
        [(name, json.dumps(member)) for name, member in data.items()]
        if isinstance(data, dict)
        else None
    )
    for _ in range(draw(st.integers(1, 2))):
        place = inner if inner is not None and draw(st.booleans()) else members
        names = [name for name, _ in place]
        name = draw(st.sampled_from([*names, "extra", "channel", "environment", "sequence"]))
        content = draw(NEARLY | JSON.map(json.dumps))
        match draw(st.sampled_from(["replace", "drop", "again", "again before"])):
            case "replace" if name in names:
                place[names.index(name)] = (name, content)
            case "drop" if name in names:
                del place[names.index(name)]
            case "again before":
                place.insert(0, (name, content))
            case _:
                place.append((name, content))
    if inner is not None:
        members.insert(draw(st.integers(0, len(members))), ("data", _object(inner)))
    elif data is not None:
        members.append(("data", json.dumps(data)))
    return _object(members).encode("utf-8", "surrogatepass")


def _object(members: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{content}" for name, content in members) + "}"


@given(
    st.none() | st.binary() | mutated(),
    st.none() | st.binary(max_size=20),
    st.integers(-1, 2**62),
    HEADERS,
)
def test_reading_a_record_never_raises_and_gives_a_reason(
    value: bytes | None,
    key: bytes | None,
    timestamp: int,
    headers: list[tuple[str, bytes | None]],
) -> None:
    result = read_record(value, key, timestamp, headers)

    assert isinstance(result, Addressed | Rejected)
    if isinstance(result, Rejected):
        assert result.reason in REASONS
        assert result.detail


@given(mutated())
def test_every_detail_can_be_written_into_a_dead_letter(value: bytes) -> None:
    result = read_record(value, b"acme:c1", 2**40)

    if isinstance(result, Rejected):
        assert result.detail.encode("utf-8", "replace")
    else:
        assert f"{result.tenant_id}:{result.conversation_id}".encode() == b"acme:c1"


@given(mutated())
def test_the_fast_reader_accepts_exactly_what_the_authority_accepts(value: bytes) -> None:
    assert read_event(value) == read_structured(value)


@given(mutated())
def test_both_readers_store_the_same_bytes(value: bytes) -> None:
    # A member that states its default means the same as a member that is left out. Both readers
    # store both in the same bytes.
    fast, slow = read_event(value), read_structured(value)

    assert msgspec.msgpack.encode(fast) == msgspec.msgpack.encode(slow)


@pytest.mark.parametrize("content", EXAMPLES, ids=lambda c: orjson.loads(c)["type"])
def test_a_stated_default_is_stored_like_one_that_is_left_out(content: bytes) -> None:
    event = orjson.loads(content)
    defaults = {"channel": "messenger", "environment": "live", "sequence": ""}
    stated = orjson.dumps(defaults | event | defaults)
    left_out = orjson.dumps({k: v for k, v in event.items() if k not in defaults})

    stored = {
        msgspec.msgpack.encode(read(text))
        for read in (read_event, read_structured)
        for text in (stated, left_out)
    }

    assert len(stored) == 1


@pytest.mark.parametrize("number", ["1E400", "-1E400", "9" * 5_000], ids=lambda n: n[:6])
def test_a_number_out_of_range_in_an_ignored_member_is_ignored(number: str) -> None:
    content = (
        '{"specversion":"1.0","id":"e1","source":"/s","type":"conversation.ai_message",'
        '"subject":"c1","time":"2026-05-04T09:01:00.000Z","tenantid":"acme",'
        f'"data":{{"kind":"answer","confidence":{number}}}}}'
    ).encode()

    result = read_structured(content)

    assert isinstance(result, Addressed)
    assert read_event(content) == result


def test_every_example_is_read_alike_by_both_readers() -> None:
    for content in EXAMPLES:
        assert isinstance(read_event(content), Addressed)
        assert read_event(content) == read_structured(content)


@pytest.mark.parametrize("content", EXAMPLES, ids=lambda c: orjson.loads(c)["type"])
def test_a_member_that_occurs_twice_is_read_alike_by_both_readers(content: bytes) -> None:
    event = orjson.loads(content)
    for name in event:
        for other in EXAMPLES:
            again = json.dumps(orjson.loads(other).get(name))
            for twice in (
                _object([(name, again), *((k, json.dumps(v)) for k, v in event.items())]),
                _object([*((k, json.dumps(v)) for k, v in event.items()), (name, again)]),
            ):
                result = read_event(twice.encode())

                assert result == read_structured(twice.encode()), twice


@given(histories())
def test_reading_reverses_what_a_chat_service_writes(history: list[Event]) -> None:
    for event in history:
        for read in (read_event, read_structured):
            result = read(value(event, "acme", "c1"))

            assert result == Addressed("acme", "c1", event)


@given(histories())
def test_an_event_may_be_at_most_five_minutes_ahead_of_its_arrival(
    history: list[Event],
) -> None:
    for event in history:
        content = value(event, "acme", "c1")
        newest = max(event.at, event.last_answer_at or event.at)

        ahead = read_record(content, b"acme:c1", newest - 300_000)
        too_far = read_record(content, b"acme:c1", newest - 300_001)

        assert ahead == Addressed("acme", "c1", event)
        assert isinstance(too_far, Rejected)
        assert too_far.reason == "future_time"


@given(histories())
def test_binary_mode_gives_the_same_event_as_structured_mode(history: list[Event]) -> None:
    for event in history:
        attributes = cloudevent(event, "acme", "c1")
        data = orjson.dumps(attributes.pop("data"))
        headers = [(f"ce_{name}", content.encode()) for name, content in attributes.items()]

        result = read_record(data, b"acme:c1", event.at, [("content-type", b"text/json"), *headers])

        assert result == Addressed("acme", "c1", event)
