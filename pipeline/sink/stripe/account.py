"""Check the Stripe account: the key, the meters and the customers. Changes nothing."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import aiohttp
import stripe

from pipeline.config import StripeSettings
from pipeline.sink.stripe.client import StripeClient

CHECK_TIMEOUT_SECONDS = 20.0
CHECKS_CONCURRENT_MAX = 10


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


async def _check_meters(
    client: StripeClient, event_names: Sequence[str], report: Callable[[str], None]
) -> list[str]:
    meters: dict[str, stripe.billing.Meter] = {}
    try:
        listed = await client.v1.billing.meters.list_async({"limit": 100, "status": "active"})
        async for meter in listed.auto_paging_iter():
            meters[meter.event_name] = meter
    except stripe.PermissionError:
        report("the key has no permission to read meters: meters were not checked")
        return []
    problems = [
        f"no active meter has the event_name {name!r}: create it (aggregation `sum`), or name "
        "another one under [meters] of the tenant file"
        for name in event_names
        if name not in meters
    ]
    problems += [
        f"the meter of {name!r} does not aggregate by `sum`: create one that does"
        for name in event_names
        if name in meters and meters[name].default_aggregation.formula != "sum"
    ]
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
                retrieved = await client.v1.customers.retrieve_async(customer)
            except stripe.InvalidRequestError:
                return f"tenants.{tenant_id}: there is no customer {customer} in this account"
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
