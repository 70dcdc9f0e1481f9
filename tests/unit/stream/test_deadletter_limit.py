"""The limit on dead letters covers only the latest records, and needs a minimum of them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.model import Reason
from pipeline.stream.deadletter_limit import DeadLetterLimit

BAD: list[Reason] = ["invalid_data", "malformed_json"]


def test_more_dead_letters_than_the_limit_exceed_it_and_the_message_says_why() -> None:
    limit = DeadLetterLimit(10_000, 0.5)

    letters: list[Reason] = [*["invalid_data"] * 500, *["malformed_json"] * 200]  # type: ignore[list-item]
    limit.count(400, letters)

    assert limit.is_exceeded
    assert "64% of the last 1100 records were rejected" in limit.message
    assert "500 invalid_data, 200 malformed_json" in limit.message
    assert "RESMETER_WORKER__DEAD_LETTER_SHARE_MAX" in limit.message


def test_fewer_than_a_thousand_records_never_exceed_the_limit() -> None:
    limit = DeadLetterLimit(10_000, 0.5)

    limit.count(0, ["invalid_data"] * 999)

    assert not limit.is_exceeded


def test_a_share_equal_to_the_limit_does_not_exceed_it() -> None:
    limit = DeadLetterLimit(10_000, 0.5)

    limit.count(1_000, ["invalid_data"] * 1_000)

    assert not limit.is_exceeded


def test_a_limit_of_one_is_never_exceeded() -> None:
    limit = DeadLetterLimit(10_000, 1.0)

    limit.count(0, ["invalid_data"] * 100_000)

    assert not limit.is_exceeded


@given(
    st.lists(st.tuples(st.integers(0, 30), st.lists(st.sampled_from(BAD), max_size=30))),
    st.integers(1, 100),
)
def test_the_share_covers_the_last_batches_that_fill_the_window(
    batches: list[tuple[int, list[Reason]]], window: int
) -> None:
    limit = DeadLetterLimit(window, 0.5)
    for events, letters in batches:
        limit.count(events, letters)

    covered: list[tuple[int, list[Reason]]] = []
    for batch in reversed(batches):
        if sum(events + len(letters) for events, letters in covered) >= window:
            break
        covered.append(batch)
    records = sum(events + len(letters) for events, letters in covered)
    rejected = Counter(reason for _, letters in covered for reason in letters)
    assert limit.share == (rejected.total() / records if records else 0.0)
