"""Read the subscriptions of customers, and the tiers of their prices."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import stripe

from pipeline.sink.stripe.billed import items_of, tiered
from pipeline.sink.stripe.client import PAGE_SIZE, StripeClient, read_again, read_pages

READS_CONCURRENT_MAX = 10


class Subscribed(NamedTuple):
    """The subscriptions of each customer that have not ended, and the tiers by price."""

    of_customer: Mapping[str, Sequence[Any]]
    tiers: Mapping[str, Sequence[Any]]

    def since_ms(self, customer: str, default_ms: int) -> int:
        """Return when the current period of a customer began; its prices hold for all of it."""
        starts = [
            int(item.current_period_start) * 1000
            for subscription in self.of_customer.get(customer, ())
            for item in items_of(subscription)
        ]
        return max(starts, default=default_ms)


async def read_subscribed(
    client: StripeClient,
    customers: Sequence[str],
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Subscribed:
    """Read the subscriptions of customers; what Stripe throttles is read again after a pause.

    Raises:
        stripe.StripeError: Stripe refuses a call.
        ForeignResponseError: something other than Stripe answers.
    """
    slots = asyncio.Semaphore(READS_CONCURRENT_MAX)

    async def of_customer(customer: str) -> list[Any]:
        async def read(after: str | None) -> object:
            params: Any = {"customer": customer, "limit": PAGE_SIZE}
            if after is not None:
                params["starting_after"] = after
            return await read_again(lambda: client.v1.subscriptions.list_async(params), pause)

        async with slots:
            try:
                return await read_pages(read, "subscriptions")
            except stripe.InvalidRequestError as error:
                if error.code == "resource_missing":
                    return []  # there is no such customer
                raise

    async def tiers_of(price: str) -> Sequence[Any]:
        # Stripe expands four levels only; the tiers of a listed subscription's prices are deeper.
        async with slots:
            found: Any = await read_again(
                lambda: client.v1.prices.retrieve_async(price, {"expand": ["tiers"]}), pause
            )
            return list(found.tiers)

    unique = sorted(set(customers))
    listed = dict(zip(unique, await asyncio.gather(*map(of_customer, unique)), strict=True))
    prices = sorted(set().union(*(tiered(each) for each in listed.values())))
    tiers = await asyncio.gather(*map(tiers_of, prices))
    return Subscribed(listed, dict(zip(prices, tiers, strict=True)))


def meters_of(meters: Sequence[Any]) -> dict[str, str]:
    """Return the active meter of each event name."""
    return {each.event_name: each.id for each in meters if each.status == "active"}
