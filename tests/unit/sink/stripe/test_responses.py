"""What becomes of a call: the table of `pipeline.sink.stripe.responses`, row by row."""

from itertools import product
from typing import get_args

import pytest

from pipeline.ledger.entries import Result
from pipeline.metrics import DELIVERY_RESULTS
from pipeline.sink.stripe.body import body, body_sha256
from pipeline.sink.stripe.responses import RESULTS, Answer, Then, read_answer

EXISTS = "An event already exists with identifier rm_1."


@pytest.mark.parametrize(
    ("answer", "result", "then"),
    [
        (Answer(accepted=True, status=200), "delivered", "done"),
        (Answer(status=401), "halted", "halt"),
        (Answer(status=403), "halted", "halt"),
        (Answer(status=409, code="too_many_concurrent_requests"), "refused", "retry"),
        (Answer(status=429), "refused", "retry"),
        (Answer(status=400, message="timestamp is too old"), "rejected", "done"),
        (Answer(status=404), "rejected", "done"),
        (Answer(status=500), "failed", "retry"),
        (Answer(status=503), "failed", "retry"),
        (Answer(status=302), "failed", "retry"),
        (Answer(status=200, message="not JSON"), "failed", "retry"),
        (Answer(), "failed", "retry"),
        (Answer(unreached=True), "refused", "retry"),
    ],
)
def test_an_answer_has_one_meaning_whatever_was_before(
    answer: Answer, result: Result, then: Then
) -> None:
    for perhaps_counted in (False, True):
        found = read_answer(answer, "rm_1", perhaps_counted=perhaps_counted)

        assert found == (result, then)


def test_an_existing_identifier_is_ours_only_where_we_may_have_sent_it() -> None:
    answer = Answer(status=400, message=EXISTS)

    assert read_answer(answer, "rm_1", perhaps_counted=True) == ("duplicate", "done")
    assert read_answer(answer, "rm_1", perhaps_counted=False) == ("collision", "done")


def test_the_identifier_of_another_event_is_no_duplicate_of_this_one() -> None:
    answer = Answer(status=400, message=EXISTS)

    assert read_answer(answer, "rm_2", perhaps_counted=True) == ("rejected", "done")


def test_the_code_of_v2_means_the_same() -> None:
    answer = Answer(status=400, code="duplicate_meter_event", message="Duplicate")

    assert read_answer(answer, "rm_1", perhaps_counted=True) == ("duplicate", "done")


def test_every_result_is_known_and_counted_from_the_start() -> None:
    met = {
        read_answer(
            Answer(accepted=ok, status=status, unreached=cut, message=message),
            "rm_1",
            perhaps_counted=counted,
        )[0]
        for ok, status, cut, message, counted in product(
            (True, False),
            (200, 400, 401, 429, 500, None),
            (True, False),
            ("", EXISTS),
            (True, False),
        )
    }

    assert met == set(RESULTS) == set(DELIVERY_RESULTS)
    assert set(get_args(Result)) - met == {"unanswered"}


def test_values_go_out_as_digits() -> None:
    assert body("rm_1", "cus_1", "m", 10**15, 5)["payload"]["value"] == "1000000000000000"


def test_the_hash_of_a_body_changes_with_every_part_of_it() -> None:
    parts = [("a", "c", "m", 1, 5), ("b", "c", "m", 1, 5), ("a", "d", "m", 1, 5)]
    parts += [("a", "c", "n", 1, 5), ("a", "c", "m", 2, 5), ("a", "c", "m", 1, 6)]

    assert len({body_sha256(body(*part)) for part in parts}) == len(parts)
