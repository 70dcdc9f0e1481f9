"""Check the Stripe account: the key, the meters and the customers. Changes nothing."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import stripe

from pipeline.config import StripeSettings
from pipeline.sink.stripe.client import StripeClient
from pipeline.sink.stripe.meter import CUSTOMER_KEY, VALUE_KEY

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
    try:
        meters = await client.list_meters()
    except stripe.PermissionError:
        report("the key has no permission to read meters: meters were not checked")
        return []
    problems = [problem for name in event_names for problem in meter_problems(name, meters)]
    if not problems:
        report(f"meters found: {len(event_names)}")
    return problems


def meter_problems(event_name: str, meters: Sequence[Any]) -> list[str]:
    """Return what would make Stripe take meter events of this name, and not count them later.

    Stripe answers 200 to a meter event before it looks at the meter.
    https://docs.stripe.com/api/billing/meter/object
    """
    named = [meter for meter in meters if _part(meter, "event_name") == event_name]
    active = [meter for meter in named if _part(meter, "status") == "active"]
    if not active:
        if named:
            inactive = f"the meter {_part(named[0], 'id')} with the event_name {event_name!r}"
            status = _part(named[0], "status")
            return [f"{inactive} is {status}, and Stripe drops what it is sent: reactivate it"]
        missing = (
            f"no active meter has the event_name {event_name!r}: create it (aggregation `sum`)"
        )
        return [f"{missing}, or name another one under [meters] of the tenant file"]
    meter = active[0]
    wrong = {
        "aggregates by": (_part(meter, "default_aggregation", "formula"), "sum"),
        "maps customers": (_part(meter, "customer_mapping", "type"), "by_id"),
        "takes the customer from": (
            _part(meter, "customer_mapping", "event_payload_key"),
            CUSTOMER_KEY,
        ),
        "takes the value from": (_part(meter, "value_settings", "event_payload_key"), VALUE_KEY),
        # With a window, the last meter event in it replaces the others.
        "has the event_time_window": (_part(meter, "event_time_window"), None),
        "needs the dimensions": (_part(meter, "dimension_payload_keys") or None, None),
    }
    return [
        f"the meter {_part(meter, 'id')} of {event_name!r} {what} {found!r}, and resmeter needs "
        f"{needed or 'none'!r}: create a meter that has it, because Stripe changes none of this later"
        for what, (found, needed) in wrong.items()
        if found != needed
    ]


def _part(found: Any, *names: str) -> Any:
    """Return a member of a member; None if there is none."""
    for name in names:
        found = getattr(found, name, None)
    return found


async def _check_customers(
    client: StripeClient, customers: Mapping[str, str], report: Callable[[str], None]
) -> list[str]:
    slots = asyncio.Semaphore(CHECKS_CONCURRENT_MAX)

    async def problem(tenant_id: str, customer: str) -> str | None:
        async with slots:
            try:
                retrieved = await client.v1.customers.retrieve_async(customer)
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
