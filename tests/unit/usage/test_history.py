"""A history of bytes answers as a list of events would."""

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
    contains,
    decode_entries,
    encode_entries,
    is_full,
    may_contain,
    offsets_by_id,
)

# Texts that try to look like another member, like the shared source, or like nothing special.
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
def test_entries_come_back_however_they_were_appended(
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
def test_an_event_of_the_history_is_always_found(
    entries: list[tuple[int, Event]], other: Event
) -> None:
    history = encoded(entries, [])
    seen = 0
    for _, event in entries:
        seen |= bit_of(event.id)

    for event in [*(event for _, event in entries), other]:
        is_there = (event.source, event.id) in {(e.source, e.id) for _, e in entries}
        found = bool(seen & bit_of(event.id)) and may_contain(history, event)

        assert contains(entries, event) == is_there
        assert found or not is_there


def test_as_many_events_as_always_fit_do_fit_behind_a_short_history() -> None:
    longest = Event(2**42, AI_MESSAGE, *("\U0010ffff" * 256,) * 3, message_id="\U0010ffff" * 256)
    entry = encode_entries([(2**40, longest)], "/other")

    assert 32_768 + ALWAYS_FIT_EVENTS * len(entry) < HISTORY_BYTES_MAX
    assert capacity_of(b"", 0) >= ALWAYS_FIT_EVENTS


def test_a_history_is_full_by_events_or_by_bytes() -> None:
    assert is_full(b"", EVENTS_IN_CONVERSATION_MAX)
    assert is_full(b"x" * HISTORY_BYTES_MAX, 1)
    assert not is_full(b"x" * (HISTORY_BYTES_MAX - 1), EVENTS_IN_CONVERSATION_MAX - 1)
    assert capacity_of(b"", EVENTS_IN_CONVERSATION_MAX) == 0
