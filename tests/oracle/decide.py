"""A second implementation of docs/reference/outcomes.md §3, independent of `pipeline.resolve`.

It is simple and slow: it decides every history from the start. It shares the data types (`Event`,
`Policy`) with the package, and no rule.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from pipeline.events.model import Event
from pipeline.resolve.policy import Policy


class PolicyAt(Protocol):
    """Which policy version is in force at a time."""

    def at(self, ms: int, /) -> Policy: ...


class Step(NamedTuple):
    """A transition: one unit charged or reversed."""

    at: int
    outcome: str
    delta: int
    kind: str
    reason: str
    evidence: tuple[str, ...]
    policy: tuple[str, int]


class Outcome(NamedTuple):
    excluded: bool
    steps: list[Step]
    kind: str | None  # of the standing charge
    counted: str | None  # the outcome of the standing charge


def in_order(history: Iterable[Event]) -> list[Event]:
    return sorted(history, key=lambda e: (e.at, e.sequence, e.rank, e.source, e.id))


def decide(
    history: Iterable[Event], timeline: PolicyAt, as_of: int, *, with_grace: bool = False
) -> Outcome:
    """Decide a history from the start.

    Silence counts up to `as_of`, or, `with_grace`, up to `as_of` minus the policy's grace period.
    """
    events = in_order(history)
    fold = Fold(timeline)
    for event in events:
        fold.silence_until(event.at)
        if not fold.ended:
            fold.take(event)
    standing = timeline.at(fold.standing["at"]) if fold.standing else None
    fold.silence_until(as_of - (standing.grace if with_grace and standing else 0))
    charge = fold.charge
    return Outcome(
        any(not event.is_live for event in events),
        fold.steps,
        charge["kind"] if charge else None,
        charge["outcome"] if charge else None,
    )


def net(steps: Iterable[Step]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for step in steps:
        sums[step.outcome] = sums.get(step.outcome, 0) + step.delta
    return {outcome: units for outcome, units in sums.items() if units != 0}


class Fold:
    """The state of a conversation up to an event."""

    def __init__(self, timeline: PolicyAt) -> None:
        self.timeline = timeline
        self.asked = False
        self.human_requested = False
        self.ended = ""
        self.standing: dict[str, Any] | None = None
        self.charge: dict[str, Any] | None = None
        self.messages: list[int] = []  # times of messages of the conversation or segment
        self.also_named: dict[str | None, list[str]] = {}
        self.steps: list[Step] = []

    def policy(self, at: int) -> Policy:
        """Return the version in force at the standing answer's time, or at `at` if there is none."""
        return self.timeline.at(self.standing["at"] if self.standing else at)

    # --- silence --------------------------------------------------------------------------------

    def silence_until(self, until: int) -> None:
        due = self.due()
        if due is None or due > until:
            return
        standing = self.standing
        assert standing is not None
        policy = self.timeline.at(standing["at"])
        self.steps.append(
            Step(
                due,
                "resolution",
                1,
                "assumed",
                "silence",
                (standing["id"],),
                (policy.name, policy.version),
            )
        )
        self.charge = {
            "outcome": "resolution",
            "kind": "assumed",
            "at": due,
            "answer": standing["id"],
        }

    def due(self) -> int | None:
        standing = self.standing
        if standing is None or self.charge or self.ended or self.human_requested:
            return None
        policy = self.timeline.at(standing["at"])
        if policy.silence == "never":
            return None
        if policy.silence == "if_verified" and not standing["verified"]:
            return None
        if policy.window_anchor == "last_answer":
            anchor = standing["at"]
        elif policy.window_anchor == "last_message":
            anchor = max([standing["at"], *(at for at in self.messages if at >= standing["at"])])
        else:
            anchor = min(self.messages, default=standing["at"])
        window = policy.window.get(standing["channel"], policy.window["default"])
        moments = [anchor + window, standing["known_at"]]
        if policy.silence == "if_verified":
            moments.append(standing["verified_at"])
        return int(max(moments))

    # --- charge and return ----------------------------------------------------------------------

    def charge_outcome(
        self, policy: Policy, outcome: str, kind: str, event: Event, reason: str
    ) -> None:
        if self.human_requested or self.ended:
            return

        def rank(name: str) -> int:
            return ([*policy.precedence, name]).index(name)

        if self.charge is not None:
            if rank(self.charge["outcome"]) <= rank(outcome):
                return
            self.reverse(policy, event, "superseded")
        answer = self.standing["id"] if self.standing else None
        evidence = (answer, event.id) if answer else (event.id,)
        self.steps.append(
            Step(event.at, outcome, 1, kind, reason, evidence, (policy.name, policy.version))
        )
        self.charge = {"outcome": outcome, "kind": kind, "at": event.at, "answer": answer}

    def comes_back(self, policy: Policy, event: Event, reason: str) -> None:
        self.standing = None
        charge = self.charge
        if charge is None or charge["outcome"] not in policy.reversible:
            return
        horizon = policy.reversal_horizon
        if horizon is None or event.at - charge["at"] <= horizon:
            self.reverse(policy, event, reason)
        elif policy.unit == "segment":
            self.charge = None
            self.human_requested = False
            self.messages = []

    def reverse(self, policy: Policy, event: Event, reason: str) -> None:
        charge = self.charge
        assert charge is not None
        named = (policy.name, policy.version)
        self.steps.append(
            Step(event.at, charge["outcome"], -1, charge["kind"], reason, (event.id,), named)
        )
        self.charge = None

    # --- the table ------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        policy = self.policy(event.at)
        kind = event.type.removeprefix("conversation.")
        handler = getattr(self, f"on_{kind}", None)
        if handler is not None:
            handler(policy, event)
        spoken = kind in {"customer_message", "ai_message"} or (
            kind == "human_message" and not event.internal
        )
        if spoken:
            self.messages.append(event.at)

    def on_customer_message(self, policy: Policy, event: Event) -> None:
        self.customer_says(policy, event, event.intent or "unknown")

    def customer_says(self, policy: Policy, event: Event, intent: str) -> None:
        self.asked = True
        if intent == "unknown":
            intent = policy.unknown_intent
        if intent == "confirmation":
            self.confirms(policy, event)
        elif intent == "help_request":
            self.comes_back(policy, event, "customer_returned")
        elif intent == "negative_feedback":
            self.comes_back(policy, event, "negative_feedback")
        elif intent == "human_request":
            self.comes_back(policy, event, "human_requested")
            if policy.human_request_sticky:
                self.human_requested = True

    def confirms(self, policy: Policy, event: Event) -> None:
        if self.charge is not None:
            if self.charge["kind"] == "assumed":
                self.charge["kind"] = "confirmed"
        elif self.standing is not None:
            self.charge_outcome(policy, "resolution", "confirmed", event, "confirmed")

    def on_ai_message(self, policy: Policy, event: Event) -> None:
        if self.charge is not None:
            return
        if event.kind in {"answer", "custom_answer"}:
            if not self.asked or self.human_requested:
                return
            self.standing = None
            if event.billable:
                self.standing = {
                    "id": event.id,
                    "at": event.at,
                    "known_at": event.at,
                    "channel": event.channel,
                    "verified": False,
                    "verified_at": 0,
                }
        elif event.kind == "clarifying_question":
            self.standing = None

    def on_human_message(self, policy: Policy, event: Event) -> None:
        if event.internal or self.charge is not None:
            return
        if policy.human_reply in {"clears_answer", "voids_conversation"}:
            self.standing = None
        if policy.human_reply == "voids_conversation":
            self.human_requested = True

    def on_handoff(self, policy: Policy, event: Event) -> None:
        if event.cause in policy.handoff_causes_billed:
            self.charge_outcome(policy, "procedure_handoff", "handoff", event, str(event.cause))
            self.standing = None
        elif event.cause == "customer_request":
            self.customer_says(policy, event, "human_request")
        else:
            self.standing = None

    def on_outcome_reported(self, policy: Policy, event: Event) -> None:
        if event.outcome in policy.outcomes_billed:
            self.charge_outcome(policy, event.outcome, "reported", event, "reported")

    def on_rating(self, policy: Policy, event: Event) -> None:
        if not event.rates_ai:
            return
        below = policy.csat_reverses_below
        confirms_from = policy.csat_confirms_from
        if below is not None and event.score < below:
            self.comes_back(policy, event, "low_rating")
        elif confirms_from is not None and event.score >= confirms_from:
            self.confirms(policy, event)
        if event.intent is not None:
            # One policy applies to the whole event, also if the score changed the state.
            self.customer_says(policy, event, event.intent)

    def on_verdict(self, policy: Policy, event: Event) -> None:
        if self.standing is not None:
            self.standing["verified"] = event.verified
            self.standing["verified_at"] = event.at

    def on_undelivered(self, policy: Policy, event: Event) -> None:
        if self.standing is not None and event.message_id in self.named(self.standing["id"]):
            self.standing = None
        charge = self.charge
        if (
            charge
            and charge["kind"] == "assumed"
            and event.message_id in self.named(charge["answer"])
        ):
            self.reverse(policy, event, "undelivered")

    def named(self, answer: str | None) -> list[str | None]:
        """Return the ids that mean an answer: its own, and the one that a merge gave for it."""
        return [answer, *self.also_named.get(answer, [])]

    def on_merged(self, policy: Policy, event: Event) -> None:
        if event.secondary:
            if self.charge is not None:
                self.reverse(policy, event, "merged")
            self.ended = "merged"
            return
        at = event.last_answer_at
        if at is None:
            return
        self.asked = True
        if self.charge is not None or self.human_requested:
            return
        if self.standing is None or self.standing["at"] <= at:
            if event.message_id:
                self.also_named[event.id] = [event.message_id]
            self.standing = {
                "id": event.id,
                "at": at,
                "known_at": event.at,
                "channel": event.channel,
                "verified": False,
                "verified_at": 0,
            }

    def on_spam_flagged(self, policy: Policy, event: Event) -> None:
        if self.charge is not None and event.at - self.charge["at"] <= policy.spam_grace:
            self.reverse(policy, event, "spam")
        self.ended = "spam"
