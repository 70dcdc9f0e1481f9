"""The way to Stripe may lead through a proxy, and through TLS with a CA of the company."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from pipeline.config import StripeSettings, load_settings
from pipeline.errors import ConfigurationError
from pipeline.ledger import deliveries, leases
from pipeline.ledger.entries import Lease
from pipeline.sink.grouping import Destination, freeze, group_records
from pipeline.sink.stripe.account import check_account
from pipeline.sink.stripe.meter import body_sha256, open_meter
from tests.support.bench import T0, Bench, record
from tests.support.certificates import Authority
from tests.support.journal import journalled
from tests.support.proxy import connect_proxy


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "company")


@asynccontextmanager
async def over_tls(bench: Bench, authority: Authority) -> AsyncIterator[str]:
    """Yield the address of the bench's emulator behind a certificate of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("stripe"))
    runner = web.AppRunner(bench.emulator.application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"https://{host}:{port}"
    finally:
        await runner.cleanup()


def settings_of(base_url: str, **more: object) -> StripeSettings:
    return StripeSettings.model_validate({"api_key": "sk_test_1", "base_url": base_url, **more})


async def problems(settings: StripeSettings) -> list[str]:
    return await check_account(settings, {"acme": "cus_acme"}, ["resmeter_resolution"], print)


async def result_of_a_delivery(bench: Bench, settings: StripeSettings) -> tuple[str, str | None]:
    """Deliver one unit; return the result and the detail."""
    bench.store(record())
    records = deliveries.pending_records(bench.ledger, "acme", "resolution", 10)
    destination = Destination("acme", "resolution", "cus_acme", "resmeter_resolution")
    (planned,) = [
        freeze(group, destination, body_sha256) for group in group_records(records).groups
    ]
    deliveries.store_planned(bench.ledger, [planned], T0)
    journalled(bench.ledger)
    lease = leases.lease(
        bench.ledger, planned.event, "a", T0, until_ms=T0 + 30_000, remembered_from_ms=0
    )
    assert isinstance(lease, Lease)
    meter = open_meter(settings, timeout_seconds=5)
    try:
        conclusion = await meter.deliver(planned.event, lease)
    finally:
        await meter.close()
    return conclusion.result, conclusion.detail


async def test_a_ca_of_the_company_is_trusted_only_if_it_is_set(
    bench: Bench, authority: Authority
) -> None:
    async with over_tls(bench, authority) as base_url:
        (untrusted,) = await problems(settings_of(base_url))
        trusted = await problems(settings_of(base_url, ca_file=authority.ca))

    assert "CERTIFICATE_VERIFY_FAILED" in untrusted
    assert "CA_FILE" in untrusted
    assert trusted == []


async def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")

    with pytest.raises(
        ConfigurationError, match=r"RESMETER_STRIPE__CA_FILE: .*ca\.pem cannot be used"
    ):
        await problems(settings_of("https://127.0.0.1:1", ca_file=file))


async def test_a_unit_is_delivered_through_a_proxy(bench: Bench, authority: Authority) -> None:
    async with over_tls(bench, authority) as base_url, connect_proxy("me:hunter2") as (port, seen):
        proxy = f"http://me:hunter2@127.0.0.1:{port}"
        result, _ = await result_of_a_delivery(
            bench, settings_of(base_url, ca_file=authority.ca, proxy=proxy)
        )

    assert result == "delivered"
    assert bench.at_stripe() == {"cus_acme": 1}
    assert seen == [base_url.removeprefix("https://")]


async def test_a_proxy_that_refuses_has_passed_nothing_on(
    bench: Bench, authority: Authority
) -> None:
    async with over_tls(bench, authority) as base_url, connect_proxy("me:hunter2") as (port, seen):
        result, detail = await result_of_a_delivery(
            bench,
            settings_of(base_url, ca_file=authority.ca, proxy=f"http://me:wrong7@127.0.0.1:{port}"),
        )

    assert result == "refused"  # not perhaps counted: it may be sent again at any time
    assert "407" in str(detail)
    assert "wrong7" not in str(detail)
    assert seen == []


async def test_a_proxy_that_is_down_has_passed_nothing_on(bench: Bench) -> None:
    result, detail = await result_of_a_delivery(
        bench, settings_of("https://127.0.0.1:2", proxy="http://me:wrong7@127.0.0.1:1")
    )

    assert result == "refused"
    assert "127.0.0.1:1" in str(detail)
    assert "wrong7" not in str(detail)


@pytest.mark.parametrize("proxy", ["me:pw1@proxy:3128", "socks5://proxy.example", "http://a b"])
def test_a_proxy_that_is_no_url_is_a_problem_without_its_value(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("RESMETER_STRIPE__PROXY", proxy)

    with pytest.raises(ConfigurationError, match="RESMETER_STRIPE__PROXY: is not a URL") as caught:
        load_settings()

    assert proxy not in str(caught.value)
