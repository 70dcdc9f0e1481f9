"""Say what Stripe must have so that it bills what the catalog says. Pure.

https://docs.stripe.com/api/prices/create
https://docs.stripe.com/currencies
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from pipeline.billing.contract import Terms, Tier
from pipeline.billing.money import price_text, stripe_digits
from pipeline.billing.periods import DEFAULT_ANCHOR_MS
from pipeline.catalog.account_contract import contract_of
from pipeline.catalog.charges import Holding, holdings, outcomes_billed
from pipeline.catalog.dated import spans
from pipeline.catalog.value import NEVER, Catalog, when
from pipeline.resolve.policy import Policy

LOOKUP_KEY_CHARACTERS_MAX = 200

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
        tiers = ",".join(f"{up_to or 'inf'}:{price_text(price)}" for up_to, price in self.tiers)
        costs = price_text(self.tiers[0].price) if len(self.tiers) == 1 else tiers
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
                "unit_amount_decimal": price_text(minor_units(self.tiers[0].price, self.currency)),
            }
        return {
            "currency": self.currency,
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "tiers": [
                {
                    "up_to": up_to or "inf",
                    "unit_amount_decimal": price_text(minor_units(price, self.currency)),
                }
                for up_to, price in self.tiers
            ],
        }


def accounts_of(
    catalog: Catalog, since_ms: Callable[[str], int], now_ms: int | None = None
) -> tuple[list[Account], list[str]]:
    """Return the accounts of a catalog, and what Stripe cannot bill as it is.

    Accounts with one customer are one: a subscription has one price for a meter.

    Args:
        catalog: who is billed, and under which contracts and policies.
        since_ms: returns the start of a customer's period, whose prices count.
        now_ms: a contract that an account got or lost between that start and now counts too.
    """
    accounts: dict[str, Account] = {}
    problems: list[str] = []
    for name, customer in sorted(catalog.customers.items()):
        at_ms = _last_cut(catalog, name, since_ms(customer), now_ms)
        found, wrong = _account(catalog, name, customer, at_ms)
        problems += wrong
        if found is None:
            continue
        known = accounts.setdefault(customer, found)
        if known[2:] != found[2:]:
            problems.append(
                f"account {name}: its customer {customer} is that of {known.name} too, and their "
                f"prices or periods differ ({costs_of(known)}; {costs_of(found)}): a subscription has "
                "one price for a meter; make them one account, or give each a customer"
            )
    return list(accounts.values()), problems


def needed_later(catalog: Catalog, accounts: Iterable[Account], now_ms: int) -> list[str]:
    """Return in words which other prices or periods accounts will have, and from when on."""
    found = []
    for account in accounts:
        held = holdings(catalog, account.name)
        times = {ms for each in held for ms in each[1:] if now_ms < ms < NEVER}
        for ms in sorted(times):
            later, _ = _account(catalog, account.name, account.customer, ms)
            if later is not None and later[2:] != account[2:]:
                found.append(
                    f"account {account.name} ({account.customer}): from {when(ms)} on, "
                    f"{costs_of(later)}, in periods from {_anchor_text(later)}; its subscription "
                    "needs that then, and not before"
                )
                break
    return found


def charged_to(catalog: Catalog, account: str, at_ms: int) -> Mapping[str, Tiers]:
    """Return what an account's subscription charges in a period, by outcome; `at_ms` is its start."""
    found, _ = _account(catalog, account, catalog.customers.get(account, ""), at_ms)
    return {} if found is None else found.tiers


def _account(
    catalog: Catalog, name: str, customer: str, at_ms: int
) -> tuple[Account | None, list[str]]:
    """Return an account with what its outcomes cost at a time; None: it has no tenant then."""
    held = _held(catalog, name, at_ms)
    at_ms = max(at_ms, held.from_ms) if held else at_ms
    tenants = _tenants(catalog, name, at_ms)
    terms = held.version.terms if held else Terms()
    tiers: dict[str, Tiers] = {}
    problems: list[str] = []
    currencies: set[str] = {held.version.currency} if held else set()
    for tenant in tenants:
        policy = catalog.timeline_of(tenant).at(at_ms)
        if held is None:
            currencies.add(policy.currency)
        for outcome in sorted(outcomes_billed(policy)):
            costs = terms.tiers.get(outcome) or _of_policy(policy, outcome)
            if not costs:
                problems.append(
                    f"account {name}: policy {policy.name!r}, version {policy.version}, bills "
                    f"{outcome} and has no price for it: publish a version with one"
                )
            elif tiers.setdefault(outcome, costs) != costs:
                problems.append(
                    f"account {name}: {outcome} costs {tiers_text(tiers[outcome])} and, of {tenant}, "
                    f"{tiers_text(costs)}: a subscription has one price for a meter; write "
                    f"price.{outcome} in the account's contract"
                )
    if len(currencies) > 1:
        problems.append(f"account {name}: its policies have the currencies {sorted(currencies)}")
    if len(tenants) > 1 and any(len(each) > 1 for each in tiers.values()):
        problems.append(
            f"account {name}: its contract has tiers, and {len(tenants)} tenants: Stripe's tiers fit "
            "an account with one tenant only"
        )
    if not tenants or not currencies:
        return None, problems
    anchor_ms = _anchor_ms(catalog, name, at_ms)
    return Account(name, customer, min(currencies), tiers, anchor_ms), problems


def _held(catalog: Catalog, account: str, at_ms: int) -> Holding | None:
    """Return what an account holds at a time; of one without tenants yet, what it will hold first.

    None: the policies of its tenants say the prices.
    """
    known = [each for each in holdings(catalog, account) if at_ms < each.to_ms]
    if not known or (at_ms < known[0].from_ms and _has_tenant(catalog, account, at_ms)):
        return None
    return known[0]


def _has_tenant(catalog: Catalog, account: str, at_ms: int) -> bool:
    """Return whether an account has a tenant, or is one, at a time."""
    named = [t for t, of in catalog.members.items() if any(each.name == account for each in of)]
    is_own = not named or account in catalog.assigned
    return is_own or any(catalog.account_of(each, at_ms) == account for each in named)


def _last_cut(catalog: Catalog, account: str, since_ms: int, now_ms: int | None) -> int:
    """Return when the account got or lost a contract last; the start of its period, if not since."""
    if now_ms is None:
        return since_ms
    starts = [from_ms for _, from_ms, _ in spans(catalog.accounts.get(account, ()))]
    return max([since_ms, *(ms for ms in starts if ms <= now_ms)])


def _anchor_ms(catalog: Catalog, account: str, at_ms: int) -> int:
    contract = contract_of(catalog, account)
    if contract is None:
        return DEFAULT_ANCHOR_MS
    return contract.terms_for(contract.calendar.period_at(at_ms)).anchor_ms


def _tenants(catalog: Catalog, account: str, at_ms: int) -> list[str]:
    """Return the tenants of an account at a time; a tenant that names none is its own account."""
    members = [each for each in catalog.members if catalog.account_of(each, at_ms) == account]
    is_own = not members or account in catalog.assigned
    if is_own and catalog.account_of(account, at_ms) == account:
        members.append(account)
    return sorted(set(members))


def _of_policy(policy: Policy, outcome: str) -> Tiers:
    price = policy.price.get(outcome)
    return () if price is None else (Tier(None, price),)


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


def _anchor_text(account: Account) -> str:
    day = datetime.fromtimestamp(account.anchor_ms / 1000, UTC)
    return f"day {day.day} at {day:%H:%M:%S} UTC"


def tiers_text(tiers: Tiers) -> str:
    """Return what a unit costs, in words."""
    if len(tiers) == 1:
        return price_text(tiers[0].price)
    return ", ".join(
        f"{price_text(price)} up to {up_to}" if up_to else f"then {price_text(price)}"
        for up_to, price in tiers
    )


def minor_units(price: Decimal, currency: str) -> Decimal:
    """Return a price in what Stripe counts for a currency."""
    return price.scaleb(stripe_digits(currency))


def major_units(amount: Decimal, currency: str) -> Decimal:
    """Return the price that Stripe has in its minor units."""
    return amount.scaleb(-stripe_digits(currency))
