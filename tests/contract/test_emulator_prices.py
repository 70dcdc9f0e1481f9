"""The emulator's products and prices, as Stripe's own SDK reads them."""

from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from tests.support.stripe_account import Account, error_of, open_account


@pytest.fixture
def account() -> Iterator[Account]:
    with open_account() as opened:
        yield opened


def test_a_product_is_created_changed_and_listed(account: Account) -> None:
    account.v1.products.create({"id": "resmeter_resolution", "name": "R", "tax_code": "txcd_1"})
    account.v1.products.update("resmeter_resolution", {"name": "Resolved", "active": False})

    product = account.v1.products.retrieve("resmeter_resolution")

    assert (product.name, product.active, product.tax_code) == ("Resolved", False, "txcd_1")
    assert [each.id for each in account.v1.products.list({"active": True}).data] == [
        account.product
    ]
    again = error_of(lambda: account.v1.products.create({"id": "resmeter_resolution", "name": "R"}))
    assert again.code == "resource_already_exists"


def test_a_price_has_its_amount_in_both_forms_and_only_the_decimal_of_a_fraction(
    account: Account,
) -> None:
    whole, fraction = account.price(), account.price(unit_amount_decimal="0.250")

    assert (whole.unit_amount, str(whole.unit_amount_decimal)) == (99, "99")
    assert (fraction.unit_amount, str(fraction.unit_amount_decimal)) == (None, "0.25")
    assert whole.recurring is not None
    assert (whole.recurring.usage_type, whole.recurring.meter) == ("metered", account.meter)


def test_a_price_shows_its_tiers_only_if_the_call_expands_them(account: Account) -> None:
    tiers = [{"up_to": 10, "unit_amount": 0}, {"up_to": "inf", "unit_amount": 99}]
    price = account.price(tiers=tiers, lookup_key="k")

    expanded = account.v1.prices.retrieve(price.id, {"expand": ["tiers"]})
    (listed,) = account.v1.prices.list({"lookup_keys": ["k"], "expand": ["data.tiers"]}).data

    assert not hasattr(account.v1.prices.retrieve(price.id), "tiers")
    for found in (expanded, listed):
        assert [(tier.up_to, tier.unit_amount) for tier in found.tiers] == [(10, 0), (None, 99)]
    assert (expanded.billing_scheme, expanded.unit_amount) == ("tiered", None)


def test_a_lookup_key_names_one_price_and_can_move_to_another(account: Account) -> None:
    first = account.price(lookup_key="acme/resolution")
    assert "already uses that lookup key" in str(
        error_of(lambda: account.price(lookup_key="acme/resolution")).user_message
    )

    second = account.price(lookup_key="acme/resolution", transfer_lookup_key=True)

    (found,) = account.v1.prices.list({"lookup_keys": ["acme/resolution"]}).data
    assert found.id == second.id
    assert account.v1.prices.retrieve(first.id).lookup_key is None


def test_what_a_price_costs_never_changes(account: Account) -> None:
    price = account.price()
    account.v1.prices.update(price.id, {"nickname": "new", "active": False})

    error = error_of(lambda: account.v1.prices.update(price.id, {"unit_amount": 1}))

    assert error.code == "parameter_unknown"
    changed = account.v1.prices.retrieve(price.id)
    assert (changed.nickname, changed.active, changed.unit_amount) == ("new", False, 99)


def test_metadata_is_merged_and_an_empty_value_takes_a_key_away(account: Account) -> None:
    price = account.price(metadata={"a": "1", "b": "2"})

    changed = account.v1.prices.update(price.id, {"metadata": {"a": "", "c": "3"}})

    assert changed.metadata.to_dict() == {"b": "2", "c": "3"}
    assert account.v1.prices.update(price.id, {"metadata": ""}).metadata.to_dict() == {}


WRONG: dict[str, dict[str, Any]] = {
    "needs a meter": {"recurring": {"interval": "month", "usage_type": "metered"}},
    "has a meter and is licensed": {"recurring": {"interval": "month", "meter": "mtr_1"}},
    "no such interval": {"recurring": {"interval": "fortnight"}},
    "amounts of both forms": {"unit_amount": 1, "unit_amount_decimal": "1"},
    "13 decimal places": {"unit_amount_decimal": "0.0000000000001"},
    "negative": {"unit_amount": -1},
    "not a number": {"unit_amount": "1e3"},
    "a krona has no coins": {"unit_amount": 150, "currency": "isk"},
    "the last digit of a dinar": {"unit_amount": 1_001, "currency": "kwd"},
    "no currency": {"currency": "dollars"},
    "no product": {"product": "prod_none"},
    "a tier without end": {"tiers": [{"up_to": 5, "unit_amount": 1}]},
    "tiers that fall": {
        "tiers": [
            {"up_to": 5, "unit_amount": 1},
            {"up_to": 5, "unit_amount": 1},
            {"up_to": "inf", "unit_amount": 1},
        ]
    },
    "a tier without amount": {"tiers": [{"up_to": "inf"}]},
    "tiers without mode": {"tiers": [{"up_to": "inf", "unit_amount": 1}], "tiers_mode": "steep"},
    "a parameter that Stripe does not have": {"colour": "green"},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_price_that_stripe_does_not_take_is_an_error_and_is_not_created(
    account: Account, what: str
) -> None:
    error = error_of(lambda: account.price(**WRONG[what]))

    assert isinstance(error, stripe.InvalidRequestError)
    assert account.v1.prices.list().data == []


@pytest.mark.parametrize(
    ("currency", "amount"), [("jpy", 99), ("isk", 9_900), ("ugx", 100), ("kwd", 1_230)]
)
def test_amounts_are_in_the_minor_units_that_stripe_has_for_a_currency(
    account: Account, currency: str, amount: int
) -> None:
    assert account.price(currency=currency, unit_amount=amount).unit_amount == amount


def test_lists_are_paged_in_both_directions(account: Account) -> None:
    ids = [account.price().id for _ in range(5)][::-1]

    forward = account.v1.prices.list({"limit": 2})
    page = account.v1.prices.list({"limit": 2, "ending_before": ids[4]})

    assert [each.id for each in forward.auto_paging_iter()] == ids
    assert [each.id for each in page.data] == ids[2:4]
    assert page.has_more
    first = account.v1.prices.list({"limit": 3, "ending_before": ids[2]})
    assert [each.id for each in first.data] == ids[:2]
    assert not first.has_more
