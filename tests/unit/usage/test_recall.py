"""Late events and duplicates of a long conversation cost little, in whatever order they arrive."""

import msgspec
import pytest

from pipeline.catalog.policies import preset
from pipeline.events.model import AI_MESSAGE, CUSTOMER_MESSAGE, Event
from pipeline.resolve.machine import Fold, fold_history
from pipeline.resolve.policy import Policy, Timeline
from pipeline.usage.conversation import Conversation
from pipeline.usage.recall import Recall

T0 = 1_777_885_200_000
EVENTS = 2_000
HOUR_MS = 3_600_000


class CountingTimeline(Timeline):
    """A timeline that counts how often a fold asks it for a policy."""

    __slots__ = ("asked",)

    def __init__(self, policy: Policy) -> None:
        super().__init__([policy])
        self.single = None
        self.asked = 0

    def at(self, ms: int) -> Policy:
        self.asked += 1
        return super().at(ms)


def _event(n: int, step_ms: int = 1) -> Event:
    at = T0 + n * step_ms
    if n % 2:
        return Event(at, AI_MESSAGE, "/chat", f"e{n}", kind="answer")
    return Event(at, CUSTOMER_MESSAGE, "/chat", f"e{n}", intent="help_request")


ORDERS = {
    "in order": range(EVENTS),
    "in reverse order": range(EVENTS)[::-1],
    "odd ones last": [*range(0, EVENTS, 2), *range(1, EVENTS, 2)],
    "from the middle": [n for m in range(EVENTS // 2) for n in (EVENTS // 2 + m, EVENTS // 2 - m)],
}


# Windows that start at the first message, whose time each event changes in reverse order.
FIRST = msgspec.structs.replace(preset("fin-2026"), name="first", window_anchor="first_message")
SEGMENTS = msgspec.structs.replace(
    FIRST, name="segments", unit="segment", reversal_horizon=30 * HOUR_MS
)
POLICIES = [preset("fin-2026"), preset("zendesk-2026"), preset("hubspot-2026"), FIRST, SEGMENTS]


@pytest.mark.parametrize("step_ms", [1, HOUR_MS], ids=["a millisecond", "an hour"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_a_late_event_folds_a_few_blocks_not_the_whole_history(
    policy: Policy, order: list[int], step_ms: int
) -> None:
    timeline = CountingTimeline(policy)
    conversation = Conversation()
    events = [_event(n, step_ms) for n in order]
    newest_ms = T0 + EVENTS * step_ms
    arrived = [(offset, newest_ms, event) for offset, event in enumerate(events)]

    conversation.receive("acme", "c1", arrived, timeline)

    whole = fold_history(events, timeline)
    assert conversation.fold == whole
    # Folding everything again for each event would ask four million times.
    assert timeline.asked < 250 * EVENTS


def test_the_events_of_a_history_are_found_by_source_and_id_and_others_are_not() -> None:
    recall = Recall()
    known = [(n, _event(n)) for n in range(5)]

    recall.load(lambda: known)

    assert [recall.find(event) for _, event in known] == [event for _, event in known]
    assert recall.find(Event(T0, AI_MESSAGE, "/other", "e1")) is None
    assert recall.find(Event(T0, AI_MESSAGE, "/chat", "e5")) is None


def test_a_recall_that_was_cleared_reads_the_history_again() -> None:
    recall = Recall()
    recall.load(lambda: [(0, _event(0))])

    recall.clear()
    recall.load(lambda: [(7, _event(1))])

    assert recall.find(_event(0)) is None
    assert recall.offsets() == {"e1": 7}


@pytest.mark.parametrize("size", [1, 2, 3, 32])
def test_the_first_messages_time_follows_a_late_first_message(size: int) -> None:
    timeline = Timeline([preset("fin-2026")])
    events = [_event(n) for n in range(100)]
    recall, state = Recall(size), Fold()
    recall.load(list)

    for offset, event in enumerate(reversed(events)):
        state = recall.decide_with(offset, event, state, timeline, None)

    assert state == fold_history(events, timeline)
    assert state.first_message_at == T0
