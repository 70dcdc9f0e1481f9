"""The sink against the emulator, through Stripe's SDK: each unit is counted once, whatever fails."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.config import StripeSettings
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.faults import Fault
from pipeline.dev.emulator.server import Emulator, running
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger import Ledger, deliveries, open_ledger, records, reports, upgrade
from pipeline.ledger.entries import Arrival, Receipt, Stored
from pipeline.metrics import SinkMetrics
from pipeline.sink.dispatcher import Dispatcher
from pipeline.sink.planner import plan_pending
from pipeline.sink.service import flush
from pipeline.sink.stripe.meter import StripeMeter, look, summaries
from pipeline.usage.record import UsageRecord, encode_record

TOPIC = "usage.records"
WHAT = ("resolution", "procedure_handoff", "qualification", "disqualification")
T0 = 1_790_000_000_000
HOUR_MS = 3_600_000
TENANT_FILE = """
[tenants.acme]
stripe_customer = "cus_acme"
[tenants.bluejay]
stripe_customer = "cus_bluejay"
"""


class Bench(NamedTuple):
    """A ledger, an emulator, and the sink's parts between them."""

    ledger: Ledger
    tenants: Tenants
    emulator: Emulator
    base_url: str
    registry: CollectorRegistry
    metrics: SinkMetrics

    def store(self, *found: UsageRecord) -> None:
        stands = records.offsets(self.ledger, TOPIC).get(0)
        arrivals = [Arrival(0, (stands or 0) + n, encode_record(r)) for n, r in enumerate(found)]
        assert isinstance(records.store(self.ledger, TOPIC, arrivals, {0: stands}, T0), Stored)

    async def flush(
        self, now: float = T0 / 1000, owner: str = "a", key: str = "sk_test_1"
    ) -> Dispatcher:
        """Plan and deliver all that there is, without pauses between the retries."""
        meter = StripeMeter(key, base_url=self.base_url, timeout_seconds=5)
        dispatcher = Dispatcher(
            self.ledger,
            meter,
            self.metrics,
            owner=owner,
            concurrent_max=4,
            retry_pause_seconds_max=60,
            lease_seconds=30,
            now=lambda: now,
            pause=lambda _: asyncio.sleep(0),
        )
        try:
            await flush(self.ledger, self.tenants, dispatcher, self.metrics)
            await dispatcher.idle()
        finally:
            await dispatcher.stop()
            await meter.close()
        return dispatcher

    def at_stripe(self) -> dict[str, int]:
        return {e["customer"]: e["sum"] for e in self.emulator.state.sums()["sums"]}

    def delivered(self) -> dict[str, int]:
        """Return what the ledger says is at Stripe, by tenant."""
        units: dict[str, int] = {}
        for found in reports.usage(self.ledger):
            units[found.tenant_id] = units.get(found.tenant_id, 0) + found.delivered
        return units

    def results(self, conversation: str = "c1", tenant_id: str = "acme") -> list[str]:
        (receipt,) = self.receipts(conversation, tenant_id)
        return [attempt.result for attempt in receipt.attempts]

    def receipts(self, conversation: str = "c1", tenant_id: str = "acme") -> list[Receipt]:
        return reports.receipts(self.ledger, tenant_id, conversation)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def fault(self, kind: Any, **more: Any) -> None:
        self.emulator.state.faults.append(Fault(kind, **more))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from _bench(tmp_path)


def _bench(folder: Path) -> Iterator[Bench]:
    file = folder / "resmeter.toml"
    file.write_text(TENANT_FILE)
    url = f"sqlite:///{folder}/ledger.sqlite"
    upgrade(url)
    ledger = open_ledger(url)
    emulator = Emulator(clock=Clock(T0 / 1000))
    tenants = load_tenants(file)
    emulator.state.prepare(tenants.customers.values(), tenants.event_names, 0)
    registry = CollectorRegistry()
    with running(emulator) as base_url:
        yield Bench(ledger, tenants, emulator, base_url, registry, SinkMetrics(registry))
    ledger.close()


def record(
    conversation: str = "c1",
    n: int = 1,
    quantity: int = 1,
    *,
    tenant_id: str = "acme",
    outcome: str = "resolution",
    at: int = T0,
) -> UsageRecord:
    fields = {
        "id": f"{tenant_id}:{conversation}:{n}",
        "tenant_id": tenant_id,
        "conversation": conversation,
        "outcome": outcome,
        "quantity": quantity,
        "kind": "assumed",
        "reason": "silence" if quantity > 0 else "customer_returned",
        "occurred_at": at,
        "policy": "fin-2026",
        "policy_version": 1,
        "evidence": (f"{conversation}-m{n}",),
        "supersedes": None if quantity > 0 else f"{tenant_id}:{conversation}:{n - 1}",
    }
    return msgspec.convert(fields, UsageRecord)


async def test_units_of_an_hour_go_out_as_one_event_a_customer_and_outcome(bench: Bench) -> None:
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
async def test_a_call_that_fails_is_made_again_and_counts_once(bench: Bench, kind: str) -> None:
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


async def test_a_duplicate_answer_after_a_lost_one_is_understood_through_the_ledger(
    bench: Bench,
) -> None:
    bench.fault("cut_after")
    bench.store(record())
    planned = plan_pending(bench.ledger, bench.tenants, T0)
    assert planned.events == 1
    # Stripe keeps keys and identifiers apart: the key is forgotten, the identifier is not.
    bench.emulator.state.idempotency_keys.keep = lambda *_: None  # type: ignore[method-assign]

    await bench.flush()

    assert bench.results() == ["failed", "duplicate"]
    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.delivered() == {"acme": 1}


async def test_an_identifier_that_is_not_ours_is_a_collision_and_not_called_delivered(
    bench: Bench,
) -> None:
    bench.store(record())
    plan_pending(bench.ledger, bench.tenants, T0)
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


async def test_what_stripe_refuses_is_parked_and_the_rest_goes_out(bench: Bench) -> None:
    bench.store(record("old", at=T0 - 40 * 24 * HOUR_MS), record("new"))

    await bench.flush()

    assert bench.at_stripe() == {"cus_acme": 1}
    (old,) = bench.receipts("old")
    assert old.meter_event is not None
    assert old.meter_event.state == "rejected"
    assert "35 calendar days" in str(old.attempts[0].detail)
    assert bench.value("resmeter_deliveries_total", result="rejected") == 1


async def test_what_occurs_a_little_ahead_of_our_clock_waits_for_its_time(bench: Bench) -> None:
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


async def test_a_tenant_without_a_customer_is_parked_and_shown(bench: Bench) -> None:
    bench.store(record("x1", tenant_id="nobody"), record("x2", tenant_id="nobody"), record())

    await bench.flush()

    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.value("resmeter_parked_units", tenant="nobody") == 2
    assert bench.value("resmeter_pending_units", tenant="nobody") == 2
    assert [r.meter_event for r in bench.receipts("x1", "nobody")] == [None]


async def test_a_negative_sum_is_carried_until_usage_makes_up_for_it(bench: Bench) -> None:
    bench.store(record("c1", at=T0 - 2 * HOUR_MS))
    await bench.flush()
    bench.store(record("c1", 2, -1, at=T0 - HOUR_MS))

    await bench.flush()
    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.value("resmeter_carried_units", tenant="acme") == -1
    assert bench.value("resmeter_pending_units", tenant="acme") == -1
    assert bench.value("resmeter_pending_age_seconds") == 0  # nothing is owed that Stripe lacks

    bench.store(record("c2"), record("c3"))
    await bench.flush()
    assert bench.at_stripe() == {"cus_acme": 2}
    assert bench.value("resmeter_carried_units", tenant="acme") == 0


async def test_what_cancels_out_within_a_negative_sum_does_not_pile_up(bench: Bench) -> None:
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


async def test_charge_and_reversal_before_the_flush_cancel_out_unsent(bench: Bench) -> None:
    bench.store(record("c1"), record("c1", 2, -1, at=T0 + 1))

    await bench.flush()

    assert bench.at_stripe() == {}
    assert {r.meter_event.state for r in bench.receipts() if r.meter_event} == {"netted"}
    assert bench.value("resmeter_pending_units", tenant="acme") in {0, None}


async def test_a_call_that_may_have_counted_over_23_hours_ago_is_not_made_again(
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


async def _deliver_once(bench: Bench) -> None:
    """Deliver, and die after the first call."""
    meter = StripeMeter("sk_test_1", base_url=bench.base_url, timeout_seconds=5)

    async def die(_: float) -> None:
        dispatcher._stopping = True

    dispatcher = Dispatcher(
        bench.ledger,
        meter,
        bench.metrics,
        owner="dead",
        concurrent_max=1,
        retry_pause_seconds_max=1,
        lease_seconds=30,
        now=lambda: T0 / 1000,
        pause=die,
    )
    await flush(bench.ledger, bench.tenants, dispatcher, bench.metrics)
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
def test_whatever_fails_stripes_sums_are_the_ledgers(
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
    made = _bench(folder)
    bench = next(made)
    try:
        asyncio.run(play(bench))
        check(bench)
    finally:
        for _ in made:
            pass


# --- resmeter check -------------------------------------------------------------------------------


@pytest.fixture
def told() -> list[str]:
    return []


def stripe_settings(base_url: str, key: str = "sk_test_1") -> StripeSettings:
    return StripeSettings.model_validate({"api_key": key, "base_url": base_url})


async def test_a_look_finds_meters_and_customers_that_are_not_there(
    bench: Bench, told: list[str]
) -> None:
    customers = {"acme": "cus_acme", "ghost": "cus_ghost"}

    problems = await look(
        stripe_settings(bench.base_url), customers, ["resmeter_resolution", "nope"], told.append
    )

    assert len(problems) == 2
    assert "no active meter has the event_name 'nope'" in problems[0]
    assert "tenants.ghost: there is no customer cus_ghost" in problems[1]


async def test_a_look_says_what_is_well(bench: Bench, told: list[str]) -> None:
    problems = await look(
        stripe_settings(bench.base_url),
        {"acme": "cus_acme"},
        ["resmeter_resolution"],
        told.append,
    )

    assert problems == []
    assert told == ["1 meters are there", "1 customers are there"]


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        (None, "sk_live_1", "RESMETER_STRIPE__API_KEY: Stripe does not accept it"),
        ("http://127.0.0.1:1", "sk_test_1", "cannot reach Stripe at http://127.0.0.1:1"),
    ],
)
async def test_a_look_names_the_setting_that_is_wrong(
    bench: Bench, told: list[str], url: str | None, key: str, said: str
) -> None:
    (problem,) = await look(stripe_settings(url or bench.base_url, key), {}, ["m"], told.append)

    assert said in problem


async def test_stripes_sums_are_read_by_customer_and_meter(bench: Bench) -> None:
    bench.store(record("c1"), record("c2"), record("c3", tenant_id="bluejay"))
    await bench.flush()
    places = [(who, f"resmeter_{what}") for who in ("cus_acme", "cus_bluejay") for what in WHAT]
    hour = T0 // HOUR_MS * 3600

    found = await summaries(
        stripe_settings(bench.base_url), [*places, ("cus_acme", "no_meter")], hour, hour + 3600
    )
    before = await summaries(stripe_settings(bench.base_url), places, hour - 3600, hour)

    assert {place: units for place, units in found.items() if units} == {
        ("cus_acme", "resmeter_resolution"): 2,
        ("cus_bluejay", "resmeter_resolution"): 1,
    }
    assert not any(before.values())


async def test_sums_that_cannot_be_read_say_why(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="RESMETER_STRIPE__API_KEY"):
        await summaries(stripe_settings(bench.base_url, "sk_live_wrong"), [], 0, 60)
    with pytest.raises(UnavailableError, match="Stripe's sums cannot be read at http"):
        await summaries(stripe_settings("http://127.0.0.1:1"), [], 0, 60)


async def test_an_answer_that_repeats_the_key_does_not_bring_it_into_the_ledger(
    bench: Bench, told: list[str]
) -> None:
    async def echo(request: web.Request) -> web.Response:
        said = f"Invalid API Key provided: {request.headers['Authorization']}"
        return web.json_response({"error": {"message": said}}, status=401)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    bench.store(record("c1"))

    dispatcher = await bench._replace(base_url=base_url).flush(key="rk_test_hunter2")
    (problem,) = await look(stripe_settings(base_url, "rk_test_hunter2"), {}, ["m"], told.append)
    await runner.cleanup()

    (receipt,) = reports.receipts(bench.ledger, "acme", "c1")
    for said in (str(dispatcher.halted), str(receipt.attempts[0].detail), problem):
        assert "Invalid API Key provided: Bearer (the key)" in said
        assert "hunter2" not in said
