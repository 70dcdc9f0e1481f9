"""Each call to Stripe is one of Stripe's specification, and so is each answer of the emulator."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args
from urllib.parse import urlsplit

import jsonschema
import pytest
import stripe

from pipeline.billing.grants import Goes
from pipeline.billing.invoice import InvoiceItem
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.routes import ROUTES
from pipeline.dev.emulator.server import Emulator, running
from pipeline.sink.crediting import Wanted
from pipeline.sink.invoicing import Invoice
from pipeline.sink.stripe.account import check_account, check_invoicing, check_prices
from pipeline.sink.stripe.credit_notes import StripeCreditNotes
from pipeline.sink.stripe.invoices import StripeInvoices
from pipeline.sink.stripe.reconcile import read_sums
from pipeline.sink.stripe.setup import Subscribing, set_up
from tests.support import stripe_mock
from tests.support.bench import T0, Bench, record, stripe_settings
from tests.support.stripe_account import (
    NOVEMBER,
    OCTOBER,
    Account,
    client_of,
    new_account,
    open_account,
)

# One process runs them: they share a server.
pytestmark = [pytest.mark.stripe_mock, pytest.mark.xdist_group("stripe_mock")]


class Sent(NamedTuple):
    """A call that code has made, and what the emulator answered."""

    method: str
    path: str  # with the query
    form: str
    answer: Any


def found() -> stripe_mock.StripeMock:
    here = stripe_mock.find()
    assert here is not None, stripe_mock.MISSING
    return here


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    with stripe_mock.running(found()) as address:
        yield address


def problem(mock: str, method: str, path: str, form: str) -> str | None:
    """Return why Stripe's specification has no such call, or None."""
    request = urllib.request.Request(
        f"{mock}{path}",
        method=method,
        data=form.encode() if method == "POST" else None,
        headers={
            "Authorization": "Bearer sk_test_123",
            "Content-Type": "application/x-www-form-urlencoded",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=20):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"{method} {path} {form}: {error.read().decode()}"


def test_stripe_mock_refuses_what_stripe_does_not_know(mock: str) -> None:
    event = "event_name=a&payload[stripe_customer_id]=cus_1&payload[value]=1"

    assert problem(mock, "POST", "/v1/billing/meter_events", event) is None
    assert "flavour" in str(
        problem(mock, "POST", "/v1/billing/meter_events", f"{event}&flavour=sweet")
    )
    assert problem(mock, "POST", "/v1/billing/meter_event", event) is not None
    assert "flavour" in str(problem(mock, "GET", "/v1/invoices?flavour=sweet", ""))


async def test_every_call_of_ours_is_one_of_stripes(bench: Bench, mock: str) -> None:
    bench.store(record("c1"), record("c2", tenant_id="bluejay"))
    await bench.flush()
    bench.store(record("c1", 2, -1))
    await bench.flush(T0 / 1000 + 660)
    settings = stripe_settings(bench.base_url)
    facts: list[str] = []
    await check_account(settings, {"acme": "cus_acme"}, ["resmeter_resolution"], facts.append)
    await read_sums(settings, [("cus_acme", "resmeter_resolution")], 0, 3_600)
    await set_up(settings, bench.tenants.catalog, T0, Subscribing(30), applies=True)
    await check_prices(settings, bench.tenants.catalog, T0, facts.append)
    await check_invoicing(settings, ["cus_acme"], facts.append)

    sent = list(bench.emulator.state.requests)

    assert {each["path"].split("/")[-1] for each in sent} >= {
        "meter_events",
        "meter_event_adjustments",
        "meters",
        "cus_acme",
        "event_summaries",
        "products",
        "prices",
        "subscriptions",
    }
    assert [why for each in sent if (why := _problem_of(mock, each))] == []


async def test_the_calls_for_credit_notes_are_stripes(mock: str) -> None:
    with open_account() as account:
        account.now("2026-10-15")
        item = {"customer": account.customer, "amount": 900, "currency": "usd"}
        account.v1.invoice_items.create(item)
        params = {"customer": account.customer, "pending_invoice_items_behavior": "include"}
        invoice = account.v1.invoices.create(params).id
        account.v1.invoices.pay(invoice)
        biller = StripeCreditNotes(stripe_settings(account.base_url))
        first = len(account.emulator.state.requests)
        (final,) = await biller.invoices(account.customer, "usd")
        wanted = [
            Wanted(f"k{n}", invoice, n + 1, "usd", goes, "memo")
            for n, goes in enumerate(get_args(Goes))
        ]
        made = [await biller.make(each) for each in wanted]
        found = [await biller.find(invoice, each.key) for each in wanted]
        await biller.close()
        sent = list(account.emulator.state.requests)[first:]

    assert (final.left, found) == (900, made)
    assert {each["path"] for each in sent} >= {"/v1/invoices", "/v1/credit_notes"}
    assert [why for each in sent if (why := _problem_of(mock, each))] == []


async def test_every_call_for_an_invoice_is_one_of_stripes(mock: str) -> None:
    with open_account() as account:
        price = account.price(tiers=[{"up_to": "inf", "unit_amount": 10}])
        account.subscribe(price.id, backdate_start_date=OCTOBER, billing_cycle_anchor=NOVEMBER)
        account.use(3, "2026-10-01")
        account.now("2026-11-01T00:01")
        account.emulator.state.requests.clear()
        invoices = StripeInvoices(stripe_settings(account.base_url))
        try:
            await _complete(invoices, account)
        finally:
            await invoices.close()
        sent = list(account.emulator.state.requests)

    assert {each["path"].split("/")[-1] for each in sent} >= {
        "invoices",
        "invoiceitems",
        "finalize",
    }
    assert [why for each in sent if (why := _problem_of(mock, each))] == []


async def _complete(invoices: StripeInvoices, account: Account) -> None:
    async def read() -> Invoice:
        return (await invoices.of_customer(account.customer, {"resolved": "resolution"}, 0))[0]

    draft = await read()
    await invoices.counted(account.customer, draft.charges[0])
    await invoices.hold(draft)
    for number in range(30):  # more lines than the invoice itself shows
        key = f"ri_{number}"
        item = InvoiceItem(key, key, -1, -1, "d", {"resmeter_key": key}, "resolution")
        await invoices.add(draft, item)
    await invoices.finalise(await read())
    await invoices.create(account.customer, "usd", "ri_own", "own")


def _problem_of(mock: str, logged: dict[str, Any]) -> str | None:
    is_post = logged["method"] == "POST"
    path = logged["path"] + ("" if is_post or not logged["form"] else f"?{logged['form']}")
    return problem(mock, logged["method"], path, logged["form"] if is_post else "")


# --- the emulator ----------------------------------------------------------------------------------


class Recorder(stripe.RequestsClient):
    """The SDK's own client, which keeps what went over it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Sent] = []

    def request(  # type: ignore[override]  # as the SDK itself does
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        post_data: Any = None,
    ) -> tuple[bytes, int, Mapping[str, str]]:
        body, status, returned = super().request(method, url, headers, post_data)
        assert status == 200, body
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self.sent.append(Sent(method.upper(), path, str(post_data or ""), json.loads(body)))
        return body, status, returned


@pytest.fixture(scope="module")
def sent() -> list[Sent]:
    """Call every route of the emulator, through the SDK."""
    recorder = Recorder()
    emulator = Emulator(clock=Clock(OCTOBER))
    with running(emulator) as base_url:
        account = new_account(emulator, base_url)
        _tour(account._replace(client=client_of(base_url, http=recorder)))
    return recorder.sent


def _tour(account: Account) -> None:
    v1, customer, meter = account.v1, account.customer, account.meter
    v1.customers.create({"name": "n", "email": "a@b.example", "metadata": {"a": "b"}})
    v1.customers.list({"limit": 3})
    v1.customers.update(customer, {"description": "d"})
    v1.customers.retrieve(customer)
    v1.customers.balance_transactions.create(customer, {"amount": -5, "currency": "usd"})
    v1.customers.balance_transactions.list(customer)
    summing = {"default_aggregation": {"formula": "sum"}, "display_name": "m"}
    other = v1.billing.meters.create({"event_name": "other", **summing})
    v1.billing.meters.update(other.id, {"display_name": "o"})
    v1.billing.meters.deactivate(other.id)
    v1.billing.meters.reactivate(other.id)
    v1.billing.meters.list({"status": "active"})
    v1.billing.meters.retrieve(meter)
    product = v1.products.create({"id": "p", "name": "P", "tax_code": "txcd_1"})
    v1.products.update(product.id, {"name": "Q", "metadata": {"a": "b"}})
    v1.products.list({"active": True})
    v1.products.retrieve(product.id)
    tiers = [{"up_to": 2, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": "9.5"}]
    price = account.price(tiers=tiers, lookup_key="k", nickname="n", metadata={"a": "b"})
    one_time = v1.prices.create({"currency": "usd", "product": "p", "unit_amount": 5})
    v1.prices.update(price.id, {"nickname": "N"})
    v1.prices.retrieve(price.id, {"expand": ["tiers"]})
    v1.prices.list({"lookup_keys": ["k"], "expand": ["data.tiers"]})
    subscription = account.subscribe(
        price.id, backdate_start_date=OCTOBER, billing_cycle_anchor=NOVEMBER
    )
    config = {"day_of_month": 31, "hour": 0, "minute": 0, "second": 0}
    short = account.subscribe(
        account.price().id, billing_cycle_anchor_config=config, proration_behavior="none"
    )
    v1.subscriptions.update(
        short.id, {"items": [{"id": short["items"].data[0].id, "price": price.id}]}
    )
    v1.subscriptions.cancel(short.id, {"invoice_now": False})
    v1.subscriptions.list({"customer": customer, "status": "all"})
    v1.subscriptions.retrieve(subscription.id, {"expand": ["items.data.price.tiers"]})
    account.use(9, "2026-10-01", "e1")
    v1.billing.meter_event_adjustments.create(
        {"event_name": "resolved", "type": "cancel", "cancel": {"identifier": "e1"}}
    )
    account.use(9, "2026-10-01", "e2")
    account.summed()
    _tour_of_invoices(account, one_time.id)
    v1.customers.delete(v1.customers.create({}).id)


def _tour_of_invoices(account: Account, one_time: str) -> None:
    v1, customer = account.v1, account.customer
    money = {"type": "monetary", "monetary": {"currency": "usd", "value": 20}}
    scope = {"applicability_config": {"scope": {"price_type": "metered"}}}
    grants = [
        v1.billing.credit_grants.create({"customer": customer, "amount": money, **scope})
        for _ in range(3)
    ]
    v1.billing.credit_grants.expire(grants[1].id)
    v1.billing.credit_grants.void_grant(grants[2].id)
    v1.billing.credit_grants.list({"customer": customer})
    v1.billing.credit_grants.retrieve(grants[0].id)
    pending = v1.invoice_items.create({"customer": customer, "pricing": {"price": one_time}})
    v1.invoice_items.update(pending.id, {"description": "d"})
    v1.invoice_items.retrieve(pending.id)
    v1.invoice_items.list({"pending": True})
    v1.invoice_items.delete(pending.id)
    account.now("2026-11-01T00:01")
    draft = account.invoices()[-1]
    data = {"currency": "usd", "product": account.product, "unit_amount_decimal": "900"}
    period = {"start": OCTOBER, "end": NOVEMBER}
    v1.invoice_items.create(
        {
            "customer": customer,
            "invoice": draft.id,
            "price_data": data,
            "period": period,
            "description": "adjusted",
            "metadata": {"a": "b"},
        }
    )
    v1.invoices.update(draft.id, {"auto_advance": False, "metadata": {"a": "b"}})
    v1.invoices.finalize_invoice(draft.id)
    v1.invoices.line_items.list(draft.id, {"limit": 2})
    v1.invoices.retrieve(draft.id)
    v1.billing.credit_balance_transactions.list({"customer": customer})
    note = v1.credit_notes.create({"invoice": draft.id, "amount": 5, "memo": "m"})
    v1.credit_notes.update(note.id, {"memo": "n"})
    v1.credit_notes.retrieve(note.id)
    v1.credit_notes.line_items.list(note.id)
    v1.credit_notes.list({"invoice": draft.id})
    v1.credit_notes.void_credit_note(note.id)
    line = {"type": "custom_line_item", "description": "d", "quantity": 1, "unit_amount": 7}
    v1.credit_notes.create({"invoice": draft.id, "lines": [line]})
    v1.invoices.pay(draft.id, {"paid_out_of_band": True})
    by_hand = {"customer": customer, "collection_method": "send_invoice", "days_until_due": 30}
    v1.invoices.delete(v1.invoices.create(by_hand).id)
    item = v1.invoice_items.create({"customer": customer, "amount": 900, "currency": "usd"})
    void = v1.invoices.create({**by_hand, "pending_invoice_items_behavior": "include"})
    assert v1.invoice_items.retrieve(item.id).invoice == void.id
    v1.invoices.finalize_invoice(void.id)
    v1.invoices.void_invoice(void.id)


def template_of(each: Sent, known: set[tuple[str, str]]) -> tuple[str, str]:
    """Return the route of a call: an id in the path is a star."""
    path = urlsplit(each.path).path
    return next(
        (method, template)
        for method, template in known
        if method == each.method and re.fullmatch(template.replace("*", "[^/]+"), path)
    )


def test_the_tour_calls_every_route_of_the_emulator(sent: list[Sent]) -> None:
    known = set(ROUTES)

    assert {template_of(each, known) for each in sent} == known


def test_every_call_that_the_emulator_takes_is_one_of_stripes(sent: list[Sent], mock: str) -> None:
    assert [why for each in sent if (why := problem(mock, each.method, each.path, each.form))] == []


def test_every_answer_of_the_emulator_has_the_form_of_stripes(sent: list[Sent]) -> None:
    specification = json.loads(found().specification.read_text("utf-8"))
    components = _schema(specification["components"])
    paths = {
        (method.upper(), re.sub(r"\{[^}]+\}", "*", path)): call
        for path, calls in specification["paths"].items()
        for method, call in calls.items()
    }
    wrong = []
    for each in sent:
        call = paths[template_of(each, set(paths))]
        answer = call["responses"]["200"]["content"]["application/json"]["schema"]
        schema = {**_schema(answer), "components": components}
        for error in jsonschema.Draft7Validator(schema).iter_errors(each.answer):
            place = ".".join(str(part) for part in error.absolute_path)
            # The specification gives this list the address of another.
            if (place, each.path.split("?")[0]) != (
                "url",
                "/v1/billing/credit_balance_transactions",
            ):
                wrong.append(f"{each.method} {each.path}: {place}: {error.message[:200]}")

    assert wrong == []


def _schema(specified: Any) -> Any:
    """Return a schema of OpenAPI as JSON Schema, which has no `nullable`."""
    if isinstance(specified, list):
        return [_schema(each) for each in specified]
    if not isinstance(specified, dict):
        return specified
    schema = {name: _schema(member) for name, member in specified.items() if name != "nullable"}
    return {"anyOf": [schema, {"type": "null"}]} if specified.get("nullable") is True else schema
