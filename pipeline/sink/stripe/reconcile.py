"""Compare the units that the ledger has delivered with Stripe's own sums."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping

import aiohttp
import stripe

from pipeline.config import StripeSettings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger.entries import DeliveredSum
from pipeline.ledger.findings import Finding
from pipeline.sink.stripe.client import StripeClient

READ_TIMEOUT_SECONDS = 20.0
READS_CONCURRENT_MAX = 10

CustomerMeter = tuple[str, str]  # customer, event name of the meter


async def read_sums(
    settings: StripeSettings, wanted: Iterable[CustomerMeter], start: int, end: int
) -> dict[CustomerMeter, int]:
    """Return Stripe's sum of units for each pair in `wanted` whose meter exists at Stripe.

    A sum covers events with `start <= timestamp < end`, in seconds; both must be whole minutes.

    Raises:
        ConfigurationError: there is no key, Stripe rejects it, or it has no permission to read sums.
        UnavailableError: Stripe cannot be reached, or rejects the request for another reason.
    """
    client = StripeClient(settings, timeout_seconds=READ_TIMEOUT_SECONDS)
    slots = asyncio.Semaphore(READS_CONCURRENT_MAX)

    async def read_sum(meter_id: str, customer: str) -> int:
        async with slots:
            listed = await client.v1.billing.meters.event_summaries.list_async(
                meter_id, {"customer": customer, "start_time": start, "end_time": end, "limit": 100}
            )
            return sum([int(part.aggregated_value) async for part in listed.auto_paging_iter()])

    try:
        meter_ids = await _meter_ids(client)
        readable = [pair for pair in wanted if pair[1] in meter_ids]
        sums = await asyncio.gather(
            *(read_sum(meter_ids[event_name], customer) for customer, event_name in readable)
        )
        return dict(zip(readable, sums, strict=True))
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise ConfigurationError(
            [f"RESMETER_STRIPE__API_KEY: {client.message_of(error)}"]
        ) from error
    except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
        raise UnavailableError(
            f"Stripe's sums cannot be read at {client.address}: {client.message_of(error)}"
        ) from error
    finally:
        await client.close()


async def _meter_ids(client: StripeClient) -> dict[str, str]:
    """Return the meter id of each event name. An active meter comes before others."""
    ids: dict[str, str] = {}
    for meter in await client.list_meters():
        if meter.status == "active" or meter.event_name not in ids:
            ids[meter.event_name] = meter.id
    return ids


def reconcile(
    delivered: Iterable[DeliveredSum], at_stripe: Mapping[CustomerMeter, int]
) -> Iterator[Finding]:
    """Yield a finding for each sum at Stripe that the ledger does not explain, and for rejected units.

    `at_stripe` is the result of `read_sums`. A missing sum is 0. There may be sums of customers for
    whom the ledger has delivered nothing.
    """
    unexplained = dict(at_stripe)
    for expected in delivered:
        units = unexplained.pop((expected.customer, expected.event_name), 0)
        meter = f"{expected.event_name} of {expected.customer}"
        if not expected.least <= units <= expected.most:
            detail = f"{meter}: {_difference(expected, units)}"
            yield Finding("at_stripe", _tenant_of(expected), "", detail)
        if expected.rejected:
            detail = (
                f"{meter}: Stripe has rejected {expected.rejected} units; "
                "`resmeter explain` shows its response"
            )
            yield Finding("refused", _tenant_of(expected), "", detail)
    for (customer, event_name), units in sorted(unexplained.items()):
        if units:
            meter = f"{event_name} of {customer}"
            detail = f"{meter}: Stripe counts {units} units, the ledger has delivered none"
            yield Finding("at_stripe", "", "", detail)


def _difference(expected: DeliveredSum, units: int) -> str:
    delivered = str(expected.most)
    if expected.least != expected.most:
        delivered = f"{expected.least} to {expected.most}"
    text = f"Stripe counts {units} units, the ledger has delivered {delivered}: "
    if units > expected.most:
        return text + f"{units - expected.most} too many at Stripe"
    return text + f"{expected.least - units} missing at Stripe"


def _tenant_of(expected: DeliveredSum) -> str:
    """Return the tenant, or "" if several tenants are billed through the customer."""
    return expected.tenant_ids[0] if len(expected.tenant_ids) == 1 else ""
