"""Section 3 of the law of money, for its second implementation: what covers each unit of a period."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from tests.oracle.periods import (
    FOREVER,
    Json,
    Period,
    begins,
    milliseconds,
    part,
    rounded,
    shown_price,
)

# Policy, version and outcome: price and currency.
PriceOf = Callable[[str, int, str], tuple[str, str] | None]
Line = dict[str, Any]
Sums = dict[tuple[str, Fraction], tuple[int, int]]  # outcome and price: quantity and amount


class Unit(NamedTuple):
    record: Json
    at: int
    taken_back: bool


class Reckoned(NamedTuple):
    """One period as it is reckoned at one time."""

    states: Counter[str]
    lines: Sums
    minimum: int
    units: list[Line]


class World(NamedTuple):
    """All that the statements of an account are made of."""

    records: list[Json]  # one for each id
    versions: Sequence[Json]
    grants: list[Json]  # in the order in which they are taken
    periods: list[
        Period
    ]  # up to the last one that is asked for, and those in which a grant entered
    close_after: int
    price_of: PriceOf
    currency: str
    rejected: Collection[tuple[str, str]] = ()  # names: the statement's period, the adjusted one


def stored(record: Json) -> int:
    return milliseconds(record.get("stored_at", record["occurred_at"]))


def known_units(records: Sequence[Json]) -> list[Unit]:
    """Return the units of these records in the order of reckoning."""
    taken = {record.get("supersedes") for record in records if record["quantity"] < 0}
    units = [
        Unit(record, milliseconds(record["occurred_at"]), record["id"] in taken)
        for record in records
        if record["quantity"] > 0
    ]
    return sorted(
        units, key=lambda u: (u.at, u.record["tenantid"].encode(), u.record["id"].encode())
    )


def works_from(grant: Json, world: World) -> int:
    """Return when a grant begins to work: it leaves alone what was final when it was made."""
    made = milliseconds(grant["created_at"])
    oldest = next(p for p in world.periods if p.end + world.close_after > made)
    return max(milliseconds(grant["starts_at"]), oldest.start)


def ends(grant: Json) -> int:
    return milliseconds(grant["ends_at"]) if grant.get("ends_at") is not None else FOREVER


def void_of(grant: Json, grants: Sequence[Json]) -> Json | None:
    return next((g for g in grants if g["kind"] == "void" and g["grant"] == grant["id"]), None)


def by_end(grant: Json) -> tuple[int, bytes]:
    return (ends(grant), grant["id"].encode())


def price_at(unit: Unit, terms: Json, position: int, world: World) -> Fraction | None:
    outcome = unit.record["outcome"]
    for tier in terms.get("tiers", {}).get(outcome, []):
        if "up_to" not in tier or tier["up_to"] >= position:
            return Fraction(str(tier["price"]))
    own = terms.get("price", {}).get(outcome)
    if own is not None:
        return Fraction(str(own))
    found = world.price_of(unit.record["policy"], unit.record["policy_version"], outcome)
    if found is None or found[1].lower() != world.currency:
        return None
    return Fraction(found[0])


def lines_of(prices: Sequence[tuple[str, Fraction]], currency: str) -> Sums:
    counts = Counter(prices)
    return {
        (outcome, price): (n, rounded(n * price, currency))
        for (outcome, price), n in counts.items()
    }


def money_of(lines: Sums) -> int:
    return sum(amount for _, amount in lines.values())


def reckon(
    world: World, records: Sequence[Json], grants: Sequence[Json], until: int, now: int
) -> tuple[dict[str, Reckoned], dict[str, int]]:
    """Return every period that begins before `until` by its name, and what is left of each pack."""
    units = known_units(records)
    first = [begins(v) for v in world.versions if "effective_from" in v]
    start = min([*[u.at for u in units], *first], default=FOREVER)
    left = {}
    for grant in grants:
        if grant["kind"] == "pack":
            void = void_of(grant, grants)
            left[grant["id"]] = grant["units"] - (void["takes"] if void else 0)
    found = {}
    for period in world.periods:
        if period.start < until and period.end > start:
            inside = [u for u in units if period.start <= u.at < period.end]
            found[period.name] = reckon_period(world, period, inside, grants, left, now)
    return found, left


def pack_for(
    world: World, unit: Unit, grants: Sequence[Json], left: Mapping[str, int]
) -> str | None:
    for pack in sorted((g for g in grants if g["kind"] == "pack"), key=by_end):
        void = void_of(pack, grants)
        if (
            unit.record["outcome"] in pack["outcomes"]
            and works_from(pack, world) <= unit.at < ends(pack)
            and (void is None or unit.at < milliseconds(void["created_at"]))
            and left[pack["id"]] > 0
        ):
            return str(pack["id"])
    return None


def reckon_period(
    world: World,
    period: Period,
    units: Sequence[Unit],
    grants: Sequence[Json],
    left: dict[str, int],
    now: int,
) -> Reckoned:
    terms, currency = period.terms, world.currency
    cap_units, cap_amount = caps(period, currency)
    included: Counter[str] = Counter()
    metered: list[tuple[str, Fraction]] = []
    listed: list[Line] = []
    for unit in units:
        outcome = unit.record["outcome"]
        free = math.ceil(terms.get("included", {}).get(outcome, 0) * period.share)
        price = grant = None
        if unit.taken_back:
            state = "taken_back"
        elif included[outcome] < free:
            state = "included"
            included[outcome] += 1
        elif (grant := pack_for(world, unit, grants, left)) is not None:
            state = "pack"
            left[grant] -= 1
        else:
            position = 1 + sum(1 for name, _ in metered if name == outcome)
            price = price_at(unit, terms, position, world)
            wanted = metered if price is None else [*metered, (outcome, price)]
            if price is None:
                state = "unpriced"
            elif len(metered) >= cap_units or money_of(lines_of(wanted, currency)) > cap_amount:
                state = "over_cap"  # it shows the price that it would have
            else:
                state, metered = "metered", wanted
        shown_as = None if price is None else shown_price(price)
        listed.append(
            {"record": unit.record["id"], "state": state, "grant": grant, "price": shown_as}
        )
    lines = lines_of(metered, currency)
    minimum = 0
    # Before the first version takes effect there is no minimum.
    begun = any(begins(version) < period.end for version in world.versions)
    if "minimum" in terms and begun and period.end <= now:
        least = part(terms["minimum"]["amount"], period.share, currency)
        minimum = max(0, least - money_of(lines))
    return Reckoned(Counter(one["state"] for one in listed), lines, minimum, listed)


def caps(period: Period, currency: str) -> tuple[int, int]:
    """Return how many units and how much money a period may meter."""
    cap = period.terms.get("cap", {})
    stops = cap.get("action", "alert") == "stop"
    units = math.ceil(cap["units"] * period.share) if stops and "units" in cap else FOREVER
    money = part(cap["amount"], period.share, currency) if stops and "amount" in cap else FOREVER
    return units, money
