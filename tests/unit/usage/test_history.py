"""A history of bytes behaves like a list of events."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.model import (
    AI_MESSAGE,
    CUSTOMER_MESSAGE,
    EVENTS_IN_CONVERSATION_MAX,
    HISTORY_BYTES_MAX,
    Event,
)
from pipeline.usage.history import (
    ALWAYS_FIT_EVENTS,
    bit_of,
    capacity_of,
    decode_entries,
    encode_entries,
    has_same,
    is_full,
    may_have,
    offsets_by_id,
)

# Texts that resemble the bytes of another member or of the shared source, and ordinary texts.
TEXTS = st.sampled_from(
    ["/s", "/chat/long-source", "/chat/long-sourc", "é" * 20, "¡s", "i", "\x7f" * 32, "a" * 256]
) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
EVENTS = st.builds(
    Event,
    at=st.integers(0, 2**42),
    rank=st.sampled_from([CUSTOMER_MESSAGE, AI_MESSAGE]),
    source=TEXTS,
    id=TEXTS,
    sequence=TEXTS | st.just(""),
    message_id=TEXTS | st.just(""),
)
ENTRIES = st.lists(st.tuples(st.integers(0, 2**40), EVENTS), min_size=1, max_size=40)


def encoded(entries: list[tuple[int, Event]], sizes: list[int]) -> bytes:
    """Append the entries in batches of these sizes, as a worker does."""
    history, start, source = b"", 0, entries[0][1].source
    for size in [*sizes, len(entries)]:
        batch = entries[start : start + size]
        if batch:
            history += encode_entries(batch, source)
        start += size
    return history


@given(ENTRIES, st.lists(st.integers(1, 20), max_size=5))
def test_entries_are_decoded_as_appended_for_any_batch_sizes(
    entries: list[tuple[int, Event]], sizes: list[int]
) -> None:
    history = encoded(entries, sizes)

    assert decode_entries(history, len(entries), entries[0][1].source) == entries
    assert history == encoded(entries, [])


@given(ENTRIES)
def test_offsets_are_those_of_the_first_arrival_of_an_id(entries: list[tuple[int, Event]]) -> None:
    first: dict[str, int] = {}
    for offset, event in entries:
        first.setdefault(event.id, offset)

    assert offsets_by_id(encoded(entries, []), len(entries)) == first


@given(ENTRIES, EVENTS)
def test_a_history_contains_exactly_the_events_that_were_appended(
    entries: list[tuple[int, Event]], other: Event
) -> None:
    history, source = encoded(entries, []), entries[0][1].source
    identities = {(event.source, event.id) for _, event in entries}
    seen = 0
    for _, event in entries:
        seen |= bit_of(event.id)

    # Every source with every id: most of these pairs are new, although both texts are known.
    texts = [other, *(event for _, event in entries[:8])]
    for event in [msgspec.structs.replace(a, id=b.id) for a in texts for b in texts]:
        is_known = (event.source, event.id) in identities
        is_short = len(event.source.encode()) < 32

        assert may_have(history, source, event) == is_known or not (is_short or is_known)
        assert seen & bit_of(event.id) or not is_known


@given(ENTRIES, EVENTS)
def test_a_history_has_the_same_event_only_if_every_member_is_the_same(
    entries: list[tuple[int, Event]], other: Event
) -> None:
    history, source = encoded(entries, []), entries[0][1].source
    known = [event for _, event in entries]

    for event in [other, *known, *(msgspec.structs.replace(one, at=one.at + 1) for one in known)]:
        is_short = len(event.source.encode()) < 32

        assert has_same(history, source, event) == (is_short and event in known)


@pytest.mark.parametrize("size", [1, 31, 32, 100, 127, 128, 150, 191, 192, 256])
def test_a_source_that_ends_with_the_bytes_of_another_is_not_mistaken_for_it(size: int) -> None:
    # The UTF-8 of `text` ends with the bytes that the source `inner` has in an encoding.
    inner = "s" * size
    head = msgspec.msgpack.encode(inner)[: -size or None]
    text = (b"\xc3\xa1s" + head).decode("utf-8", "ignore") + inner
    entries = [(0, Event(1, CUSTOMER_MESSAGE, text, "m1"))]

    for source in (inner, text):
        event = Event(1, CUSTOMER_MESSAGE, source, "m1")

        assert may_have(encoded(entries, []), text, event) == (source == text) or size >= 32
        assert not has_same(encoded(entries, []), text, event) or source == text


def test_the_number_of_events_that_always_fit_does_fit_after_an_uncompressed_history() -> None:
    longest = Event(2**42, AI_MESSAGE, *("\U0010ffff" * 256,) * 3, message_id="\U0010ffff" * 256)
    entry = encode_entries([(2**40, longest)], "/other")

    assert 32_768 + ALWAYS_FIT_EVENTS * len(entry) < HISTORY_BYTES_MAX
    assert capacity_of(b"", 0) >= ALWAYS_FIT_EVENTS


def test_a_history_is_full_by_events_or_by_bytes() -> None:
    assert is_full(b"", EVENTS_IN_CONVERSATION_MAX)
    assert is_full(b"x" * HISTORY_BYTES_MAX, 1)
    assert not is_full(b"x" * (HISTORY_BYTES_MAX - 1), EVENTS_IN_CONVERSATION_MAX - 1)
    assert capacity_of(b"", EVENTS_IN_CONVERSATION_MAX) == 0
