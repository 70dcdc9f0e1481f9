"""What each tenant is charged at a time, by contract and policy, and what has no price. Pure.

docs/reference/money.md §2: the version of a contract in force at a period's start holds for all of it.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import cache
from typing import NamedTuple

from pipeline.billing.contract import Terms, Tier
from pipeline.billing.money import amount_text, price_text
from pipeline.billing.periods import NEVER_MS, Calendar
from pipeline.catalog.account_contract import contract_of
from pipeline.catalog.dated import spans
from pipeline.catalog.entry import ContractVersion
from pipeline.catalog.value import Catalog
from pipeline.resolve.machine import PROCEDURE_HANDOFF, RESOLUTION
from pipeline.resolve.policy import Policy


class Holding(NamedTuple):
    """A version of a contract, and the times at which it holds for an account."""

    version: ContractVersion
    from_ms: int
    to_ms: int


def outcomes_billed(policy: Policy) -> set[str]:
    """Return the outcomes that may bill under a policy."""
    handoff = {PROCEDURE_HANDOFF} if policy.handoff_causes_billed else set()
    return {RESOLUTION, *policy.outcomes_billed, *handoff}


def calendar_of(versions: Sequence[ContractVersion]) -> Calendar:
    """Return the periods of an account with a contract whose versions are in order."""
    return Calendar([(each.terms.effective_from, each.terms.anchor_ms) for each in versions])


def holdings(catalog: Catalog, account: str) -> list[Holding]:
    """Return which version of which contract an account has when, in order."""
    found: list[Holding] = []
    for name, from_ms, to_ms in spans(catalog.accounts.get(account, ())):
        versions = catalog.contract_versions(name)
        if not versions:
            continue
        # A version holds from the first period that begins when it takes effect, or later.
        calendar = calendar_of(versions)
        starts = [from_ms]
        for version in versions[1:]:
            period = calendar.period_at(version.terms.effective_from)
            is_start = period.start_ms == version.terms.effective_from
            starts.append(max(from_ms, period.start_ms if is_start else period.end_ms))
        ends = [*starts[1:], to_ms]
        found += [
            Holding(version, start_ms, min(end_ms, to_ms))
            for version, start_ms, end_ms in zip(versions, starts, ends, strict=True)
            if start_ms < min(end_ms, to_ms)
        ]
    return found


class Charging:
    """The charges of a catalog's tenants."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._timeline = cache(catalog.timeline)
        self._holdings = cache(lambda account: holdings(catalog, account))

    def at(self, tenant_id: str, at_ms: int) -> dict[str, str]:
        """Return what a tenant is charged at a time, in words by what they are about."""
        account = self._catalog.account_of(tenant_id, at_ms)
        policy = self._timeline(self._catalog.assignments_of(tenant_id)).at(at_ms)
        held = [h.version for h in self._holdings(account) if h.from_ms <= at_ms < h.to_ms]
        terms = held[0].terms if held else Terms()
        currency = held[0].currency if held else policy.currency
        said = {
            f"{outcome} costs": _price(terms, outcome, policy, currency)
            for outcome in sorted(outcomes_billed(policy) | terms.tiers.keys())
        }
        for outcome, units in sorted(terms.included.items()):
            said[f"units of {outcome} included in a period are"] = f"{units}"
        if terms.cap_units is not None or terms.cap_amount is not None:
            said["the cap is"] = _cap(terms, currency)
        if terms.minimum:
            said["a period costs at least"] = f"{amount_text(terms.minimum, currency)} {currency}"
        contract = contract_of(self._catalog, account)
        if held and contract is not None:
            said["its account is"] = account
            said["the period begins on"] = contract.calendar.period_at(at_ms).name
        return said

    def missing(self, earliest_ms: int, tenants: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield (what is missing, tenant) for each price that a unit at some time would lack.

        Only times from `earliest_ms` on count.
        """
        for tenant_id in tenants:
            begun = self._timeline(self._catalog.assignments_of(tenant_id)).begins()
            ends = [*(from_ms for _, from_ms in begun[1:]), NEVER_MS]
            for (policy, from_ms), to_ms in zip(begun, ends, strict=True):
                start_ms = max(from_ms, earliest_ms)
                if start_ms < to_ms:
                    for problem in self._missing(tenant_id, policy, start_ms, to_ms):
                        yield problem, tenant_id

    def _missing(self, tenant_id: str, policy: Policy, from_ms: int, to_ms: int) -> Iterator[str]:
        under = f"policy {policy.name} version {policy.version}"
        for version in self._held(tenant_id, from_ms, to_ms):
            priced = {} if version is None else version.terms.tiers
            where = (
                "" if version is None else f" of contract {version.name} version {version.version}"
            )
            for outcome in sorted(outcomes_billed(policy) - priced.keys()):
                if outcome not in policy.price:
                    yield (
                        f"{outcome} may bill under {under} and has no price: write price.{outcome} in "
                        f"the contract or in the policy, as a new version"
                    )
                elif version is not None and policy.currency != version.currency:
                    yield (
                        f"{outcome} costs {price_text(policy.price[outcome])} {policy.currency} under "
                        f"{under}, and the currency{where} is {version.currency}: write "
                        f"price.{outcome} in the contract"
                    )
            if version is not None and (low := _cap_below_price(version, policy)):
                yield low

    def _held(self, tenant_id: str, from_ms: int, to_ms: int) -> list[ContractVersion | None]:
        """Return what holds for a tenant in a time: versions of contracts, or None for a policy alone."""
        members = self._catalog.members.get(tenant_id, ())
        changes = {each.from_ms for each in members if each.from_ms is not None}
        accounts = {self._catalog.account_of(tenant_id, from_ms)}
        accounts |= {
            self._catalog.account_of(tenant_id, ms) for ms in changes if from_ms <= ms < to_ms
        }
        held: list[ContractVersion | None] = []
        for account in sorted(accounts):
            known = self._holdings(account)
            overlapping = [h for h in known if h.from_ms < to_ms and from_ms < h.to_ms]
            held += [h.version for h in overlapping]
            covered_ms = from_ms
            for each in sorted(overlapping, key=lambda h: h.from_ms):
                if each.from_ms > covered_ms:
                    break
                covered_ms = each.to_ms
            if covered_ms < to_ms:
                held.append(None)
        return held


def _cap_below_price(version: ContractVersion, policy: Policy) -> str:
    terms = version.terms
    if terms.cap_amount is None:
        return ""
    first = [
        terms.tiers[outcome][0].price if outcome in terms.tiers else policy.price.get(outcome)
        for outcome in outcomes_billed(policy)
    ]
    prices = [price for price in first if price is not None]
    if not prices or terms.cap_amount >= _minor(min(prices), version.currency):
        return ""
    return (
        f"cap.amount of contract {version.name} version {version.version} is "
        f"{amount_text(terms.cap_amount, version.currency)}, below the first price "
        f"{price_text(min(prices))}: no unit would ever be charged"
    )


def _minor(price: Decimal, currency: str) -> Decimal:
    return price / Decimal(amount_text(1, currency))


def _price(terms: Terms, outcome: str, policy: Policy, currency: str) -> str:
    tiers = terms.tiers.get(outcome)
    if tiers is None:
        of_policy = policy.price.get(outcome)
        return (
            "nothing: it has no price" if of_policy is None else _money(of_policy, policy.currency)
        )
    return ", then ".join(_tier(tier, currency) for tier in tiers)


def _tier(tier: Tier, currency: str) -> str:
    price = _money(tier.price, currency)
    return price if tier.up_to is None else f"{price} up to unit {tier.up_to:,}"


def _money(price: Decimal, currency: str) -> str:
    return f"{price_text(price)} {currency}"


def _cap(terms: Terms, currency: str) -> str:
    limits = []
    if terms.cap_units is not None:
        limits.append(f"{terms.cap_units:,} units")
    if terms.cap_amount is not None:
        limits.append(f"{amount_text(terms.cap_amount, currency)} {currency}")
    does = "stops charging" if terms.cap_action == "stop" else "raises an alert"
    return f"{' and '.join(limits)}, which {does}"
