"""Compare what the ledger delivered with Stripe's own sums."""

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
    """Return the units that Stripe counts, without the meters that do not exist.

    Counts events with `start <= timestamp < end`, in seconds, both on whole minutes.

    Raises:
        ConfigurationError: there is no key, Stripe rejects it, or it may not read sums.
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
        readable = [place for place in wanted if place[1] in meter_ids]
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
    """Return the id of each event name's meter: the active one, if there is one."""
    ids: dict[str, str] = {}
    listed = await client.v1.billing.meters.list_async({"limit": 100})
    async for meter in listed.auto_paging_iter():
        if meter.status == "active" or meter.event_name not in ids:
            ids[meter.event_name] = meter.id
    return ids


def reconcile(
    delivered: Iterable[DeliveredSum], at_stripe: Mapping[CustomerMeter, int]
) -> Iterator[Finding]:
    """Yield where Stripe counts less or more than the ledger explains, and what it rejected.

    `at_stripe` is what `read_sums` returned. It may have customers to which the ledger never
    delivered; a sum that is missing is 0.
    """
    left = dict(at_stripe)
    for known in delivered:
        units = left.pop((known.customer, known.event_name), 0)
        place = f"{known.event_name} of {known.customer}"
        if not known.least <= units <= known.most:
            yield Finding(
                "at_stripe", _tenant_of(known), "", f"{place}: {_difference(known, units)}"
            )
        if known.rejected:
            detail = (
                f"{place}: Stripe has rejected {known.rejected} units; "
                "`resmeter explain` shows its response"
            )
            yield Finding("refused", _tenant_of(known), "", detail)
    for (customer, event_name), units in sorted(left.items()):
        if units:
            detail = (
                f"{event_name} of {customer}: Stripe counts {units} units, the ledger sent none"
            )
            yield Finding("at_stripe", "", "", detail)


def _difference(known: DeliveredSum, units: int) -> str:
    expected = str(known.most)
    if known.least != known.most:
        expected = f"{known.least} to {known.most}"
    text = f"Stripe counts {units} units, the ledger has delivered {expected}: "
    if units > known.most:
        return text + f"{units - known.most} billed too many"
    return text + f"{known.least - units} missing at Stripe"


def _tenant_of(known: DeliveredSum) -> str:
    """Return the tenant, or nothing if several are billed through the customer."""
    return known.tenant_ids[0] if len(known.tenant_ids) == 1 else ""
