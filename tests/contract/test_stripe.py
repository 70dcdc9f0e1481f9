"""What the sink asks of a Stripe account, against the emulator: checks, sums, errors."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger import reports
from pipeline.sink.stripe.account import check_account
from pipeline.sink.stripe.client import StripeClient
from pipeline.sink.stripe.fitness import meter_problems
from pipeline.sink.stripe.meter import FIT_SECONDS, StripeMeter
from pipeline.sink.stripe.reconcile import read_sums
from tests.support.bench import HOUR_MS, T0, Bench, record, stripe_settings

OUTCOMES = ("resolution", "procedure_handoff", "qualification", "disqualification")


@pytest.fixture
def reported() -> list[str]:
    return []


async def test_check_finds_missing_meters_and_customers(bench: Bench, reported: list[str]) -> None:
    customers = {"acme": "cus_acme", "ghost": "cus_ghost"}

    problems = await check_account(
        stripe_settings(bench.base_url), customers, ["resmeter_resolution", "nope"], reported.append
    )

    assert len(problems) == 2
    assert "no active meter has the event_name 'nope'" in problems[0]
    assert "tenants.ghost: there is no customer cus_ghost" in problems[1]


async def test_check_reports_the_checks_that_passed(bench: Bench, reported: list[str]) -> None:
    problems = await check_account(
        stripe_settings(bench.base_url),
        {"acme": "cus_acme"},
        ["resmeter_resolution"],
        reported.append,
    )

    assert problems == []
    assert reported == ["meters found: 1", "customers found: 1"]


UNFIT: dict[str, Any] = {
    "aggregates by 'count'": {"default_aggregation": {"formula": "count"}},
    "aggregates by 'last'": {"default_aggregation": {"formula": "last"}},
    "takes the customer from 'customer'": {"customer_mapping": {"event_payload_key": "customer"}},
    "takes the value from 'units'": {"value_settings": {"event_payload_key": "units"}},
    "has the event_time_window 'hour'": {"event_time_window": "hour"},
}


@pytest.mark.parametrize("says", UNFIT)
async def test_check_finds_a_meter_that_would_drop_or_miscount_what_it_takes(
    bench: Bench, reported: list[str], says: str
) -> None:
    meter = {"display_name": "m", "event_name": "m", "default_aggregation": {"formula": "sum"}}
    bench.emulator.state.meters.create({**meter, **UNFIT[says]}, 0)

    (problem,) = await check_account(stripe_settings(bench.base_url), {}, ["m"], reported.append)

    assert f"of 'm' {says}, and resmeter needs" in problem


def test_check_finds_a_meter_with_dimensions_or_another_kind_of_customer() -> None:
    meter = SimpleNamespace(
        id="mtr_1",
        event_name="m",
        status="active",
        default_aggregation=SimpleNamespace(formula="sum"),
        customer_mapping=SimpleNamespace(type="by_name", event_payload_key="stripe_customer_id"),
        value_settings=SimpleNamespace(event_payload_key="value"),
        event_time_window=None,
        dimension_payload_keys=["region"],
    )

    problems = meter_problems("m", [meter])

    assert len(problems) == 2
    assert "maps customers 'by_name', and resmeter needs 'by_id'" in problems[0]
    assert "needs the dimensions ['region'], and resmeter needs 'none'" in problems[1]


async def test_check_finds_an_inactive_meter_and_a_deleted_customer(
    bench: Bench, reported: list[str]
) -> None:
    state = bench.emulator.state
    meter = state.meters.of_event_name("resmeter_resolution")
    assert meter is not None
    state.meters.deactivate(meter["id"], 0)
    state.customers.delete("cus_acme")

    problems = await check_account(
        stripe_settings(bench.base_url),
        {"acme": "cus_acme"},
        ["resmeter_resolution"],
        reported.append,
    )

    assert len(problems) == 2
    assert (
        f"the meter {meter['id']} with the event_name 'resmeter_resolution' is inactive"
        in (problems[0])
    )
    assert problems[1] == "tenants.acme: customer cus_acme is deleted"


async def test_usage_for_a_meter_that_would_not_count_it_waits_until_the_meter_is_fit(
    bench: Bench,
) -> None:
    meters = bench.emulator.state.meters
    meter = meters.of_event_name("resmeter_resolution")
    assert meter is not None
    meters.deactivate(meter["id"], 0)
    bench.store(record(), record("h", tenant_id="bluejay", outcome="procedure_handoff"))

    dispatcher = await bench.flush()

    assert bench.results() == []
    assert bench.at_stripe() == {"cus_bluejay": 1}
    assert bench.value("resmeter_meters_unfit") == 1
    assert "is inactive, and Stripe drops what it is sent" in dispatcher.problems()[0]
    meter["status"] = "active"
    dispatcher = await bench.flush()
    assert bench.at_stripe() == {"cus_acme": 1, "cus_bluejay": 1}
    assert bench.value("resmeter_meters_unfit") == 0
    assert dispatcher.problems() == []


async def test_what_stripe_takes_for_a_deleted_customer_is_not_counted(bench: Bench) -> None:
    """That is why the check looks."""
    state = bench.emulator.state
    state.customers.delete("cus_acme")
    bench.store(record())

    await bench.flush()

    assert bench.delivered() == {"acme": 1}
    assert bench.at_stripe() == {}
    assert [each["code"] for each in state.sums()["unvalidated"]] == [
        "meter_event_customer_not_found"
    ]


async def test_a_fit_meter_is_asked_once_an_hour(bench: Bench) -> None:
    now = [0.0]
    client = StripeClient(stripe_settings(bench.base_url), timeout_seconds=5)
    meter = StripeMeter(client, lambda: now[0])

    def asked() -> int:
        return len([call for call in bench.emulator.state.requests if call["method"] == "GET"])

    for at, times in ((0.0, 1), (FIT_SECONDS - 1, 1), (FIT_SECONDS, 2)):
        now[0] = at
        assert await meter.unfit(["resmeter_resolution"]) == {}
        assert asked() == times
    assert list(await meter.unfit(["resmeter_resolution", "nope"])) == ["nope"]
    assert list(await meter.unfit(["nope"])) == ["nope"]
    assert asked() == 4
    await meter.close()


async def test_a_key_that_cannot_read_meters_delivers_all_the_same(bench: Bench) -> None:
    client = StripeClient(stripe_settings(bench.base_url, "sk_live_wrong"), timeout_seconds=5)
    meter = StripeMeter(client)

    assert await meter.unfit(["nope"]) == {}
    await meter.close()


@pytest.mark.parametrize("body", ['{"object": "list"}', '{"object": "x"}', "[]", "<html>", ""])
async def test_check_and_sums_say_that_something_else_than_stripe_answers(
    reported: list[str], body: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = stripe_settings(f"http://127.0.0.1:{runner.addresses[0][1]}")

    (problem,) = await check_account(settings, {}, ["m"], reported.append)
    with pytest.raises(UnavailableError, match="not an answer of Stripe"):
        await read_sums(settings, [("cus_1", "m")], 0, 60)
    await runner.cleanup()

    assert "not an answer of Stripe" in problem


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        (None, "sk_live_1", "RESMETER_STRIPE__API_KEY: Stripe does not accept it"),
        ("http://127.0.0.1:1", "sk_test_1", "cannot reach Stripe at http://127.0.0.1:1"),
    ],
)
async def test_check_names_the_wrong_setting(
    bench: Bench, reported: list[str], url: str | None, key: str, message: str
) -> None:
    (problem,) = await check_account(
        stripe_settings(url or bench.base_url, key), {}, ["m"], reported.append
    )

    assert message in problem


async def test_stripes_sums_are_read_by_customer_and_meter(bench: Bench) -> None:
    bench.store(record("c1"), record("c2"), record("c3", tenant_id="bluejay"))
    await bench.flush()
    meters = [
        (customer, f"resmeter_{outcome}")
        for customer in ("cus_acme", "cus_bluejay")
        for outcome in OUTCOMES
    ]
    hour = T0 // HOUR_MS * 3600

    sums = await read_sums(
        stripe_settings(bench.base_url), [*meters, ("cus_acme", "no_meter")], hour, hour + 3600
    )
    before = await read_sums(stripe_settings(bench.base_url), meters, hour - 3600, hour)

    assert {meter: units for meter, units in sums.items() if units} == {
        ("cus_acme", "resmeter_resolution"): 2,
        ("cus_bluejay", "resmeter_resolution"): 1,
    }
    assert not any(before.values())


async def test_sums_that_cannot_be_read_say_why(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="RESMETER_STRIPE__API_KEY"):
        await read_sums(stripe_settings(bench.base_url, "sk_live_wrong"), [], 0, 60)
    with pytest.raises(UnavailableError, match="Stripe's sums cannot be read at http"):
        await read_sums(stripe_settings("http://127.0.0.1:1"), [], 0, 60)


async def test_a_response_that_repeats_the_key_does_not_bring_it_into_the_ledger(
    bench: Bench, reported: list[str]
) -> None:
    async def echo(request: web.Request) -> web.Response:
        message = f"Invalid API Key provided: {request.headers['Authorization']}"
        error = {"type": "invalid_request_error", "message": message}
        return web.json_response({"error": error}, status=401, headers={"Request-Id": "req_1"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    bench.store(record("c1"))

    dispatcher = await bench._replace(base_url=base_url).flush(key="rk_test_hunter2")
    (problem,) = await check_account(
        stripe_settings(base_url, "rk_test_hunter2"), {}, ["m"], reported.append
    )
    await runner.cleanup()

    (receipt,) = reports.receipts(bench.ledger, "acme", "c1")
    for message in (str(dispatcher.halted), str(receipt.attempts[0].detail), problem):
        assert "Invalid API Key provided: Bearer (the key)" in message
        assert "hunter2" not in message
