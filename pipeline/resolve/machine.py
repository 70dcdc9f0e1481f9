"""This file holds everything that affects a transition: section 3 of the specification. Pure.

Two forms of one thing. `decide` is the definition: a whole history, sorted, from the start.
`Fold` is the small state it runs on, which a worker keeps and moves on event by event.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from pipeline.events.model import (
    AI_MESSAGE,
    CUSTOMER_MESSAGE,
    HANDOFF,
    HUMAN_MESSAGE,
    MERGED,
    OUTCOME_REPORTED,
    RATING,
    SPAM_FLAGGED,
    UNDELIVERED,
    VERDICT,
    Event,
)
from pipeline.resolve.policy import Policy, Timeline

Kind = Literal["confirmed", "assumed", "handoff", "reported"]
RESOLUTION = "resolution"
PROCEDURE_HANDOFF = "procedure_handoff"


class Transition(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One unit counted (+1) or taken back (-1), and why. `at` in milliseconds."""

    at: int
    outcome: str
    delta: int
    kind: Kind
    reason: str
    evidence: tuple[str, ...]
    policy: str
    policy_version: int

    def same_as(self, other: "Transition") -> bool:
        """Say whether the two are one transition (specification, section 4)."""
        return (
            self.at == other.at
            and self.outcome == other.outcome
            and self.delta == other.delta
            and self.reason == other.reason
        )


class Standing(msgspec.Struct, array_like=True, gc=False):
    """The answer that stands. `known_at`: when the event happened that established it."""

    id: str
    at: int
    known_at: int
    channel: str
    verified: bool = False
    verified_at: int = 0


class Count(msgspec.Struct, array_like=True, gc=False):
    """What is counted now, and the answer that it rests on."""

    outcome: str
    kind: Kind
    at: int
    answer: str | None


class Fold(msgspec.Struct, array_like=True, gc=False):
    """A conversation up to its newest event; `settle` before each `apply`, both in time order."""

    asked: bool = False
    human_requested: bool = False
    excluded: bool = False
    ended: Literal["", "spam", "merged"] = ""
    first_message_at: int | None = None
    last_message_at: int | None = None
    standing: Standing | None = None
    count: Count | None = None
    transitions: list[Transition] = []

    # --- silence --------------------------------------------------------------------------------

    def due(self, timeline: Timeline) -> int | None:
        """Return when silence will have made the standing answer count, or None if it cannot."""
        standing = self.standing
        if standing is None or self.count is not None or self.ended or self.human_requested:
            return None
        policy = timeline.at(standing.at)
        if policy is None or policy.silence == "never":
            return None
        anchor = standing.at
        if policy.window_anchor == "last_message":
            newest = self.last_message_at
            if newest is not None and newest > anchor:
                anchor = newest
        elif policy.window_anchor == "first_message" and self.first_message_at is not None:
            anchor = self.first_message_at
        due = anchor + policy.window_of(standing.channel)
        due = max(due, standing.known_at)
        if policy.silence == "if_verified":
            if not standing.verified:
                return None
            due = max(due, standing.verified_at)
        return due

    def grace(self, timeline: Timeline) -> int:
        """Return how long after `due` a worker must wait with it for events that are late."""
        assert self.standing is not None
        policy = timeline.at(self.standing.at)
        assert policy is not None
        return policy.grace

    def settle(self, timeline: Timeline, until: int) -> None:
        """Count the standing answer if its silence was complete at `until`."""
        if self.standing is None or self.count is not None:
            return
        due = self.due(timeline)
        if due is not None and due <= until:
            self.transitions.append(self.silence(timeline, due))
            self.count = Count(RESOLUTION, "assumed", due, self.standing.id)

    def silence(self, timeline: Timeline, due: int) -> Transition:
        """Return the transition that `settle` makes at `due`, without making it."""
        standing = self.standing
        assert standing is not None
        policy = timeline.at(standing.at)
        assert policy is not None
        return Transition(
            due,
            RESOLUTION,
            1,
            "assumed",
            "silence",
            (standing.id,),
            policy.name,
            policy.version,
        )

    def forget(self) -> None:
        """Keep of the transitions only those that later ones may rest on.

        For each outcome that is the newest +1 for each unit of the net, without its evidence. The
        net and all that is decided from here on stay the same.
        """
        units = {} if self.excluded else net_of(self.transitions)
        kept: list[Transition] = []
        for transition in reversed(self.transitions):
            if transition.delta > 0 and units.get(transition.outcome, 0) > 0:
                units[transition.outcome] -= 1
                kept.append(msgspec.structs.replace(transition, evidence=()))
        self.transitions = kept[::-1]

    # --- events ---------------------------------------------------------------------------------

    def policy_for(self, timeline: Timeline, at: int) -> Policy | None:
        """Return the version that the conversation follows at an event's time (section 2)."""
        return timeline.at(at if self.standing is None else self.standing.at)

    def apply(self, timeline: Timeline, event: Event) -> None:
        """Move on by one event: the table of section 3, row by row."""
        if not event.live:
            self.excluded = True
        if self.ended:
            return
        rank, standing = event.rank, self.standing
        # As `policy_for`, without its calls.
        asked_for = event.at if standing is None else standing.at
        policy = timeline.single
        if policy is None:
            policy = timeline.at(asked_for)
        elif asked_for < timeline.single_from:
            policy = None
        if rank == CUSTOMER_MESSAGE:
            self._customer_says(policy, event, event.intent or "unknown")
            self._message(event.at)
        elif rank == AI_MESSAGE:
            if event.kind in {"answer", "custom_answer"}:
                if self.count is None and self.asked and not self.human_requested:
                    self.standing = (
                        Standing(event.id, event.at, event.at, event.channel)
                        if event.billable
                        else None
                    )
            elif event.kind == "clarifying_question" and self.count is None:
                self.standing = None
            self._message(event.at)
        elif rank == HUMAN_MESSAGE:
            if not event.internal:
                if self.count is None and policy is not None and policy.human_reply != "ignore":
                    self.standing = None
                    if policy.human_reply == "voids_conversation":
                        self.human_requested = True
                self._message(event.at)
        elif rank == HANDOFF:
            if policy is not None and event.cause in policy.handoff_causes_billed:
                self._claim(policy, PROCEDURE_HANDOFF, "handoff", event, str(event.cause))
                self.standing = None
            elif event.cause == "customer_request":
                self._customer_says(policy, event, "human_request")
            else:
                self.standing = None
        elif rank == OUTCOME_REPORTED:
            if policy is not None and event.outcome in policy.outcomes_billed:
                self._claim(policy, event.outcome, "reported", event, "reported")
        elif rank == RATING:
            if event.rates_ai:
                self._rated(policy, event)
        elif rank == VERDICT:
            if self.standing is not None:
                self.standing.verified = event.verified
                self.standing.verified_at = event.at
        elif rank == UNDELIVERED:
            self._undelivered(policy, event)
        elif rank == MERGED:
            self._merged(policy, event)
        elif rank == SPAM_FLAGGED:
            count = self.count
            if (
                count is not None
                and policy is not None
                and event.at - count.at <= policy.spam_grace
            ):
                self._take_back(policy, event, "spam")
            self.ended = "spam"

    def _message(self, at: int) -> None:
        self.last_message_at = at
        if self.first_message_at is None:
            self.first_message_at = at

    def _customer_says(self, policy: Policy | None, event: Event, intent: str) -> None:
        self.asked = True
        if intent == "unknown":
            intent = "help_request" if policy is None else policy.unknown_intent
        if intent == "confirmation":
            self._confirm(policy, event)
        elif intent == "help_request":
            self._return(policy, event, "customer_returned")
        elif intent == "negative_feedback":
            self._return(policy, event, "negative_feedback")
        elif intent == "human_request":
            self._return(policy, event, "human_requested")
            if policy is None or policy.human_request_sticky:
                self.human_requested = True

    def _confirm(self, policy: Policy | None, event: Event) -> None:
        count = self.count
        if count is None:
            if self.standing is not None and policy is not None:
                self._claim(policy, RESOLUTION, "confirmed", event, "confirmed")
        elif count.kind == "assumed":
            count.kind = "confirmed"

    def _rated(self, policy: Policy | None, event: Event) -> None:
        if policy is not None:
            below, confirms = policy.csat_reverses_below, policy.csat_confirms_from
            if below is not None and event.score < below:
                self._return(policy, event, "low_rating")
            elif confirms is not None and event.score >= confirms:
                self._confirm(policy, event)
        if event.intent is not None:
            self._customer_says(policy, event, event.intent)

    def _undelivered(self, policy: Policy | None, event: Event) -> None:
        if self.standing is not None and self.standing.id == event.message_id:
            self.standing = None
        count = self.count
        if count is not None and count.kind == "assumed" and count.answer == event.message_id:
            self._take_back(policy, event, "undelivered")

    def _merged(self, policy: Policy | None, event: Event) -> None:
        if event.secondary:
            if self.count is not None:
                self._take_back(policy, event, "merged")
            self.ended = "merged"
        elif event.last_answer_at is not None:
            self.asked = True
            answered = event.last_answer_at
            newer = self.standing is not None and self.standing.at > answered
            if self.count is None and not self.human_requested and not newer:
                self.standing = Standing(event.id, answered, event.at, event.channel)

    # --- claim and return -----------------------------------------------------------------------

    def _claim(self, policy: Policy, outcome: str, kind: Kind, event: Event, reason: str) -> None:
        if self.human_requested or self.ended:
            return
        if self.count is not None:
            if policy.rank_of(outcome) >= policy.rank_of(self.count.outcome):
                return
            self._take_back(policy, event, "superseded")
        answer = self.standing.id if self.standing is not None else None
        evidence = (event.id,) if answer is None else (answer, event.id)
        self.transitions.append(
            Transition(event.at, outcome, 1, kind, reason, evidence, policy.name, policy.version)
        )
        self.count = Count(outcome, kind, event.at, answer)

    def _return(self, policy: Policy | None, event: Event, reason: str) -> None:
        self.standing = None
        count = self.count
        if count is None or policy is None or count.outcome not in policy.reversible:
            return
        horizon = policy.reversal_horizon
        if horizon is None or event.at - count.at <= horizon:
            self._take_back(policy, event, reason)
        elif policy.unit == "segment":
            self.count = None
            self.human_requested = False
            self.first_message_at = None

    def _take_back(self, policy: Policy | None, event: Event, reason: str) -> None:
        count = self.count
        assert count is not None
        name, version = ("", 0) if policy is None else (policy.name, policy.version)
        self.transitions.append(
            Transition(event.at, count.outcome, -1, count.kind, reason, (event.id,), name, version)
        )
        self.count = None


class Decision(msgspec.Struct, frozen=True):
    """What a history means. Where it is excluded, the rest is what it would have been."""

    excluded: bool
    net: dict[str, int]  # without zeros
    kind: Kind | None
    transitions: tuple[Transition, ...]


def fold(history: Iterable[Event], timeline: Timeline, state: Fold | None = None) -> Fold:
    """Return the fold over a history in any order, one event per identity.

    Where there is a `state` already, the history is newer than all of it, and it is moved on.
    """
    if state is None:
        state = Fold()
    for event in sorted(history, key=lambda event: event.order):
        state.settle(timeline, event.at)
        state.apply(timeline, event)
    return state


def decide(history: Iterable[Event], timeline: Timeline, as_of: int) -> Decision:
    """Decide a conversation: the definition.

    Args:
        history: its events in any order, one per identity.
        timeline: the versions of its tenant's policy.
        as_of: the time up to which silence counts, in milliseconds.
    """
    state = fold(history, timeline)
    state.settle(timeline, as_of)
    return Decision(
        state.excluded,
        net_of(state.transitions),
        state.count.kind if state.count is not None else None,
        tuple(state.transitions),
    )


def net_of(transitions: Iterable[Transition]) -> dict[str, int]:
    """Return the sum per outcome, without zeros, in order of first appearance."""
    net: dict[str, int] = {}
    for transition in transitions:
        net[transition.outcome] = net.get(transition.outcome, 0) + transition.delta
    return {outcome: units for outcome, units in net.items() if units}
