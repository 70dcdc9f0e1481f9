"""What answers in the place of Stripe decides nothing: the unit waits, and counts once."""

import asyncio
import json
import re
from collections import Counter

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from pipeline.config import StripeSettings
from pipeline.dev.emulator.meter_events import PAST_SECONDS_MAX
from pipeline.ledger import Ledger, decisions, leases
from pipeline.ledger.entries import Action, Decision
from pipeline.ledger.tables import meter_event
from pipeline.sink.breaker import PROBES_MAX
from pipeline.sink.stripe.meter import body_sha256, open_meter
from pipeline.sink.stripe.transport import BODY_BYTES_MAX
from pipeline.usage.record import UsageRecord
from tests.support.bench import HOUR_MS, T0, Bench, record, stripe_settings
from tests.support.ledger import leased, planned, stored
from tests.support.tenants import tenants_with

ERROR = '{"error": {"type": "invalid_request_error", "message": "no"}}'


def error(kind: str, code: str | None = None) -> str:
    """Return a body as Stripe sends it with an error."""
    return json.dumps({"error": {"type": kind, "code": code, "message": "no"}})


STRIPES = {"Request-Id": "req_1"}
# Stripe's own errors that say nothing about the meter event.
UNDOCUMENTED = [
    *((400, error(kind), STRIPES) for kind in ("authentication_error", "permission_error")),
    *((400, error(kind), STRIPES) for kind in ("rate_limit_error", "api_error", "card_error")),
    *((404, error("invalid_request_error", code), STRIPES) for code in ("", "url_invalid")),
    (404, error("api_error", "resource_missing"), STRIPES),
    (402, error("invalid_request_error"), STRIPES),
    (422, error("invalid_request_error"), STRIPES),
    (424, error("api_error"), STRIPES),
    *((status, error("api_error"), STRIPES) for status in (401, 403, 409, 429)),
]
FOREIGN = [
    *UNDOCUMENTED,
    *((status, "<html>no</html>", {}) for status in (400, 401, 402, 403, 404, 407, 408, 409)),
    *((status, "", {}) for status in (200, 204, 413, 421, 425, 429, 431, 451, 500, 503)),
    (200, "<html>Log in to the guest network</html>", {}),
    (200, "{}", {}),
    (200, "[]", {}),
    (200, "null", {}),
    (200, '{"object": "billing.meter_event", "identifier": "another"}', {}),
    (200, '{"object": "list", "data": []}', {}),
    (400, '{"error": "invalid_request"}', {}),
    (400, '{"error": null}', {}),
    (400, '{"error": ["x"]}', {}),
    (400, '{"error": {"type": ["x"]}}', {"Request-Id": "req_1"}),
    (400, ERROR[:-2] + ', "code": ["x"]}}', {"Request-Id": "req_1"}),
    (200, '{"object": "x", "x": ' + "[" * 900 + "]" * 900 + "}", {}),
    (403, '{"message": "Forbidden"}', {}),
    (400, ERROR, {}),  # without Stripe's header
    (404, ERROR, {"Request-Id": "req_1"}),  # Stripe's, about a path that it does not know
    (408, ERROR, {"Request-Id": "req_1"}),
    *((status, "", {"Location": "/_emulator/health"}) for status in (301, 302, 303, 307, 308)),
]


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(("status", "body", "headers"), FOREIGN)
async def test_a_unit_waits_and_counts_once(
    bench: Bench, status: int, body: str, headers: dict[str, str], side: str
) -> None:
    bench.fault(f"foreign_{side}", status=status, body=body, headers=headers)
    bench.store(record())

    await bench.flush()

    first, second = bench.results()
    assert (first, second in {"delivered", "duplicate"}) == ("foreign", True)
    assert bench.at_stripe() == {"cus_acme": 1}
    assert bench.delivered() == {"acme": 1}
    assert bench.value("resmeter_deliveries_total", result="foreign") == 1


@pytest.mark.parametrize("code", ["lock_timeout", "rate_limit"])
@pytest.mark.parametrize("status", [400, 409, 429])
async def test_a_unit_waits_while_stripe_is_busy(bench: Bench, status: int, code: str) -> None:
    body = error("invalid_request_error", code)
    bench.fault("foreign_before", status=status, body=body, headers=STRIPES)
    bench.store(record())

    await bench.flush()

    assert bench.results() == ["refused", "delivered"]
    assert bench.at_stripe() == {"cus_acme": 1}


async def test_a_key_that_another_program_used_is_a_collision(bench: Bench) -> None:
    body = error("idempotency_error")
    bench.fault("foreign_before", status=400, body=body, headers=STRIPES)
    bench.store(record())

    await bench.flush()

    assert bench.results() == ["collision"]


async def test_a_success_without_stripes_request_id_is_not_stripes(bench: Bench) -> None:
    """Something like a mock of Stripe's API answers with what was asked for, and bills nothing."""
    bench.store(record())
    bench.plan()
    with bench.ledger.reading() as connection:
        identifier = connection.scalar(select(meter_event.c.identifier))
    body = json.dumps({"object": "billing.meter_event", "identifier": identifier})
    bench.fault("foreign_before", status=200, body=body, headers={})

    await bench.flush()

    assert bench.results() == ["foreign", "delivered"]
    assert bench.at_stripe() == {"cus_acme": 1}


async def test_a_body_without_an_end_is_not_read_to_its_end(bench: Bench) -> None:
    body = "x" * (BODY_BYTES_MAX + 1)
    bench.fault("foreign_before", status=200, body=body, headers={})
    bench.store(record())

    await bench.flush()

    assert bench.results() == ["foreign", "delivered"]
    (receipt,) = bench.receipts()
    assert (
        receipt.attempts[0].detail == "not an answer of Stripe: it has more than 16,777,216 bytes"
    )


async def test_an_error_that_is_nested_too_deeply_ends_nothing(bench: Bench) -> None:
    """Whether a Python reads so deep a text depends on its version."""
    body = ERROR[:-2] + f', "x": {"[" * 900}{"]" * 900}}}}}'
    bench.fault("foreign_before", status=400, body=body, headers={"Request-Id": "req_1"})
    bench.store(record())

    await bench.flush()

    assert bench.results()[0] in {"foreign", "rejected"}


@pytest.mark.parametrize(
    "page",
    [
        '{"object": "list", "url": "/v1/x", "has_more": true, "data": [{"id": "m"}]}',
        '{"object": "list", "url": "/v1/x", "has_more": true, "data": [5]}',
        '{"object": "list", "data": [{"id": "m"}]}',
        '{"object": "list", "has_more": false, "data": {}}',
        '{"object": "list", "has_more": true, "data": ' + "[" * 900 + "]" * 900 + "}",
    ],
)
async def test_a_list_of_meters_that_does_not_end_stops_no_delivery(page: str) -> None:
    """A cache may answer every request for a page with the first one."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page))
            writer.write(page.encode())
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    meter = open_meter(stripe_settings(f"http://{host}:{port}"), timeout_seconds=5)

    assert await asyncio.wait_for(meter.unfit({"m"}), 10) == {}

    await meter.close()
    server.close()


async def test_while_a_proxy_answers_most_meter_events_are_not_tried(bench: Bench) -> None:
    """After a day, only those that were tried are uncertain."""
    bench.store(*(record(f"c{n}", tenant_id=f"t{n}") for n in range(40)))
    customers = {f"t{n}": f"cus_{n}" for n in range(40)}
    tenants = tenants_with(customers)
    bench.emulator.state.prepare(customers.values(), [], 0)
    bench.fault("foreign_before", times=50)

    await bench._replace(tenants=tenants).flush()

    tried = [call["identifier"] for call in bench.emulator.state.requests if call["status"] == 404]
    assert len(tried) == 50
    assert len(set(tried)) <= 4 + PROBES_MAX  # 4 call at once
    assert len(bench.at_stripe()) == 40


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"302 Found\r\nLocation: /\xe9", b""),
        (b"502 Bad Gateway", b"<\0\xff>"),
        (
            b"500 Error\r\nRequest-Id: req_\xe9",
            b'{"error": {"type": "api_error", "message": "\\u0000"}}',
        ),
    ],
)
async def test_an_answer_with_any_bytes_is_stored(ledger: Ledger, head: bytes, body: bytes) -> None:
    """PostgreSQL takes no NUL in a text, and no database a lone surrogate."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = b"Content-Length: %d" % len(body)
        writer.write(b"HTTP/1.1 " + head + b"\r\n" + length + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    stored(ledger, record("c1"))
    (event,) = planned(ledger)
    meter = open_meter(stripe_settings(f"http://{host}:{port}"), timeout_seconds=5)
    lease = leased(ledger, event)

    conclusion = await meter.deliver(event, lease)
    leases.conclude(ledger, lease, conclusion, T0)

    await meter.close()
    server.close()
    assert conclusion.result in {"foreign", "failed"}
    assert conclusion.http_status is not None


@pytest.mark.parametrize(
    ("key", "address"),
    [
        ("sk_test_1\n", ""),
        ("sk_test_1\r\nX-Injected: 1", ""),
        ("sk_test_1", "http://127.0.0.1:1"),
        ("sk_test_1", "https://name.invalid"),
        ("sk_test_1", "ftp://127.0.0.1"),
        ("sk_test_1", "http://[::1"),
    ],
)
async def test_a_call_of_which_no_byte_was_sent_did_not_count(
    bench: Bench, key: str, address: str
) -> None:
    bench.store(record())
    bench.plan()
    bench.journalled()
    (event,) = leases.due(bench.ledger, T0, 10)
    # The settings reject all of these but an address at which nobody listens.
    settings = StripeSettings.model_construct(
        api_key=SecretStr(key), base_url=address or bench.base_url
    )
    meter = open_meter(settings, timeout_seconds=5)

    conclusion = await meter.deliver(event, leased(bench.ledger, event))
    await meter.close()

    assert (conclusion.result, conclusion.http_status) == ("refused", None)
    assert not bench.emulator.state.requests


TOO_OLD = T0 - PAST_SECONDS_MAX * 1000 - HOUR_MS


def rejected_hours(tenant_id: str, number: int) -> list[UsageRecord]:
    """Return usage of as many hours, which Stripe rejects."""
    return [record(f"o{n}", tenant_id=tenant_id, at=TOO_OLD - n * HOUR_MS) for n in range(number)]


def states(bench: Bench, *records: UsageRecord) -> Counter[str]:
    """Return how many of these records are in meter events of each state."""
    found = [bench.receipts(each.conversation, each.tenant_id)[0].meter_event for each in records]
    return Counter(event.state for event in found if event)


async def test_rejections_of_one_customer_halt_that_customer_only(bench: Bench) -> None:
    old, new = rejected_hours("acme", 30), record("new")
    others = [record(f"b{n}", tenant_id="bluejay", at=T0 - n * HOUR_MS) for n in range(30)]
    bench.store(*old, new, *others)

    dispatcher = await bench.flush()

    assert dispatcher.halted is None
    assert dispatcher.problems() == []
    assert bench.value("resmeter_deliveries_halted") == 0
    assert bench.value("resmeter_customers_halted") == 1
    assert bench.at_stripe() == {"cus_bluejay": 30}
    assert states(bench, *old, new) == {"rejected": 20, "planned": 11}


@pytest.mark.parametrize("action", ["settle", "release"])
async def test_a_halted_customer_continues_once_an_operator_has_decided(
    bench: Bench, action: Action
) -> None:
    bench.store(*rejected_hours("acme", 20), record("new"))
    sink = bench.sink()
    await sink.flush()
    await sink.flush()
    assert bench.at_stripe() == {}

    for found in decisions.waiting(bench.ledger):
        decision = Decision(action=action, at=T0, who="ann", reason="x", bill_at=T0)
        decisions.decide(bench.ledger, found, decision, bench.tenants, body_sha256, apply=True)
    await sink.flush()
    await sink.close()

    assert bench.at_stripe() == {"cus_acme": 1 if action == "settle" else 21}
    assert bench.value("resmeter_customers_halted") == 0


async def test_a_broad_run_of_rejections_halts_and_leaves_the_rest(bench: Bench) -> None:
    customers = {f"t{n}": f"cus_{n}" for n in range(5)}
    tenants = tenants_with(customers)
    old = [each for tenant_id in customers for each in rejected_hours(tenant_id, 8)]
    bench.store(*old)

    dispatcher = await bench._replace(tenants=tenants).flush()

    said = r"Stripe rejected the last \d+ meter events, of [345] customers, so all deliveries stop"
    assert re.search(said, str(dispatcher.halted))
    assert "35 calendar days" in str(dispatcher.halted)
    assert bench.value("resmeter_deliveries_halted") == 1
    assert 20 <= states(bench, *old)["rejected"] < 40


async def test_rejections_between_deliveries_do_not_halt(bench: Bench) -> None:
    for n in range(3):
        rejected = (record(f"o{n}-{m}", at=TOO_OLD - m * HOUR_MS) for m in range(10))
        bench.store(*rejected, record(f"c{n}"))
        dispatcher = await bench.flush()

    assert dispatcher.halted is None
    assert bench.at_stripe() == {"cus_acme": 3}
