"""Whatever the emulator is asked, it answers as Stripe does, and its books stay balanced."""

from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from pipeline.dev.emulator.response import StripeError
from pipeline.dev.emulator.routes import ROUTES, Call, respond
from pipeline.dev.emulator.state import State

NOW = 1_790_000_000
MONTH = 31 * 86_400
NAMES = [
    "active", "amount", "amount[monetary][value]", "applicability_config[scope][price_type]",
    "auto_advance", "automatically_finalizes_at", "backdate_start_date", "balance",
    "billing_cycle_anchor", "billing_cycle_anchor_config[day_of_month]", "billing_scheme",
    "cancel[identifier]", "collection_method", "credit_amount", "currency", "customer",
    "days_until_due", "default_aggregation[formula]", "ending_before", "end_time", "event_name",
    "expand[]", "identifier", "invoice", "items[0][id]", "items[0][price]", "limit", "lines[0][type]",
    "lookup_key", "lookup_keys[0]", "metadata", "metadata[a]", "name", "payload", "payload[value]",
    "pending", "period[start]", "price_data[product]", "pricing[price]", "priority", "product",
    "quantity", "recurring[interval]", "recurring[meter]", "start_time", "starting_after", "status",
    "tiers[0][up_to]", "tiers[0][unit_amount]", "timestamp", "type", "unit_amount",
    "unit_amount_decimal", "value_grouping_window", "customer[a]", "currency[a]", "price[a][b]",
]  # fmt: skip
VALUES = [
    "", "0", "1", "-1", "-5000", "99", "1e9", "NaN", "9" * 30, "true", "false", "inf", "usd", "eur", "isk",
    "month", "sum", "resolved", "cancel", "metered", "active", "draft", "graduated", "tiered", "hour",
    str(NOW), str(NOW + MONTH), "tiers", "a.b.c.d.e", "\u00e9\u0000", "send_invoice", "monetary",
]  # fmt: skip


def begun() -> tuple[State, list[str]]:
    """Return a state in which a month has ended, and the ids of all kinds of objects in it."""
    state = State()
    state.prepare(["cus_a", "cus_b"], ["resolved"], NOW)
    meter = state.meters.of_event_name("resolved")
    assert meter is not None
    ids = ["cus_a", "cus_b", meter["id"]]

    def make(path: str, now: float, **params: str) -> str:
        form = "&".join(f"{quote(name)}={quote(value)}" for name, value in params.items())
        made = respond(state, Call("POST", path, form), now)
        assert made.status == 200, made.body
        made_id = str(made.body.get("id"))
        ids.append(made_id)
        return made_id

    product = make("/v1/products", NOW, name="P")
    recurring = {"recurring[interval]": "month", "recurring[usage_type]": "metered"}
    costs = {"currency": "usd", "unit_amount": "99", "product": product}
    price = make("/v1/prices", NOW, **costs, **recurring, **{"recurring[meter]": meter["id"]})
    subscription = make("/v1/subscriptions", NOW, customer="cus_a", **{"items[0][price]": price})
    ids.append(str(state.subscriptions.get(subscription)["items"]["data"][0]["id"]))
    make(
        "/v1/billing/meter_events",
        NOW,
        event_name="resolved",
        identifier="e1",
        **{"payload[stripe_customer_id]": "cus_a", "payload[value]": "9"},
    )
    draft = make("/v1/invoices", NOW, customer="cus_a")
    make("/v1/invoiceitems", NOW, customer="cus_a", invoice=draft, amount="-100", currency="usd")
    paid = make("/v1/invoices", NOW, customer="cus_b")
    make("/v1/invoiceitems", NOW, customer="cus_b", invoice=paid, amount="700", currency="usd")
    make(f"/v1/invoices/{paid}/finalize", NOW)
    make("/v1/credit_notes", NOW, invoice=paid, amount="1")
    scope = {"applicability_config[scope][price_type]": "metered", "amount[type]": "monetary"}
    amount = {"amount[monetary][value]": "50", "amount[monetary][currency]": "usd"}
    make("/v1/billing/credit_grants", NOW, customer="cus_a", **scope, **amount)
    state.advance(NOW + MONTH)
    return state, [*ids, "none"]


calls = st.lists(
    st.tuples(
        st.sampled_from(sorted(ROUTES)),
        st.integers(0, 30),
        st.lists(
            st.tuples(
                st.sampled_from(NAMES), st.one_of(st.sampled_from(VALUES), st.integers(0, 30))
            ),
            max_size=6,
        ),
        st.integers(0, 40 * 86_400),
    ),
    min_size=1,
    max_size=8,
)


@given(calls)
def test_every_call_has_an_answer_and_the_books_stay_balanced(made: Any) -> None:
    state, ids = begun()
    now = NOW + MONTH

    def named(value: Any) -> str:
        return ids[value % len(ids)] if isinstance(value, int) else str(value)

    for (method, path), which, params, later in made:
        now += later
        form = "&".join(f"{name}={quote(named(value))}" for name, value in params)
        try:
            answer = respond(state, Call(method, path.replace("*", named(which)), form), now)
        except StripeError as error:
            answer = error.response()
        assert answer.status in {200, 400, 404}
        assert answer.status == 200 or answer.body["error"]["message"]
        ids.append(str(answer.body.get("id", "none")))
        _check_books(state, now)


def _check_books(state: State, now: float) -> None:
    for customer in ("cus_a", "cus_b"):
        moved = state.customers.list_transactions(customer, {"limit": "100"})["data"]
        balance = state.customers.get(customer).get("balance")
        if balance is not None:  # a deleted customer has none
            assert balance == sum(each["amount"] for each in moved)
    for invoice in state.invoices.listing({"limit": "100"}, now)["data"]:
        lines = state.invoices.list_lines(invoice["id"], {"limit": "100"}, now)["data"]
        used = sum(each["amount"] for each in invoice["total_pretax_credit_amounts"])
        assert invoice["total"] == sum(line["amount"] for line in lines) - used
        if invoice["status"] == "draft":
            continue
        settled = (
            invoice["amount_remaining"]
            + invoice["amount_paid"]
            + invoice["pre_payment_credit_notes_amount"]
            + invoice["ending_balance"]
            - invoice["starting_balance"]
        )
        assert invoice["status"] == "void" or settled == invoice["total"]
        assert min(invoice["amount_due"], invoice["amount_remaining"]) >= 0
