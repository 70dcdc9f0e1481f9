"""Silence that was promised is settled first, so that every owner writes the same usage records."""

from collections.abc import Iterable, Sequence
from itertools import chain

import pytest

from pipeline.catalog.policies import preset
from pipeline.resolve.policy import Timeline
from pipeline.stream.basis import (
    Basis,
    Promise,
    decode_basis,
    encode_basis,
    newest_basis,
)
from pipeline.stream.partition import Partition
from tests.support.events import AT, KEY, Record, event

TIMELINE = Timeline([preset("fin-2026")])
DUE = AT + 1 + 24 * 3_600_000 + 600_000  # the answer's window and grace period
EARLY = DUE - 120_000  # by the slow clock of a broker, when it is DUE by another

OPENING = [
    Record(0, AT, KEY, event("m1", intent="help_request")),
    Record(1, AT + 1, KEY, event("a1", "ai_message", AT + 1, kind="answer")),
]
RETURN = [Record(2, EARLY, KEY, event("m2", at=AT + 2, intent="help_request"))]
MANY = [
    Record(2 + n, EARLY, KEY, event(f"n{n}", "ai_message", AT + 2 + n, kind="greeting"))
    for n in range(70)
]
PROMISED = Basis(promise=Promise(2, DUE))


def partition(basis: Basis | None = None, states: Iterable[tuple[bytes, bytes]] = ()) -> Partition:
    found = Partition("events", 0, lambda _: TIMELINE)
    found.basis = basis
    found.states = dict(states)
    found.schedule_all()
    return found


def settled_and(follow_up: Sequence[Record]) -> list[bytes]:
    """Return the usage records of a worker whose timer settled the silence, and read on."""
    worker = partition()
    results = [worker.apply(OPENING)]
    worker.basis = PROMISED
    results += [worker.settle(DUE, 10), worker.apply(follow_up)]
    return [output.value for output in chain(*(result.outputs for result in results))]


@pytest.mark.parametrize("follow_up", [RETURN, MANY], ids=["one event", "many events"])
@pytest.mark.parametrize("batches", [1, 2])
def test_a_successor_that_reads_everything_again_writes_what_the_timer_wrote(
    batches: int, follow_up: list[Record]
) -> None:
    successor = partition(PROMISED)

    parts = [[*OPENING, *follow_up]] if batches == 1 else [OPENING, follow_up]
    results = [successor.apply(part) for part in parts]

    written = [output.value for result in results for output in result.outputs]
    assert written == settled_and(follow_up)
    assert b'"reason":"silence"' in written[0]


def test_a_successor_with_the_state_from_before_the_timer_writes_the_same() -> None:
    before = partition()
    states = before.apply(OPENING).states

    result = partition(PROMISED, states).apply(RETURN)

    assert [output.value for output in result.outputs] == settled_and(RETURN)


def test_without_the_promise_the_silence_would_not_be_settled() -> None:
    states = partition().apply(OPENING).states

    assert partition(None, states).apply(RETURN).outputs == []


def test_a_promise_is_kept_once() -> None:
    worker = partition(PROMISED)

    worker.apply([*OPENING, *RETURN])
    again = [
        Record(3, EARLY, KEY, event("m3", at=AT + 3, intent="help_request")),
        Record(4, EARLY, KEY, event("a4", "ai_message", AT + 4, kind="answer")),
    ]

    assert worker.apply(again).outputs == []


def test_silence_that_is_due_later_than_promised_waits() -> None:
    states = partition().apply(OPENING).states
    promised = Basis(promise=Promise(2, DUE - 1))

    assert partition(promised, states).apply(RETURN).outputs == []


def test_a_rejected_record_loses_nothing_that_was_settled_before_it() -> None:
    states = partition().apply(OPENING).states
    garbage = [Record(2, EARLY, KEY, event("m2", at=EARLY + 10**9, intent="help_request"))]
    late = [Record(3, EARLY, KEY, event("m3", at=AT + 2, intent="help_request"))]
    worker = partition(PROMISED, states)

    results = [worker.apply(garbage), worker.apply(late)]

    written = [output.value for result in results for output in result.outputs]
    assert len(results[0].dead_letters) == 1
    assert len(written) == 2


def test_a_promise_is_stored_in_the_basis_and_the_later_one_counts() -> None:
    assert decode_basis(encode_basis(PROMISED)) == PROMISED
    assert b"promise" not in encode_basis(Basis())

    older = encode_basis(Basis(promise=Promise(1, DUE + 5)))
    of_an_older_version = encode_basis(Basis(topic_id="t", changes=1))

    assert newest_basis(older, PROMISED) == PROMISED
    assert newest_basis(of_an_older_version, PROMISED) == Basis(
        topic_id="t", changes=1, promise=PROMISED.promise
    )
