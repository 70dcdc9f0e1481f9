"""Find the states that rest on policy rules which are no longer in force. Pure.

A tenant moves to another policy, a version is deployed after the date on which it takes effect, a
policy file is changed under the same version: then the conversations whose windows are open were
decided by rules that the files no longer have. A timer would settle them by rules that their answers
never had. So each state stores which rules its due time rests on, and a worker compares them with the
policies in force before it goes on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pipeline.resolve.policy import Timeline
from pipeline.stream.state import decode_state, due_arrival_ms_of, rules_in


class Misfit(NamedTuple):
    """Conversations of a tenant that were decided by rules other than those in force.

    Both are ids (`pipeline.resolve.policy.rules_id`), empty if none is known.
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
                continue  # nothing is due, and no silence is settled
            tenant = key.partition(b":")[0]
            timeline = timelines.get(tenant)
            if timeline is None:
                timeline = timelines[tenant] = timeline_for(tenant.decode())
            if rules and timeline.is_single(rules):
                continue  # the usual case: nothing is decoded
            conversation = decode_state(stored)
            in_force = conversation.rules(timeline)
            # An earlier version of resmeter stored no rules. Its due time must be what it is now.
            fits = rules == in_force if rules else due_ms == conversation.due_now(timeline)
            if not fits:
                misfits[Misfit(tenant.decode(), rules.decode(), in_force.decode())] += 1
    return misfits


def sentences_of(misfits: Mapping[Misfit, int]) -> list[str]:
    """Return a sentence for each tenant and pair of rules: what does not fit, and what to do."""
    sentences = []
    for misfit, number in sorted(misfits.items()):
        conversations = "1 conversation is" if number == 1 else f"{number:,} conversations are"
        sentences.append(
            f"tenant {misfit.tenant_id}: {conversations} decided by {_named(misfit.decided_by)}, but the "
            f"files now have {_named(misfit.in_force)} for the time of their answers. What was in force "
            "must stay in the files. Put it back, and let the new rules begin at a later date: a version "
            "with `effective_from`, or a policy of the tenant with `from`"
        )
    return sentences


def _named(rules: str) -> str:
    if not rules:
        return "other rules"
    name, version, checksum = rules.rsplit(":", 2)
    return f"{name} version {version} (rules {checksum})"
