"""The share of dead letters: over the last records alone, and not before there are enough."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.model import Reason
from pipeline.stream.deadletter_limit import DeadLetterShare

BAD: list[Reason] = ["invalid_data", "malformed_json"]


def test_a_stream_that_is_mostly_dead_letters_is_over_the_limit_and_says_why() -> None:
    share = DeadLetterShare(10_000, 0.5)

    letters: list[Reason] = [*["invalid_data"] * 500, *["malformed_json"] * 200]  # type: ignore[list-item]
    share.take(400, letters)

    assert share.is_over
    assert "64% of the last 1100 records are no events" in share.told
    assert "500 invalid_data, 200 malformed_json" in share.told
    assert "RESMETER_WORKER__DEAD_LETTER_SHARE_MAX" in share.told


def test_a_few_records_say_nothing_yet() -> None:
    share = DeadLetterShare(10_000, 0.5)

    share.take(0, ["invalid_data"] * 999)

    assert not share.is_over


def test_half_of_them_is_not_more_than_half() -> None:
    share = DeadLetterShare(10_000, 0.5)

    share.take(1_000, ["invalid_data"] * 1_000)

    assert not share.is_over


def test_a_limit_of_one_is_none() -> None:
    share = DeadLetterShare(10_000, 1.0)

    share.take(0, ["invalid_data"] * 100_000)

    assert not share.is_over


@given(
    st.lists(st.tuples(st.integers(0, 30), st.lists(st.sampled_from(BAD), max_size=30))),
    st.integers(1, 100),
)
def test_only_the_last_batches_that_fill_the_window_count(
    batches: list[tuple[int, list[Reason]]], window: int
) -> None:
    share = DeadLetterShare(window, 0.5)
    for taken, letters in batches:
        share.take(taken, letters)

    kept: list[tuple[int, list[Reason]]] = []
    for batch in reversed(batches):
        if sum(taken + len(letters) for taken, letters in kept) >= window:
            break
        kept.append(batch)
    records = sum(taken + len(letters) for taken, letters in kept)
    rejected = Counter(reason for _, letters in kept for reason in letters)
    assert share.share == (rejected.total() / records if records else 0.0)
