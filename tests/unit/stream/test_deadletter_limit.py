"""The limit on dead letters covers only the latest records, and needs a minimum of them."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.kafka.headers import OTHER_SOURCE
from pipeline.stream.deadletter_limit import DeadLetterLimit, Letter

INVALID: Letter = ("chat", "invalid_data")
GARBAGE: Letter = (OTHER_SOURCE, "malformed_json")
BAD: list[Letter] = [INVALID, GARBAGE]


def test_more_dead_letters_than_the_limit_exceed_it_and_the_message_says_why() -> None:
    limit = DeadLetterLimit(10_000, 0.5)

    limit.count(400, [INVALID] * 500 + [GARBAGE] * 200)

    assert limit.is_exceeded
    assert "64% of the last 1100 records were rejected" in limit.message
    assert "500 invalid_data of chat, 200 malformed_json of other" in limit.message
    assert "RESMETER_WORKER__DEAD_LETTERS_END_WORKER" in limit.message_at_end


def test_where_producers_sign_records_without_a_signature_do_not_count() -> None:
    limit = DeadLetterLimit(10_000, 0.5, signed_only=True)

    limit.count(900, [GARBAGE] * 100_000 + [INVALID] * 100)

    assert limit.share == 0.1
    assert not limit.is_exceeded


def test_fewer_than_a_thousand_records_never_exceed_the_limit() -> None:
    limit = DeadLetterLimit(10_000, 0.5)

    limit.count(0, [INVALID] * 999)

    assert not limit.is_exceeded


def test_a_share_equal_to_the_limit_does_not_exceed_it() -> None:
    limit = DeadLetterLimit(10_000, 0.5)

    limit.count(1_000, [INVALID] * 1_000)

    assert not limit.is_exceeded


def test_a_limit_of_one_is_never_exceeded() -> None:
    limit = DeadLetterLimit(10_000, 1.0)

    limit.count(0, [INVALID] * 100_000)

    assert not limit.is_exceeded


@given(
    st.lists(st.tuples(st.integers(0, 30), st.lists(st.sampled_from(BAD), max_size=30))),
    st.integers(1, 100),
)
def test_the_share_covers_the_last_batches_that_fill_the_window(
    batches: list[tuple[int, list[Letter]]], window: int
) -> None:
    limit = DeadLetterLimit(window, 0.5)
    for events, letters in batches:
        limit.count(events, letters)

    covered: list[tuple[int, list[Letter]]] = []
    for batch in reversed(batches):
        if sum(events + len(letters) for events, letters in covered) >= window:
            break
        covered.append(batch)
    records = sum(events + len(letters) for events, letters in covered)
    rejected = Counter(reason for _, letters in covered for reason in letters)
    assert limit.share == (rejected.total() / records if records else 0.0)
