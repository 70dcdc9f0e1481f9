"""Trace a decision: the state before and after each event, as the rules leave it. Pure."""

import copy
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from pipeline.events.model import Event
from pipeline.resolve.machine import Fold
from pipeline.resolve.policy import Policy, Timeline
from pipeline.resolve.values import Transition


class Step(NamedTuple):
    """One event and what it changed. `before` and `after` have no transitions of their own."""

    event: Event
    policy: Policy | None  # the version that applied to the event
    silence: Transition | None  # silence that was complete by the time of the event
    before: Fold  # after that silence
    after: Fold
    transitions: tuple[Transition, ...]  # those that the event caused
    due_event_ms: int | None  # when the silence after this event will be complete


class Trace(NamedTuple):
    """The steps of a history in the order of the events' times, and the state after the last."""

    steps: list[Step]
    state: Fold


def trace(history: Iterable[Event], timeline: Timeline) -> Trace:
    """Apply a history as `fold_history` does, and note each step.

    Args:
        history: the events in any order; each source and id occurs once.
        timeline: the versions of the tenant's policy.
    """
    state = Fold()
    steps: list[Step] = []
    for event in sorted(history, key=lambda event: event.order):
        decided = len(state.transitions)
        state.settle(timeline, event.at)
        settled = len(state.transitions)
        before = _snapshot(state)
        policy = state.policy_for(timeline, event.at)
        state.apply(timeline, event)
        steps.append(
            Step(
                event,
                policy,
                state.transitions[decided] if settled > decided else None,
                before,
                _snapshot(state),
                tuple(state.transitions[settled:]),
                state.due_event_ms(timeline),
            )
        )
    return Trace(steps, state)


def _snapshot(state: Fold) -> Fold:
    # The rules change the answer and the charge in place.
    return msgspec.structs.replace(
        state,
        standing=copy.copy(state.standing),
        charge=copy.copy(state.charge),
        transitions=[],
    )
