"""Plan and create what Stripe must have: meters, products, prices and, if wanted, subscriptions.

Each object has a name that is a function of what it stands for: a meter's event name, a product's id, a
price's lookup key, a subscription's customer and meters. What is there is left alone, so a setup that was
interrupted, or ran already, continues or does nothing. The idempotency keys hold for two that run at the
same time.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import aiohttp
import orjson
import stripe

from pipeline.catalog.value import Catalog
from pipeline.config import StripeSettings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.sink.stripe.billed import differences, is_billed, price_differences
from pipeline.sink.stripe.client import StripeClient
from pipeline.sink.stripe.fitness import meter_problems
from pipeline.sink.stripe.subscribed import Subscribed, meters_of, read_subscribed
from pipeline.sink.stripe.wanted import (
    Account,
    Price,
    account_prices,
    accounts_of,
    event_name_of,
    needed_later,
    prices_of,
    tiers_text,
)

SETUP_TIMEOUT_SECONDS = 30.0
PRODUCT = "resmeter_{}"  # the id of an outcome's product
CARRIED = "resmeter_carried"  # the product of what one invoice carries to the next
_KEYS_MAX = 10  # lookup keys in a call


class Ref(NamedTuple):
    """The id of an object that an earlier step creates, or that is there."""

    kind: str
    name: str


class Step(NamedTuple):
    """An object to create; `params` may have a `Ref` to another one."""

    kind: str
    name: str
    says: str
    params: Mapping[str, Any]


class SetupPlan(NamedTuple):
    """What a setup would create, what must change first, what is there, and what later is needed."""

    steps: list[Step]
    problems: list[str]
    ids: dict[Ref, str]
    later: list[str]


class Subscribing(NamedTuple):
    """How customers are subscribed: `days_until_due` sends them invoices instead of charging them."""

    days_until_due: int | None = None


async def set_up(
    settings: StripeSettings,
    catalog: Catalog,
    now_ms: int,
    subscribing: Subscribing | None,
    *,
    applies: bool,
) -> SetupPlan:
    """Return what is missing for the prices that the catalog has now; create it if `applies`.

    Raises:
        ConfigurationError: there is no key, or it has no permission; or `applies`, and something must
            change first: nothing is created then.
        UnavailableError: Stripe cannot be reached, or refuses a call.
    """
    client = StripeClient(settings, timeout_seconds=SETUP_TIMEOUT_SECONDS)
    try:
        return await set_up_with(client, catalog, now_ms, subscribing, applies=applies)
    finally:
        await client.close()


async def set_up_with(
    client: StripeClient,
    catalog: Catalog,
    now_ms: int,
    subscribing: Subscribing | None,
    *,
    applies: bool,
) -> SetupPlan:
    """Do what `set_up` does, with an open client."""
    try:
        plan = await _planned(client, catalog, now_ms, subscribing)
        if applies and plan.problems:
            raise ConfigurationError([*plan.problems, "nothing was created"])
        if applies:
            for step in plan.steps:
                plan.ids[Ref(step.kind, step.name)] = await _create(client, step, plan.ids)
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        why = client.message_of(error)
        raise ConfigurationError([f"RESMETER_STRIPE__API_KEY or ACCOUNT: {why}"]) from error
    except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
        why = client.message_of(error)
        raise UnavailableError(
            f"Stripe at {client.address}: {why}; what was created stays: run the command again"
        ) from error
    else:
        return plan


async def _planned(
    client: StripeClient, catalog: Catalog, now_ms: int, subscribing: Subscribing | None
) -> SetupPlan:
    subscribed = Subscribed({}, {})
    if subscribing is not None:
        subscribed = await read_subscribed(client, list(catalog.customers.values()))
    accounts, problems = accounts_of(
        catalog, lambda each: subscribed.since_ms(each, now_ms), now_ms
    )
    prices = prices_of(catalog, accounts)
    plan = SetupPlan([], problems, {}, needed_later(catalog, accounts, now_ms))
    meters = await client.list_meters()
    active = meters_of(meters)
    for outcome in sorted({price.outcome for price in prices}):
        name = event_name_of(catalog, outcome)
        if any(meter.event_name == name for meter in meters):
            plan.problems.extend(meter_problems(name, meters))
            plan.ids[Ref("meter", name)] = active.get(name, "")
        else:
            plan.steps.append(_meter(outcome, name))
    outcomes = {PRODUCT.format(price.outcome): _title(price.outcome) for price in prices}
    await _plan_products(client, {**outcomes, CARRIED: "Carried between invoices"}, plan)
    await _plan_prices(client, prices, active, plan)
    if subscribing is not None:
        for account in accounts:
            _plan_subscription(catalog, account, active, subscribed, subscribing, plan)
    return plan


def _meter(outcome: str, name: str) -> Step:
    params = {
        "display_name": _title(outcome),
        "event_name": name,
        "default_aggregation": {"formula": "sum"},
    }
    return Step("meter", name, f"{name}, which sums {outcome}", params)


async def _plan_products(client: StripeClient, wanted: Mapping[str, str], plan: SetupPlan) -> None:
    for product_id, name in sorted(wanted.items()):
        try:
            product = await client.v1.products.retrieve_async(product_id)
        except stripe.InvalidRequestError as error:
            if error.code != "resource_missing":
                raise
            params = {"id": product_id, "name": name, "metadata": {"resmeter": product_id}}
            plan.steps.append(Step("product", product_id, f"{product_id} ({name})", params))
        else:
            plan.ids[Ref("product", product_id)] = product_id
            if not product.active:
                plan.problems.append(f"the product {product_id} is archived: activate it")


async def _plan_prices(
    client: StripeClient, prices: Sequence[Price], meters: Mapping[str, str], plan: SetupPlan
) -> None:
    found: dict[str, Any] = {}
    for start in range(0, len(prices), _KEYS_MAX):
        keys = [price.lookup_key for price in prices[start : start + _KEYS_MAX]]
        listed = await client.v1.prices.list_async(
            {"lookup_keys": keys, "limit": 100, "expand": ["data.tiers"]}
        )
        found |= {str(each.lookup_key): each for each in listed.data}
    for price in prices:
        key, there = price.lookup_key, found.get(price.lookup_key)
        if there is None:
            params = {
                **price.params(),
                "product": Ref("product", PRODUCT.format(price.outcome)),
                "lookup_key": key,
                "metadata": {"resmeter": key[:500]},
                "recurring": {
                    "interval": "month",
                    "usage_type": "metered",
                    "meter": Ref("meter", price.event_name),
                },
            }
            says = f"{tiers_text(price.tiers)} {price.currency} for {price.outcome} ({key})"
            plan.steps.append(Step("price", key, says, params))
            continue
        plan.ids[Ref("price", key)] = there.id
        wrong = [] if there.active else ["is archived: activate it"]
        if meters.get(price.event_name) != getattr(there.recurring, "meter", None):
            wrong.append(f"is not of the active meter {price.event_name!r}: archive it")
        else:
            tiers = {there.id: getattr(there, "tiers", ())}
            wrong += price_differences(price, there, tiers)
        plan.problems.extend(f"the price {there.id} ({key}) {why}" for why in wrong)


def _plan_subscription(
    catalog: Catalog,
    account: Account,
    meters: Mapping[str, str],
    subscribed: Subscribed,
    subscribing: Subscribing,
    plan: SetupPlan,
) -> None:
    prices = account_prices(catalog, account)
    subscriptions = subscribed.of_customer[account.customer]
    if is_billed(prices, meters, subscriptions):
        plan.problems.extend(differences(account, prices, meters, subscriptions, subscribed.tiers))
        return
    anchor = datetime.fromtimestamp(account.anchor_ms / 1000, UTC)
    params: dict[str, Any] = {
        "customer": account.customer,
        "items": [{"price": Ref("price", price.lookup_key)} for price in prices],
        "billing_cycle_anchor_config": {
            "day_of_month": anchor.day,
            "hour": anchor.hour,
            "minute": anchor.minute,
            "second": anchor.second,
        },
        # The time until the anchor is a period of its own.
        "proration_behavior": "none",
        "metadata": {"resmeter": account.name},
    }
    if subscribing.days_until_due is not None:
        params["collection_method"] = "send_invoice"
        params["days_until_due"] = subscribing.days_until_due
    says = f"{account.name} ({account.customer}), periods from day {anchor.day} of each month"
    plan.steps.append(Step("subscription", account.customer, says, params))


async def _create(client: StripeClient, step: Step, ids: Mapping[Ref, str]) -> str:
    """Create an object, and return its id."""
    params: Any = _resolved(step.params, ids)
    options: Any = {"idempotency_key": idempotency_key(step, params)}
    v1 = client.v1
    if step.kind == "meter":
        return (await v1.billing.meters.create_async(params, options)).id
    if step.kind == "product":
        return (await v1.products.create_async(params, options)).id
    if step.kind == "price":
        return (await v1.prices.create_async(params, options)).id
    created = await v1.subscriptions.create_async(params, options)
    if created.status == "canceled":
        # Stripe repeats its answer of the last 24 hours.
        raise UnavailableError(
            f"the subscription {created.id} of {step.name} was made and cancelled within a day; "
            "Stripe makes an equal one after that day"
        )
    return created.id


def idempotency_key(step: Step, params: Mapping[str, Any]) -> str:
    """Return the key of a step: a function of what it creates."""
    digest = hashlib.sha256(orjson.dumps(params, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"resmeter-setup/{step.kind}/{digest}"


def _resolved(params: Any, ids: Mapping[Ref, str]) -> Any:
    """Return parameters with the ids of the objects that they name."""
    if isinstance(params, Ref):
        return ids[params]
    if isinstance(params, Mapping):
        return {name: _resolved(member, ids) for name, member in params.items()}
    if isinstance(params, list):
        return [_resolved(each, ids) for each in params]
    return params


def _title(outcome: str) -> str:
    return outcome.replace("_", " ").capitalize()
