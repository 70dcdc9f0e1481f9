"""Find the states whose due times come from rules that are no longer in force. Pure.

What has been in force does not change in a catalog. But a catalog may begin with other files than those
that workers used before, or be another catalog. The conversations whose windows are open were then
decided by rules that it does not have, and a timer would settle them by other rules than those of
their answers. So each state stores the rules of its due time, and a worker compares them with the
catalog before it starts.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pipeline.resolve.policy import Timeline
from pipeline.stream.state import decode_state, due_arrival_ms_of, rules_in


class Misfit(NamedTuple):
    """Conversations of a tenant that were decided by rules other than those in force.

    `decided_by` and `in_force` are ids of rules (`pipeline.resolve.policy.rules_id`), or empty.
    """

    tenant_id: str
    decided_by: str
    in_force: str


def misfits_in(
    partitions: Iterable[Mapping[bytes, bytes]], timeline_for: Callable[[str], Timeline]
) -> Counter[Misfit]:
    """Count the states that do not fit the policies, by tenant and rules.

    `partitions` are the stored states of each partition, by key.
    """
    timelines: dict[bytes, Timeline] = {}
    misfits: Counter[Misfit] = Counter()
    for states in partitions:
        for key, stored in states.items():
            rules = rules_in(stored)
            due_ms = due_arrival_ms_of(stored)
            if not rules and due_ms is None:
                continue  # nothing is due, and no silence was settled
            tenant = key.partition(b":")[0]
            timeline = timelines.get(tenant)
            if timeline is None:
                timeline = timelines[tenant] = timeline_for(tenant.decode())
            if rules and timeline.is_single(rules):
                continue  # the usual case: nothing is decoded
            conversation = decode_state(stored)
            in_force = conversation.rules(timeline)
            # An earlier version of resmeter stored no rules: compare the due time instead.
            fits = rules == in_force if rules else due_ms == conversation.due_now(timeline)
            if not fits:
                misfits[Misfit(tenant.decode(), rules.decode(), in_force.decode())] += 1
    return misfits


def sentences_of(misfits: Mapping[Misfit, int]) -> list[str]:
    """Return what does not fit and what to do, one text for each tenant and pair of rules."""
    sentences = []
    for misfit, number in sorted(misfits.items()):
        conversations = "1 conversation is" if number == 1 else f"{number:,} conversations are"
        sentences.append(
            f"tenant {misfit.tenant_id}: {conversations} decided by {_named(misfit.decided_by)}, but the "
            f"catalog has {_named(misfit.in_force)} for the time of their answers. It began with other "
            "files than those that the workers used. Begin it again with the rules that were in force: "
            "delete its topic, run `resmeter topics create` with those files, and publish the new rules "
            "with `resmeter catalog apply`"
        )
    return sentences


def _named(rules: str) -> str:
    if not rules:
        return "other rules"
    name, version, checksum = rules.rsplit(":", 2)
    return f"{name} version {version} (rules {checksum})"
