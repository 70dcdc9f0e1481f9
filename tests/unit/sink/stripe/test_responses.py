"""Each row of the table in `pipeline.sink.stripe.responses` holds."""

from itertools import product
from typing import get_args

import pytest

from pipeline.ledger.entries import Conclusion, Lease, Result
from pipeline.metrics import DELIVERY_RESULTS, WITHDRAWAL_RESULTS
from pipeline.sink.meter import NEXT, Next
from pipeline.sink.stripe.responses import (
    ERROR_TYPES,
    StripeResponse,
    conclusion_of,
    foreign_reason,
    read_response,
)

EXISTS = "An event already exists with identifier rm_1."


INVALID = "invalid_request_error"
CODES = (None, "", "parameter_missing", "resource_missing", "lock_timeout")
# (status, type, code) → result. What is not here waits, and raises an alarm.
MEANING: dict[tuple[int, str, str | None], Result] = {
    (400, INVALID, None): "rejected",
    (400, INVALID, ""): "rejected",
    (400, INVALID, "parameter_missing"): "rejected",
    (400, INVALID, "resource_missing"): "rejected",
    (404, INVALID, "resource_missing"): "rejected",
    **{(402, "card_error", code): "rejected" for code in CODES[:-1]},
    **{(400, "idempotency_error", code): "collision" for code in CODES[:-1]},
    **{
        (status, kind, code): "halted"
        for status in (401, 403)
        for kind in (INVALID, "authentication_error", "permission_error")
        for code in CODES
    },
    **{
        (status, kind, code): "refused"
        for status, kind in (
            (409, INVALID),
            (409, "idempotency_error"),
            (429, INVALID),
            (429, "rate_limit_error"),
        )
        for code in CODES
    },
    # It is busy, and says so by the code.
    (400, INVALID, "lock_timeout"): "refused",
    (400, "idempotency_error", "lock_timeout"): "refused",
    (402, "card_error", "lock_timeout"): "refused",
}
STATUSES = (400, 401, 402, 403, 404, 405, 408, 409, 410, 413, 418, 422, 424, 425, 429, 451, 499)


@pytest.mark.parametrize("status", [*STATUSES, 500, 502, 503, 504])
@pytest.mark.parametrize("kind", [*sorted(ERROR_TYPES), None])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("perhaps_counted", [False, True])
def test_only_an_error_whose_status_and_type_agree_is_final(
    status: int, kind: str | None, code: str | None, perhaps_counted: bool
) -> None:
    response = StripeResponse(status=status, error_type=kind, code=code)

    result = read_response(response, "rm_1", perhaps_counted=perhaps_counted)

    otherwise: Result = "failed" if status >= 500 else "foreign"
    assert result == MEANING.get((status, str(kind), code), otherwise)


@pytest.mark.parametrize("status", [200, 204, 301, 307, *STATUSES, 500, 503])
@pytest.mark.parametrize("kind", [None, INVALID])
def test_an_answer_that_is_not_stripes_decides_nothing(status: int, kind: str | None) -> None:
    response = StripeResponse(status=status, foreign=True, error_type=kind, message=EXISTS)

    assert read_response(response, "rm_1", perhaps_counted=True) == "foreign"


@pytest.mark.parametrize(
    ("response", "result", "following"),
    [
        (StripeResponse(accepted=True, status=200), "delivered", "done"),
        (StripeResponse(status=400, error_type=INVALID, code="rate_limit"), "refused", "retry"),
        (StripeResponse(), "failed", "retry"),
        (StripeResponse(unreached=True), "refused", "retry"),
    ],
)
def test_earlier_calls_do_not_change_what_these_responses_mean(
    response: StripeResponse, result: Result, following: Next
) -> None:
    for perhaps_counted in (False, True):
        actual = read_response(response, "rm_1", perhaps_counted=perhaps_counted)

        assert (actual, NEXT[actual]) == (result, following)


@pytest.mark.parametrize("kind", sorted(ERROR_TYPES - {INVALID}))
def test_only_an_invalid_request_can_be_a_duplicate(kind: str) -> None:
    response = StripeResponse(status=400, error_type=kind, message=EXISTS)

    assert read_response(response, "rm_1", perhaps_counted=True) != "duplicate"


def test_an_answer_that_contradicts_itself_is_shown_with_its_type_and_code() -> None:
    lease = Lease("rm_1", "a", 1, perhaps_counted=False, idempotency_key="rm_1")
    response = StripeResponse(status=400, error_type="api_error", code="c", message="no")

    detail = conclusion_of(response, lease).detail

    assert detail == "an error that Stripe does not document for HTTP 400: api_error, code c: no"


def test_an_existing_identifier_is_ours_only_if_we_may_have_sent_it() -> None:
    response = StripeResponse(status=400, error_type=INVALID, message=EXISTS)

    duplicate = read_response(response, "rm_1", perhaps_counted=True)
    collision = read_response(response, "rm_1", perhaps_counted=False)

    assert (duplicate, NEXT[duplicate]) == ("duplicate", "done")
    assert (collision, NEXT[collision]) == ("collision", "done")


def test_the_identifier_of_another_event_does_not_make_a_duplicate() -> None:
    response = StripeResponse(status=400, error_type=INVALID, message=EXISTS)

    result = read_response(response, "rm_2", perhaps_counted=True)

    assert (result, NEXT[result]) == ("rejected", "done")


def test_the_error_code_of_v2_also_means_a_duplicate() -> None:
    response = StripeResponse(
        status=400, error_type=INVALID, code="duplicate_meter_event", message="Duplicate"
    )

    result = read_response(response, "rm_1", perhaps_counted=True)

    assert (result, NEXT[result]) == ("duplicate", "done")


def test_every_result_has_a_consequence_and_a_metric() -> None:
    results = {
        read_response(
            StripeResponse(
                accepted=ok,
                status=status,
                unreached=unreached,
                message=message,
                foreign=foreign,
                error_type=INVALID,
            ),
            "rm_1",
            perhaps_counted=counted,
        )
        for ok, status, unreached, message, counted, foreign in product(
            (True, False),
            (200, 400, 401, 429, 500, None),
            (True, False),
            ("", EXISTS),
            (True, False),
            (True, False),
        )
    }

    assert results == set(DELIVERY_RESULTS)
    assert set(NEXT) == results | {"withdrawn"} == results | set(WITHDRAWAL_RESULTS)
    assert set(get_args(Result)) - set(NEXT) == {"unanswered"}


def test_a_conclusion_keeps_what_explains_the_response() -> None:
    lease = Lease("rm_1", "a", 1, perhaps_counted=True, idempotency_key="rm_1")

    conclusion = conclusion_of(
        StripeResponse(
            status=400, error_type=INVALID, message=EXISTS, request_id="req_1", replayed=True
        ),
        lease,
    )

    assert conclusion == Conclusion(
        result="duplicate", http_status=400, request_id="req_1", replayed=True, detail=EXISTS
    )
    assert conclusion_of(StripeResponse(status=500), lease).detail is None


ERROR = b'{"error": {"type": "invalid_request_error", "message": "no"}}'
OURS = {"request-id": "req_1"}


def test_an_error_of_stripe_is_known_by_its_object_its_type_and_its_header() -> None:
    assert foreign_reason(400, OURS, ERROR) is None
    assert foreign_reason(200, OURS, b'{"object": "billing.meter_event"}') is None


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"),
    [
        (404, OURS, b"<html><body>\n Not  found", "is not JSON: <html><body> Not found"),
        (400, OURS, b"", "is empty"),
        (200, OURS, b"", "is empty"),
        (400, OURS, b"\xff\xfe", "is not JSON"),
        (400, OURS, b"[]", "is no JSON object: []"),
        (200, OURS, b"true", "is no JSON object: true"),
        (200, OURS, b"{}", "is no object: {}"),
        (200, OURS, b'{"object": 7}', "is no object"),
        (200, {}, b'{"object": "billing.meter_event"}', "has no Request-Id of Stripe's"),
        (400, OURS, b'{"error": "bad request"}', "is not an error of Stripe's"),
        (400, OURS, b'{"error": null}', "is not an error of Stripe's"),
        (400, OURS, b'{"error": {"type": "about:blank"}}', "is not an error of Stripe's"),
        (400, OURS, b'{"message": "Forbidden"}', "is not an error of Stripe's"),
        (400, OURS, ERROR.replace(b'"no"', b"[1]"), "has no message of Stripe's"),
        (400, {}, ERROR, "has no Request-Id of Stripe's"),
        (400, {"request-id": "4f1c"}, ERROR, "has no Request-Id of Stripe's"),
        (307, {"location": "https://x"}, b"", "redirects to https://x"),
        (302, OURS, ERROR, "redirects to nowhere"),
    ],
)
def test_what_is_not_stripes_says_what_it_is(
    status: int, headers: dict[str, str], body: bytes, reason: str
) -> None:
    assert str(foreign_reason(status, headers, body)).startswith(reason)
