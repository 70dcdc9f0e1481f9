"""What the sink asks of a Stripe account, against the emulator: checks, sums, errors."""

import pytest
from aiohttp import web

from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger import reports
from pipeline.sink.stripe.account import check_account
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
