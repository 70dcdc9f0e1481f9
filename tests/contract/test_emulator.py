"""The emulator answers Stripe's own SDK as Stripe does, ugly parts included."""

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import stripe

from pipeline.emulator.server import Clock, Emulator, running
from pipeline.emulator.state import Fault

NOW = 1_790_000_040  # on a minute
HOUR = 3_600
DAY = 24 * HOUR


class Served(NamedTuple):
    """An emulator with a customer and a meter, and a client of it."""

    emulator: Emulator
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


def client_of(base_url: str, key: str = "sk_test_1") -> stripe.StripeClient:
    return stripe.StripeClient(
        key, base_addresses={"api": base_url, "meter_events": base_url}, max_network_retries=0
    )


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
        yield Served(emulator, client, customer.id, meter.id)


def refused(call: Any) -> stripe.StripeError:
    with pytest.raises(stripe.StripeError) as caught:
        call()
    return caught.value


def test_what_was_created_can_be_read_back(served: Served) -> None:
    client = served.client

    assert client.v1.customers.retrieve(served.customer).name == "Acme"
    assert client.v1.billing.meters.retrieve(served.meter).event_name == "resolved"
    assert [c.id for c in client.v1.customers.list().data] == [served.customer]
    assert [m.id for m in client.v1.billing.meters.list({"status": "active"})] == [served.meter]


def test_an_event_counts_for_its_customer_and_comes_back_as_it_was_sent(served: Served) -> None:
    made = served.send("e1", 3)

    assert (made.identifier, made.timestamp, made.livemode) == ("e1", NOW, False)
    assert made.payload["stripe_customer_id"] == served.customer
    assert made.payload["value"] == "3"
    assert served.total() == 3


def test_a_known_identifier_is_a_400_without_a_code_that_must_not_be_retried(
    served: Served,
) -> None:
    served.send("e1")

    error = refused(lambda: served.send("e1"))

    assert isinstance(error, stripe.InvalidRequestError)
    assert error.http_status == 400
    assert error.code is None
    assert error.user_message == "An event already exists with identifier e1."
    assert error.headers is not None
    assert error.headers["stripe-should-retry"] == "false"
    assert served.total() == 1


def test_an_identifier_is_forgotten_after_a_day_and_then_bills_twice(served: Served) -> None:
    served.send("e1")
    served.emulator.clock.set(NOW + DAY - 60)
    assert refused(lambda: served.send("e1")).http_status == 400

    served.emulator.clock.set(NOW + DAY + 60)
    served.send("e1")

    assert served.total() == 2


@pytest.mark.parametrize(
    ("offset", "said"), [(-35 * DAY - HOUR, "35 calendar days"), (400, "5 minutes in the future")]
)
def test_times_too_far_off_are_refused_like_duplicates_but_for_the_message(
    served: Served, offset: int, said: str
) -> None:
    error = refused(lambda: served.send("e1", timestamp=NOW + offset))

    assert isinstance(error, stripe.InvalidRequestError)
    assert error.code is None
    assert said in str(error.user_message)
    assert served.total() == 0


@pytest.mark.parametrize("offset", [-34 * DAY, 200])
def test_times_within_the_limits_are_taken(served: Served, offset: int) -> None:
    assert served.send("e1", timestamp=NOW + offset).timestamp == NOW + offset


def test_one_key_gets_its_first_answer_back(served: Served) -> None:
    first = served.send("e1", key="k1")
    second = served.send("e1", key="k1")

    assert first.last_response is not None
    assert second.last_response is not None
    assert "idempotent-replayed" not in first.last_response.headers
    assert second.last_response.headers["idempotent-replayed"] == "true"
    assert second.identifier == first.identifier
    assert served.total() == 1


def test_one_key_with_another_body_is_an_error(served: Served) -> None:
    served.send("e1", key="k1")

    error = refused(lambda: served.send("e2", key="k1"))

    assert isinstance(error, stripe.IdempotencyError)
    assert served.total() == 1


def test_a_refusal_is_kept_for_its_key_too(served: Served) -> None:
    refused(lambda: served.send("e1", key="k1", timestamp=NOW - 40 * DAY))

    error = refused(lambda: served.send("e1", key="k1", timestamp=NOW - 40 * DAY))

    assert error.headers is not None
    assert error.headers["idempotent-replayed"] == "true"


def test_a_200_does_not_mean_recorded(served: Served) -> None:
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


def test_summaries_must_be_aligned(served: Served) -> None:
    error = refused(
        lambda: served.client.v1.billing.meters.event_summaries.list(
            served.meter,
            {"customer": served.customer, "start_time": NOW + 1, "end_time": NOW + 60},
        )
    )

    assert error.http_status == 400


async def test_a_second_call_in_flight_for_a_customer_and_meter_is_a_409(served: Served) -> None:
    served.fault("slow", seconds=0.5)
    results = await asyncio.gather(
        *(asyncio.to_thread(served.send, f"e{n}") for n in range(2)), return_exceptions=True
    )

    (error,) = (result for result in results if isinstance(result, stripe.StripeError))
    assert error.http_status == 409
    assert "too_many_concurrent_requests" in str(error.http_body)
    assert served.total() == 1


def test_too_many_calls_a_second_are_a_429() -> None:
    with running(Emulator(calls_per_second_max=2)) as base_url:
        client = client_of(base_url)

        errors = [e for _ in range(10) if (e := _error_of(client.v1.customers.list)) is not None]

    assert errors
    assert all(isinstance(error, stripe.RateLimitError) for error in errors)


def _error_of(call: Any) -> stripe.StripeError | None:
    try:
        call()
    except stripe.StripeError as error:
        return error
    return None


@pytest.mark.parametrize("key", ["sk_live_1", "sk_test_other"])
def test_a_wrong_key_is_a_401(key: str) -> None:
    with running(Emulator(api_key="sk_test_right")) as base_url:
        error = refused(client_of(base_url, key).v1.customers.list)

    assert isinstance(error, stripe.AuthenticationError)


@pytest.mark.parametrize(
    ("kind", "status", "counted"),
    [
        ("500_before", 500, 0),
        ("500_after", 500, 1),
        ("cut_before", None, 0),
        ("cut_after", None, 1),
        ("429", 429, 0),
        ("401", 401, 0),
    ],
)
def test_faults_happen_before_or_after_the_effect(
    served: Served, kind: str, status: int | None, counted: int
) -> None:
    served.fault(kind)

    error = refused(lambda: served.send("e1"))

    assert error.http_status == status
    assert served.total() == counted


def test_every_answer_has_a_request_id_and_unknown_paths_are_stripes_404(served: Served) -> None:
    error = refused(served.client.v1.products.list)

    assert error.http_status == 404
    assert error.request_id is not None
    assert "Unrecognized request URL" in str(error.user_message)
