"""Check the Stripe account: the key, the meters, the customers and their prices. Changes nothing."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import aiohttp
import stripe

from pipeline.catalog.value import Catalog
from pipeline.config import StripeSettings
from pipeline.sink.stripe.billed import differences, is_billed
from pipeline.sink.stripe.client import StripeClient, read_again
from pipeline.sink.stripe.fitness import meter_problems
from pipeline.sink.stripe.setup import CARRIED
from pipeline.sink.stripe.subscribed import meters_of, read_subscribed
from pipeline.sink.stripe.wanted import account_prices, accounts_of, needed_later

CHECK_TIMEOUT_SECONDS = 20.0
CHECKS_CONCURRENT_MAX = 10
NAMES_MAX = 5
_NO_INVOICE = "in_resmeter_check"


async def check_account(
    settings: StripeSettings,
    customers: Mapping[str, str],
    event_names: Sequence[str],
    report: Callable[[str], None],
) -> list[str]:
    """Return the problems of the key, the meters and the customers.

    Args:
        settings: key and address.
        customers: tenant → Stripe customer.
        event_names: the event names of the meters that must exist.
        report: called with a line for each check that passed, or that was skipped because the key
            has no permission.

    Raises:
        ConfigurationError: there is no key.
    """
    client = StripeClient(settings, timeout_seconds=CHECK_TIMEOUT_SECONDS)
    try:
        problems = await _check_meters(client, event_names, report)
        return problems + await _check_customers(client, customers, report)
    except stripe.AuthenticationError as error:
        message = client.message_of(error)
        return [f"RESMETER_STRIPE__API_KEY: Stripe does not accept it: {message}"]
    except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
        message = client.message_of(error)
        where = "check RESMETER_STRIPE__BASE_URL, PROXY and CA_FILE"
        return [f"cannot reach Stripe at {client.address}: {message}; {where}"]
    finally:
        await client.close()


async def check_prices(
    settings: StripeSettings, catalog: Catalog, now_ms: int, report: Callable[[str], None]
) -> list[str]:
    """Return where a customer's subscription bills something else than the catalog says.

    Args:
        settings: key and address.
        catalog: who is billed, and at which prices.
        now_ms: the time.
        report: called with a line for each check that passed, or that was skipped.

    Raises:
        ConfigurationError: there is no key.
    """
    client = StripeClient(settings, timeout_seconds=CHECK_TIMEOUT_SECONDS)
    try:
        meters = meters_of(await client.list_meters())
        subscribed = await read_subscribed(client, list(catalog.customers.values()))
    except stripe.PermissionError:
        report("the key has no permission to read subscriptions: prices were not compared")
        return []
    except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
        return [f"subscriptions cannot be read: {client.message_of(error)}"]
    finally:
        await client.close()
    accounts, problems = accounts_of(
        catalog, lambda each: subscribed.since_ms(each, now_ms), now_ms
    )
    without: list[str] = []
    for account in accounts:
        prices = account_prices(catalog, account)
        subscriptions = subscribed.of_customer[account.customer]
        if is_billed(prices, meters, subscriptions):
            problems += differences(account, prices, meters, subscriptions, subscribed.tiers)
        else:
            without.append(account.customer)
    compared = len(accounts) - len(without)
    if compared:
        report(f"customers whose subscriptions were compared: {compared}")
    if without:
        names = ", ".join(without[:NAMES_MAX]) + (", …" if len(without) > NAMES_MAX else "")
        report(f"customers without a subscription, whom Stripe bills nothing: {names}")
    for later in needed_later(catalog, accounts, now_ms):
        report(f"later: {later}")
    return problems


async def check_invoicing(
    settings: StripeSettings, customers: Sequence[str], report: Callable[[str], None]
) -> list[str]:
    """Return what keeps a sink from holding and completing the drafts of subscriptions.

    Args:
        settings: key and address.
        customers: who is billed.
        report: called with a line for what is right, or was skipped.

    Raises:
        ConfigurationError: there is no key.
    """
    client = StripeClient(settings, timeout_seconds=CHECK_TIMEOUT_SECONDS)
    try:
        subscribed = await read_subscribed(client, customers)
        if not any(subscribed.of_customer.values()):
            report("no customer has a subscription: invoices were not checked")
            return []
        problems = await _invoice_rights(client)
        try:
            await client.v1.products.retrieve_async(CARRIED)
        except stripe.InvalidRequestError as error:
            if error.code != "resource_missing":
                raise
            why = "the items of invoices that belong to no outcome name it"
            problems.append(f"there is no product {CARRIED}: {why}; run `resmeter stripe setup`")
    except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
        return [f"invoices cannot be checked: {client.message_of(error)}"]
    finally:
        await client.close()
    if not problems:
        report("invoices can be read and completed")
    return problems


async def _invoice_rights(client: StripeClient) -> list[str]:
    """Return which rights on invoices the key lacks."""
    v1, lacks = client.v1, "RESMETER_STRIPE__API_KEY: lacks the right"
    try:
        await v1.invoices.list_async({"limit": 1})
        await v1.invoice_items.list_async({"limit": 1})
    except stripe.PermissionError as error:
        return [f"{lacks} to read invoices and invoice items: {client.message_of(error)}"]
    try:
        # No invoice has this id: a key with the right gets an error that says so.
        await v1.invoices.update_async(_NO_INVOICE, {"auto_advance": False})
    except stripe.PermissionError as error:
        todo = (
            "give it the right, or set RESMETER_CLOSE__AUTOMATIC=false. Until then, set the grace of "
            "drafts to 6 hours or more in Stripe's settings"
        )
        why = client.message_of(error)
        return [f"{lacks} to write invoices, so drafts are not held: {why}; {todo}"]
    except stripe.InvalidRequestError as error:
        if error.code != "resource_missing":
            raise
    return []


async def _check_meters(
    client: StripeClient, event_names: Sequence[str], report: Callable[[str], None]
) -> list[str]:
    try:
        meters = await client.list_meters()
    except stripe.PermissionError:
        report("the key has no permission to read meters: meters were not checked")
        return []
    problems = [problem for name in event_names for problem in meter_problems(name, meters)]
    if not problems:
        report(f"meters found: {len(event_names)}")
    return problems


async def _check_customers(
    client: StripeClient, customers: Mapping[str, str], report: Callable[[str], None]
) -> list[str]:
    slots = asyncio.Semaphore(CHECKS_CONCURRENT_MAX)

    async def problem(tenant_id: str, customer: str) -> str | None:
        async with slots:
            try:
                retrieved = await read_again(
                    lambda: client.v1.customers.retrieve_async(customer), asyncio.sleep
                )
            except stripe.InvalidRequestError as error:
                if error.code == "resource_missing":
                    return f"tenants.{tenant_id}: there is no customer {customer} in this account"
                why = client.message_of(error)
                return f"tenants.{tenant_id}: customer {customer} cannot be read: {why}"
        deleted = getattr(retrieved, "deleted", False)
        return f"tenants.{tenant_id}: customer {customer} is deleted" if deleted else None

    try:
        checked = await asyncio.gather(*(problem(*item) for item in sorted(customers.items())))
    except stripe.PermissionError:
        report("the key has no permission to read customers: customers were not checked")
        return []
    problems = [text for text in checked if text]
    if not problems:
        report(f"customers found: {len(customers)}")
    return problems
