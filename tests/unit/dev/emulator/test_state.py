"""The emulator's rules, without HTTP: time is an argument."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dev.emulator.state import Answer, Refusal, State

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
        state.create_meter_event(params(identifier, value), now)
    except Refusal:
        return False
    return True


def total(state: State) -> int:
    return sum(int(entry["sum"]) for entry in state.sums()["sums"])


@given(st.lists(st.tuples(identifiers, st.integers(-(10**15) + 1, 10**15 - 1))))
def test_the_sum_is_of_the_first_event_of_each_identifier(sent: list[tuple[str, int]]) -> None:
    state = opened()
    for identifier, value in sent:
        accepted(state, identifier, value)

    first = dict(reversed(sent))
    assert total(state) == sum(first.values())


@given(st.lists(st.tuples(identifiers, st.floats(0, 2 * DAY))))
def test_an_identifier_counts_again_when_it_is_forgotten(sent: list[tuple[str, float]]) -> None:
    state = opened()
    counted_at: dict[str, float] = {}
    now = NOW
    for identifier, later in sent:
        now += later
        known = identifier in counted_at and now - counted_at[identifier] < DAY

        assert accepted(state, identifier, now=now) is not known
        if not known:
            counted_at[identifier] = now


def test_a_clock_that_was_set_back_keeps_no_identifier_for_longer() -> None:
    state = opened()
    accepted(state, "later", now=NOW + DAY)
    accepted(state, "earlier", now=NOW)

    assert not accepted(state, "earlier", now=NOW + DAY - 1)
    assert accepted(state, "earlier", now=NOW + DAY)


def test_a_value_that_cannot_be_read_still_uses_up_its_identifier() -> None:
    state = opened()
    event = params("e1")
    event["payload"]["value"] = "--5"
    state.create_meter_event(event, NOW)

    assert not accepted(state, "e1")
    assert [entry["code"] for entry in state.sums()["unvalidated"]] == ["meter_event_invalid_value"]


def test_how_long_is_remembered_can_be_set() -> None:
    state = opened(remembered_seconds=60)
    accepted(state, "e1")

    assert not accepted(state, "e1", now=NOW + 59)
    assert accepted(state, "e1", now=NOW + 60)


def test_a_key_answers_for_its_own_body_alone_and_for_a_day() -> None:
    state = opened()
    state.keep("k1", b"body", Answer(200, {"id": "1"}), NOW)

    kept = state.kept("k1", b"body", NOW + DAY - 1)
    assert kept == Answer(200, {"id": "1"}, {"idempotent-replayed": "true"})
    with pytest.raises(Refusal, match="same parameters") as caught:
        state.kept("k1", b"other", NOW)
    assert caught.value.body["error"]["type"] == "idempotency_error"
    assert state.kept("k1", b"other", NOW + DAY) is None


def test_what_is_forgotten_takes_no_memory() -> None:
    state = opened()
    for n in range(100):
        accepted(state, f"e{n}", now=NOW + n)
        state.keep(f"k{n}", b"", Answer(200, {}), NOW + n)

    accepted(state, "last", now=NOW + 100 + DAY)

    assert (len(state._identifiers), len(state._kept)) == (1, 0)


def test_one_event_at_a_time_for_a_customer_and_meter() -> None:
    state = opened()
    lane = state.enter(params("e1"))
    with pytest.raises(Refusal) as caught:
        state.enter(params("e2"))
    assert caught.value.status == 409
    assert caught.value.body["error"]["code"] == "too_many_concurrent_requests"

    state.leave(lane)

    assert state.enter(params("e2")) == lane


@pytest.mark.parametrize("field", ["event_name", "identifier"])
def test_names_are_a_hundred_characters_at_most(field: str) -> None:
    state = opened()
    state.create_meter_event({**params("e1"), field: "n" * 100}, NOW)

    with pytest.raises(Refusal, match="at most 100 characters"):
        state.create_meter_event({**params("e2"), field: "n" * 101}, NOW)
