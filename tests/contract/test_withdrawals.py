"""Withdrawing meter events, with the emulator and Stripe's SDK: a unit that is taken back is not billed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pipeline.events.times import parse_time
from pipeline.kafka.single import TopicUnavailableError
from pipeline.ledger import (
    Ledger,
    adoption,
    decisions,
    leases,
    months,
    open_ledger,
    outbox,
    reports,
    upgrade,
)
from pipeline.ledger.entries import Decision, PendingRecord
from pipeline.ledger.journal_encoding import decode_entry
from pipeline.ledger.month_entries import Closing
from pipeline.ledger.receipt import explain
from pipeline.ledger.receipt_text import render
from pipeline.ledger.tables import meter_event, pending_record, withdrawn_record
from pipeline.sink.grouping import Group, identifier_of
from pipeline.sink.prospects import ways
from pipeline.sink.stripe.meter import body_sha256
from tests.support.bench import HOUR_MS, T0, Bench, record
from tests.support.journal import JOURNAL, MemoryTopic
from tests.support.tenants import tenants_with

ADJUSTMENTS = "/v1/billing/meter_event_adjustments"
MINUTE = 60.0
NOW = T0 / 1000
PERIOD_END = parse_time("2026-10-01T00:00:00Z") / 1000


async def flush(bench: Bench, now: float, owner: str = "a", times: int = 1) -> None:
    """Flush as often as told; the emulator has the same time."""
    bench.emulator.clock.set(now)
    for _ in range(times):
        await bench.flush(now, owner)


async def taken_back(bench: Bench, now: float = NOW, at: int = T0) -> None:
    """Deliver two units of an hour, and store a reversal of the first."""
    bench.store(record("c1", at=at), record("c2", at=at))
    await flush(bench, now)
    assert bench.at_stripe() == {"cus_acme": 2}
    bench.store(record("c1", 2, -1, at=at))


def calls(bench: Bench) -> list[dict[str, Any]]:
    return [call for call in bench.emulator.state.requests if call["path"] == ADJUSTMENTS]


def states(bench: Bench) -> dict[str, int]:
    """Return the value of each meter event, by state."""
    m = meter_event.c
    with bench.ledger.reading() as connection:
        return {row.state: row.value for row in connection.execute(select(m.state, m.value))}


def pending(bench: Bench) -> int:
    with bench.ledger.reading() as connection:
        return sum(connection.scalars(select(pending_record.c.quantity)))


# --- what happens ---------------------------------------------------------------------------------


async def test_a_delivered_unit_that_is_taken_back_is_cancelled_and_the_rest_is_sent(
    bench: Bench,
) -> None:
    await taken_back(bench)

    await flush(bench, NOW + 11 * MINUTE, times=3)

    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.delivered() == {"acme": 1}
    assert states(bench) == {"withdrawn": 2, "delivered": 1}
    assert pending(bench) == 0
    assert bench.value("resmeter_withdrawals_total", result="withdrawn") == 1


async def test_a_unit_that_is_taken_back_alone_leaves_nothing_at_stripe(bench: Bench) -> None:
    bench.store(record("c1"))
    await flush(bench, NOW)
    bench.store(record("c1", 2, -1))

    await flush(bench, NOW + 11 * MINUTE, times=3)

    assert bench.at_stripe() == {}
    assert states(bench) == {"withdrawn": 1, "netted": 0}


async def test_a_reversal_waits_ten_minutes_for_a_later_unit_to_lessen(bench: Bench) -> None:
    await taken_back(bench)
    await flush(bench, NOW + 9 * MINUTE)
    assert calls(bench) == []

    bench.store(record("c3", at=T0 + HOUR_MS // 10), record("c4", at=T0 + HOUR_MS // 10))
    await flush(bench, NOW + 11 * MINUTE)

    assert calls(bench) == []
    assert bench.at_stripe() == {"cus_acme": 3}


async def test_reversals_of_one_meter_event_cancel_it_once(bench: Bench) -> None:
    await taken_back(bench)
    bench.store(record("c2", 2, -1))

    await flush(bench, NOW + 11 * MINUTE, times=3)

    assert len(calls(bench)) == 1
    assert bench.at_stripe() == {}


async def test_the_call_comes_after_its_entry_and_has_a_key_of_the_identifier(
    bench: Bench,
) -> None:
    await taken_back(bench)
    (receipt,) = bench.receipts("c2")
    assert receipt.meter_event is not None
    identifier = receipt.meter_event.identifier

    def unreachable(_: object) -> None:
        raise TopicUnavailableError("no broker")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.topic, "append", unreachable)
        await flush(bench, NOW + 11 * MINUTE)
    assert calls(bench) == []

    await flush(bench, NOW + 11 * MINUTE)
    (call,) = calls(bench)
    assert call["idempotency_key"] == f"{identifier}.withdraw"


async def test_entries_of_withdrawals_stop_an_older_version(bench: Bench) -> None:
    await taken_back(bench)

    await flush(bench, NOW + 11 * MINUTE, times=3)

    entries = [decode_entry(each.value) for each in bench.topic.records]
    kinds = {
        (entry.format, type(item).__name__, getattr(item, "state", ""))
        for entry in entries
        if entry is not None
        for item in entry.items
    }
    assert kinds == {
        (1, "Plan", ""),
        (1, "Conclusion", "delivered"),
        (2, "Withdrawal", ""),
        (2, "Conclusion", "withdrawn"),
    }


# --- when it is not possible ----------------------------------------------------------------------


async def test_stripe_is_not_asked_23_hours_after_it_received_the_event(bench: Bench) -> None:
    await taken_back(bench)

    await flush(bench, NOW + 23 * 3600, times=2)

    assert calls(bench) == []
    assert bench.at_stripe() == {"cus_acme": 2}
    assert pending(bench) == -1


@pytest.mark.parametrize(("minutes", "asked"), [(151, 1), (149, 0), (1, 0), (-60, 0)])
async def test_stripe_is_not_asked_within_two_hours_of_the_end_of_the_period(
    bench: Bench, minutes: int, asked: int
) -> None:
    now = PERIOD_END - minutes * MINUTE
    await taken_back(bench, now - 20 * MINUTE, int(now * 1000) - HOUR_MS * 3 // 2)

    await flush(bench, now, times=2)

    assert len(calls(bench)) == asked


async def test_nothing_of_a_closed_period_is_withdrawn(bench: Bench) -> None:
    await taken_back(bench)
    closing = Closing(
        account="acme",
        period_start=parse_time("2026-09-01T00:00:00Z"),
        period_end=int(PERIOD_END * 1000),
        closed_at=T0,
        topic="usage.records",
        offsets={},
        grants=0,
        statement="{}",
    )
    with bench.ledger.writing() as connection:
        months.enter(connection, closing)

    await flush(bench, NOW + 11 * MINUTE, times=2)

    assert calls(bench) == []


async def test_what_would_be_sent_to_another_customer_is_not_withdrawn(bench: Bench) -> None:
    await taken_back(bench)
    moved = bench._replace(tenants=tenants_with({"acme": "cus_bluejay"}))

    await flush(moved, NOW + 11 * MINUTE, times=2)

    assert calls(bench) == []


async def test_an_event_that_stripe_does_not_cancel_stays_delivered_and_is_not_tried_again(
    bench: Bench,
) -> None:
    await taken_back(bench)
    bench.emulator.clock.set(NOW + 25 * 3600)

    await bench.flush(NOW + 11 * MINUTE)
    await bench.flush(NOW + 12 * MINUTE)
    await bench.flush(NOW + 60 * MINUTE)

    assert len(calls(bench)) == 1
    assert bench.at_stripe() == {"cus_acme": 2}
    assert states(bench) == {"delivered": 2}
    assert pending(bench) == -1
    assert bench.value("resmeter_withdrawals_total", result="rejected") == 1


# --- when the answer is lost ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cut_before", "cut_after", "409", "500_before", "foreign_after"])
async def test_a_call_without_an_answer_is_repeated_under_the_same_key(
    bench: Bench, kind: str
) -> None:
    await taken_back(bench)
    bench.fault(kind, path=ADJUSTMENTS)

    await flush(bench, NOW + 11 * MINUTE, times=3)

    assert len({call["idempotency_key"] for call in calls(bench)}) == 1
    assert bench.at_stripe() == {"cus_acme": 1}
    assert states(bench) == {"withdrawn": 2, "delivered": 1}


async def test_a_refusal_after_a_call_that_may_have_counted_waits_for_an_operator(
    bench: Bench,
) -> None:
    await taken_back(bench)
    bench.fault("cut_after", path=ADJUSTMENTS)
    bench.emulator.state.idempotency_keys.keep = lambda *_: None  # type: ignore[method-assign]

    await flush(bench, NOW + 11 * MINUTE, times=2)

    # Without the key, Stripe refuses: the event is cancelled already.
    assert len(calls(bench)) == 2
    assert states(bench) == {"uncertain": 2}
    assert bench.value("resmeter_deliveries_uncertain") == 1

    decide(bench, "release", NOW + 20 * MINUTE)
    await flush(bench, NOW + 21 * MINUTE, times=2)
    await flush(bench, NOW + 40 * MINUTE, times=3)

    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.delivered() == {"acme": 1}
    assert bench.value("resmeter_deliveries_total", result="collision") == 0


async def test_an_operator_can_settle_an_event_that_stripe_did_not_cancel(bench: Bench) -> None:
    await taken_back(bench)
    bench.fault("401", path=ADJUSTMENTS)
    await flush(bench, NOW + 11 * MINUTE)
    # The run dies during its second call.
    at = int((NOW + 12 * MINUTE) * 1000)
    (event,) = leases.due(bench.ledger, at, 10)
    leases.lease(bench.ledger, event, "a", at, until_ms=at + 30_000, remembered_from_ms=0)

    await flush(bench, NOW + 40 * 3600)
    assert states(bench) == {"uncertain": 2}
    decide(bench, "settle", NOW + 41 * 3600)
    await flush(bench, NOW + 42 * 3600, times=2)

    assert states(bench) == {"settled": 2}
    assert len(calls(bench)) == 1
    assert bench.at_stripe() == {"cus_acme": 2}


def decide(bench: Bench, action: Any, at: float) -> None:
    (waiting,) = decisions.waiting(bench.ledger)
    decision = Decision(
        action=action, at=int(at * 1000), who="ann", reason="seen", stripe_checked=True
    )
    decided = decisions.decide(
        bench.ledger, waiting, decision, bench.tenants, body_sha256, apply=True
    )
    assert not isinstance(decided, str)


async def test_the_reversal_is_not_planned_elsewhere_while_its_event_is_withdrawn(
    bench: Bench,
) -> None:
    await taken_back(bench)
    bench.fault("401", path=ADJUSTMENTS)
    await flush(bench, NOW + 11 * MINUTE)
    assert states(bench) == {"withdrawing": 2}

    bench.store(record("c3", at=T0 + 60_000))
    await flush(bench, NOW + 12 * MINUTE, times=3)

    assert bench.at_stripe() == {"cus_acme": 2}
    assert states(bench) == {"withdrawn": 2, "delivered": 1}


async def test_no_call_is_made_once_the_time_is_over(bench: Bench) -> None:
    await taken_back(bench)
    bench.fault("401", path=ADJUSTMENTS)
    await flush(bench, NOW + 11 * MINUTE)

    # The call of 401 counts as none; the run that vouches for it comes back after a day.
    await flush(bench, NOW + 23.5 * 3600, times=2)

    assert len(calls(bench)) == 1
    assert states(bench) == {"delivered": 2}
    assert pending(bench) == -1


# --- other ledgers --------------------------------------------------------------------------------


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path}/second.sqlite"
    upgrade(url)
    ledger = open_ledger(url)
    yield ledger
    ledger.close()


async def test_the_next_run_repeats_a_call_that_a_dead_one_may_have_made(bench: Bench) -> None:
    await taken_back(bench)
    bench.fault("401", path=ADJUSTMENTS)
    await flush(bench, NOW + 11 * MINUTE)

    await flush(bench, NOW + 13 * MINUTE, "b", times=4)

    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.delivered() == {"acme": 1}


async def test_a_second_ledger_knows_what_was_withdrawn(bench: Bench, second: Ledger) -> None:
    await taken_back(bench)
    await flush(bench, NOW + 11 * MINUTE, times=3)

    other = bench._replace(ledger=second)
    other.store(*(each.record for name in ("c1", "c2") for each in bench.receipts(name)))
    await flush(other, NOW + 30 * MINUTE, "b", times=2)

    assert states(other) == states(bench)
    assert other.delivered() == {"acme": 1}
    assert bench.at_stripe() == {"cus_acme": 1}
    with second.reading() as connection:
        assert len(connection.execute(select(withdrawn_record)).all()) == 2


async def test_a_ledger_that_follows_a_new_journal_sends_nothing_again(bench: Bench) -> None:
    await taken_back(bench)
    bench.fault("401", path=ADJUSTMENTS)
    await flush(bench, NOW + 11 * MINUTE)

    adoption.forget(bench.ledger, JOURNAL, int(NOW * 1000))
    fresh = bench._replace(topic=MemoryTopic(lambda: T0))
    await flush(fresh, NOW + 13 * MINUTE, "b", times=3)

    assert states(bench) == {"uncertain": 2}
    assert bench.at_stripe() == {"cus_acme": 2}
    decide(bench, "settle", NOW + 20 * MINUTE)
    await flush(fresh, NOW + 21 * MINUTE, "b", times=2)
    assert outbox.unjournalled_items(bench.ledger, 10) == []


async def test_what_was_withdrawn_needs_no_entry_in_a_new_journal(bench: Bench) -> None:
    await taken_back(bench)
    await flush(bench, NOW + 11 * MINUTE)
    assert states(bench) == {"withdrawn": 2}

    adoption.forget(bench.ledger, JOURNAL, int(NOW * 1000))
    fresh = bench._replace(topic=MemoryTopic(lambda: T0))
    await flush(fresh, NOW + 13 * MINUTE, "b", times=3)

    assert bench.at_stripe() == {"cus_acme": 1}
    assert outbox.unjournalled_items(bench.ledger, 10) == []


# --- what reports say -----------------------------------------------------------------------------


async def test_stripes_sum_agrees_before_and_after(bench: Bench) -> None:
    await taken_back(bench)
    hour = T0 // HOUR_MS * 3600

    def sums() -> tuple[int, int]:
        (known,) = reports.delivered_sums(bench.ledger, hour, hour + 3600, int(NOW * 1000) + 10**9)
        return known.least, known.most

    assert sums() == (2, 2)
    await flush(bench, NOW + 11 * MINUTE)
    assert sums() == (0, 0)
    await flush(bench, NOW + 12 * MINUTE, times=2)
    assert sums() == (1, 1)


def test_the_same_records_never_get_the_identifier_of_a_withdrawn_event() -> None:
    """Their reversal may have gone elsewhere: then the same records are sent again."""

    names = [
        identifier_of(
            Group(
                1,
                2,
                3600,
                (
                    PendingRecord(1, "a", 1, 1, withdrawn=n),
                    PendingRecord(2, "b", 1, 1, withdrawn=m),
                ),
            ),
            "acme",
            "resolution",
        )
        for n, m in [(0, 0), (1, 1), (2, 2), (2, 3)]
    ]

    assert len(set(names)) == len(names)


async def test_a_receipt_shows_the_withdrawn_event_and_the_one_after_it(bench: Bench) -> None:
    await taken_back(bench)
    await flush(bench, NOW + 11 * MINUTE, times=3)

    text = "\n".join(render(explain(bench.receipts("c2"), bench.tenants)))

    assert "was delivered, and Stripe cancelled it" in text
    assert "Call 2 to cancel it at" in text
    assert "was delivered to Stripe" in text


async def test_a_receipt_says_what_becomes_of_a_reversal(bench: Bench) -> None:
    await taken_back(bench)
    hours = {1.0: "withdrawn", 30.0: "waits", 24.0 * 20: "item"}

    for later, way in hours.items():
        now_ms = int((NOW + later * 3600) * 1000)
        found = ways(bench.ledger, bench.tenants, bench.receipts("c1"), now_ms)

        assert found == {"acme:c1:2": way}
        lines = render(explain(bench.receipts("c1"), bench.tenants, (), found))
        assert any("Not yet: " in line for line in lines)


async def test_a_late_unit_is_sent_until_its_period_is_closed(bench: Bench) -> None:
    bench.store(record("c1"))

    found = ways(bench.ledger, bench.tenants, bench.receipts("c1"), T0)

    assert found == {"acme:c1:1": "sent"}
