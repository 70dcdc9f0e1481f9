"""The wheel gives every key once its minute has begun, and each once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stream.due_queue import BUCKET_MS, Wheel

T0 = 29_631_420 * BUCKET_MS  # a full minute
EVERYTHING = 2**62

deadlines = st.integers(-(2**40), 2**45)


def wheel(*dues: int) -> Wheel:
    """A wheel with a key for each deadline, named by its place."""
    made = Wheel()
    for number, due in enumerate(dues):
        made.add(str(number).encode(), due)
    return made


def test_an_empty_wheel_has_nothing() -> None:
    empty = Wheel()

    assert len(empty) == 0
    assert empty.earliest() is None
    assert empty.take(EVERYTHING, 10) == []
    assert empty.count_until(EVERYTHING) == 0


def test_a_key_is_given_from_the_begin_of_its_minute_on() -> None:
    made = wheel(T0 + 30_000)

    assert made.take(T0 - 1, 10) == []
    assert made.take(T0, 10) == [b"0"]


def test_a_key_is_given_once() -> None:
    made = wheel(T0)

    assert made.take(EVERYTHING, 10) == [b"0"]
    assert made.take(EVERYTHING, 10) == []
    assert len(made) == 0
    assert made.earliest() is None


def test_a_key_that_is_put_back_is_given_again() -> None:
    made = wheel(T0)
    (key,) = made.take(T0, 10)

    made.add(key, T0 + 5 * BUCKET_MS)

    assert made.take(T0 + 4 * BUCKET_MS, 10) == []
    assert made.take(T0 + 5 * BUCKET_MS, 10) == [key]


def test_a_key_can_be_put_back_into_the_minute_that_was_taken() -> None:
    made = wheel(T0 + 59_000)
    (key,) = made.take(T0, 10)

    made.add(key, T0 + 59_000)

    assert made.earliest() == T0
    assert made.take(T0, 10) == [key]


def test_keys_come_in_the_order_of_their_minutes_then_of_their_coming() -> None:
    made = wheel(T0 + 2 * BUCKET_MS, T0 + 50_000, T0 + 10_000, T0 + BUCKET_MS)

    assert made.take(EVERYTHING, 10) == [b"1", b"2", b"3", b"0"]


def test_a_large_harvest_is_taken_a_minute_at_a_time() -> None:
    made = wheel(T0, T0 + 1, T0 + BUCKET_MS, T0 + 2 * BUCKET_MS)

    assert made.take(EVERYTHING, 1) == [b"0", b"1"]
    assert made.take(EVERYTHING, 1) == [b"2"]
    assert made.earliest() == T0 + 2 * BUCKET_MS


def test_none_are_taken_where_none_are_wanted() -> None:
    made = wheel(T0)

    assert made.take(EVERYTHING, 0) == []
    assert len(made) == 1


def test_only_minutes_that_have_ended_count_as_overdue() -> None:
    made = wheel(T0, T0 + 59_999, T0 + BUCKET_MS)

    counts = [made.count_until(T0 + ms) for ms in (0, 59_999, BUCKET_MS, 2 * BUCKET_MS)]

    assert counts == [0, 0, 2, 3]


@pytest.mark.parametrize("due", [0, -1, -BUCKET_MS, -(2**40)])
def test_a_deadline_before_1970_is_due_at_once(due: int) -> None:
    made = wheel(due)

    assert made.take(0, 10) == [b"0"]


@given(st.lists(deadlines))
def test_the_earliest_is_at_most_a_minute_before_the_first_deadline(dues: list[int]) -> None:
    earliest = wheel(*dues).earliest()

    if dues:
        assert earliest is not None
        assert min(dues) - BUCKET_MS < earliest <= min(dues)
    else:
        assert earliest is None


@given(st.lists(deadlines), deadlines, st.integers(1, 5))
def test_nothing_that_is_due_is_left_and_nothing_is_lost(
    dues: list[int], clock: int, most: int
) -> None:
    made = wheel(*dues)
    taken: list[bytes] = []
    while found := made.take(clock, most):
        taken += found

    assert {number for number, due in enumerate(dues) if due <= clock} <= set(map(int, taken))
    assert all(dues[int(key)] < clock + BUCKET_MS for key in taken)
    assert made.count_until(clock) == 0
    assert sorted(taken + made.take(EVERYTHING, EVERYTHING)) == sorted(
        str(number).encode() for number in range(len(dues))
    )


@given(st.lists(deadlines), deadlines)
def test_what_counts_as_overdue_is_due(dues: list[int], clock: int) -> None:
    overdue = wheel(*dues).count_until(clock)

    due = sum(due <= clock for due in dues)
    assert overdue <= due
    assert overdue >= sum(due <= clock - BUCKET_MS for due in dues)
