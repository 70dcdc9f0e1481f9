"""The emulator's invoices: drafts, lines, items and balances, as Stripe's own SDK reads them."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import stripe

from pipeline.dev.emulator.state import State
from tests.support.stripe_account import (
    DAY,
    HOUR,
    NOVEMBER,
    OCTOBER,
    Account,
    at,
    error_of,
    open_account,
)


@pytest.fixture
def account() -> Iterator[Account]:
    with open_account() as opened:
        yield opened


def subscribed(account: Account, **price: Any) -> Account:
    """Subscribe the customer, with periods by the calendar from October."""
    account.subscribe(
        account.price(**price).id, backdate_start_date=OCTOBER, billing_cycle_anchor=NOVEMBER
    )
    return account


def drafted(account: Account, units: int = 3, **price: Any) -> stripe.Invoice:
    """Return October's draft, with units in it."""
    subscribed(account, **price)
    account.now("2026-10-15")
    if units:
        account.use(units, "2026-10-14")
    account.now("2026-11-01T00:01")
    return account.invoices()[-1]


def lines_of(invoice: stripe.Invoice) -> list[tuple[int | None, int]]:
    return [(line.quantity, line.amount) for line in invoice.lines.auto_paging_iter()]


# --- drafts and when they become final -------------------------------------------------------------


def test_the_end_of_a_period_makes_a_draft_with_the_sum_of_the_meter(account: Account) -> None:
    invoice = drafted(account)

    assert (invoice.status, invoice.auto_advance, invoice.number) == ("draft", True, None)
    assert (invoice.period_start, invoice.period_end) == (OCTOBER, NOVEMBER)
    assert (invoice.created, invoice.automatically_finalizes_at) == (NOVEMBER, NOVEMBER + HOUR)
    (line,) = invoice.lines.data
    assert (line.quantity, line.amount) == (3, 297)
    assert (line.period.start, line.period.end) == (OCTOBER, NOVEMBER)
    assert line.parent is not None
    assert line.parent.subscription_item_details is not None
    assert line.parent.subscription_item_details.subscription == (
        account.v1.subscriptions.list().data[0].id
    )
    assert line.pricing is not None
    assert line.pricing.price_details is not None
    assert line.pricing.price_details.product == account.product
    assert (invoice.subtotal, invoice.total, invoice.amount_due) == (297, 297, 297)


def test_a_draft_becomes_final_after_an_hour(account: Account) -> None:
    draft = drafted(account)
    account.now("2026-11-01T00:59:59")
    assert account.v1.invoices.retrieve(draft.id).status == "draft"

    account.now("2026-11-01T01:00:01")

    invoice = account.v1.invoices.retrieve(draft.id)
    assert (invoice.status, invoice.status_transitions.finalized_at) == ("open", NOVEMBER + HOUR)
    assert (invoice.number.endswith("-0001"), invoice.amount_remaining) == (True, 297)


def test_the_grace_of_an_account_is_up_to_72_hours() -> None:
    with open_account(state=State(grace_seconds=72 * HOUR)) as account:
        draft = drafted(account)
        account.now("2026-11-03T23:59:59")
        assert account.v1.invoices.retrieve(draft.id).status == "draft"
        account.use(1, "2026-10-31T23:59:59")

        account.now("2026-11-04T00:00:01")

        assert account.v1.invoices.retrieve(draft.id).total == 396


def test_a_draft_that_does_not_advance_stays_until_it_is_finalised(account: Account) -> None:
    draft = drafted(account)
    held = account.v1.invoices.update(draft.id, {"auto_advance": False})
    account.now("2026-11-20")

    final = account.v1.invoices.finalize_invoice(draft.id)

    assert (held.automatically_finalizes_at, held.status) == (None, "draft")
    assert (final.status, final.auto_advance) == ("open", False)
    again = error_of(lambda: account.v1.invoices.finalize_invoice(draft.id))
    assert "already finalized" in str(again.user_message)


def test_the_time_at_which_a_draft_becomes_final_can_move(account: Account) -> None:
    draft = drafted(account)
    moved = account.v1.invoices.update(
        draft.id, {"automatically_finalizes_at": NOVEMBER + 3 * DAY, "metadata": {"by": "us"}}
    )
    account.now("2026-11-03T23:59")
    assert account.v1.invoices.retrieve(draft.id).status == "draft"

    account.now("2026-11-04T00:01")

    assert moved.automatically_finalizes_at == NOVEMBER + 3 * DAY
    assert account.v1.invoices.retrieve(draft.id).status == "open"
    with_metadata = account.v1.invoices.update(draft.id, {"metadata": {"a": "b"}})
    assert with_metadata.metadata.to_dict() == {"by": "us", "a": "b"}
    error = error_of(lambda: account.v1.invoices.update(draft.id, {"description": "late"}))
    assert error.code == "invoice_not_editable"


def test_moving_the_clock_over_months_makes_each_invoice_on_the_way(account: Account) -> None:
    subscribed(account)
    account.now("2026-10-02")
    account.use(1, "2026-10-01T12:00")

    account.now("2027-01-01T00:30")

    made = account.invoices()
    assert [(each.period_start, each.status) for each in made] == [
        (OCTOBER, "open"),
        (NOVEMBER, "paid"),  # of nothing
        (at("2026-12-01"), "draft"),
    ]
    assert [each.total for each in made] == [99, 0, 0]


# --- usage -----------------------------------------------------------------------------------------


def test_usage_counts_until_the_invoice_is_final_and_never_after(account: Account) -> None:
    draft = drafted(account)
    account.use(2, "2026-10-31T23:59:59")
    assert account.v1.invoices.retrieve(draft.id).total == 495
    account.now("2026-11-01T01:00:01")

    account.use(7, "2026-10-31T23:59:58")
    account.now("2026-12-01T00:01")

    assert [each.total for each in account.invoices()] == [495, 0]
    assert account.summed() == 12


def test_usage_on_the_boundary_is_of_the_period_that_begins(account: Account) -> None:
    draft = drafted(account, units=0)
    account.use(1, "2026-11-01T00:00")

    assert account.v1.invoices.retrieve(draft.id).total == 0


def test_a_negative_sum_bills_nothing_and_is_lost(account: Account) -> None:
    draft = drafted(account, units=-5)

    account.now("2026-12-01T00:01")

    assert account.v1.invoices.retrieve(draft.id).total == 0
    assert [each.total for each in account.invoices()] == [0, 0]
    assert account.balance() == 0


def test_summaries_and_invoices_lag_behind_the_events() -> None:
    with open_account(state=State(lag_seconds=600)) as account:
        draft = drafted(account)
        account.use(2, "2026-10-31T12:00")
        assert (account.summed(), account.v1.invoices.retrieve(draft.id).total) == (3, 297)

        account.now("2026-11-01T00:11:02")

        assert (account.summed(), account.v1.invoices.retrieve(draft.id).total) == (5, 495)


def test_what_the_summaries_do_not_know_when_the_invoice_becomes_final_is_lost() -> None:
    with open_account(state=State(lag_seconds=600)) as account:
        draft = drafted(account)
        account.use(2, "2026-10-31T12:00")

        account.v1.invoices.finalize_invoice(draft.id)
        account.now("2026-11-02")

        assert account.v1.invoices.retrieve(draft.id).total == 297
        assert account.summed() == 5


# --- adjustments -----------------------------------------------------------------------------------


def cancel(account: Account, identifier: str, name: str = "resolved") -> Any:
    return account.v1.billing.meter_event_adjustments.create(
        {"event_name": name, "type": "cancel", "cancel": {"identifier": identifier}}
    )


def test_an_event_can_be_cancelled_within_a_day_of_its_receipt(account: Account) -> None:
    draft = drafted(account)
    account.use(2, "2026-10-31", "e1")

    adjustment = cancel(account, "e1")

    assert (adjustment.status, adjustment.cancel.identifier) == ("complete", "e1")
    assert (account.summed(), account.v1.invoices.retrieve(draft.id).total) == (3, 297)
    # Its identifier stays used.
    assert "already exists" in str(error_of(lambda: account.use(2, "2026-10-31", "e1")))


def test_an_event_cannot_be_cancelled_twice_nor_late_nor_under_another_name(
    account: Account,
) -> None:
    account.use(2, "2026-09-30", "e1")
    account.use(2, "2026-09-30", "e2")
    cancel(account, "e1")

    assert "cancelled already" in str(error_of(lambda: cancel(account, "e1")))
    assert error_of(lambda: cancel(account, "e2", "other")).code == "resource_missing"
    assert error_of(lambda: cancel(account, "e3")).code == "resource_missing"
    account.now("2026-10-02T00:01")
    assert "within 24 hours" in str(error_of(lambda: cancel(account, "e2")))


def test_cancelling_usage_of_a_final_invoice_changes_the_sums_and_not_the_invoice(
    account: Account,
) -> None:
    draft = drafted(account)
    account.use(2, "2026-10-31", "e1")
    account.v1.invoices.finalize_invoice(draft.id)

    cancel(account, "e1")

    assert account.summed() == 3
    assert account.v1.invoices.retrieve(draft.id).total == 495


# --- prices and rounding ---------------------------------------------------------------------------

TIERS = [
    {"up_to": 10, "unit_amount": 0},
    {"up_to": 20, "unit_amount_decimal": "0.5"},
    {"up_to": "inf", "unit_amount": 99, "flat_amount": 500},
]


@pytest.mark.parametrize(
    ("units", "lines"),
    [
        (0, [(0, 0)]),
        (10, [(10, 0)]),
        (13, [(10, 0), (3, 2)]),  # 1.5 cents
        (22, [(10, 0), (10, 5), (2, 198), (2, 500)]),
    ],
)
def test_graduated_tiers_make_a_line_each_and_each_is_rounded(
    account: Account, units: int, lines: list[tuple[int, int]]
) -> None:
    assert lines_of(drafted(account, units, tiers=TIERS)) == lines


def test_volume_tiers_price_all_units_by_the_tier_that_they_reach(account: Account) -> None:
    tiers = [{"up_to": 10, "unit_amount": 99}, {"up_to": "inf", "unit_amount": 50}]

    assert lines_of(drafted(account, 12, tiers=tiers, tiers_mode="volume")) == [(12, 600)]


@pytest.mark.parametrize(
    ("currency", "unit", "units", "amount"),
    [
        ("usd", "0.5", 1, 1),  # half a cent
        ("usd", "0.5", 3, 2),
        ("usd", "0.499999999999", 1, 0),
        ("usd", "33.333333333333", 3, 100),
        ("jpy", "0.5", 3, 2),  # no decimals
        ("isk", "9950", 1, 10_000),  # half a krona, written in hundredths
        ("ugx", "100", 7, 700),
        ("kwd", "1234.5", 1, 1_230),  # the last of three decimals is 0
        ("kwd", "1235", 1, 1_240),
    ],
)
def test_a_line_is_rounded_once_to_what_the_currency_has(
    account: Account, currency: str, unit: str, units: int, amount: int
) -> None:
    invoice = drafted(account, units, currency=currency, unit_amount_decimal=unit)

    assert (invoice.currency, invoice.total) == (currency, amount)


# --- invoice items ---------------------------------------------------------------------------------


def test_items_are_lines_of_the_draft_that_they_name(account: Account) -> None:
    draft = drafted(account)
    item = account.item(
        -99,
        invoice=draft.id,
        description="adjusted: October, -1 at 0.99",
        metadata={"period": "2026-09-01"},
        period={"start": at("2026-09-01"), "end": OCTOBER},
    )

    invoice = account.v1.invoices.retrieve(draft.id)

    assert lines_of(invoice) == [(1, -99), (3, 297)]
    line = invoice.lines.data[0]
    assert (line.description, line.metadata.to_dict()) == (
        "adjusted: October, -1 at 0.99",
        {"period": "2026-09-01"},
    )
    assert line.parent.invoice_item_details.invoice_item == item.id
    assert (line.period.start, line.period.end) == (at("2026-09-01"), OCTOBER)
    assert (invoice.total, invoice.amount_due) == (198, 198)


def test_an_item_can_name_the_product_that_it_corrects(account: Account) -> None:
    draft = drafted(account)
    account.v1.invoice_items.create(
        {
            "customer": account.customer,
            "invoice": draft.id,
            "price_data": {
                "currency": "usd",
                "product": account.product,
                "unit_amount_decimal": "-49.5",
            },
            "quantity": 2,
        }
    )

    line = account.v1.invoices.retrieve(draft.id).lines.data[0]

    assert (line.amount, line.quantity) == (-99, 2)
    assert line.pricing.price_details.product == account.product


def test_the_same_item_sent_again_with_its_key_is_one_item(account: Account) -> None:
    draft = drafted(account)
    params = {"customer": account.customer, "invoice": draft.id, "amount": 5, "currency": "usd"}

    first, second = (
        account.v1.invoice_items.create(params, {"idempotency_key": "item/1"}) for _ in range(2)
    )

    assert first.id == second.id
    assert account.v1.invoices.retrieve(draft.id).total == 302


def test_a_pending_item_goes_to_the_next_invoice(account: Account) -> None:
    subscribed(account)
    account.item(500)
    assert len(account.v1.invoice_items.list({"pending": True}).data) == 1

    account.now("2026-11-01T00:01")

    assert lines_of(account.invoices()[-1]) == [(1, 500), (0, 0)]
    assert account.v1.invoice_items.list({"pending": True}).data == []


def test_items_are_changed_and_deleted_while_the_invoice_is_a_draft(account: Account) -> None:
    draft = drafted(account)
    kept, gone = account.item(10, invoice=draft.id), account.item(20, invoice=draft.id)
    account.v1.invoice_items.update(kept.id, {"amount": 15, "description": "changed"})
    account.v1.invoice_items.delete(gone.id)
    invoice = account.v1.invoices.finalize_invoice(draft.id)

    assert lines_of(invoice) == [(1, 15), (3, 297)]
    for late in (
        lambda: account.item(1, invoice=draft.id),
        lambda: account.v1.invoice_items.update(kept.id, {"amount": 1}),
        lambda: account.v1.invoice_items.delete(kept.id),
    ):
        assert error_of(late).code == "invoice_not_editable"
    assert account.v1.invoices.retrieve(draft.id).total == 312


def test_an_invoice_shows_ten_lines_and_lists_them_all(account: Account) -> None:
    draft = drafted(account)
    for amount in range(1, 25):
        account.item(amount, invoice=draft.id)

    invoice = account.v1.invoices.retrieve(draft.id)
    listed = account.v1.invoices.line_items.list(draft.id, {"limit": 7})

    assert (len(invoice.lines.data), invoice.lines.has_more) == (10, True)
    assert len(lines_of(invoice)) == 25
    assert [line.amount for line in listed.auto_paging_iter()] == [*range(24, 0, -1), 297]
    assert invoice.total == 597


def test_an_invoice_takes_250_items(account: Account) -> None:
    draft = drafted(account)
    items = account.emulator.state.invoice_items
    params = {"customer": account.customer, "invoice": draft.id, "currency": "usd"}
    for _ in range(250):
        items.create({**params, "amount": "1"}, NOVEMBER)

    error = error_of(lambda: account.item(1, invoice=draft.id))

    assert "at most 250" in str(error.user_message)
    assert account.v1.invoices.retrieve(draft.id).total == 547
    assert account.v1.invoice_items.list({"pending": True}).data == []


def test_wrong_items_are_errors(account: Account) -> None:
    draft = drafted(account)
    other = account.v1.customers.create({})

    wrong: list[dict[str, Any]] = [
        {"customer": other.id},
        {"currency": "eur"},
        {"quantity": 2},
        {"invoice": "in_none"},
        {"unit_amount_decimal": "1"},
        {"period": {"start": 1}},
    ]
    for params in wrong:
        error = error_of(partial(account.item, 1, **{"invoice": draft.id, **params}))
        assert isinstance(error, stripe.InvalidRequestError)
    assert account.v1.invoices.retrieve(draft.id).total == 297


# --- balances --------------------------------------------------------------------------------------


def test_an_invoice_below_zero_asks_for_nothing_and_becomes_the_customers_credit(
    account: Account,
) -> None:
    draft = drafted(account)
    account.item(-497, invoice=draft.id)

    final = account.v1.invoices.finalize_invoice(draft.id)

    assert (final.total, final.amount_due, final.status) == (-200, 0, "paid")
    assert (final.starting_balance, final.ending_balance, account.balance()) == (0, -200, -200)
    account.use(3, "2026-11-01T00:00:30")
    account.now("2026-12-01T02:00")
    following = account.invoices()[-1]
    assert (following.total, following.amount_due) == (297, 97)
    assert (following.starting_balance, following.ending_balance) == (-200, 0)
    moved = account.v1.customers.balance_transactions.list(account.customer).data
    assert [(each.type, each.amount) for each in moved] == [
        ("applied_to_invoice", 200),
        ("applied_to_invoice", -200),
    ]


def test_an_invoice_that_is_too_small_to_charge_is_owed_later(account: Account) -> None:
    draft = drafted(account, unit_amount=10)

    final = account.v1.invoices.finalize_invoice(draft.id)

    assert (final.total, final.amount_due, final.status) == (30, 0, "paid")
    assert (final.ending_balance, account.balance()) == (30, 30)


def test_an_invoice_of_zero_leaves_the_balance(account: Account) -> None:
    draft = drafted(account)
    account.item(-297, invoice=draft.id)

    final = account.v1.invoices.finalize_invoice(draft.id)

    assert (final.total, final.status, final.ending_balance) == (0, "paid", 0)
    assert account.v1.customers.balance_transactions.list(account.customer).data == []


def test_a_void_invoice_gives_back_what_it_took_from_the_balance(account: Account) -> None:
    account.v1.customers.update(account.customer, {"balance": -100})
    draft = drafted(account)
    account.v1.invoices.finalize_invoice(draft.id)
    assert account.balance() == 0

    void = account.v1.invoices.void_invoice(draft.id)

    assert (void.status, account.balance()) == ("void", -100)
    assert error_of(lambda: account.v1.invoices.pay(draft.id)).http_status == 400


def test_an_open_invoice_is_paid_once(account: Account) -> None:
    draft = drafted(account)

    paid = account.v1.invoices.pay(draft.id, {"paid_out_of_band": True})

    assert (paid.status, paid.amount_paid, paid.amount_remaining) == ("paid", 297, 0)
    assert "already paid" in str(error_of(lambda: account.v1.invoices.pay(draft.id)))


# --- invoices by hand ------------------------------------------------------------------------------


def test_an_invoice_by_hand_takes_pending_items_only_if_told(account: Account) -> None:
    account.item(9_000, description="pack of 10,000")
    without = account.v1.invoices.create({"customer": account.customer})
    with_items = account.v1.invoices.create(
        {
            "customer": account.customer,
            "pending_invoice_items_behavior": "include",
            "collection_method": "send_invoice",
            "days_until_due": 30,
        }
    )

    assert (without.total, without.auto_advance, without.billing_reason) == (0, False, "manual")
    assert (with_items.total, with_items.collection_method) == (9_000, "send_invoice")
    account.now("2026-12-01")
    assert account.v1.invoices.retrieve(without.id).status == "draft"


def test_only_a_draft_by_hand_can_be_deleted(account: Account) -> None:
    draft = drafted(account)
    by_hand = account.v1.invoices.create({"customer": account.customer})
    item = account.item(5, invoice=by_hand.id)
    account.v1.invoices.delete(by_hand.id)

    assert error_of(lambda: account.v1.invoices.delete(draft.id)).http_status == 400
    assert error_of(lambda: account.v1.invoices.retrieve(by_hand.id)).http_status == 404
    assert error_of(lambda: account.v1.invoice_items.retrieve(item.id)).http_status == 404


def test_invoices_are_found_by_customer_status_and_subscription(account: Account) -> None:
    draft = drafted(account)
    subscription = account.v1.subscriptions.list().data[0]

    for params in (
        {"customer": account.customer},
        {"status": "draft"},
        {"subscription": subscription.id, "customer": account.customer},
    ):
        assert [each.id for each in account.v1.invoices.list(params).data] == [draft.id]
    for params in ({"customer": "cus_none"}, {"status": "open"}, {"subscription": "sub_none"}):
        assert account.v1.invoices.list(params).data == []
