"""A rebill plan under another policy brings the ledger to what the oracle decides by it, and no further."""

from collections import Counter
from typing import NamedTuple

import msgspec
from hypothesis import event, given
from hypothesis import strategies as st

from pipeline.replay.comparison import compare
from pipeline.replay.corrections import Corrections, find_corrections
from pipeline.replay.owed import owes_otherwise
from pipeline.replay.partition import PartitionReplay
from pipeline.resolve.policy import Policy, Timeline
from pipeline.usage.record import UsageRecord
from tests.oracle.decide import PolicyAt, decide
from tests.oracle.strategies import END, GRACE, T0, TIMELINES, WINDOW
from tests.properties.test_audit import LOGS, _written
from tests.properties.test_partition import Log
from tests.properties.test_plan import MADE_AT, _histories, _records

Prices = dict[str, Counter[tuple[str, str, int]]]
TIMES = st.sampled_from([T0, T0 + GRACE, T0 + WINDOW, T0 + WINDOW + 1, T0 + 3 * WINDOW, END])


class Amended(NamedTuple):
    """What is in force at a time, read naively."""

    before: PolicyAt
    policy: Policy
    from_ms: int
    to_ms: int

    def at(self, ms: int, /) -> Policy:
        return self.policy if self.from_ms <= ms < self.to_ms else self.before.at(ms)


class Case(NamedTuple):
    log: Log
    amended: Amended

    @property
    def owed(self) -> Timeline:
        return self.log.timeline.amended(*self.amended[1:])

    def replay(self, committed: int | None = None) -> PartitionReplay:
        replay = PartitionReplay(
            len(self.log.records) if committed is None else committed,
            lambda _: self.log.timeline,
            seal_after_ms=self.log.seal_after,
            owed_timeline_for=lambda _: self.owed,
        )
        for record in self.log.records:
            replay.take(record.offset, record.timestamp, record.key, record.value, record.headers)
        return replay

    def plan(self, ledger: list[UsageRecord], committed: int | None = None) -> Corrections:
        """Make the plan that changes the timeline of the log to the amended one."""
        return find_corrections(
            self.replay(committed),
            ledger,
            {record.id for record in ledger},
            ("events", 0),
            MADE_AT,
            lambda replayed: owes_otherwise(replayed, self.log.timeline, self.owed),
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    log = draw(LOGS)
    times = sorted(draw(st.lists(TIMES, min_size=2, max_size=2, unique=True)))
    policy = draw(st.sampled_from(TIMELINES)).versions[0]
    candidate = msgspec.structs.replace(policy, name="candidate", effective_from=draw(TIMES))
    return Case(log, Amended(log.timeline, candidate, *times))


def _decided(log: Log, timeline: PolicyAt) -> Prices:
    """Return the units by price that the oracle decides for each conversation."""
    decided: Prices = {}
    for place, events in _histories(log).items():
        outcome = decide(events, timeline, MADE_AT)
        standing: list[tuple[str, str, int]] = []
        for step in [] if outcome.excluded else outcome.steps:
            if step.delta > 0:
                standing.append((step.outcome, *step.policy))
            else:
                newest = max(n for n, of in enumerate(standing) if of[0] == step.outcome)
                del standing[newest]
        decided[place] = Counter(standing)
    return decided


def _billed(records: list[UsageRecord]) -> Prices:
    by_id = {record.id: record for record in records}
    units: Prices = {}
    for record in records:
        charge = by_id[record.supersedes] if record.supersedes else record
        price = (charge.outcome, charge.policy, charge.policy_version)
        place = f"{record.tenant_id}:{record.conversation}"
        units.setdefault(place, Counter())[price] += record.quantity
    return {
        place: Counter({price: n for price, n in sums.items() if n})
        for place, sums in units.items()
    }


@given(cases())
def test_plan_brings_what_owes_otherwise_to_the_oracles_decision_and_leaves_the_rest(
    case: Case,
) -> None:
    ledger = _written(case.log, len(case.log.records))
    before = _decided(case.log, case.log.timeline)
    wanted = _decided(case.log, case.amended)
    otherwise = {place for place in wanted if wanted[place] != before[place]}
    event(f"{min(len(otherwise), 2)} conversations owe something else")

    records = _records(case.plan(ledger).conversations)

    assert {f"{r.tenant_id}:{r.conversation}" for r in records} <= otherwise
    billed, untouched = _billed(ledger + records), _billed(ledger)
    for place in wanted:
        expected = wanted[place] if place in otherwise else untouched.get(place, Counter())
        assert billed.get(place, Counter()) == expected


@given(cases())
def test_once_it_is_applied_neither_a_plan_nor_an_audit_finds_what_to_put_right(
    case: Case,
) -> None:
    ledger = _written(case.log, len(case.log.records))
    after = ledger + _records(case.plan(ledger).conversations)

    plain = find_corrections(
        case.replay(), after, {r.id for r in ledger}, ("events", 0), MADE_AT
    ).conversations
    findings = compare(case.replay(), after, frozenset(), MADE_AT).findings

    assert case.plan(after).conversations == []
    late = {r.place for r in case.replay().conversations() if r.late or r.is_judged_as_a_whole}
    assert {(part.tenant_id, part.conversation) for part in plain} <= late
    assert {f.kind for f in findings} <= {"missing", "unexpected", "differs"}
    assert not {(f.tenant_id, f.conversation) for f in findings} - late


@given(cases(), st.data())
def test_plan_leaves_out_a_conversation_that_the_worker_is_not_done_with(
    case: Case, data: st.DataObject
) -> None:
    committed = data.draw(st.integers(0, len(case.log.records)))
    ledger = _written(case.log, committed)

    plan = case.plan(ledger, committed)

    uncommitted = {r.place for r in case.replay(committed).conversations() if not r.is_committed}
    planned = {(part.tenant_id, part.conversation) for part in plan.conversations}
    assert not planned & uncommitted
    if committed < len(case.log.records):
        findings = compare(case.replay(committed), ledger, frozenset(), MADE_AT).findings
        assert not {(f.tenant_id, f.conversation) for f in findings} & uncommitted
