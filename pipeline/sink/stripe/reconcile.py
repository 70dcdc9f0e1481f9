"""Compare the units that the ledger has delivered with Stripe's own sums."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import aiohttp
import stripe
from stripe.params.billing import MeterEventSummaryListParams

from pipeline.config import StripeSettings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.ledger.entries import DeliveredSum
from pipeline.ledger.findings import Finding
from pipeline.sink.stripe.client import PAGE_SIZE, StripeClient, read_again, read_pages
from pipeline.sink.stripe.transport import ForeignResponseError

READ_TIMEOUT_SECONDS = 20.0
READS_CONCURRENT_MAX = 10

CustomerMeter = tuple[str, str]  # customer, event name of the meter


async def read_sums(
    settings: StripeSettings,
    wanted: Iterable[CustomerMeter],
    start: int,
    end: int,
    *,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> dict[CustomerMeter, int]:
    """Return Stripe's sum of units for each pair in `wanted` whose meter exists at Stripe.

    A sum covers events with `start <= timestamp < end`, in seconds; both must be whole minutes.
    A page of sums that Stripe does not return is asked for again, after a pause in seconds.

    Raises:
        ConfigurationError: there is no key, Stripe rejects it, or it has no permission to read sums.
        UnavailableError: Stripe cannot be reached, or rejects the request for another reason.
    """
    client = StripeClient(settings, timeout_seconds=READ_TIMEOUT_SECONDS)
    reader = _Reader(client, start, end, pause)
    reading: list[asyncio.Task[int]] = []
    try:
        meter_ids = await reader.meter_ids()
        readable = [pair for pair in wanted if pair[1] in meter_ids]
        reading = [
            asyncio.create_task(reader.sum_of(pair, meter_ids[pair[1]])) for pair in readable
        ]
        return dict(zip(readable, await asyncio.gather(*reading), strict=True))
    finally:
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        await client.close()


class _Reader:
    """Reads meters and sums, page by page."""

    def __init__(
        self,
        client: StripeClient,
        start: int,
        end: int,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._client = client
        self._start, self._end = start, end
        self._pause = pause
        self._slots = asyncio.Semaphore(READS_CONCURRENT_MAX)

    async def meter_ids(self) -> dict[str, str]:
        """Return the meter id of each event name. An active meter comes before others."""
        ids: dict[str, str] = {}
        with self._translated("the meters"):
            for meter in await self._client.list_meters():
                if meter.status == "active" or meter.event_name not in ids:
                    ids[meter.event_name] = meter.id
        return ids

    async def sum_of(self, pair: CustomerMeter, meter_id: str) -> int:
        """Return the sum of units of a customer and meter."""
        customer, event_name = pair
        summaries = self._client.v1.billing.meters.event_summaries

        async def read(after: str | None) -> object:
            asked: MeterEventSummaryListParams = {
                "customer": customer,
                "start_time": self._start,
                "end_time": self._end,
                "limit": PAGE_SIZE,
            }
            if after is not None:
                asked["starting_after"] = after
            return await read_again(lambda: summaries.list_async(meter_id, asked), self._pause)

        async with self._slots:
            with self._translated(f"the sums of {event_name} of {customer}"):
                parts = await read_pages(read, "sums")
                return sum(units_of(part) for part in parts)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        client = self._client
        try:
            yield
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            raise ConfigurationError(
                [f"RESMETER_STRIPE__API_KEY: {client.message_of(error)}"]
            ) from error
        except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(
                f"Stripe's sums cannot be read at {client.address}: {what}: {client.message_of(error)}"
            ) from error


def units_of(part: object) -> int:
    """Return the units of a sum, which Stripe sends as a number with decimals."""
    value = getattr(part, "aggregated_value", None)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ForeignResponseError(
            f"not an answer of Stripe: the sum {str(value)[:40]!r} is not a whole number"
        )
    return int(value)


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
