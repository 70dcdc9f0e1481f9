"""Decide what to charge for a conversation, by the rules of docs/reference/outcomes.md §3. Pure.

`decide` is the definition: it sorts a whole history and decides it from the first event. `Fold` is
the small state that `decide` runs on; a worker keeps a `Fold` and applies one event at a time.
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
from pipeline.resolve.values import (
    Charge,
    Kind,
    StandingAnswer,
    Transition,
    ids_of_merged,
    is_named,
)

RESOLUTION = "resolution"
PROCEDURE_HANDOFF = "procedure_handoff"


class Fold(msgspec.Struct, array_like=True, gc=False):
    """The decision state of a conversation up to its newest event (§3.2).

    Apply events in the order of their times, and call `settle` before each `apply`.
    """

    asked: bool = False
    human_requested: bool = False
    excluded: bool = False
    ended: Literal["", "spam", "merged"] = ""
    first_message_at: int | None = None
    last_message_at: int | None = None
    standing: StandingAnswer | None = None
    charge: Charge | None = None
    transitions: list[Transition] = []

    # --- silence --------------------------------------------------------------------------------

    def due_event_ms(self, timeline: Timeline) -> int | None:
        """Return the event time at which silence charges the standing answer, or None (§3.3)."""
        standing = self.standing
        if standing is None or self.charge is not None or self.ended or self.human_requested:
            return None
        policy = timeline.at(standing.at)
        if policy.silence == "never":
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

    def grace_ms(self, timeline: Timeline) -> int:
        """Return how long after `due_event_ms` a worker waits for events that arrive late."""
        assert self.standing is not None
        return timeline.at(self.standing.at).grace

    def settle(self, timeline: Timeline, until: int) -> None:
        """Charge the standing answer if its silence is complete by the event time `until`."""
        if self.standing is None or self.charge is not None:
            return
        due = self.due_event_ms(timeline)
        if due is not None and due <= until:
            self.transitions.append(self.silence_transition(timeline, due))
            self.charge = Charge(RESOLUTION, "assumed", due, self.standing.id)

    def silence_transition(self, timeline: Timeline, due_event_ms: int) -> Transition:
        """Return the transition for silence that is complete at this time."""
        standing = self.standing
        assert standing is not None
        policy = timeline.at(standing.at)
        return Transition(
            due_event_ms,
            RESOLUTION,
            1,
            "assumed",
            "silence",
            (standing.event_id,),
            policy.name,
            policy.version,
        )

    def drop_transitions(self) -> None:
        """Drop the transitions that no later decision needs.

        Of each outcome, keep as many of the newest +1 as the net has units, without their evidence.
        The net and every later decision stay the same.
        """
        units = {} if self.excluded else net_of(self.transitions)
        kept: list[Transition] = []
        for transition in reversed(self.transitions):
            if transition.delta > 0 and units.get(transition.outcome, 0) > 0:
                units[transition.outcome] -= 1
                kept.append(msgspec.structs.replace(transition, evidence=()))
        self.transitions = kept[::-1]

    # --- events ---------------------------------------------------------------------------------

    def policy_for(self, timeline: Timeline, at: int) -> Policy:
        """Return the policy version that applies to the conversation at an event's time (§2.3)."""
        return timeline.at(at if self.standing is None else self.standing.at)

    def apply(self, timeline: Timeline, event: Event) -> None:
        """Apply one event by the table of §3.6."""
        if not event.is_live:
            self.excluded = True
        if self.ended:
            return
        rank, standing = event.rank, self.standing
        # This is `policy_for`, inlined because it runs for each event.
        policy = timeline.single
        if policy is None:
            policy = timeline.at(event.at if standing is None else standing.at)
        if rank == CUSTOMER_MESSAGE:
            self._customer_says(policy, event, event.intent or "unknown")
            self._message(event.at)
        elif rank == AI_MESSAGE:
            self._ai_answers(event)
            self._message(event.at)
        elif rank == HUMAN_MESSAGE:
            if not event.internal:
                self._human_replies(policy)
                self._message(event.at)
        elif rank == HANDOFF:
            self._handed_off(policy, event)
        elif rank == OUTCOME_REPORTED:
            if event.outcome in policy.outcomes_billed:
                self._count_outcome(policy, event.outcome, "reported", event, "reported")
        elif rank == RATING:
            if event.rates_ai:
                self._rated(policy, event)
        elif rank == VERDICT:
            if standing is not None:
                standing.verified = event.verified
                standing.verified_at = event.at
        elif rank == UNDELIVERED:
            self._undelivered(policy, event)
        elif rank == MERGED:
            self._merged(policy, event)
        elif rank == SPAM_FLAGGED:
            self._flagged_as_spam(policy, event)

    def _message(self, at: int) -> None:
        self.last_message_at = at
        if self.first_message_at is None:
            self.first_message_at = at

    def _customer_says(self, policy: Policy, event: Event, intent: str) -> None:
        self.asked = True
        if intent == "unknown":
            intent = policy.unknown_intent
        if intent == "confirmation":
            self._confirm(policy, event)
        elif intent == "help_request":
            self._return(policy, event, "customer_returned")
        elif intent == "negative_feedback":
            self._return(policy, event, "negative_feedback")
        elif intent == "human_request":
            self._return(policy, event, "human_requested")
            if policy.human_request_sticky:
                self.human_requested = True

    def _ai_answers(self, event: Event) -> None:
        if event.kind in {"answer", "custom_answer"}:
            if self.charge is None and self.asked and not self.human_requested:
                self.standing = (
                    StandingAnswer(event.id, event.at, event.at, event.channel)
                    if event.billable
                    else None
                )
        elif event.kind == "clarifying_question" and self.charge is None:
            self.standing = None

    def _human_replies(self, policy: Policy) -> None:
        if self.charge is None and policy.human_reply != "ignore":
            self.standing = None
            if policy.human_reply == "voids_conversation":
                self.human_requested = True

    def _handed_off(self, policy: Policy, event: Event) -> None:
        if event.cause in policy.handoff_causes_billed:
            self._count_outcome(policy, PROCEDURE_HANDOFF, "handoff", event, str(event.cause))
            self.standing = None
        elif event.cause == "customer_request":
            self._customer_says(policy, event, "human_request")
        else:
            self.standing = None

    def _confirm(self, policy: Policy, event: Event) -> None:
        charge = self.charge
        if charge is None:
            if self.standing is not None:
                self._count_outcome(policy, RESOLUTION, "confirmed", event, "confirmed")
        elif charge.kind == "assumed":
            charge.kind = "confirmed"

    def _rated(self, policy: Policy, event: Event) -> None:
        below, confirms = policy.csat_reverses_below, policy.csat_confirms_from
        if below is not None and event.score < below:
            self._return(policy, event, "low_rating")
        elif confirms is not None and event.score >= confirms:
            self._confirm(policy, event)
        if event.intent is not None:
            self._customer_says(policy, event, event.intent)

    def _undelivered(self, policy: Policy, event: Event) -> None:
        standing, charge = self.standing, self.charge
        if standing is not None and is_named(standing.id, event.message_id):
            self.standing = None
        is_assumed = charge is not None and charge.kind == "assumed"
        if charge is not None and is_assumed and is_named(charge.answer, event.message_id):
            self._take_back(policy, event, "undelivered")

    def _merged(self, policy: Policy, event: Event) -> None:
        if event.secondary:
            if self.charge is not None:
                self._take_back(policy, event, "merged")
            self.ended = "merged"
        elif event.last_answer_at is not None:
            self.asked = True
            answered = event.last_answer_at
            newer = self.standing is not None and self.standing.at > answered
            if self.charge is None and not self.human_requested and not newer:
                ids = ids_of_merged(event.id, event.message_id)
                self.standing = StandingAnswer(ids, answered, event.at, event.channel)

    def _flagged_as_spam(self, policy: Policy, event: Event) -> None:
        charge = self.charge
        if charge is not None and event.at - charge.at <= policy.spam_grace:
            self._take_back(policy, event, "spam")
        self.ended = "spam"

    # --- charges and reversals --------------------------------------------------------------------

    def _count_outcome(
        self, policy: Policy, outcome: str, kind: Kind, event: Event, reason: str
    ) -> None:
        if self.human_requested or self.ended:
            return
        if self.charge is not None:
            if policy.rank_of(outcome) >= policy.rank_of(self.charge.outcome):
                return
            self._take_back(policy, event, "superseded")
        answer = None if self.standing is None else self.standing.id
        standing = self.standing
        evidence = (event.id,) if standing is None else (standing.event_id, event.id)
        self.transitions.append(
            Transition(event.at, outcome, 1, kind, reason, evidence, policy.name, policy.version)
        )
        self.charge = Charge(outcome, kind, event.at, answer)

    def _return(self, policy: Policy, event: Event, reason: str) -> None:
        self.standing = None
        charge = self.charge
        if charge is None or charge.outcome not in policy.reversible:
            return
        horizon = policy.reversal_horizon
        if horizon is None or event.at - charge.at <= horizon:
            self._take_back(policy, event, reason)
        elif policy.unit == "segment":
            self.charge = None
            self.human_requested = False
            self.first_message_at = None

    def _take_back(self, policy: Policy, event: Event, reason: str) -> None:
        charge = self.charge
        assert charge is not None
        self.transitions.append(
            Transition(
                event.at,
                charge.outcome,
                -1,
                charge.kind,
                reason,
                (event.id,),
                policy.name,
                policy.version,
            )
        )
        self.charge = None


class Decision(msgspec.Struct, frozen=True):
    """The decision over a history.

    If the conversation is excluded, the other members are what the decision would have been (§3.8).
    """

    excluded: bool
    net: dict[str, int]  # without zeros
    kind: Kind | None
    transitions: tuple[Transition, ...]


def fold_history(history: Iterable[Event], timeline: Timeline, state: Fold | None = None) -> Fold:
    """Apply a history to a state, in the order of the events' times, and return the state.

    Args:
        history: the events in any order; each source and id occurs once.
        timeline: the versions of the tenant's policy.
        state: the state to start from, which is changed; None: a new one. Every event must be newer
            than all events that were applied to this state.
    """
    if state is None:
        state = Fold()
    for event in sorted(history, key=lambda event: event.order):
        state.settle(timeline, event.at)
        state.apply(timeline, event)
    return state


def decide(history: Iterable[Event], timeline: Timeline, as_of: int) -> Decision:
    """Decide a conversation: the definition (§3).

    Args:
        history: the events in any order; each source and id occurs once.
        timeline: the versions of the tenant's policy.
        as_of: the event time up to which silence counts, in milliseconds.
    """
    state = fold_history(history, timeline)
    state.settle(timeline, as_of)
    return Decision(
        state.excluded,
        net_of(state.transitions),
        state.charge.kind if state.charge is not None else None,
        tuple(state.transitions),
    )


def net_of(transitions: Iterable[Transition]) -> dict[str, int]:
    """Add up the units of each outcome, and leave out the zeros."""
    net: dict[str, int] = {}
    for transition in transitions:
        net[transition.outcome] = net.get(transition.outcome, 0) + transition.delta
    return {outcome: units for outcome, units in net.items() if units}
