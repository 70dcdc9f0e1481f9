"""A worker refuses states that rest on policy rules which its files no longer have."""

import msgspec
import pytest

from pipeline.catalog.policies import preset
from pipeline.resolve.policy import Assignment, Policy, Timeline, rules_id
from pipeline.stream.misfits import Misfit, misfits_in, sentences_of
from pipeline.stream.partition import Partition
from tests.golden.vectors import without_rules
from tests.support.events import AT, KEY, Record, event

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FIN = preset("fin-2026")
RULES = rules_id(FIN).decode()


def changed(**changes: object) -> Policy:
    return msgspec.structs.replace(FIN, **changes)


def open_window() -> Partition:
    """Return a partition with one conversation that waits for its silence, under fin-2026."""
    partition = Partition("events", 0, lambda _: Timeline([FIN]))
    partition.schedule_all()
    partition.apply(
        [
            Record(0, AT, KEY, event("m1", intent="help_request")),
            Record(1, AT + 1, KEY, event("a1", "ai_message", AT + 1, kind="answer")),
        ]
    )
    return partition


def settled() -> Partition:
    partition = open_window()
    assert partition.settle(AT + 2 * DAY_MS, 10).outputs
    return partition


def misfits(partition: Partition, timeline: Timeline) -> dict[Misfit, int]:
    return dict(misfits_in([partition.states], lambda _: timeline))


CHANGES = pytest.mark.parametrize(
    "timeline",
    [
        pytest.param(Timeline([preset("confirmed-only")]), id="another policy"),
        pytest.param(Timeline([changed(window={"default": HOUR_MS})]), id="a changed file"),
        pytest.param(Timeline([changed(silence="never")]), id="silence bills no more"),
        pytest.param(
            Timeline([FIN, changed(version=2, effective_from=AT)]), id="a version deployed late"
        ),
        pytest.param(
            Timeline([FIN], [Assignment(AT, [preset("gorgias")])]), id="an assignment in the past"
        ),
    ],
)


@CHANGES
def test_an_open_window_of_other_rules_is_a_misfit(timeline: Timeline) -> None:
    in_force = timeline.rules_at(AT + 1).decode()

    assert misfits(open_window(), timeline) == {Misfit("acme", RULES, in_force): 1}


@CHANGES
def test_silence_that_was_settled_under_other_rules_is_a_misfit(timeline: Timeline) -> None:
    in_force = timeline.rules_at(AT + 1).decode()

    assert misfits(settled(), timeline) == {Misfit("acme", RULES, in_force): 1}


@pytest.mark.parametrize(
    "timeline",
    [
        pytest.param(Timeline([FIN]), id="the same file"),
        pytest.param(
            Timeline([FIN, changed(version=2, effective_from=AT + 2)]), id="a version for later"
        ),
        pytest.param(
            Timeline([FIN], [Assignment(AT + 2, [preset("gorgias")])]), id="a policy for later"
        ),
        pytest.param(Timeline([changed(price={})]), id="another price"),
    ],
)
def test_what_applies_to_later_answers_only_fits(timeline: Timeline) -> None:
    assert misfits(open_window(), timeline) == {}
    assert misfits(settled(), timeline) == {}


def test_a_state_of_an_earlier_version_fits_if_its_due_time_is_what_it_would_be_now() -> None:
    partition = open_window()
    partition.states = {key: without_rules(state) for key, state in partition.states.items()}

    same = misfits(partition, Timeline([FIN]))
    other = misfits(partition, Timeline([changed(window={"default": HOUR_MS})]))

    assert same == {}
    assert list(other.values()) == [1]


def test_a_state_settled_by_an_earlier_version_survives_any_policy() -> None:
    partition = settled()
    states = {key: without_rules(state) for key, state in partition.states.items()}
    never = Partition("events", 0, lambda _: Timeline([preset("confirmed-only")]))
    never.restore(Record(0, 0, key, state) for key, state in states.items())
    never.schedule_all()

    result = never.apply([Record(9, AT + 3 * DAY_MS, KEY, event("m9", intent="help_request"))])

    assert [output.record.quantity for output in result.outputs] == [-1]


def test_the_sentence_names_the_tenant_the_conversations_both_rules_and_what_to_do() -> None:
    (sentence,) = sentences_of({Misfit("acme", RULES, "acme:2:00c0ffee"): 1_234})

    assert sentence.startswith(
        "tenant acme: 1,234 conversations are decided by fin-2026 version 1 (rules "
    )
    assert "but the catalog has acme version 2 (rules 00c0ffee)" in sentence
    assert "resmeter catalog apply" in sentence
