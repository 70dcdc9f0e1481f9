"""Number the usage records of one conversation, and choose the charge that each -1 reverses. Pure.

An emission turns transitions into usage records (docs/reference/outcomes.md §4.1 and §4.4). It keeps
the standing charges: the records of +1 that no other record supersedes.
"""

from collections.abc import Callable, Sequence

import msgspec

from pipeline.resolve.machine import net_of
from pipeline.resolve.policy import Policy
from pipeline.resolve.values import Charge, Kind, Transition
from pipeline.usage.record import UsageRecord


class StandingCharge(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A usage record of +1 that no other record supersedes.

    `n` is the record's number in the conversation.
    """

    outcome: str
    n: int
    kind: Kind
    policy: str
    policy_version: int


class Emission(msgspec.Struct):
    """Usage records of one conversation, in the order in which they are emitted."""

    tenant_id: str
    conversation_id: str
    charges: list[StandingCharge]  # the standing ones; `emit` and `correct` change the list
    emitted: int  # how many usage records the conversation has had so far
    records: list[UsageRecord] = []

    def emit(self, transition: Transition) -> None:
        """Emit the usage record of one transition."""
        if transition.delta > 0:
            self._charge(transition)
        else:
            self._reverse(transition)

    def correct(
        self,
        decided: Sequence[Transition],
        charge: Charge | None,
        event_id: str,
        arrival_ms: int,
        policy: Policy,
    ) -> None:
        """Emit corrections until the standing charges match a new decision, one record per unit.

        Reversals come first, then charges; both are ordered by the policy's precedence, then by
        outcome. Every record has the reason `late_event` and the late event as its evidence.

        Args:
            decided: all transitions of the new decision.
            charge: the charge of the new decision, if there is one.
            event_id: the late event.
            arrival_ms: when the late event arrived.
            policy: the version that the conversation follows at the late event's time.
        """
        net = net_of(decided)
        standing: dict[str, int] = {}
        for each in self.charges:
            standing[each.outcome] = standing.get(each.outcome, 0) + 1
        outcomes = sorted({*net, *standing}, key=_precedence(policy))

        evidence = (event_id,)
        for outcome in outcomes:
            for _ in range(standing.get(outcome, 0) - net.get(outcome, 0)):
                kind = self._newest_charge(outcome).kind
                self._reverse(
                    Transition(arrival_ms, outcome, -1, kind, "late_event", evidence, "", 0)
                )
        for outcome in outcomes:
            for _ in range(net.get(outcome, 0) - standing.get(outcome, 0)):
                newest = next(t for t in reversed(decided) if t.outcome == outcome and t.delta > 0)
                kind = newest.kind
                if charge is not None and charge.outcome == outcome:
                    kind = charge.kind
                self._charge(
                    msgspec.structs.replace(
                        newest, at=arrival_ms, kind=kind, reason="late_event", evidence=evidence
                    )
                )

    def _charge(self, transition: Transition) -> None:
        self.emitted += 1
        self.charges.append(
            StandingCharge(
                transition.outcome,
                self.emitted,
                transition.kind,
                transition.policy,
                transition.policy_version,
            )
        )
        self._append(transition, None)

    def _reverse(self, transition: Transition) -> None:
        # Reverse the newest charge of the outcome, under the policy of that charge: the customer
        # gets back the price of the original charge.
        charge = self._newest_charge(transition.outcome)
        self.charges.remove(charge)
        self.emitted += 1
        self._append(
            msgspec.structs.replace(
                transition, policy=charge.policy, policy_version=charge.policy_version
            ),
            self._id(charge.n),
        )

    def _newest_charge(self, outcome: str) -> StandingCharge:
        return next(charge for charge in reversed(self.charges) if charge.outcome == outcome)

    def _append(self, transition: Transition, supersedes: str | None) -> None:
        self.records.append(
            UsageRecord(
                id=self._id(self.emitted),
                tenant_id=self.tenant_id,
                conversation=self.conversation_id,
                outcome=transition.outcome,
                quantity=transition.delta,
                kind=transition.kind,
                reason=transition.reason,
                occurred_at=transition.at,
                policy=transition.policy,
                policy_version=transition.policy_version,
                evidence=transition.evidence,
                supersedes=supersedes,
            )
        )

    def _id(self, n: int) -> str:
        return f"{self.tenant_id}:{self.conversation_id}:{n}"


def _precedence(policy: Policy) -> Callable[[str], tuple[int, str]]:
    return lambda outcome: (policy.rank_of(outcome), outcome)
