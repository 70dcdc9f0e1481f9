"""The emulator responds to Stripe's own SDK as Stripe does, errors included."""

import asyncio
import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import stripe
from aiohttp import web

from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.control import is_this_machine
from pipeline.dev.emulator.faults import Fault
from pipeline.dev.emulator.server import Emulator, running
from pipeline.dev.process import running as running_process
from tests.support.stripe_account import DAY, HOUR, client_of, error_of

NOW = 1_790_000_040  # on a minute


class Served(NamedTuple):
    """An emulator with a customer and a meter, and a client for it."""

    emulator: Emulator
    base_url: str
    client: stripe.StripeClient
    customer: str
    meter: str

    def send(self, identifier: str, value: int = 1, **more: Any) -> stripe.billing.MeterEvent:
        key = more.pop("key", None)
        params: Any = {
            "event_name": "resolved",
            "identifier": identifier,
            "payload": {"stripe_customer_id": self.customer, "value": str(value)},
            "timestamp": NOW,
            **more,
        }
        options: Any = {"idempotency_key": key} if key else {}
        return self.client.v1.billing.meter_events.create(params, options=options)

    def total(self) -> float:
        (summary,) = self.client.v1.billing.meters.event_summaries.list(
            self.meter, {"customer": self.customer, "start_time": NOW - DAY, "end_time": NOW + DAY}
        ).data
        return summary.aggregated_value

    def fault(self, kind: Any, **more: Any) -> None:
        self.emulator.state.faults.append(Fault(kind, **more))


@pytest.fixture
def served() -> Iterator[Served]:
    emulator = Emulator(clock=Clock(NOW))
    with running(emulator) as base_url:
        client = client_of(base_url)
        customer = client.v1.customers.create({"name": "Acme"})
        meter = client.v1.billing.meters.create(
            {
                "display_name": "Resolved",
                "event_name": "resolved",
                "default_aggregation": {"formula": "sum"},
            }
        )
        yield Served(emulator, base_url, client, customer.id, meter.id)


async def control(served: Served, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Call a path of /_emulator."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{served.base_url}/_emulator/{path}", json=body) as response,
    ):
        return response.status, await response.json()


def test_created_customers_and_meters_can_be_retrieved(served: Served) -> None:
    client = served.client

    assert client.v1.customers.retrieve(served.customer).name == "Acme"
    assert client.v1.billing.meters.retrieve(served.meter).event_name == "resolved"
    assert [c.id for c in client.v1.customers.list().data] == [served.customer]
    assert [m.id for m in client.v1.billing.meters.list({"status": "active"})] == [served.meter]


def test_lists_are_newest_first_and_paged(served: Served) -> None:
    customers = served.client.v1.customers
    ids = [served.customer, *(customers.create({"name": f"{n}"}).id for n in range(12))]

    page = customers.list()

    assert len(page.data) == 10
    assert page.has_more
    assert [customer.id for customer in page.auto_paging_iter()] == ids[::-1]


def test_a_meter_event_counts_for_its_customer_and_is_returned_as_sent(served: Served) -> None:
    event = served.send("e1", 3)

    assert (event.identifier, event.timestamp, event.livemode) == ("e1", NOW, False)
    assert event.payload["stripe_customer_id"] == served.customer
    assert event.payload["value"] == "3"
    assert served.total() == 3


async def test_the_async_client_gets_the_same_responses(served: Served) -> None:
    http = stripe.AIOHTTPClient()
    client = client_of(served.base_url, "rk_test_1", http)
    params: Any = {
        "event_name": "resolved",
        "identifier": "e1",
        "payload": {"stripe_customer_id": served.customer, "value": "2"},
        "timestamp": NOW,
    }

    try:
        event = await client.v1.billing.meter_events.create_async(params)
        with pytest.raises(stripe.InvalidRequestError, match="already exists with identifier e1"):
            await client.v1.billing.meter_events.create_async(params)
    finally:
        await http.close_async()  # type: ignore[no-untyped-call]

    assert event.identifier == "e1"
    assert served.total() == 2


def test_meter_events_without_an_identifier_get_different_ones(served: Served) -> None:
    payload = {"stripe_customer_id": served.customer, "value": "1"}
    events = served.client.v1.billing.meter_events

    identifiers = {
        events.create({"event_name": "resolved", "payload": payload}).identifier for _ in range(2)
    }

    assert len(identifiers) == 2
    assert served.total() == 2


def test_a_known_identifier_is_a_400_without_a_code_and_must_not_be_retried(
    served: Served,
) -> None:
    served.send("e1")

    error = error_of(lambda: served.send("e1"))

    assert isinstance(error, stripe.InvalidRequestError)
    assert error.http_status == 400
    assert error.code is None
    assert error.user_message == "An event already exists with identifier e1."
    assert error.headers is not None
    assert error.headers["stripe-should-retry"] == "false"
    assert served.total() == 1


def test_an_identifier_sent_again_after_a_day_counts_twice(served: Served) -> None:
    served.send("e1")
    served.emulator.clock.set(NOW + DAY - 60)
    assert error_of(lambda: served.send("e1")).http_status == 400

    served.emulator.clock.set(NOW + DAY + 60)
    served.send("e1")

    assert served.total() == 2


@pytest.mark.parametrize(
    ("offset", "message"),
    [(-35 * DAY - HOUR, "35 calendar days"), (400, "5 minutes in the future")],
)
def test_timestamps_out_of_range_differ_from_duplicates_only_by_the_message(
    served: Served, offset: int, message: str
) -> None:
    error = error_of(lambda: served.send("e1", timestamp=NOW + offset))

    assert isinstance(error, stripe.InvalidRequestError)
    assert error.code is None
    assert message in str(error.user_message)
    assert served.total() == 0


@pytest.mark.parametrize("offset", [-34 * DAY, 200])
def test_timestamps_within_the_limits_are_accepted(served: Served, offset: int) -> None:
    assert served.send("e1", timestamp=NOW + offset).timestamp == NOW + offset


def test_an_idempotency_key_returns_its_first_response_again(served: Served) -> None:
    first = served.send("e1", key="k1")
    second = served.send("e1", key="k1")

    assert first.last_response is not None
    assert second.last_response is not None
    assert "idempotent-replayed" not in first.last_response.headers
    assert second.last_response.headers["idempotent-replayed"] == "true"
    assert second.identifier == first.identifier
    assert served.total() == 1


def test_an_idempotency_key_with_another_body_is_an_error(served: Served) -> None:
    served.send("e1", key="k1")

    error = error_of(lambda: served.send("e2", key="k1"))

    assert isinstance(error, stripe.IdempotencyError)
    assert served.total() == 1


def test_an_idempotency_key_at_another_path_is_an_error(served: Served) -> None:
    params: Any = {"name": "Beta"}
    options: Any = {"idempotency_key": "k1"}
    served.client.v1.customers.create(params, options=options)

    error = error_of(lambda: served.client.v1.billing.meters.create(params, options=options))

    assert isinstance(error, stripe.IdempotencyError)


def test_an_idempotency_key_is_forgotten_after_a_day(served: Served) -> None:
    served.send("e1", key="k1")
    served.emulator.clock.set(NOW + DAY + 60)

    again = served.send("e1", key="k1")

    assert again.last_response is not None
    assert "idempotent-replayed" not in again.last_response.headers
    assert served.total() == 2


def test_an_idempotency_key_returns_its_first_error_again(served: Served) -> None:
    error_of(lambda: served.send("e1", key="k1", timestamp=NOW - 40 * DAY))

    error = error_of(lambda: served.send("e1", key="k1", timestamp=NOW - 40 * DAY))

    assert error.headers is not None
    assert error.headers["idempotent-replayed"] == "true"


def test_a_200_does_not_mean_that_the_event_counts(served: Served) -> None:
    served.send("e1", payload={"stripe_customer_id": "cus_nobody", "value": "1"})
    served.send("e2", event_name="unknown")
    served.send("e3", payload={"stripe_customer_id": served.customer, "value": "1.5"})

    assert served.total() == 0
    assert {entry["code"] for entry in served.emulator.state.sums()["unvalidated"]} == {
        "meter_event_customer_not_found",
        "no_meter",
        "meter_event_invalid_value",
    }


def test_summaries_are_grouped_newest_first_and_paged(served: Served) -> None:
    start = NOW // HOUR * HOUR - 24 * HOUR
    for hour in range(13):
        served.send(f"e{hour}", hour + 1, timestamp=start + hour * HOUR + 5)

    page = served.client.v1.billing.meters.event_summaries.list(
        served.meter,
        {
            "customer": served.customer,
            "start_time": start,
            "end_time": start + DAY,
            "value_grouping_window": "hour",
        },
    )

    assert [summary.aggregated_value for summary in page.data] == list(range(13, 3, -1))
    assert page.has_more
    assert [s.aggregated_value for s in page.auto_paging_iter()] == list(range(13, 0, -1))


@pytest.mark.parametrize(
    ("start", "window", "boundary"),
    [(NOW + 1, None, "minute"), (NOW, "hour", "hour"), (NOW // HOUR * HOUR, "day", "day")],
)
def test_the_start_of_summaries_must_be_aligned(
    served: Served, start: int, window: str | None, boundary: str
) -> None:
    params: Any = {"customer": served.customer, "start_time": start, "end_time": start + DAY}
    if window is not None:
        params["value_grouping_window"] = window

    error = error_of(
        lambda: served.client.v1.billing.meters.event_summaries.list(served.meter, params)
    )

    assert error.http_status == 400
    assert f"start_time must be aligned with {boundary} boundaries" in str(error.user_message)


async def test_a_second_call_in_flight_for_a_customer_and_meter_is_a_409(served: Served) -> None:
    served.fault("slow", seconds=0.5)
    results = await asyncio.gather(
        *(asyncio.to_thread(served.send, f"e{n}") for n in range(2)), return_exceptions=True
    )

    (error,) = (result for result in results if isinstance(result, stripe.StripeError))
    assert error.http_status == 409
    assert "too_many_concurrent_requests" in str(error.http_body)
    assert served.total() == 1


def test_calls_above_the_rate_limit_are_a_429() -> None:
    with running(Emulator(calls_per_second_max=2)) as base_url:
        client = client_of(base_url)

        errors = [
            e for _ in range(10) if (e := error_or_none(client.v1.customers.list)) is not None
        ]

    assert errors
    assert all(isinstance(error, stripe.RateLimitError) for error in errors)


def test_a_rate_limit_below_one_call_a_second_allows_the_first_call() -> None:
    with running(Emulator(calls_per_second_max=0.01)) as base_url:
        client = client_of(base_url)

        assert client.v1.customers.list().data == []
        assert isinstance(error_of(client.v1.customers.list), stripe.RateLimitError)


def error_or_none(call: Any) -> stripe.StripeError | None:
    try:
        call()
    except stripe.StripeError as error:
        return error
    return None


@pytest.mark.parametrize("key", ["sk_live_1", "sk_test_other"])
def test_a_wrong_key_is_a_401(key: str) -> None:
    with running(Emulator(api_key="sk_test_right")) as base_url:
        error = error_of(client_of(base_url, key).v1.customers.list)

    assert isinstance(error, stripe.AuthenticationError)


@pytest.mark.parametrize(("user", "status"), [("sk_test_1", 200), ("sk_live_1", 401), ("", 401)])
async def test_the_key_can_be_the_user_of_basic_authentication(
    served: Served, user: str, status: int
) -> None:
    encoded = base64.b64encode(f"{user}:".encode()).decode()
    for header, expected in ((f"Basic {encoded}", status), (f"Basic {encoded}!", 401)):
        async with (
            aiohttp.ClientSession(headers={"Authorization": header}) as session,
            session.get(f"{served.base_url}/v1/customers") as response,
        ):
            assert response.status == expected


async def test_a_call_without_a_key_is_a_401_in_stripes_form(served: Served) -> None:
    # The SDK does not make such a call.
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{served.base_url}/v1/customers") as response,
    ):
        error = (await response.json())["error"]

    assert response.status == 401
    assert response.headers["Request-Id"].startswith("req_")
    assert error == {
        "type": "invalid_request_error",
        "message": "You did not provide an API key.",
    }


@pytest.mark.parametrize(
    ("kind", "status", "counted"),
    [
        ("500_before", 500, 0),
        ("500_after", 500, 1),
        ("cut_before", None, 0),
        ("cut_after", None, 1),
        ("409", 409, 0),
        ("429", 429, 0),
        ("401", 401, 0),
    ],
)
def test_faults_happen_before_or_after_the_effect(
    served: Served, kind: str, status: int | None, counted: int
) -> None:
    served.fault(kind)

    error = error_of(lambda: served.send("e1"))

    assert error.http_status == status
    assert served.total() == counted


def test_a_fault_hits_every_nth_event_the_given_number_of_times(served: Served) -> None:
    served.fault("500_before", times=2, every=3)

    hit = [error_or_none(lambda n=n: served.send(f"e{n}")) is not None for n in range(1, 13)]

    assert [n for n, failed in enumerate(hit, 1) if failed] == [3, 6]


def test_a_retry_after_a_cut_connection_gets_the_response_of_the_first_call(
    served: Served,
) -> None:
    served.fault("cut_after")
    error_of(lambda: served.send("e1", key="k1"))

    again = served.send("e1", key="k1")

    assert again.identifier == "e1"
    assert served.total() == 1


@pytest.mark.parametrize("value", ["--5", "5-", "\u00b2", "1.5", "", "1" * 16])
def test_an_event_with_an_invalid_value_is_accepted_and_does_not_count(
    served: Served, value: str
) -> None:
    served.send("e1", payload={"stripe_customer_id": served.customer, "value": value})

    (unvalidated,) = served.emulator.state.sums()["unvalidated"]
    assert unvalidated["code"].startswith("meter_event")
    assert (unvalidated["events"], unvalidated["sum"]) == (1, 0)
    assert served.total() == 0


async def test_control_shows_sums_and_requests(served: Served) -> None:
    served.send("e1", 2, key="k1")
    served.send("e2", 3)
    error_of(lambda: served.send("e2", 3))

    _, sums = await control(served, "GET", "sums")
    _, requests = await control(served, "GET", "requests")

    assert sums["sums"] == [
        {"customer": served.customer, "event_name": "resolved", "events": 2, "sum": 5}
    ]
    assert [(r["identifier"], r["status"]) for r in requests[-3:]] == [
        ("e1", 200),
        ("e2", 200),
        ("e2", 400),
    ]
    assert requests[-3]["idempotency_key"] == "k1"
    assert requests[-1]["body_sha256"] == requests[-2]["body_sha256"]
    assert requests[-1]["body_sha256"] != requests[-3]["body_sha256"]


@pytest.mark.parametrize("now", [NOW + DAY, "2026-09-22T14:14:00Z", "2026-09-22T16:14:00+02:00"])
async def test_control_sets_the_clock(served: Served, now: object) -> None:
    status, content = await control(served, "PUT", "clock", {"now": now})

    assert status == 200
    assert NOW + DAY <= content["now"] < NOW + DAY + 60


async def test_control_sets_and_clears_faults(served: Served) -> None:
    await control(served, "POST", "faults", {"kind": "500_before"})
    assert error_of(lambda: served.send("e1")).http_status == 500

    await control(served, "POST", "faults", {"kind": "500_before", "times": 5})
    await control(served, "DELETE", "faults")

    assert served.send("e1").identifier == "e1"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "clock", {"now": "tomorrow"}),
        ("PUT", "clock", {"now": "2026-09-22T14:14:00"}),
        ("PUT", "clock", {}),
        ("PUT", "clock", []),
        ("POST", "faults", {"kind": "fire"}),
        ("POST", "faults", {"kind": "slow", "every": 0}),
        ("POST", "faults", {"kind": "slow", "second": 1}),
    ],
)
async def test_control_rejects_invalid_requests(
    served: Served, method: str, path: str, body: object
) -> None:
    status, content = await control(served, method, path, body)

    assert status == 400
    assert content["error"]


def test_the_command_prints_its_address_and_exits_with_0_at_sigterm(tmp_path: Path) -> None:
    arguments = ["emulator", "--port", "0", "--clock", "2026-09-22T14:14:00Z", "--api-key", "k"]
    with running_process("emulator", arguments, os.environ, tmp_path / "log") as process:
        base_url = process.find(r"ready at (http://\S+)", 60)
        customer = client_of(base_url, "k").v1.customers.create()
        process.stop()

    assert process.status == 0
    assert NOW + DAY <= customer.created < NOW + DAY + 60


# --- access to /_emulator -------------------------------------------------------------------------


async def call_control(
    base_url: str, method: str = "GET", path: str = "sums", **headers: str
) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"{base_url}/_emulator/{path}", data=b"{}", headers=headers
        ) as response,
    ):
        return response.status, await response.text()


async def test_with_a_control_token_only_health_is_open_to_everybody() -> None:
    emulator = Emulator(control_token="hunter2")
    with running(emulator) as base_url:
        without = await call_control(base_url)
        wrong = await call_control(base_url, "DELETE", "faults", Authorization="Bearer hunter3")
        right = await call_control(base_url, Authorization="Bearer hunter2")
        health = await call_control(base_url, path="health")

    assert [status for status, _ in (without, wrong, right, health)] == [403, 403, 200, 200]
    assert "control token" in without[1]
    assert "hunter2" not in without[1] + wrong[1]


async def test_without_a_control_token_only_loopback_can_use_control(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "socket")  # the caller of a Unix socket has no address
    runner = web.AppRunner(Emulator().application())
    await runner.setup()
    await web.UnixSite(runner, path).start()
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.post("http://emulator/_emulator/faults", data=b"{}") as response,
    ):
        text = await response.text()
    await runner.cleanup()

    assert response.status == 403
    assert "only requests from its own machine" in text


@pytest.mark.parametrize(
    ("address", "is_ours"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.7", False),
        ("::ffff:10.0.0.7", False),
        ("172.17.0.1", False),
        ("", False),
        (None, False),
    ],
)
def test_only_loopback_addresses_are_this_machine(address: str | None, is_ours: bool) -> None:
    assert is_this_machine(address) == is_ours


async def test_without_a_control_token_a_web_page_cannot_use_control(
    served: Served,
) -> None:
    status, _ = await call_control(served.base_url, "POST", "faults", Origin="http://evil.example")

    assert status == 403
    assert served.emulator.state.faults == []


def test_every_response_has_a_request_id_and_unknown_paths_are_stripes_404(served: Served) -> None:
    error = error_of(served.client.v1.coupons.list)

    assert error.http_status == 404
    assert error.request_id is not None
    assert "Unrecognized request URL" in str(error.user_message)
