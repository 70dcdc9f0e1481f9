"""Contracts in TOML: what a file says, and every problem that it has."""

from decimal import Decimal

import pytest

from pipeline.billing.contract import Contract, Tier
from pipeline.catalog.contracts import read_contract
from pipeline.errors import ConfigurationError
from pipeline.events.times import parse_time


def read(*texts: str, currencies: tuple[str, ...] = ("usd",)) -> Contract:
    return read_contract({f"{n}.toml": text for n, text in enumerate(texts, 1)}, currencies)


def problems(*texts: str, currencies: tuple[str, ...] = ("usd",)) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refused:
        read(*texts, currencies=currencies)
    return refused.value.problems


def test_a_contract_may_have_every_key() -> None:
    contract = read(
        """
        name = "standard"
        version = 2
        account = "acme"
        currency = "EUR"
        effective_from = 2026-10-01T00:00:00Z
        alerts = [0.9, 1]
        prorate = false
        period.anchor = 2026-10-15T06:00:00Z
        price.qualification = 9.99
        tiers.resolution = [{ up_to = 100, price = "0.99" }, { price = "0.50" }]
        included.resolution = 50
        cap = { units = 1000, amount = "500", action = "stop" }
        minimum.amount = 20.5
        """
    )

    (terms,) = contract.versions
    assert (contract.account, contract.currency) == ("acme", "eur")
    assert terms.tiers == {
        "qualification": (Tier(None, Decimal("9.99")),),
        "resolution": (Tier(100, Decimal("0.99")), Tier(None, Decimal("0.5"))),
    }
    assert (terms.cap_units, terms.cap_amount, terms.cap_action) == (1000, 50000, "stop")
    assert (terms.minimum, terms.included, terms.prorate) == (2050, {"resolution": 50}, False)
    assert (terms.effective_from, terms.anchor_ms) == (
        parse_time("2026-10-01T00:00:00Z"),
        parse_time("2026-10-15T06:00:00Z"),
    )


@pytest.mark.parametrize("price", ["-0.0", '"-0"', "0"])
def test_a_price_of_minus_zero_is_zero(price: str) -> None:
    (terms,) = read(f"price.resolution = {price}").versions

    assert str(terms.tiers["resolution"][0].price).startswith("0")


def test_versions_have_the_keys_above_them_and_their_own() -> None:
    contract = read(
        """
        currency = "eur"
        included.resolution = 5
        [[versions]]
        price.resolution = "0.99"
        [[versions]]
        effective_from = 2026-11-01T00:00:00Z
        price.resolution = "0.49"
        included.resolution = 1
        """
    )

    assert [
        (v.included["resolution"], v.tiers["resolution"][0].price) for v in contract.versions
    ] == [
        (5, Decimal("0.99")),
        (1, Decimal("0.49")),
    ]


def test_no_contract_is_one_without_terms() -> None:
    contract = read(currencies=("jpy",))

    assert (contract.currency, contract.versions[0].tiers) == ("jpy", {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "price.resolution = -1",
            "price: resolution: is -1; it must be an amount from 0 to 1000000000",
        ),
        ("price = 1", "price: is 1; it must be a table of outcomes"),
        ("tiers.a = []", "tiers: a: is []; it must be a list such as"),
        (
            "tiers.a = [{ upto = 5, price = 1 }, { price = 2 }]",
            "tiers: a: upto: unknown key; did you mean up_to?",
        ),
        ("tiers.a = [{ up_to = 5, price = 1 }, {}]", "tiers: a: tier 2 has no price"),
        (
            "tiers.a = [{ price = 1 }, { price = 2 }]",
            "tiers: a: the last tier has no up_to, and each",
        ),
        (
            "tiers.a = [{ up_to = 5, price = 1 }, { up_to = 5, price = 1 }, { price = 2 }]",
            "tiers: a: is 5; it must be a whole number from 6 to 1000000000",
        ),
        ("price.a = 1\ntiers.a = [{ price = 1 }]", "tiers.a: the outcome has a price as well"),
        ("included.a = 1.5", "included: a: is 1.5; it must be a whole number from 0 to"),
        ("cap = 5", "cap: is 5; it must be a table: write [cap]"),
        ("cap.unit = 5", "cap.unit: unknown key; did you mean units?"),
        ('cap.action = "halt"', "cap.action: is 'halt'; it must be one of alert, stop"),
        ("cap.amount = 0.98\nprice.a = 0.99", "cap.amount: is 0.98, below the first price 0.99"),
        ('cap.amount = "1.005"', "cap.amount: 1.005 has more digits than an amount in usd"),
        (
            "effective_from = 2026-01-01T00:00:00Z\ncap.amount = 5\nminimum.amount = 6",
            "minimum.amount: is 6, above cap.amount, which is 5",
        ),
        ("minimum.amount = 6", "effective_from: is missing; a contract with a minimum needs it"),
        (
            "period.anchor = 2026-01-01T00:30:00Z",
            "period.anchor: is '2026-01-01 00:30:00+00:00'; it",
        ),
        ("alerts = [0.5, 1.5]", "alerts: is [0.5, 1.5]; it must be a list of shares above 0"),
        ('currency = "dollar"', "currency: is 'dollar'; it must be a currency such as"),
        ("prices.a = 1", "prices: unknown key; did you mean price?"),
        ("versions = 3", "versions: is 3; it must be a list of tables: write [[versions]]"),
        ("= 3", "is not valid TOML"),
    ],
)
def test_a_problem_names_the_key_and_what_to_write(text: str, problem: str) -> None:
    found = problems(text)

    assert len(found) == 1
    assert found[0].startswith(f"1.toml: {problem}")


def test_all_problems_of_all_files_are_named() -> None:
    found = problems('currency = "eur"\nx = 1\n', 'currency = "chf"\n', "prorate = 3")

    assert found == (
        "1.toml: x: unknown key",
        "3.toml: prorate: is 3; it must be true or false",
        "1.toml and 2.toml and 3.toml: currency: is chf and eur; all versions have the same",
        "2.toml: effective_from: is that of 1.toml too; each version has its own",
        "3.toml: effective_from: is that of 2.toml too; each version has its own",
    )


def test_policies_that_differ_in_currency_need_a_contract_that_names_one() -> None:
    assert problems("", currencies=("usd", "eur")) == (
        "1.toml: currency: is eur and usd; name the account's: the policies differ",
    )
    assert read('currency = "chf"', currencies=("usd", "eur")).currency == "chf"
