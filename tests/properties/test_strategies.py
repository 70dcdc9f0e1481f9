"""The strategies draw every way to charge a unit and every way to take it back."""

from collections import Counter

from hypothesis import Phase, given, settings

from pipeline.resolve.policy import Timeline
from tests.oracle.decide import decide, net
from tests.oracle.strategies import END, WINDOW, Arrival, arrivals, timelines
from tests.oracle.usage import Oracle

# The rarest case is in one example of two hundred. Although derandomised, the examples can differ
# between runs: Hypothesis also takes constants from the modules that the process has imported.
_ENOUGH = settings(max_examples=1_500, phases=[Phase.generate], database=None, derandomize=True)


def _seen() -> Counter[str]:
    """Return in how many examples each case occurs."""
    seen = Counter[str]()

    @_ENOUGH
    @given(arrivals(), timelines())
    def count_cases(coming: list[Arrival], timeline: Timeline) -> None:
        oracle = Oracle(timeline)
        for at, event in coming:
            if event is None:
                oracle.tick(at)
            else:
                oracle.receive(event, at)
        history = {(e.source, e.id): e for _, e in reversed(coming) if e is not None}
        decision = decide(history.values(), timeline, END)
        seen.update({step.reason for step in decision.steps})
        seen.update({f"{record[4]} {record[2]:+d}" for record in oracle.records})
        seen["examples"] += 1
        seen["with a count"] += bool(decision.steps)
        seen["excluded"] += decision.excluded and bool(decision.steps)
        seen["two segments"] += sum(net(decision.steps).values()) > 1
        seen["three charges"] += [record[2] for record in oracle.records].count(1) > 2
        seen["assumed, then confirmed"] += (
            decision.kind == "confirmed" and decision.steps[-1].kind == "assumed"
        )

    count_cases()
    return seen


def test_every_way_to_charge_and_to_take_back_is_drawn() -> None:
    rare = {
        *("confirmed", "reported", "procedure", "customer_returned", "negative_feedback"),
        *("human_requested", "low_rating", "superseded", "undelivered", "merged", "spam"),
        *("late_event +1", "late_event -1", "excluded", "two segments", "three charges"),
        "assumed, then confirmed",
    }

    seen = _seen()

    assert not {name for name in rare if not seen[name]}
    assert seen["with a count"] > seen["examples"] / 2
    assert seen["silence"] > seen["examples"] / 4


def test_sealing_and_its_effects_are_drawn() -> None:
    seen = Counter[str]()

    @settings(_ENOUGH, max_examples=100)
    @given(arrivals(), timelines())
    def count_cases(coming: list[Arrival], timeline: Timeline) -> None:
        whole, sealed = Oracle(timeline), Oracle(timeline, seal_after=2 * WINDOW)
        for oracle in (whole, sealed):
            for at, event in coming:
                if event is None:
                    oracle.tick(at)
                else:
                    oracle.receive(event, at)
        seen["too late"] += bool(sealed.too_late)
        seen["another bill"] += len(sealed.records) != len(whole.records)

    count_cases()
    assert seen["too late"] > 20
    assert seen["another bill"] > 2
