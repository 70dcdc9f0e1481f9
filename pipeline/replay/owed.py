"""Say which charges a replayed conversation owes, also where rebill plans amended the past. Pure.

A worker decides by the timeline of its catalog, for ever. What is owed may differ: a rebill plan may
have put another version in the place of what was in force (`Timelines.owed`). A conversation that
owes other prices by it is judged by its whole history, and the plan corrects what the worker wrote.
"""

from collections import Counter

from pipeline.replay.charges import Charge, Price, standing_charges
from pipeline.replay.partition import ReplayedConversation, Timelines
from pipeline.resolve.machine import fold_history
from pipeline.resolve.policy import Timeline

_END = 2**62


def owed_charges(
    settled: ReplayedConversation, timelines: Timelines, now: int
) -> list[Charge] | None:
    """Return the charges that the ledger must have, or None while a window is open.

    Usually these are the charges that the worker emitted, under the policies that it had. If events
    came too late, an event came again after a seal, or a rebill plan amended what the conversation
    owes, the whole history decides.
    """
    conversation = settled.conversation
    is_rebilled = is_amended(settled, timelines)
    is_as_emitted = not (is_rebilled or settled.is_judged_as_a_whole)
    if (is_rebilled or is_as_emitted) and conversation.due_arrival_ms is not None:
        return None  # the worker charges silence by its own timeline, whatever is owed
    if is_as_emitted:
        by_number = {record.id.rpartition(":")[2]: record for record in settled.emitted}
        return [
            Charge(
                charge.outcome,
                charge.policy,
                charge.policy_version,
                charge.kind,
                by_number[str(charge.n)].occurred_at,
                by_number[str(charge.n)].evidence,
            )
            for charge in conversation.charges
        ]
    timeline = timelines.owed
    state = fold_history(settled.whole_history(), timeline)
    due = None if state.excluded else state.due_event_ms(timeline)
    if due is not None and due + state.grace_ms(timeline) > now:
        return None
    state.settle(timeline, now)
    return [] if state.excluded else standing_charges(state.transitions)


def is_amended(replayed: ReplayedConversation, timelines: Timelines) -> bool:
    """Return whether rebill plans amended what a conversation owes."""
    decided, owed = timelines
    return decided is not owed and owes_otherwise(replayed, decided, owed)


def owes_otherwise(replayed: ReplayedConversation, one: Timeline, other: Timeline) -> bool:
    """Return whether a conversation owes other prices by one timeline than by another, in the end."""
    return _in_the_end(replayed, one) != _in_the_end(replayed, other)


def _in_the_end(replayed: ReplayedConversation, timeline: Timeline) -> Counter[Price]:
    state = fold_history(replayed.whole_history(), timeline)
    if state.excluded:
        return Counter()
    state.settle(timeline, _END)
    return Counter(charge.price for charge in standing_charges(state.transitions))
