"""The sink with the emulator and Stripe's SDK: each unit counts once, whatever fails."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from pipeline.ledger import deliveries
from pipeline.ledger.tables import meter_event
from pipeline.sink.dispatcher import QUEUED_EVENTS_MAX, DeliveryLimits, Dispatcher, Timing
from pipeline.sink.service import flush
from pipeline.sink.stripe.meter import open_meter
from tests.support.bench import HOUR_MS, T0, Bench, open_bench, record, stripe_settings


async def test_units_of_an_hour_are_sent_as_one_event_per_customer_and_outcome(
    bench: Bench,
) -> None:
    bench.store(
        *(record(f"c{n}") for n in range(5)),
        record("c9", at=T0 - HOUR_MS),
        record("h1", outcome="procedure_handoff"),
        record("b1", tenant_id="bluejay"),
    )

    await bench.flush()

    sums = {
        (e["customer"], e["event_name"]): (e["events"], e["sum"])
        for e in bench.emulator.state.sums()["sums"]
    }
    assert sums == {
        ("cus_acme", "resmeter_resolution"): (2, 6),
        ("cus_acme", "resmeter_procedure_handoff"): (1, 1),
        ("cus_bluejay", "resmeter_resolution"): (1, 1),
    }
    assert bench.delivered() == {"acme": 7, "bluejay": 1}


async def test_a_second_flush_sends_nothing_again(bench: Bench) -> None:
    bench.store(record())
    await bench.flush()
    calls = len(bench.emulator.state.requests)

    await bench.flush()

    assert len(bench.emulator.state.requests) == calls


@pytest.mark.parametrize(
    "kind", ["500_before", "500_after", "cut_before", "cut_after", "409", "429"]
)
async def test_a_failed_call_is_repeated_and_counts_once(bench: Bench, kind: str) -> None:
    bench.fault(kind)
    bench.store(record())

    await bench.flush()

    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.delivered() == {"acme": 1}
    assert len(bench.results()) == 2


async def test_every_retry_has_the_same_body_identifier_and_key(bench: Bench) -> None:
    bench.fault("cut_before", times=3)
    bench.store(record())

    await bench.flush()

    calls = [call for call in bench.emulator.state.requests if call["method"] == "POST"]
    assert {call["body_sha256"] for call in calls} == {calls[0]["body_sha256"]}
    assert {call["identifier"] for call in calls} == {calls[0]["idempotency_key"]}


async def test_a_duplicate_response_after_a_lost_one_is_explained_by_the_ledger(
    bench: Bench,
) -> None:
    bench.fault("cut_after")
    bench.store(record())
    planned = bench.plan()
    assert planned.events == 1
    # Stripe stores keys and identifiers separately: here it forgets the key but not the identifier.
    bench.emulator.state.idempotency_keys.keep = lambda *_: None  # type: ignore[method-assign]

    await bench.flush()

    assert bench.results() == ["failed", "duplicate"]
    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.delivered() == {"acme": 1}


async def test_an_identifier_that_another_program_used_is_a_collision_and_not_delivered(
    bench: Bench,
) -> None:
    bench.store(record())
    bench.plan()
    (receipt,) = bench.receipts()
    assert receipt.meter_event is not None
    bench.emulator.state.meter_events.create(
        {
            "event_name": "resmeter_resolution",
            "identifier": receipt.meter_event.identifier,
            "payload": {"stripe_customer_id": "cus_bluejay", "value": "100"},
        },
        T0 / 1000,
    )

    await bench.flush()

    assert bench.results() == ["collision"]
    assert bench.delivered() == {"acme": 0}
    assert bench.value("resmeter_deliveries_total", result="collision") == 1


async def test_usage_that_stripe_rejects_does_not_block_the_rest(bench: Bench) -> None:
    bench.store(record("old", at=T0 - 40 * 24 * HOUR_MS), record("new"))

    await bench.flush()

    assert bench.at_stripe() == {"cus_acme": 1}
    (old,) = bench.receipts("old")
    assert old.meter_event is not None
    assert old.meter_event.state == "rejected"
    assert "35 calendar days" in str(old.attempts[0].detail)
    assert bench.value("resmeter_deliveries_total", result="rejected") == 1


async def test_an_event_ahead_of_our_clock_is_sent_when_its_time_comes(bench: Bench) -> None:
    bench.store(record(at=T0 + 60_000))
    await bench.flush()
    assert bench.results() == []

    await bench.flush(now=T0 / 1000 + 60)

    assert bench.results() == ["delivered"]


async def test_a_wrong_key_halts_and_loses_nothing(bench: Bench) -> None:
    bench.store(record(), record("b1", tenant_id="bluejay"))

    dispatcher = await bench.flush(key="sk_live_wrong")

    assert "Stripe answered 401" in str(dispatcher.halted)
    assert bench.value("resmeter_deliveries_halted") == 1
    assert bench.at_stripe() == {}
    await bench.flush()
    assert bench.at_stripe() == {"cus_acme": 1, "cus_bluejay": 1}


async def test_what_stripe_does_not_take_grows_old_from_the_flush_to_its_delivery(
    bench: Bench,
) -> None:
    bench.store(record(at=T0 - 3 * HOUR_MS))
    await bench.flush(key="sk_live_wrong")

    await bench.flush(T0 / 1000 + 600, key="sk_live_wrong")
    waiting = bench.value("resmeter_pending_age_seconds")
    used = bench.value("resmeter_pending_usage_age_seconds")
    await bench.flush(T0 / 1000 + 700)
    await bench.flush(T0 / 1000 + 760)

    assert waiting == 600
    assert used == 3 * 3600 + 600
    assert bench.value("resmeter_pending_age_seconds") == 0
    assert bench.value("resmeter_pending_usage_age_seconds") == 0


async def test_a_call_that_may_have_counted_grows_old_until_it_is_confirmed(bench: Bench) -> None:
    bench.store(record())
    bench.fault("cut_after")
    await _deliver_once(bench)

    await bench.flush(T0 / 1000 + 3600, key="sk_live_wrong")
    unanswered = bench.value("resmeter_unanswered_age_seconds")
    await bench.flush(T0 / 1000 + 3700)
    await bench.flush(T0 / 1000 + 3760)

    assert unanswered == 3600
    assert bench.value("resmeter_unanswered_age_seconds") == 0


async def test_parked_usage_is_not_late_but_grows_old(bench: Bench) -> None:
    bench.store(record("x1", tenant_id="nobody", at=T0 - HOUR_MS))

    await bench.flush(T0 / 1000 + 60)

    assert bench.value("resmeter_pending_age_seconds") == 0
    assert bench.value("resmeter_pending_usage_age_seconds") == 3660


async def test_usage_of_a_tenant_without_a_customer_is_parked_and_measured(bench: Bench) -> None:
    bench.store(record("x1", tenant_id="nobody"), record("x2", tenant_id="nobody"), record())

    await bench.flush()

    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.value("resmeter_parked_units", tenant="nobody") == 2
    assert bench.value("resmeter_pending_units", tenant="nobody") == 2
    assert [r.meter_event for r in bench.receipts("x1", "nobody")] == [None]


async def test_a_negative_sum_is_carried_until_usage_outweighs_it(bench: Bench) -> None:
    bench.store(record("c1", at=T0 - 2 * HOUR_MS))
    await bench.flush()
    bench.store(record("c1", 2, -1, at=T0 - HOUR_MS))

    await bench.flush()
    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.value("resmeter_carried_units", tenant="acme") == -1
    assert bench.value("resmeter_pending_units", tenant="acme") == -1
    assert bench.value("resmeter_pending_age_seconds") == 0  # Stripe has every unit that is owed

    bench.store(record("c2"), record("c3"))
    await bench.flush()
    assert bench.at_stripe() == {"cus_acme": 2}
    assert bench.value("resmeter_carried_units", tenant="acme") == 0


async def test_records_that_cancel_out_do_not_pile_up_behind_a_negative_sum(bench: Bench) -> None:
    bench.store(record("c1", at=T0 - 2 * HOUR_MS))
    await bench.flush()
    bench.store(record("c1", 2, -1))
    for n in range(2, 12):
        bench.store(record(f"c{n}"), record(f"c{n}", 2, -1))
        await bench.flush(T0 / 1000 + n)

    (pending,) = deliveries.pending_sums(bench.ledger)
    assert (pending.records, pending.quantity) == (1, -1)
    assert bench.value("resmeter_carried_units", tenant="acme") == -1
    assert bench.at_stripe() == {"cus_acme": 1}


async def test_a_charge_and_its_reversal_before_the_flush_cancel_out_unsent(bench: Bench) -> None:
    bench.store(record("c1"), record("c1", 2, -1, at=T0 + 1))

    await bench.flush()

    assert bench.at_stripe() == {}
    assert {r.meter_event.state for r in bench.receipts() if r.meter_event} == {"netted"}
    assert bench.value("resmeter_pending_units", tenant="acme") in {0, None}


async def test_a_call_that_may_have_counted_over_23_hours_ago_is_not_repeated(
    bench: Bench,
) -> None:
    bench.fault("cut_after", times=1)
    bench.store(record())
    await _deliver_once(bench)
    a_day_later = T0 / 1000 + 24 * 3600
    bench.emulator.clock.set(a_day_later)

    await bench.flush(now=a_day_later)

    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.value("resmeter_deliveries_uncertain") == 1
    await bench.flush(now=a_day_later)
    assert bench.value("resmeter_deliveries_uncertain") == 1
    assert bench.value("resmeter_owed_units", state="uncertain") == 1
    assert bench.value("resmeter_owed_units", state="sent") == 0
    assert bench.value("resmeter_owed_money", state="uncertain", currency="usd") == 0.99


async def test_uncertain_events_hold_up_nobody(bench: Bench) -> None:
    """However many there are: they were once at the head of what is due."""
    bench.store(*(record(f"c{n}", at=T0 - n * HOUR_MS) for n in range(QUEUED_EVENTS_MAX // 100)))
    bench.plan()
    with bench.ledger.writing() as connection:
        connection.execute(update(meter_event).values(state="uncertain"))
    bench.store(record("b1", tenant_id="bluejay"))

    await bench.flush()

    assert bench.at_stripe() == {"cus_bluejay": 1}


async def test_a_customer_whose_calls_fail_holds_up_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events fill the queues, and another customer's event still gets in."""
    monkeypatch.setattr("pipeline.sink.dispatcher.QUEUED_EVENTS_MAX", 5)
    many = [record(f"c{n}", at=T0 - n * HOUR_MS) for n in range(30)]
    bench.store(*many)
    bench.plan()
    meter = open_meter(stripe_settings(bench.base_url), timeout_seconds=5)

    async def never(_: float) -> None:
        await asyncio.Event().wait()

    limits = DeliveryLimits(concurrent_max=4, retry_pause_seconds_max=1, lease_seconds=30)
    timing = Timing(now=lambda: T0 / 1000, pause=never)
    dispatcher = Dispatcher(bench.ledger, meter, bench.metrics, "a", limits, timing)
    bench.fault("500_before", times=1)
    await flush(bench.journal(), bench.tenants, dispatcher, bench.metrics, T0 / 1000)
    while bench.value("resmeter_deliveries_total", result="failed") != 1:
        await asyncio.sleep(0)
    bench.store(record("b1", tenant_id="bluejay"))

    await flush(bench.journal(), bench.tenants, dispatcher, bench.metrics, T0 / 1000)
    while bench.value("resmeter_deliveries_total", result="delivered") != 1:
        await asyncio.sleep(0)

    assert bench.at_stripe() == {"cus_bluejay": 1}
    await dispatcher.stop()
    await meter.close()


@pytest.mark.parametrize(
    "change",
    [
        {"value": 7},
        {"customer": "cus_bluejay"},
        {"timestamp": T0 // 1000 - 60},
        {"event_name": "resmeter_procedure_handoff"},
        {"body_sha256": "0" * 64},
    ],
)
async def test_a_body_that_is_not_the_one_that_was_planned_is_not_sent(
    bench: Bench, change: dict[str, object]
) -> None:
    bench.store(record(), record("b1", tenant_id="bluejay"))
    bench.plan()
    with bench.ledger.writing() as connection:
        of_acme = update(meter_event).where(meter_event.c.tenant_id == "acme")
        connection.execute(of_acme.values(**change))

    await bench.flush()

    assert bench.at_stripe() == {"cus_bluejay": 1}
    assert bench.results() == []
    assert bench.value("resmeter_deliveries_altered") == 1
    (receipt,) = bench.receipts()
    assert receipt.meter_event is not None
    assert receipt.meter_event.state == "altered"


async def _deliver_once(bench: Bench) -> None:
    """Deliver, and stop after the first call as a crash would."""
    meter = open_meter(stripe_settings(bench.base_url), timeout_seconds=5)

    async def die(_: float) -> None:
        dispatcher._stopping = True

    dispatcher = Dispatcher(
        bench.ledger,
        meter,
        bench.metrics,
        "dead",
        DeliveryLimits(concurrent_max=1, retry_pause_seconds_max=1, lease_seconds=30),
        Timing(now=lambda: T0 / 1000, pause=die),
    )
    await flush(bench.journal("dead"), bench.tenants, dispatcher, bench.metrics)
    await dispatcher.idle()
    await meter.close()


async def test_two_sinks_at_once_send_each_unit_once(bench: Bench) -> None:
    bench.store(
        *(record(f"c{n}", at=T0 + n % 24 * HOUR_MS - 24 * HOUR_MS) for n in range(200)),
        *(record(f"b{n}", tenant_id="bluejay") for n in range(50)),
    )

    await asyncio.gather(bench.flush(owner="a"), bench.flush(owner="b"))
    await bench.flush(now=T0 / 1000 + 60)

    assert bench.at_stripe() == {"cus_acme": 200, "cus_bluejay": 50}
    assert bench.delivered() == {"acme": 200, "bluejay": 50}


FAULTS = ["500_before", "500_after", "cut_before", "cut_after", "409", "429"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(st.tuples(st.sampled_from(FAULTS), st.integers(1, 4)), max_size=8),
    units=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["acme", "bluejay"])), max_size=20),
)
def test_stripes_sums_equal_the_ledgers_whatever_fails(
    tmp_path_factory: pytest.TempPathFactory,
    faults: list[tuple[str, int]],
    units: list[tuple[int, str]],
) -> None:
    async def play(bench: Bench) -> None:
        for kind, every in faults:
            bench.fault(kind, every=every)
        for n, (hour, tenant_id) in enumerate(units):
            bench.store(record(f"c{n}", tenant_id=tenant_id, at=T0 - hour * HOUR_MS))
            if n % 5 == 4:
                await bench.flush()
        await bench.flush()

    _with_bench(tmp_path_factory.mktemp("sums"), play, lambda bench: _agree(bench, units))


def _agree(bench: Bench, units: list[tuple[int, str]]) -> None:
    expected: dict[str, int] = {}
    for _, tenant_id in units:
        expected[tenant_id] = expected.get(tenant_id, 0) + 1
    assert bench.delivered() == expected
    assert bench.at_stripe() == {f"cus_{tenant_id}": n for tenant_id, n in expected.items()}


def _with_bench(
    folder: Path,
    play: Callable[[Bench], Coroutine[Any, Any, None]],
    check: Callable[[Bench], None],
) -> None:
    opening = open_bench(folder)
    bench = next(opening)
    try:
        asyncio.run(play(bench))
        check(bench)
    finally:
        for _ in opening:
            pass
