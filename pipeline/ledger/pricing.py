"""Price usage: each unit at the price of the policy that decided it. Pure."""

from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple, TypedDict

from pipeline.catalog.prices import FixedPrices, Prices
from pipeline.ledger.entries import UsageSum
from pipeline.usage.record import UsageRecord

PriceSource = tuple[str, str, str, int]  # tenant, outcome, policy, version


class FixedPrice(NamedTuple):
    """The price of a unit as the ledger stores it; None: there is none."""

    price: str | None
    currency: str | None
    priced_by: str | None  # the digest of the catalog's entry


_NO_PRICE = FixedPrice(None, None, None)


def fixed_price(
    record: UsageRecord, prices: FixedPrices | None, known: dict[PriceSource, FixedPrice]
) -> FixedPrice:
    """Return the price of a record that is stored now; `known` has those of its batch so far."""
    if prices is None:
        return _NO_PRICE
    source = (record.tenant_id, record.outcome, record.policy, record.policy_version)
    fixed = known.get(source)
    if fixed is None:
        priced = prices.price_for(*source)
        fixed = known[source] = (
            _NO_PRICE
            if priced is None
            else FixedPrice(format(priced[0], "f"), priced[1], prices.priced_by(*source[2:]))
        )
    return fixed


class PricedUsage(TypedDict):
    """Usage of a tenant and outcome in one currency; the keys of `resmeter usage --json`.

    `amount` is an exact decimal without an exponent. `amount` and `currency` are None if no policy
    prices the outcome. The states from `delivered` on, with `pending`, add up to `quantity`: see
    `UsageSum`.
    """

    tenantid: str
    outcome: str
    quantity: int
    confirmed: int
    assumed: int
    amount: str | None
    currency: str | None
    delivered: int
    netted: int
    settled: int
    stated: int
    late: int
    pending: int
    rejected: int
    uncertain: int
    altered: int


def price_usage(sums: Iterable[UsageSum], prices: Prices) -> list[PricedUsage]:
    """Add up usage by tenant, outcome and currency, sorted by these; no price sorts first."""
    lines: dict[tuple[str, str, str | None], PricedUsage] = {}
    amounts: dict[tuple[str, str, str | None], Decimal] = {}
    for usage in sums:
        source = (usage.tenant_id, usage.outcome, usage.policy, usage.policy_version)
        price = price_in_ledger(usage.price, usage.currency, source, prices)
        key = (usage.tenant_id, usage.outcome, price[1] if price else None)
        line = lines.setdefault(
            key,
            {
                "tenantid": usage.tenant_id,
                "outcome": usage.outcome,
                "quantity": 0,
                "confirmed": 0,
                "assumed": 0,
                "amount": None,
                "currency": key[2],
                "delivered": 0,
                "netted": 0,
                "settled": 0,
                "stated": 0,
                "late": 0,
                "pending": 0,
                "rejected": 0,
                "uncertain": 0,
                "altered": 0,
            },
        )
        line["quantity"] += usage.quantity
        line["confirmed"] += usage.confirmed
        line["assumed"] += usage.assumed
        line["delivered"] += usage.delivered
        line["netted"] += usage.netted
        line["settled"] += usage.settled
        line["stated"] += usage.stated
        line["late"] += usage.late
        line["pending"] += usage.pending
        line["rejected"] += usage.rejected
        line["uncertain"] += usage.uncertain
        line["altered"] += usage.altered
        if price:
            amounts[key] = amounts.get(key, Decimal(0)) + price[0] * usage.quantity
            line["amount"] = format(amounts[key], "f")
    return [lines[key] for key in sorted(lines, key=lambda k: (k[0], k[1], k[2] or ""))]


def price_in_ledger(
    price: str | None, currency: str | None, source: PriceSource, prices: Prices
) -> tuple[Decimal, str] | None:
    """Return the price that was fixed when usage was stored, else that of its policy version now."""
    if price is not None and currency is not None:
        return Decimal(price), currency
    return prices.price_for(*source)
