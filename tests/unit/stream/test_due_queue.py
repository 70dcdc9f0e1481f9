"""The queue returns every key once its minute has begun, and each key once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.due_queue import BUCKET_MS, DueQueue

T0 = 29_631_420 * BUCKET_MS  # a full minute
EVERYTHING = 2**62

deadlines = st.integers(-(2**40), 2**45)


def count_until(queue: DueQueue, clock_ms: int) -> int:
    return sum(len(keys) for keys in queue.until(clock_ms))


def queue_of(*dues: int) -> DueQueue:
    """Return a queue with a key for each deadline; the key is the deadline's position."""
    queue = DueQueue()
    for number, due in enumerate(dues):
        queue.add(str(number).encode(), due)
    return queue


def test_an_empty_queue_returns_nothing() -> None:
    empty = DueQueue()

    assert len(empty) == 0
    assert empty.earliest() is None
    assert empty.take(EVERYTHING, 10) == []
    assert count_until(empty, EVERYTHING) == 0


def test_a_key_is_returned_once_its_minute_has_begun() -> None:
    queue = queue_of(T0 + 30_000)

    assert queue.take(T0 - 1, 10) == []
    assert queue.take(T0, 10) == [b"0"]


def test_a_key_is_returned_only_once() -> None:
    queue = queue_of(T0)

    assert queue.take(EVERYTHING, 10) == [b"0"]
    assert queue.take(EVERYTHING, 10) == []
    assert len(queue) == 0
    assert queue.earliest() is None


def test_a_key_that_is_added_again_is_returned_again() -> None:
    queue = queue_of(T0)
    (key,) = queue.take(T0, 10)

    queue.add(key, T0 + 5 * BUCKET_MS)

    assert queue.take(T0 + 4 * BUCKET_MS, 10) == []
    assert queue.take(T0 + 5 * BUCKET_MS, 10) == [key]


def test_a_key_can_be_added_again_to_a_minute_that_was_taken() -> None:
    queue = queue_of(T0 + 59_000)
    (key,) = queue.take(T0, 10)

    queue.add(key, T0 + 59_000)

    assert queue.earliest() == T0
    assert queue.take(T0, 10) == [key]


def test_keys_are_ordered_by_minute_then_by_insertion() -> None:
    queue = queue_of(T0 + 2 * BUCKET_MS, T0 + 50_000, T0 + 10_000, T0 + BUCKET_MS)

    assert queue.take(EVERYTHING, 10) == [b"1", b"2", b"3", b"0"]


def test_the_limit_is_checked_after_each_whole_minute() -> None:
    queue = queue_of(T0, T0 + 1, T0 + BUCKET_MS, T0 + 2 * BUCKET_MS)

    assert queue.take(EVERYTHING, 1) == [b"0", b"1"]
    assert queue.take(EVERYTHING, 1) == [b"2"]
    assert queue.earliest() == T0 + 2 * BUCKET_MS


def test_a_limit_of_zero_takes_nothing() -> None:
    queue = queue_of(T0)

    assert queue.take(EVERYTHING, 0) == []
    assert len(queue) == 1


def test_only_keys_of_minutes_that_have_ended_are_counted() -> None:
    queue = queue_of(T0, T0 + 59_999, T0 + BUCKET_MS)

    counts = [count_until(queue, T0 + ms) for ms in (0, 59_999, BUCKET_MS, 2 * BUCKET_MS)]

    assert counts == [0, 0, 2, 3]


@pytest.mark.parametrize("due", [0, -1, -BUCKET_MS, -(2**40)])
def test_a_deadline_before_1970_is_always_due(due: int) -> None:
    queue = queue_of(due)

    assert queue.take(0, 10) == [b"0"]


@given(st.lists(deadlines))
def test_earliest_is_at_most_a_minute_before_the_first_deadline(dues: list[int]) -> None:
    earliest = queue_of(*dues).earliest()

    if dues:
        assert earliest is not None
        assert min(dues) - BUCKET_MS < earliest <= min(dues)
    else:
        assert earliest is None


@given(st.lists(deadlines), deadlines, st.integers(1, 5))
def test_every_due_key_is_taken_and_no_key_is_lost(
    dues: list[int], clock_ms: int, limit: int
) -> None:
    queue = queue_of(*dues)
    taken: list[bytes] = []
    while batch := queue.take(clock_ms, limit):
        taken += batch

    assert {number for number, due in enumerate(dues) if due <= clock_ms} <= set(map(int, taken))
    assert all(dues[int(key)] < clock_ms + BUCKET_MS for key in taken)
    assert count_until(queue, clock_ms) == 0
    assert sorted(taken + queue.take(EVERYTHING, EVERYTHING)) == sorted(
        str(number).encode() for number in range(len(dues))
    )


@given(st.lists(deadlines), deadlines)
def test_every_counted_key_is_due(dues: list[int], clock_ms: int) -> None:
    counted = count_until(queue_of(*dues), clock_ms)

    due = sum(due <= clock_ms for due in dues)
    assert counted <= due
    assert counted >= sum(due <= clock_ms - BUCKET_MS for due in dues)
