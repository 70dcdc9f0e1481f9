"""Every version reads the states of earlier ones, and writes the same bytes."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.stream.partition import Partition
from pipeline.stream.state import HAS_RULES
from tests.golden.vectors import (
    STATES,
    new_partition,
    run_step,
    unpacked,
    without_rules,
)
from tests.support.events import Record

VECTORS = sorted(STATES.glob("*.json"))
vectors = pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)


def stored(expected: dict[str, Any]) -> dict[bytes, bytes]:
    return {key.encode(): bytes.fromhex(state) for key, state in expected["states"].items()}


def unpacked_states(states: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {key: unpacked(state) for key, state in states.items()}


def is_before_the_rules(vector: dict[str, Any]) -> bool:
    """Return whether a version recorded the vector that did not store the rules of due times."""
    states = [state for expected in vector["expected"] for state in stored(expected).values()]
    return not any(state[20] & HAS_RULES for state in states)


def assert_as_expected(
    partition: Partition,
    result: dict[str, Any],
    expected: dict[str, Any],
    vector: dict[str, Any],
) -> None:
    assert result["usage_records"] == expected["usage_records"]
    assert result["dead_letters"] == expected["dead_letters"]
    states = unpacked_states(partition.states)
    if is_before_the_rules(vector):
        states = {key: without_rules(state) for key, state in states.items()}
    assert states == unpacked_states(stored(expected))


@vectors
def test_the_steps_of_a_vector_give_its_expected_states(path: Path) -> None:
    vector = orjson.loads(path.read_bytes())
    partition = new_partition(vector)

    for step, expected in zip(vector["steps"], vector["expected"], strict=True):
        assert_as_expected(partition, run_step(partition, step), expected, vector)


@vectors
def test_a_state_restored_after_any_step_gives_the_expected_states(path: Path) -> None:
    vector = orjson.loads(path.read_bytes())
    expected = vector["expected"]

    for n in range(1, len(vector["steps"])):
        partition = new_partition(vector)
        states = stored(expected[n - 1])
        partition.restore([Record(0, 0, key, state) for key, state in states.items()])
        partition.schedule_all()

        result = run_step(partition, vector["steps"][n])
        assert_as_expected(partition, result, expected[n], vector)


def test_the_vectors_have_every_form_bit() -> None:
    forms = {
        state[20]
        for path in VECTORS
        for expected in orjson.loads(path.read_bytes())["expected"]
        for state in stored(expected).values()
    }

    assert {0, 1, 2, 6, 8} <= forms
