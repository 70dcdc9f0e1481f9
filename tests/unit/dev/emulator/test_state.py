"""The emulator counts identifiers once and keeps idempotency keys for a day, as Stripe does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dev.emulator.response import Response, StripeError
from pipeline.dev.emulator.state import State

NOW = 1_790_000_000.0
DAY = 24 * 3600

identifiers = st.sampled_from(["e1", "e2", "e3", "e4"])


def opened(**settings: Any) -> State:
    state = State(**settings)
    state.prepare(["cus_acme"], ["resolved"], NOW)
    return state


def params(identifier: str, value: int = 1) -> dict[str, Any]:
    return {
        "event_name": "resolved",
        "identifier": identifier,
        "payload": {"stripe_customer_id": "cus_acme", "value": str(value)},
    }


def accepted(state: State, identifier: str, value: int = 1, now: float = NOW) -> bool:
    try:
        state.meter_events.create(params(identifier, value), now)
    except StripeError:
        return False
    return True


def total(state: State) -> int:
    return sum(int(entry["sum"]) for entry in state.sums()["sums"])


@given(st.lists(st.tuples(identifiers, st.integers(-(10**15) + 1, 10**15 - 1))))
def test_only_the_first_event_of_each_identifier_counts(sent: list[tuple[str, int]]) -> None:
    state = opened()
    for identifier, value in sent:
        accepted(state, identifier, value)

    first = dict(reversed(sent))
    assert total(state) == sum(first.values())


@given(st.lists(st.tuples(identifiers, st.floats(0, 2 * DAY))))
def test_an_identifier_counts_again_after_a_day(sent: list[tuple[str, float]]) -> None:
    state = opened()
    counted_at: dict[str, float] = {}
    now = NOW
    for identifier, later in sent:
        now += later
        known = identifier in counted_at and now - counted_at[identifier] < DAY

        assert accepted(state, identifier, now=now) is not known
        if not known:
            counted_at[identifier] = now


def test_a_clock_that_is_set_back_does_not_extend_the_memory_of_identifiers() -> None:
    state = opened()
    accepted(state, "later", now=NOW + DAY)
    accepted(state, "earlier", now=NOW)

    assert not accepted(state, "earlier", now=NOW + DAY - 1)
    assert accepted(state, "earlier", now=NOW + DAY)


def test_an_event_with_an_invalid_value_uses_up_its_identifier() -> None:
    state = opened()
    event = params("e1")
    event["payload"]["value"] = "--5"
    state.meter_events.create(event, NOW)

    assert not accepted(state, "e1")
    assert [entry["code"] for entry in state.sums()["unvalidated"]] == ["meter_event_invalid_value"]


def test_how_long_identifiers_are_remembered_can_be_set() -> None:
    state = opened(remembered_seconds=60)
    accepted(state, "e1")

    assert not accepted(state, "e1", now=NOW + 59)
    assert accepted(state, "e1", now=NOW + 60)


def test_an_idempotency_key_is_remembered_for_a_day_and_for_one_body() -> None:
    state = opened()
    state.idempotency_keys.keep("k1", b"body", Response(200, {"id": "1"}), NOW)

    first = state.idempotency_keys.get("k1", b"body", NOW + DAY - 1)
    assert first == Response(200, {"id": "1"}, {"idempotent-replayed": "true"})
    with pytest.raises(StripeError, match="same parameters") as caught:
        state.idempotency_keys.get("k1", b"other", NOW)
    assert caught.value.body["error"]["type"] == "idempotency_error"
    assert state.idempotency_keys.get("k1", b"other", NOW + DAY) is None


def test_forgotten_identifiers_and_keys_take_no_memory() -> None:
    state = opened()
    for n in range(100):
        accepted(state, f"e{n}", now=NOW + n)
        state.idempotency_keys.keep(f"k{n}", b"", Response(200, {}), NOW + n)

    accepted(state, "last", now=NOW + 100 + DAY)
    state.idempotency_keys.keep("last", b"", Response(200, {}), NOW + 100 + DAY)

    assert (len(state.meter_events.identifiers), len(state.idempotency_keys)) == (1, 1)


def test_a_second_event_in_flight_for_a_customer_and_meter_is_a_409() -> None:
    state = opened()
    in_flight = state.meter_events.enter(params("e1"))
    with pytest.raises(StripeError) as caught:
        state.meter_events.enter(params("e2"))
    assert caught.value.status == 409
    assert caught.value.body["error"]["code"] == "too_many_concurrent_requests"

    state.meter_events.leave(in_flight)

    assert state.meter_events.enter(params("e2")) == in_flight


@pytest.mark.parametrize("field", ["event_name", "identifier"])
def test_names_and_identifiers_have_at_most_100_characters(field: str) -> None:
    state = opened()
    state.meter_events.create({**params("e1"), field: "n" * 100}, NOW)

    with pytest.raises(StripeError, match="at most 100 characters"):
        state.meter_events.create({**params("e2"), field: "n" * 101}, NOW)
