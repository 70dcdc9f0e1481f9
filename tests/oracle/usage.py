"""A second implementation of docs/reference/outcomes.md §4, independent of `pipeline.usage`.

It is simple and slow: it decides the whole history again at every arrival.
"""

from pipeline.events.model import Event
from pipeline.resolve.policy import Policy
from pipeline.usage.record import UsageRecord
from tests.oracle.decide import Fold, PolicyAt, Step, decide, in_order, net

Record = tuple[
    str,  # id
    str,  # outcome
    int,  # quantity
    str,  # kind
    str,  # reason
    int,  # occurred_at
    tuple[str, int],  # policy
    tuple[str, ...],  # evidence
    str | None,  # supersedes
]


Place = tuple[int, str, int]  # time, sequence, rank


class Oracle:
    """One conversation: its history, and the usage records that were emitted for it.

    The oracle never drops an event, and always decides from the first event. Sealing only makes it
    reject older events.
    """

    def __init__(
        self, timeline: PolicyAt, prefix: str = "acme:c1", seal_after: int = 2**62
    ) -> None:
        self._timeline = timeline
        self._prefix = prefix
        self._seal_after = seal_after
        self._history: list[Event] = []
        self._known: set[tuple[str, str]] = set()  # since the last seal
        self._closed: Place | None = None  # every new event up to here is too late
        self._newest: int | None = None  # newest timestamp of an accepted record, ms
        self._arrival = 0
        self._accounted: list[Step] = []
        self.records: list[Record] = []
        self.too_late: list[Event] = []

    @property
    def held(self) -> int:
        """The number of events in the current history."""
        return len(self._known)

    def receive(self, event: Event, arrival: int) -> None:
        """Receive a record: first settle silence, then decide with the event."""
        known, closed = self._known, self._closed
        if self._newest is not None and arrival - self._newest >= self._seal_after:
            known, closed = set(), max(_place(past) for past in self._history)
        key = (event.source, event.id)
        if key not in known and closed is not None and _place(event) <= closed:
            self.too_late.append(event)
            return
        self._known, self._closed = known, closed
        self._newest = arrival if self._newest is None else max(arrival, self._newest)
        self.tick(arrival)
        if key not in known:
            known.add(key)
            self._history.append(event)
            self._decide_again(event)

    def tick(self, clock: int) -> None:
        """Advance arrival time."""
        self._arrival = max(self._arrival, clock)
        self._decide_again(None)

    def _decide_again(self, event: Event | None) -> None:
        outcome = decide(self._history, self._timeline, self._arrival, with_grace=True)
        steps = [] if outcome.excluded else outcome.steps
        known = len(self._accounted)
        if [_same(s) for s in self._accounted] == [_same(s) for s in steps[:known]]:
            for step in steps[known:]:
                self._emit(
                    step.outcome,
                    step.delta,
                    step.kind,
                    step.reason,
                    step.at,
                    step.policy,
                    step.evidence,
                )
        else:
            assert event is not None, "silence alone does not change the past"
            self._correct(steps, event, outcome.kind, outcome.counted)
        self._accounted = steps

    def _correct(
        self, steps: list[Step], event: Event, kind: str | None, count: str | None
    ) -> None:
        wanted, have = net(steps), self._net()
        # The policy version of the standing answer, or the version in force at the late event.
        policy = self._policy(event)

        def order(outcome: str) -> tuple[int, str]:
            precedence = list(policy.precedence)
            place = precedence.index(outcome) if outcome in precedence else len(precedence)
            return (place, outcome)

        names = sorted({*wanted, *have}, key=order)
        evidence = (event.id,)
        for name in names:
            for _ in range(have.get(name, 0) - wanted.get(name, 0)):
                self._emit(name, -1, None, "late_event", self._arrival, ("", 0), evidence)
        for name in names:
            for _ in range(wanted.get(name, 0) - have.get(name, 0)):
                newest = [s for s in steps if s.outcome == name and s.delta > 0][-1]
                current = kind if count == name and kind else newest.kind
                self._emit(name, 1, current, "late_event", self._arrival, newest.policy, evidence)

    def _policy(self, event: Event) -> Policy:
        fold = Fold(self._timeline)
        for known in in_order(self._history):
            fold.silence_until(known.at)
            if not fold.ended:
                fold.take(known)
        return fold.policy(event.at)

    def _net(self) -> dict[str, int]:
        sums: dict[str, int] = {}
        for record in self.records:
            sums[record[1]] = sums.get(record[1], 0) + record[2]
        return {name: units for name, units in sums.items() if units}

    def _emit(
        self,
        outcome: str,
        quantity: int,
        kind: str | None,
        reason: str,
        at: int,
        policy: tuple[str, int],
        evidence: tuple[str, ...],
    ) -> None:
        supersedes = None
        if quantity < 0:
            taken = {record[8] for record in self.records}
            newest = [
                r for r in self.records if r[1] == outcome and r[2] > 0 and r[0] not in taken
            ][-1]
            supersedes, policy = newest[0], newest[6]
            kind = kind or newest[3]
        assert kind is not None
        record_id = f"{self._prefix}:{len(self.records) + 1}"
        self.records.append(
            (record_id, outcome, quantity, kind, reason, at, policy, evidence, supersedes)
        )


def as_record(record: UsageRecord) -> Record:
    """Return the package's record in the oracle's form."""
    return (
        record.id,
        record.outcome,
        record.quantity,
        record.kind,
        record.reason,
        record.occurred_at,
        (record.policy, record.policy_version),
        record.evidence,
        record.supersedes,
    )


def _place(event: Event) -> Place:
    return (event.at, event.sequence, event.rank)


def _same(step: Step) -> tuple[int, str, int, str]:
    return (step.at, step.outcome, step.delta, step.reason)
