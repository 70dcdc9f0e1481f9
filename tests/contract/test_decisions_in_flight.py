"""What operators decide while a call is under way: nothing is billed twice, and no answer is lost."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, text, update

from pipeline.ledger import Ledger, decisions, deliveries, holds, leases, reports
from pipeline.ledger.entries import Action, Conclusion, Decided, Decision, Lease, MeterEvent
from pipeline.ledger.tables import attempt, delivery_hold, meter_event
from pipeline.sink.dispatcher import DeliveryLimits, Dispatcher, Timing
from pipeline.sink.planner import LedgerPlans, plan_doubted
from pipeline.sink.stripe.meter import body_sha256, open_meter
from tests.support.bench import Bench, record, stripe_settings
from tests.support.ledger import (
    HOUR_MS,
    T0,
    TOPIC,
    conclude,
    leased,
    state_of,
)

SOON, LATER = T0 + 1000, T0 + HOUR_MS


@pytest.fixture
def bench(bench: Bench, ledger: Ledger) -> Bench:
    """Return the bench with a ledger of either kind."""
    return bench._replace(ledger=ledger)


def planned_event(bench: Bench) -> MeterEvent:
    """Store a record and plan it."""
    bench.store(record())
    bench.plan()
    bench.journalled()
    (event,) = leases.due(bench.ledger, T0, 10)
    return event


def doubt(ledger: Ledger) -> None:
    """Do what `resmeter ledger resume --perhaps-sent` does with meter events that are planned."""
    holds.place(ledger, TOPIC, {0: 1}, {0: 2}, T0)
    holds.mark_uncertain(ledger, SOON)
    holds.answer(ledger, "perhaps_sent", who="ann", reason="a backup", now_ms=SOON)


def decide(bench: Bench, event: MeterEvent, action: Action, at: int) -> Decided | str:
    (waiting,) = decisions.waiting(bench.ledger, identifiers=[event.identifier])
    decision = Decision(action=action, at=at, who="ann", reason="x", stripe_checked=True)
    return decisions.decide(bench.ledger, waiting, decision, bench.tenants, body_sha256, apply=True)


async def call(bench: Bench, event: MeterEvent, lease: Lease, at: int = T0 + 5) -> list[str]:
    """Make the call of a lease, and store its conclusion."""
    meter = open_meter(stripe_settings(bench.base_url), timeout_seconds=5)
    conclusion = await meter.deliver(event, lease)
    await meter.close()
    return leases.conclude(bench.ledger, lease, conclusion, at)


def released(bench: Bench, event: MeterEvent) -> MeterEvent:
    """Release a meter event although its call is under way: the operator's clock is ahead."""
    assert isinstance(decide(bench, event, "release", LATER), Decided)
    bench.journalled()
    (again,) = leases.due(bench.ledger, LATER, 10)
    return again


@pytest.mark.parametrize("action", ["release", "settle"])
async def test_nothing_is_decided_while_a_call_is_under_way(bench: Bench, action: Action) -> None:
    event = planned_event(bench)
    lease = leased(bench.ledger, event)
    doubt(bench.ledger)

    said = decide(bench, event, action, SOON)
    await call(bench, event, lease)

    assert "a call for it is under way, until 2026-09-21T14:13:50.000Z" in str(said)
    assert state_of(bench.ledger, event) == "delivered"
    assert str(decide(bench, event, action, LATER)).startswith("it is delivered")
    assert bench.at_stripe() == {"cus_acme": 1}


@pytest.mark.parametrize("action", ["release", "settle"])
@pytest.mark.parametrize("result", ["failed", "refused", "foreign", "rejected", "collision"])
def test_an_operator_decides_as_soon_as_the_call_has_ended(
    bench: Bench, action: Action, result: Any
) -> None:
    event = planned_event(bench)
    lease = leased(bench.ledger, event)
    doubt(bench.ledger)

    conclude(bench.ledger, lease, result)

    assert state_of(bench.ledger, event) == "uncertain"
    assert isinstance(decide(bench, event, action, SOON), Decided)


@pytest.mark.parametrize("result", [None, "refused", "rejected"])
async def test_a_release_is_taken_back_if_the_old_call_counts_first(
    bench: Bench, result: Any
) -> None:
    event = planned_event(bench)
    lease = leased(bench.ledger, event)
    doubt(bench.ledger)
    again = released(bench, event)
    if result is not None:
        conclude(bench.ledger, leased(bench.ledger, again, now_ms=T0), result)

    counted = await call(bench, event, lease)
    await bench.flush(now=LATER / 1000)

    assert counted == []
    assert (state_of(bench.ledger, event), state_of(bench.ledger, again)) == (
        "delivered",
        "cancelled",
    )
    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.delivered() == {"acme": 1}
    assert deliveries.open_sums(bench.ledger) == []


async def test_a_release_whose_call_may_have_counted_waits_for_the_operator_again(
    bench: Bench,
) -> None:
    event = planned_event(bench)
    lease = leased(bench.ledger, event)
    doubt(bench.ledger)
    again = released(bench, event)
    conclude(bench.ledger, leased(bench.ledger, again), "failed")

    await call(bench, event, lease)
    await bench.flush(now=LATER / 1000)

    assert state_of(bench.ledger, again) == "uncertain"
    assert bench.at_stripe() == {"cus_acme": 1}


@pytest.mark.parametrize("first", ["the old call", "the new call"])
async def test_units_that_were_counted_twice_are_told(bench: Bench, first: str) -> None:
    event = planned_event(bench)
    lease = leased(bench.ledger, event)
    doubt(bench.ledger)
    again = released(bench, event)
    new = leased(bench.ledger, again, now_ms=T0)

    calls = [(event, lease), (again, new)]
    told = [
        await call(bench, *each) for each in (calls if first == "the old call" else calls[::-1])
    ]

    other = event if first == "the old call" else again
    assert told == [[], [other.identifier]]
    assert bench.at_stripe() == {"cus_acme": 2}


async def test_the_sink_raises_the_alarm_for_units_that_were_counted_twice(bench: Bench) -> None:
    event = planned_event(bench)
    lease = leased(bench.ledger, event)
    doubt(bench.ledger)
    again = released(bench, event)
    conclude(bench.ledger, leased(bench.ledger, again, now_ms=T0), "failed")
    leases.conclude(bench.ledger, lease, Conclusion(result="failed", detail="no answer"), T0 + 5)
    with bench.ledger.writing() as connection:
        counted = attempt.c.identifier == event.identifier
        connection.execute(update(attempt).where(counted).values(result="delivered"))

    await bench.flush(now=LATER / 1000)

    assert bench.value("resmeter_deliveries_total", result="collision") == 1


@pytest.mark.parametrize("state", ["planned", "rejected", "altered", "uncertain"])
async def test_a_call_that_counted_is_delivered_whatever_happened_meanwhile(
    bench: Bench, state: str
) -> None:
    """Another sink may have had the answer of another key, or somebody put back an older ledger."""
    event = planned_event(bench)
    lease = leased(bench.ledger, event)
    with bench.ledger.writing() as connection:
        connection.execute(update(meter_event).values(state=state))

    await call(bench, event, lease)

    assert state_of(bench.ledger, event) == "delivered"
    assert bench.delivered() == {"acme": 1}


async def test_a_conclusion_is_not_stored_with_the_call_of_another_meter_event(
    bench: Bench,
) -> None:
    """A ledger that was put back gives the numbers of lost attempts to others."""
    event = planned_event(bench)
    lost = Lease("rm_lost", "a", 1, perhaps_counted=False, idempotency_key="rm_lost")
    lease = leased(bench.ledger, event)
    assert lease.attempt == lost.attempt

    leases.conclude(bench.ledger, lost, Conclusion(result="rejected"), T0)

    assert [each.result for each in reports.attempts_of(bench.ledger, event.identifier)] == [
        "unanswered"
    ]


async def test_a_sink_that_stood_still_after_its_lease_makes_no_call(bench: Bench) -> None:
    """Meanwhile another sink may have delivered, or an operator may have released."""
    now = [T0 / 1000]

    class Pausing(Ledger):
        """A ledger whose process is paused for two days after each write."""

        def writing(self) -> Any:
            now[0] += 2 * 24 * 3600
            return super().writing()

    event = planned_event(bench)
    meter = open_meter(stripe_settings(bench.base_url), timeout_seconds=5)
    limits = DeliveryLimits(concurrent_max=4, retry_pause_seconds_max=1, lease_seconds=30)

    async def stop(_: float) -> None:
        dispatcher._stopping = True

    dispatcher = Dispatcher(
        Pausing(bench.ledger._engine),
        meter,
        bench.metrics,
        "a",
        limits,
        Timing(now=lambda: now[0], pause=stop),
    )
    await dispatcher.dispatch()
    await dispatcher.idle()
    await meter.close()

    assert bench.at_stripe() == {}
    assert bench.results() == ["refused"]
    (due,) = leases.due(bench.ledger, int(now[0] * 1000), 10)
    assert due.identifier == event.identifier


# --- planning, while an operator resumes deliveries --------------------------------------------------


def after_reading(act: Callable[[], object]) -> Callable[[MeterEvent], str]:
    """Return a digest that acts once: planning asks for it after it has read what is pending."""
    acts = [act]

    def digest(event: MeterEvent) -> str:
        while acts:
            acts.pop()()
        return body_sha256(event)

    return digest


def test_a_hold_waits_for_those_who_plan_without_knowing_of_it(ledger: Ledger) -> None:
    """What they plan is then there for `resmeter ledger resume` to doubt."""
    placing = threading.Thread(
        target=lambda: holds.place(ledger, TOPIC, {0: 0}, {0: 2}, T0), name="placing"
    )
    with ledger.writing() as connection:
        connection.execute(select(delivery_hold)).all()
        placing.start()
        if not ledger.is_sqlite:
            _wait_for_a_waiting_lock(ledger)
        assert holds.open_holds(ledger) == [] if ledger.is_sqlite else placing.is_alive()
    placing.join()

    assert [hold.reached_offset for hold in holds.open_holds(ledger)] == [2]


def _wait_for_a_waiting_lock(ledger: Ledger) -> None:
    deadline = time.monotonic() + 30
    query = text(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'delivery_hold'::regclass"
    )
    waiting = 0
    while not waiting:
        assert time.monotonic() < deadline
        with ledger.reading() as connection:
            waiting = connection.scalar(query) or 0


def test_all_that_a_lost_ledger_may_have_sent_is_doubted_though_others_plan_it_too(
    bench: Bench,
) -> None:
    """Two operators, or an operator and a sink of an earlier version, plan at once."""
    bench.store(record("c1"), record("c2", at=T0 - HOUR_MS))
    holds.place(bench.ledger, TOPIC, {0: 0}, {0: 2}, T0)

    def plan_one() -> None:
        plan_doubted(bench.ledger, bench.tenants, body_sha256, plans, {0: 1})

    plans = LedgerPlans(bench.ledger, T0)
    plan_doubted(bench.ledger, bench.tenants, after_reading(plan_one), plans, {0: 2})

    assert deliveries.pending_sums(bench.ledger) == []
    assert deliveries.stuck_counts(bench.ledger)["uncertain"] == 2


def test_an_answer_is_about_the_holds_that_the_operator_has_seen(ledger: Ledger) -> None:
    """A sink may learn meanwhile that the lost ledger was further."""
    holds.place(ledger, TOPIC, {0: 0}, {0: 2}, T0)
    seen = holds.open_holds(ledger)
    holds.place(ledger, TOPIC, {0: 0}, {0: 3}, T0)

    ended = holds.answer(ledger, "perhaps_sent", who="ann", reason="x", now_ms=T0, about=seen)

    assert ended == 0
    assert holds.open_holds(ledger)


def test_a_held_ledger_is_not_written_again_for_what_it_knows(ledger: Ledger) -> None:
    """Another sink asks at each flush, and the lock of the holds would wait for any long reader."""
    holds.place(ledger, TOPIC, {0: 0}, {0: 2}, T0)

    with ledger.writing() as connection:
        connection.execute(select(delivery_hold)).all()
        again = holds.place(ledger, TOPIC, {0: 0}, {0: 2}, T0 + 1)

    assert [hold.noticed_at for hold in again] == [T0]
