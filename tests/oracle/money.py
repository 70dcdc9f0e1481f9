"""A second implementation of the law of money: records, contract and grants to one statement.

It takes what JSON and TOML give, uses nothing of the package, and is slow: each statement, and each
one before it, is reckoned from the first record again.

Money is an integer of minor units here, and a price is a fraction, so nothing is rounded but lines.
"""

import math
from calendar import monthrange
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

Json = Mapping[str, Any]
PriceOf = Callable[
    [str, int, str], tuple[str, str] | None
]  # policy, version, outcome: price, currency
Line = dict[str, Any]
Sums = dict[tuple[str, Fraction], tuple[int, int]]  # outcome and price: quantity and amount

DAY_MS = 86_400_000
FOREVER = 2**62
NO_DIGITS = "bif clp djf gnf isk jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf"
THREE_DIGITS = "bhd jod kwd omr tnd"


# --- values ---------------------------------------------------------------------------------------


def milliseconds(value: object) -> int:
    """Return the time of a number of milliseconds, an RFC 3339 text or a TOML time."""
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    assert isinstance(value, datetime)
    return round((value - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


def digits(currency: str) -> int:
    return 0 if currency in NO_DIGITS else 3 if currency in THREE_DIGITS else 2


def rounded(amount: Fraction, currency: str) -> int:
    """Return an amount in minor units: the nearest that the currency can pay, halves away from zero."""
    step = 10 if currency in THREE_DIGITS else 1
    steps: Fraction = abs(amount) * 10 ** digits(currency) / step
    return math.floor(steps + Fraction(1, 2)) * step * (1 if amount >= 0 else -1)


def minor(amount: object, currency: str) -> int:
    """Return an amount that the currency can pay, in minor units."""
    exact = Fraction(str(amount))
    units = rounded(exact, currency)
    if Fraction(units, 10 ** digits(currency)) != exact:
        raise ValueError(f"{amount} has more digits than {currency} has")
    return units


def part(amount: object, share: Fraction, currency: str) -> int:
    """Return the share of an amount, in minor units."""
    minor(amount, currency)
    return rounded(Fraction(str(amount)) * share, currency)


def shown(amount: int, currency: str) -> str:
    places = digits(currency)
    return f"{Decimal(amount).scaleb(-places):.{places}f}"


def shown_price(price: Fraction) -> str:
    text = f"{Decimal(price.numerator) / Decimal(price.denominator):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# --- section 1: periods ---------------------------------------------------------------------------


class Period(NamedTuple):
    name: str
    start: int
    end: int
    share: Fraction  # of the whole period that it is a part of, by whole days
    terms: Json  # the contract's version


def boundary(anchor: datetime, step: int) -> int:
    """Return the start of the period that begins `step` months after the anchor."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + step, 12)
    last = monthrange(year, month + 1)[1]
    return milliseconds(anchor.replace(year=year, month=month + 1, day=min(anchor.day, last)))


def from_on(anchor: datetime, time: int) -> int:
    """Return the first boundary of the anchor that is not before the time."""
    moment = datetime.fromtimestamp(time / 1000, UTC)
    step = (moment.year - anchor.year) * 12 + moment.month - anchor.month - 1
    while boundary(anchor, step) < time:
        step += 1
    return boundary(anchor, step)


def anchor_of(terms: Json) -> datetime:
    value = terms.get("period", {}).get("anchor", "2026-01-01T00:00:00Z")
    return datetime.fromtimestamp(milliseconds(value) / 1000, UTC)


def begins(terms: Json) -> int:
    return milliseconds(terms["effective_from"]) if "effective_from" in terms else -FOREVER


def in_force(versions: Sequence[Json], time: int) -> Json:
    """Return the version in force; before the first version there is only the first one."""
    begun = [one for one in versions if begins(one) <= time]
    return max(begun, key=lambda one: (begins(one), one.get("version", 0)), default=None) or min(
        versions, key=begins
    )


def assigned(versions: Sequence[Json], from_ms: int, to_ms: int) -> list[Json]:
    """Return what an account has that gets a contract and loses it: else the policies' prices hold."""
    first = {**in_force(versions, from_ms), "effective_from": from_ms}
    later = [one for one in versions if from_ms < begins(one) < to_ms]
    last = max([first, *later], key=begins)
    after = {"effective_from": to_ms, "period": last.get("period", {})}
    return [{}, first, *later, *([after] if to_ms < FOREVER else [])]


def calendar(versions: Sequence[Json], time: int, cuts: Sequence[int] = ()) -> Iterator[Period]:
    """Yield the periods in order, from some time before the given one; each cut begins another."""
    in_turn = sorted(versions, key=lambda one: (begins(one), one.get("version", 0)))
    # Each anchor takes over at its first boundary after its version took effect.
    takes_over = [
        (-FOREVER if n == 0 else from_on(anchor_of(version), begins(version)), anchor_of(version))
        for n, version in enumerate(in_turn)
    ]

    def anchor_at(at: int) -> datetime:
        return [anchor for first, anchor in takes_over if first <= at][-1]

    start = from_on(anchor_at(time - 62 * DAY_MS), time - 62 * DAY_MS)
    while True:
        terms, anchor = in_force(versions, start), anchor_at(start)
        whole_start = from_on(anchor, start - 31 * DAY_MS)
        while from_on(anchor, whole_start + 1) <= start:
            whole_start = from_on(anchor, whole_start + 1)
        whole_end = from_on(anchor, whole_start + 1)
        others = [first for first, other in takes_over if anchor_at(first) == other != anchor]
        end = min(at for at in [whole_end, *others, *cuts] if at > start)
        share = Fraction(1)
        if end - start < whole_end - whole_start and terms.get("prorate", True):
            share = Fraction((end - start) // DAY_MS, (whole_end - whole_start) // DAY_MS)
        name = datetime.fromtimestamp(start / 1000, UTC).date().isoformat()
        yield Period(name, start, end, share, terms)
        start = end


# --- section 3: what a period comes to ------------------------------------------------------------


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


# --- section 4: statements ------------------------------------------------------------------------


class Draw(NamedTuple):
    grant: str
    amount: int


class History:
    """What the statements so far have said."""

    def __init__(self) -> None:
        self.lines: dict[str, Sums] = {}  # by period, with the adjustments since
        self.minimums: Counter[str] = Counter()
        self.carried = 0  # below zero, or zero
        self.draws: list[Draw] = []  # what credits paid and have not got back
        self.paid: Counter[str] = Counter()  # by credit: what it has not got back, or has lost
        self.known: set[str] = set()  # ids of records, a -1 when its +1 is known


class Statement:
    """The lines of a statement, as they are written."""

    def __init__(self, currency: str) -> None:
        self.currency = currency
        self.lines: list[Line] = []
        self.subtotal = 0
        self.minimums = 0
        self.total = 0

    def add(self, kind: str, amount: int, **members: Any) -> None:
        self.lines.append({"kind": kind, **members, "amount": shown(amount, self.currency)})
        self.total += amount
        if kind not in {"credit", "carried_forward"}:
            self.subtotal += amount
        if kind == "minimum":
            self.minimums += amount

    def add_sums(self, kind: str, sums: Sums, **members: Any) -> None:
        for outcome, price in sorted(sums, key=lambda key: (key[0].encode(), key[1])):
            quantity, amount = sums[outcome, price]
            of_price = {"outcome": outcome, "quantity": quantity, "price": shown_price(price)}
            self.add(kind, amount, **members, **of_price)


def changed(now: Sums, stated: Sums) -> Sums:
    """Return what is reckoned now less what was stated, without what is the same."""
    nothing = (0, 0)
    differences = {}
    for key in {*now, *stated}:
        (n, amount), (n_stated, amount_stated) = now.get(key, nothing), stated.get(key, nothing)
        differences[key] = (n - n_stated, amount - amount_stated)
    return {key: difference for key, difference in differences.items() if difference != nothing}


def plus(stated: Sums, change: Sums) -> Sums:
    return changed(stated, {key: (-n, -amount) for key, (n, amount) in change.items()})


def state(world: World, period: Period, as_of: int, history: History) -> dict[str, Any]:
    """State one period, and add what it says to the history."""
    closes = period.end + world.close_after
    final = as_of >= closes
    # A final statement knows what was stored before its close, an open one what was by now.
    before = closes if final else as_of + 1
    records = [r for r in world.records if stored(r) < before]
    grants = [g for g in world.grants if milliseconds(g["created_at"]) < before]
    now = min(closes, as_of)
    reckoned, left = reckon(world, records, grants, period.end, now)
    nothing = Reckoned(Counter(), {}, 0, [])

    made = Statement(world.currency)
    if history.carried:
        made.add("carried", history.carried)
    own = reckoned.get(period.name, nothing)
    made.add_sums("metered", own.lines)
    if own.minimum:
        made.add("minimum", own.minimum)
    history.lines[period.name], history.minimums[period.name] = own.lines, own.minimum

    for earlier in [p for p in world.periods if p.start < period.start]:
        of_now, stated = reckoned.get(earlier.name, nothing), history.lines.get(earlier.name, {})
        change = changed(of_now.lines, stated)
        made.add_sums("adjusted", change, period=earlier.name)
        history.lines[earlier.name] = plus(stated, change)
        more = of_now.minimum - history.minimums[earlier.name]
        if more:
            made.add("minimum", more, period=earlier.name)
        history.minimums[earlier.name] += more

    if [line["kind"] for line in made.lines] == ["carried"]:
        made = Statement(world.currency)  # it stays carried
    elif made.subtotal < 0:
        give_back(made, now, grants, history)
    else:
        history.carried = 0
        pay(world, made, period, grants, history)
    return {
        "period": period.name,
        "state": "final" if final else "open",
        "currency": world.currency,
        "units": counts(world, own, records, history),
        "lines": made.lines,
        "subtotal": shown(made.subtotal, world.currency),
        "total": shown(made.total, world.currency),
        "closing": closing(world, grants, left, history),
        "each": own.units,
    }


def give_back(made: Statement, now: int, grants: Sequence[Json], history: History) -> None:
    """Give what is below zero back to the credits that paid, the latest first; carry the rest."""
    owed = -made.subtotal
    while owed and history.draws:
        draw = history.draws.pop()
        back = min(owed, draw.amount)
        owed -= back
        made.add("credit", back, grant=draw.grant)
        if back < draw.amount:
            history.draws.append(Draw(draw.grant, draw.amount - back))
        credit = next(g for g in grants if g.get("id") == draw.grant and g["kind"] == "credit")
        if void_of(credit, grants) is None and ends(credit) > now:
            history.paid[draw.grant] -= back
    history.carried = -owed
    if owed:
        made.add("carried_forward", owed)


def pay(
    world: World, made: Statement, period: Period, grants: Sequence[Json], history: History
) -> None:
    """Let credits pay, but not for minimums."""
    payable = min(made.subtotal, made.subtotal - made.minimums)
    for credit in sorted((g for g in grants if g["kind"] == "credit"), key=by_end):
        name = credit["id"]
        left = minor(credit["amount"], world.currency) - history.paid[name]
        works = works_from(credit, world) < period.end and ends(credit) > period.start
        pays = min(payable, left) if works and void_of(credit, grants) is None else 0
        if pays > 0:
            made.add("credit", -pays, grant=name)
            history.draws.append(Draw(name, pays))
            history.paid[name] += pays
            payable -= pays


def closing(
    world: World, grants: Sequence[Json], left: Mapping[str, int], history: History
) -> dict[str, Any]:
    """Return what the next statement begins with."""
    currency = world.currency
    standing = [g for g in grants if g["kind"] != "void" and void_of(g, grants) is None]
    return {
        "carried": shown(history.carried, currency),
        "packs": {g["id"]: left[g["id"]] for g in standing if g["kind"] == "pack"},
        "credits": {
            g["id"]: shown(minor(g["amount"], currency) - history.paid[g["id"]], currency)
            for g in standing
            if g["kind"] == "credit"
        },
    }


def counts(
    world: World, own: Reckoned, records: Sequence[Json], history: History
) -> dict[str, int]:
    """Return `units`, and remember which records are known."""
    charges = {r["id"]: r for r in records if r["quantity"] > 0}
    late = unmatched = 0
    for record in records:
        charge = record if record["quantity"] > 0 else charges.get(record.get("supersedes"))
        if charge is None:
            unmatched += 1
            continue
        at = milliseconds(charge["occurred_at"])
        of = next(p for p in world.periods if p.start <= at < p.end)
        if record["id"] not in history.known and stored(record) >= of.end + world.close_after:
            late += 1
        history.known.add(record["id"])
    states = own.states
    return {
        "known": states.total(),
        "taken_back": states["taken_back"],
        "included": states["included"],
        "pack": states["pack"],
        "metered": states["metered"],
        "over_cap": states["over_cap"],
        "late": late,
        "unmatched": unmatched,
        **({"unpriced": states["unpriced"]} if states["unpriced"] else {}),
    }


# --- section 6 ------------------------------------------------------------------------------------


def statements(
    records: Sequence[Json],
    contract: Json | Sequence[Json],
    grants: Sequence[Json],
    period: str,
    as_of: int,
    close_after: int,
    price_of: PriceOf,
    account: str = "",
    cuts: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Return every statement up to that of the period, each as the JSON object of section 6.

    Each has the units too, in the member `each`. A contract in several versions is a list of them.
    The account got it, or lost it, at the cuts.
    """
    versions = [contract] if isinstance(contract, Mapping) else contract
    by_id: dict[str, Json] = {}
    for record in records:
        by_id.setdefault(record["id"], record)
    day = period if period.count("-") == 2 else f"{period}-01"
    times = [
        milliseconds(f"{day}T00:00:00Z"),
        *[milliseconds(r["occurred_at"]) for r in records],
        *[milliseconds(g["created_at"]) for g in grants],
        *[begins(v) for v in versions if "effective_from" in v],
    ]
    periods: list[Period] = []
    for one in calendar(versions, min(times), cuts):
        periods.append(one)
        if one.start > max(times) + 31 * DAY_MS:
            break
    named = [one for one in periods if one.name.startswith(period)]
    if len(named) != 1:
        raise ValueError(f"{period} is the name of {len(named)} periods")
    world = World(
        list(by_id.values()),
        versions,
        sorted(grants, key=lambda g: (milliseconds(g["created_at"]), g.get("id", ""))),
        periods,
        close_after,
        price_of,
        currency_of(versions, records, price_of),
    )
    history = History()
    until = named[0].start
    return [
        {"account": account, **state(world, one, as_of, history)}
        for one in periods
        if one.start <= until
    ]


def statement(*args: Any, **named: Any) -> dict[str, Any]:
    """Return the statement of the period; the arguments are those of `statements`."""
    return statements(*args, **named)[-1]


def currency_of(versions: Sequence[Json], records: Sequence[Json], price_of: PriceOf) -> str:
    for terms in versions:
        if "currency" in terms:
            return str(terms["currency"]).lower()
    for record in records:
        found = price_of(record["policy"], record["policy_version"], record["outcome"])
        if found is not None:
            return found[1].lower()
    raise ValueError("nothing names a currency")
