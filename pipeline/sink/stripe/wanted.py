"""Say what Stripe must have so that it bills what the catalog says. Pure.

https://docs.stripe.com/api/prices/create
https://docs.stripe.com/currencies
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from pipeline.billing.contract import Tier
from pipeline.billing.money import digits_of
from pipeline.billing.periods import DEFAULT_ANCHOR_MS
from pipeline.catalog.value import Catalog
from pipeline.resolve.machine import PROCEDURE_HANDOFF, RESOLUTION
from pipeline.resolve.policy import Policy

LOOKUP_KEY_CHARACTERS_MAX = 200
# Amounts of these are written in hundredths, which are always whole.
_HUNDREDTHS = frozenset({"isk", "ugx"})

Tiers = tuple[Tier, ...]


class Account(NamedTuple):
    """Who is billed: a customer, what its outcomes cost, and when its periods begin."""

    name: str
    customer: str
    currency: str
    tiers: Mapping[str, Tiers]  # by outcome; a single price is one tier
    anchor_ms: int = DEFAULT_ANCHOR_MS


class Price(NamedTuple):
    """A price of an outcome. Customers who pay the same share it."""

    outcome: str
    event_name: str
    currency: str
    tiers: Tiers

    @property
    def lookup_key(self) -> str:
        """Return the name under which Stripe finds the price: a function of what it costs."""
        tiers = ",".join(f"{up_to or 'inf'}:{plain(price)}" for up_to, price in self.tiers)
        costs = plain(self.tiers[0].price) if len(self.tiers) == 1 else tiers
        key = f"resmeter/{self.event_name}/{self.currency}/{costs}"
        if len(key) <= LOOKUP_KEY_CHARACTERS_MAX:
            return key
        return f"resmeter/{hashlib.sha256(key.encode()).hexdigest()}"

    def params(self) -> dict[str, Any]:
        """Return what the price costs, as Stripe's call to create a price takes it."""
        if len(self.tiers) == 1:
            return {
                "currency": self.currency,
                "billing_scheme": "per_unit",
                "unit_amount_decimal": plain(minor_units(self.tiers[0].price, self.currency)),
            }
        return {
            "currency": self.currency,
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "tiers": [
                {
                    "up_to": up_to or "inf",
                    "unit_amount_decimal": plain(minor_units(price, self.currency)),
                }
                for up_to, price in self.tiers
            ],
        }


def accounts_of(catalog: Catalog, at_ms: Callable[[str], int]) -> tuple[list[Account], list[str]]:
    """Return the accounts of a catalog, and what Stripe cannot bill as it is.

    Tenants with one customer are one account: a subscription has one price for a meter.

    Args:
        catalog: who is billed, and under which policies.
        at_ms: returns the time at which the prices of a customer count.
    """
    accounts: dict[str, Account] = {}
    problems: list[str] = []
    for tenant, customer in sorted(catalog.customers.items()):
        policy = catalog.timeline_of(tenant).at(at_ms(customer))
        billed = _outcomes_of(policy)
        problems += _unpriced(tenant, policy, billed)
        tiers = {
            outcome: (Tier(None, price),)
            for outcome, price in policy.price.items()
            if outcome in billed
        }
        found = Account(tenant, customer, policy.currency.lower(), tiers)
        known = accounts.setdefault(customer, found)
        if known[2:] != found[2:]:
            problems.append(
                f"tenants.{tenant}: its customer {customer} is that of {known.name} too, and their "
                f"prices differ ({costs_of(known)}; {costs_of(found)}): a subscription has one price "
                "for a meter; give them the same policy, or a customer each"
            )
    return list(accounts.values()), problems


def prices_of(catalog: Catalog, accounts: Iterable[Account]) -> list[Price]:
    """Return the prices that the accounts need, each once, by lookup key."""
    prices = [price for account in accounts for price in account_prices(catalog, account)]
    return sorted(set(prices), key=lambda price: price.lookup_key)


def account_prices(catalog: Catalog, account: Account) -> list[Price]:
    """Return the prices of an account, by outcome."""
    return [
        Price(outcome, event_name_of(catalog, outcome), account.currency, tiers)
        for outcome, tiers in sorted(account.tiers.items())
    ]


def event_name_of(catalog: Catalog, outcome: str) -> str:
    """Return the event name of the meter that counts an outcome."""
    return catalog.meters.get(outcome, f"resmeter_{outcome}")


def costs_of(account: Account) -> str:
    """Return what an account's outcomes cost, in words."""
    return ", ".join(
        f"{outcome} {tiers_text(tiers)} {account.currency}"
        for outcome, tiers in sorted(account.tiers.items())
    )


def tiers_text(tiers: Tiers) -> str:
    """Return what a unit costs, in words."""
    if len(tiers) == 1:
        return plain(tiers[0].price)
    return ", ".join(
        f"{plain(price)} up to {up_to}" if up_to else f"then {plain(price)}"
        for up_to, price in tiers
    )


def minor_units(price: Decimal, currency: str) -> Decimal:
    """Return a price in what Stripe counts for a currency."""
    digits = 2 if currency in _HUNDREDTHS else digits_of(currency)
    return price.scaleb(digits)


def major_units(amount: Decimal, currency: str) -> Decimal:
    """Return the price that Stripe has in its minor units."""
    return amount.scaleb(-(2 if currency in _HUNDREDTHS else digits_of(currency)))


def plain(number: Decimal) -> str:
    """Return a number without exponent and trailing zeros."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _outcomes_of(policy: Policy) -> set[str]:
    """Return the outcomes that a policy may bill."""
    handoff = {PROCEDURE_HANDOFF} if policy.handoff_causes_billed else set()
    return {RESOLUTION, *policy.outcomes_billed} | handoff


def _unpriced(tenant: str, policy: Policy, billed: set[str]) -> list[str]:
    return [
        f"tenants.{tenant}: policy {policy.name!r}, version {policy.version}, bills {outcome} and has "
        "no price for it: publish a version with one"
        for outcome in sorted(billed - set(policy.price))
    ]
