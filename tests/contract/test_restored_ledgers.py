"""Whatever happens to the ledger, Stripe's sums stay what is owed, and the ledger says what was sent."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.kafka.single import TopicUnavailableError
from pipeline.ledger import Ledger, decisions, leases, open_ledger, upgrade
from pipeline.ledger.entries import Conclusion, Lease, MeterEvent
from pipeline.sink.dispatcher import DeliveryLimits, Dispatcher, Timing
from pipeline.sink.service import flush
from pipeline.sink.stripe.meter import open_meter
from tests.support.bench import HOUR_MS, T0, Bench, record, stripe_settings


class _KilledError(Exception):
    """Ends a sink at a step."""


def copied(bench: Bench, name: str) -> Path:
    target = bench.folder / f"{name}.sqlite"
    with (
        closing(sqlite3.connect(bench.folder / "ledger.sqlite")) as used,
        closing(sqlite3.connect(target)) as copy,
    ):
        used.backup(copy)
    return target


@pytest.fixture
def on_ledger(bench: Bench) -> Iterator[Callable[[Path | str], Bench]]:
    opened: list[Ledger] = []

    def on(path: Path | str) -> Bench:
        if isinstance(path, str):
            path = bench.folder / f"{path}.sqlite"
            upgrade(f"sqlite:///{path}")
        opened.append(open_ledger(f"sqlite:///{path}"))
        return bench._replace(ledger=opened[-1])

    yield on
    for ledger in opened:
        ledger.close()


@pytest.mark.parametrize("step", ["plan", "entry", "read back", "attempt", "call", "conclusion"])
async def test_a_ledger_that_is_restored_after_any_step_of_a_delivery_bills_once(
    bench: Bench, on_ledger: Callable[[Path | str], Bench], step: str
) -> None:
    """The copy has everything before the step; the process is killed after it."""
    await bench.flush()  # the journal has its first entry
    bench.store(record("c1"), record("c2"))
    copy = copied(bench, "copy")
    if step != "plan":
        with pytest.raises(_KilledError):
            await _flush_until(bench, step, lambda: shutil.copyfile(copied(bench, "x"), copy))

    restored = on_ledger(copy)
    await restored.flush(T0 / 1000 + 60, owner="b")
    await restored.flush(T0 / 1000 + 120, owner="b")

    assert bench.at_stripe() == {"cus_acme": 2}
    assert restored.delivered() == {"acme": 2}


async def _flush_until(bench: Bench, step: str, before: Callable[[], object]) -> None:
    """Flush as run `a`; at a step, copy the ledger, do the step, and die."""
    journal = bench.journal()
    meter = open_meter(stripe_settings(bench.base_url), timeout_seconds=5)
    dispatcher = Dispatcher(
        bench.ledger,
        meter,
        bench.metrics,
        "a",
        DeliveryLimits(concurrent_max=1, retry_pause_seconds_max=1, lease_seconds=30),
        Timing(now=lambda: T0 / 1000),
    )
    undo = pytest.MonkeyPatch()
    owner, name = {
        "entry": (bench.topic, "append"),
        "read back": (journal, "follow"),
        "attempt": (leases, "lease"),
        "call": (meter, "deliver"),
        "conclusion": (leases, "conclude"),
    }[step]
    real = getattr(owner, name)
    seen = 0

    def dying(*arguments: object, **options: object) -> object:
        nonlocal seen
        seen += 1
        if step == "read back" and seen == 1:
            return real(*arguments, **options)  # before anything is planned
        before()
        real(*arguments, **options)
        raise _KilledError

    async def dying_call(event: MeterEvent, lease: Lease) -> Conclusion:
        before()
        await real(event, lease)
        raise _KilledError

    undo.setattr(owner, name, dying_call if step == "call" else dying)
    try:
        await flush(journal, bench.tenants, dispatcher, bench.metrics, T0 / 1000)
        await dispatcher.idle()
    finally:
        undo.undo()
        await dispatcher.stop()
        await meter.close()


async def test_an_empty_ledger_learns_what_was_sent(
    bench: Bench, on_ledger: Callable[[Path | str], Bench]
) -> None:
    bench.store(record("c1"), record("c2"), record("b1", tenant_id="bluejay"))
    await bench.flush()
    await bench.flush(T0 / 1000 + 60)  # writes the conclusions

    new = on_ledger("new")
    await new.flush(T0 / 1000 + 48 * 3600, owner="b")
    new.store(record("c1"), record("c2"), record("b1", tenant_id="bluejay"), record("c3"))
    await new.flush(T0 / 1000 + 48 * 3600, owner="b")

    assert bench.at_stripe() == {"cus_acme": 3, "cus_bluejay": 1}
    assert new.delivered() == {"acme": 3, "bluejay": 1}


async def test_a_meter_event_without_a_conclusion_is_uncertain_after_23_hours(
    bench: Bench, on_ledger: Callable[[Path | str], Bench]
) -> None:
    """The lost ledger may have sent it, and Stripe may have forgotten it."""
    bench.store(record("c1"))
    await bench.flush()

    new = on_ledger("new")
    bench.emulator.clock.set(T0 / 1000 + 25 * 3600)
    await new.flush(T0 / 1000 + 25 * 3600, owner="b")
    new.store(record("c1"))

    assert bench.at_stripe() == {"cus_acme": 1}
    (waiting,) = decisions.waiting(new.ledger)
    assert (waiting.event.state, waiting.perhaps_counted) == ("uncertain", True)


async def test_two_sinks_with_two_ledgers_bill_each_unit_once(
    bench: Bench, on_ledger: Callable[[Path | str], Bench]
) -> None:
    other = on_ledger("other")
    for n in range(3):
        for each in (bench, other):
            each.store(*(record(f"c{n}-{i}", at=T0 - i * HOUR_MS) for i in range(4)))
        await bench.flush(T0 / 1000 + n * 100)
        await other.flush(T0 / 1000 + n * 100, owner="b")
    for each, owner in ((bench, "a"), (other, "b"), (bench, "a"), (other, "b")):
        await each.flush(T0 / 1000 + 600, owner=owner)

    assert bench.at_stripe() == {"cus_acme": 12}
    assert bench.delivered() == other.delivered() == {"acme": 12}


async def test_a_database_that_loses_commits_below_a_running_sink_bills_once(
    bench: Bench, on_ledger: Callable[[Path | str], Bench]
) -> None:
    bench.store(record("c1"))
    before = on_ledger(copied(bench, "replica"))
    await bench.flush()

    await before.flush()  # the same run, on the replica

    assert bench.at_stripe() == {"cus_acme": 1}
    assert before.delivered() == {"acme": 1}


async def test_a_running_sink_sends_nothing_again_if_its_database_loses_the_conclusion(
    bench: Bench, on_ledger: Callable[[Path | str], Bench]
) -> None:
    """The journal has the plan, and gets the conclusion only at the next flush, two days later."""
    bench.store(record("c1"))
    bench.plan()
    bench.journalled()
    replica = on_ledger(copied(bench, "replica"))
    sink = bench.sink()
    await sink.flush()
    later = T0 / 1000 + 48 * 3600
    bench.emulator.clock.set(later)
    bench.ledger.close()
    bench.ledger._engine = replica.ledger._engine
    sink.dispatcher._timing = sink.dispatcher._timing._replace(now=lambda: later)
    sink.journal._now = lambda: later
    bench.topic.now_ms = lambda: int(later * 1000)

    await sink.flush()

    assert bench.at_stripe() == {"cus_acme": 1}
    await sink.close()


async def test_what_the_journal_has_concluded_is_not_remembered(bench: Bench) -> None:
    bench.store(record("c1"))
    sink = bench.sink()
    await sink.flush()
    assert len(sink.dispatcher.doubtful) == 1

    await sink.flush()

    assert sink.dispatcher.doubtful == set()
    await sink.close()


async def test_what_could_not_be_sent_for_days_is_sent_if_its_run_says_that_it_was_not(
    bench: Bench,
) -> None:
    bench.store(record("c1"))
    for hour in range(0, 60, 5):
        await bench.flush(T0 / 1000 + hour * 3600, key="sk_live_wrong")

    bench.emulator.clock.set(T0 / 1000 + 60 * 3600)
    await bench.flush(T0 / 1000 + 60 * 3600)

    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.delivered() == {"acme": 1}


async def test_a_run_that_ended_in_order_hands_over_what_it_could_not_send(bench: Bench) -> None:
    bench.store(record("c1"))
    await bench.flush(key="sk_live_wrong")
    bench.journal(now=T0 / 1000 + 20 * 3600).hand_over(set())

    bench.emulator.clock.set(T0 / 1000 + 40 * 3600)
    await bench.flush(T0 / 1000 + 40 * 3600, owner="b")

    assert bench.at_stripe() == {"cus_acme": 1}


async def test_while_the_journal_cannot_be_written_nothing_is_planned_and_the_rest_goes_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.store(record("c1"))
    await bench.flush(key="sk_live_wrong")
    bench.store(record("c2"))

    def fails(_: object) -> None:
        raise TopicUnavailableError("cannot write to the journal: no broker")

    with monkeypatch.context() as broken:
        broken.setattr(bench.topic, "append", fails)
        await bench.flush(T0 / 1000 + 1)
        assert bench.value("resmeter_journal_unreached") == 1
        assert bench.at_stripe() == {"cus_acme": 1}
    await bench.flush(T0 / 1000 + 2)

    assert bench.value("resmeter_journal_unreached") == 0
    assert bench.at_stripe() == {"cus_acme": 2}
