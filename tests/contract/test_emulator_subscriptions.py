"""The emulator's subscriptions and their periods, as Stripe's own SDK reads them."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.stripe_account import NOVEMBER, OCTOBER, Account, at, error_of, open_account


@pytest.fixture
def account() -> Iterator[Account]:
    with open_account() as opened:
        yield opened


def period(account: Account, subscription: str) -> tuple[int, int]:
    (item,) = account.v1.subscriptions.retrieve(subscription)["items"].data
    return item.current_period_start, item.current_period_end


def test_a_subscription_has_monthly_periods_from_its_creation(account: Account) -> None:
    price = account.price()
    subscription = account.subscribe(price.id, metadata={"account": "acme"})

    (item,) = subscription["items"].data
    assert (subscription.status, subscription.currency) == ("active", "usd")
    assert subscription.billing_cycle_anchor - OCTOBER < 60
    assert item.price.id == price.id
    assert item.current_period_end - item.current_period_start == NOVEMBER - OCTOBER
    assert subscription.metadata.to_dict() == {"account": "acme"}


def test_a_full_first_period_begins_with_a_paid_invoice_of_nothing(account: Account) -> None:
    subscription = account.subscribe(account.price().id)

    invoice = account.v1.invoices.retrieve(subscription.latest_invoice)

    assert (invoice.billing_reason, invoice.status) == ("subscription_create", "paid")
    assert (invoice.total, [line.amount for line in invoice.lines.data]) == (0, [0])


def test_an_anchor_in_the_future_makes_a_short_first_period_without_an_invoice(
    account: Account,
) -> None:
    account.now("2026-10-12T09:30")
    subscription = account.subscribe(
        account.price().id, billing_cycle_anchor=NOVEMBER, proration_behavior="none"
    )

    assert subscription.latest_invoice is None
    start, end = period(account, subscription.id)
    assert (start - at("2026-10-12T09:30") < 60, end) == (True, NOVEMBER)


def test_the_31st_is_the_last_day_of_a_short_month_and_returns(account: Account) -> None:
    account.now("2027-01-10T08:00")
    config = {"day_of_month": 31, "hour": 6, "minute": 0, "second": 0}
    subscription = account.subscribe(account.price().id, billing_cycle_anchor_config=config)
    ends = []
    for month in ("2027-02-01", "2027-03-01", "2027-04-01", "2027-05-01"):
        ends.append(period(account, subscription.id)[1])
        account.now(month)

    assert subscription.billing_cycle_anchor == at("2027-01-31T06:00")
    assert subscription.billing_cycle_anchor_config is not None
    assert subscription.billing_cycle_anchor_config.day_of_month == 31
    assert ends == [
        at(f"{day}T06:00") for day in ("2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30")
    ]


def test_a_day_that_this_month_lacks_is_kept_for_the_months_that_have_it(account: Account) -> None:
    account.now("2027-02-10")
    config = {"day_of_month": 31, "hour": 0, "minute": 0, "second": 0}
    subscription = account.subscribe(account.price().id, billing_cycle_anchor_config=config)

    assert subscription.billing_cycle_anchor == at("2027-02-28")
    account.now("2027-03-01")
    assert period(account, subscription.id) == (at("2027-02-28"), at("2027-03-31"))


def test_a_backdated_subscription_bills_usage_from_its_start(account: Account) -> None:
    account.use(3, "2026-10-01T00:00")
    account.now("2026-10-20")
    subscription = account.subscribe(
        account.price().id, backdate_start_date=OCTOBER, billing_cycle_anchor=NOVEMBER
    )

    assert subscription.start_date == OCTOBER
    assert period(account, subscription.id) == (OCTOBER, NOVEMBER)
    account.now("2026-11-01T00:30")
    (invoice,) = account.invoices()
    assert invoice.total == 297


WRONG: dict[str, dict[str, Any]] = {
    "an anchor in the past": {"billing_cycle_anchor": OCTOBER - 1},
    "an anchor after the first period": {"billing_cycle_anchor": at("2026-11-02")},
    "a start in the future": {"backdate_start_date": NOVEMBER},
    "two anchors": {
        "billing_cycle_anchor": NOVEMBER,
        "billing_cycle_anchor_config": {"day_of_month": 1},
    },
    "no such day": {"billing_cycle_anchor_config": {"day_of_month": 32}},
    "no items": {"items": []},
    "an invoice without days": {"collection_method": "send_invoice"},
    "nobody": {"customer": "cus_none"},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_subscription_that_stripe_does_not_take_is_not_created(
    account: Account, what: str
) -> None:
    price = account.price()

    assert error_of(lambda: account.subscribe(price.id, **WRONG[what])).http_status == 400

    assert account.v1.subscriptions.list().data == []


def test_a_customer_is_billed_in_one_currency(account: Account) -> None:
    account.subscribe(account.price().id)
    other = account.price(currency="eur")

    error = error_of(lambda: account.subscribe(other.id))

    assert "cannot combine currencies" in str(error.user_message)


def test_a_new_price_bills_the_whole_period_that_it_ends(account: Account) -> None:
    subscription = account.subscribe(account.price().id, billing_cycle_anchor=OCTOBER + 120)
    account.now("2026-10-15")
    account.use(2, "2026-10-02")
    (item,) = subscription["items"].data
    account.v1.subscriptions.update(
        subscription.id,
        {
            "items": [{"id": item.id, "price": account.price(unit_amount=50).id}],
            "proration_behavior": "none",
        },
    )

    account.now("2026-11-01T00:30")

    assert account.invoices()[-1].total == 100
    (changed,) = account.v1.subscriptions.retrieve(subscription.id)["items"].data
    assert changed.id == item.id


def test_a_subscription_that_is_cancelled_at_the_end_bills_its_last_period(
    account: Account,
) -> None:
    subscription = account.subscribe(account.price().id, cancel_at_period_end=True)
    account.use(2, "2026-10-01T00:03")

    account.now("2027-02-01")

    (invoice,) = account.invoices()
    assert invoice.total == 198
    assert account.v1.subscriptions.retrieve(subscription.id).status == "canceled"
    assert account.v1.subscriptions.list().data == []
    assert len(account.v1.subscriptions.list({"status": "all"}).data) == 1


@pytest.mark.parametrize(("invoice_now", "totals"), [(True, [198]), (False, [])])
def test_a_subscription_that_ends_at_once_bills_its_usage_only_if_told(
    account: Account, invoice_now: bool, totals: list[int]
) -> None:
    subscription = account.subscribe(account.price().id)
    account.now("2026-10-09")
    account.use(2, "2026-10-08")

    ended = account.v1.subscriptions.cancel(subscription.id, {"invoice_now": invoice_now})

    made = account.v1.invoices.list({"subscription": subscription.id}).data
    assert ended.status == "canceled"
    assert [each.total for each in made if each.billing_reason != "subscription_create"] == totals
    assert error_of(lambda: account.v1.subscriptions.cancel(subscription.id)).http_status == 404


def test_deleting_a_customer_ends_its_subscriptions(account: Account) -> None:
    subscription = account.subscribe(account.price().id)
    account.v1.customers.delete(account.customer)

    account.now("2027-01-15")

    assert account.v1.subscriptions.retrieve(subscription.id).status == "canceled"
    assert account.invoices() == []
