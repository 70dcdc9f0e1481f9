"""Decoding: no bytes raise, and the fast reader is the slow one."""

import json
from pathlib import Path

import orjson
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import codec
from pipeline.events.codec import decode, decode_value
from pipeline.events.model import REASONS, Addressed, Rejected

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
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "CE_type", "ce_specversion", "content-type", "x", "ce_", ""]),
        st.none() | st.binary(max_size=20) | st.just(b"1.0"),
    ),
    max_size=5,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Return an example with bytes, or members, that are not as they were."""
    value = draw(SOME)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(value)))
        return value[:at] + draw(st.binary(max_size=3)) + value[at + draw(st.integers(0, 3)) :]
    event = orjson.loads(value)
    for _ in range(draw(st.integers(1, 2))):
        place = event["data"] if draw(st.booleans()) and event.get("data") else event
        name = draw(st.sampled_from([*sorted(place), "extra"]))
        if draw(st.booleans()):
            place[name] = draw(JSON)
        else:
            place.pop(name, None)
        if not isinstance(event.get("data"), dict):
            break
    return json.dumps(event).encode()


@given(
    st.none() | st.binary() | mutated(),
    st.none() | st.binary(max_size=20),
    st.integers(-1, 2**62),
    HEADERS,
)
def test_decode_never_raises_and_names_a_reason(
    value: bytes | None,
    key: bytes | None,
    timestamp: int,
    headers: list[tuple[str, bytes | None]],
) -> None:
    found = decode(value, key, timestamp, headers)

    assert isinstance(found, Addressed | Rejected)
    if isinstance(found, Rejected):
        assert found.reason in REASONS
        assert found.detail


@given(mutated())
def test_the_fast_reader_accepts_exactly_what_the_slow_one_does(value: bytes) -> None:
    assert decode_value(value) == codec._read_structured(value)


def test_every_example_is_read_by_the_fast_reader_as_by_the_slow_one() -> None:
    for value in EXAMPLES:
        assert isinstance(decode_value(value), Addressed)
        assert decode_value(value) == codec._read_structured(value)
