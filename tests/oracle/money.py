"""A second implementation of the law of money: records, contract and grants to one statement.

It takes what JSON and TOML give, uses nothing of the package, and is slow: each statement, and each
one before it, is reckoned from the first record again.

Money is an integer of minor units here, and a price is a fraction, so nothing is rounded but lines.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from tests.oracle.periods import (
    DAY_MS,
    Json,
    Period,
    begins,
    calendar,
    milliseconds,
    minor,
    shown,
    shown_price,
)
from tests.oracle.reckoning import (
    Line,
    PriceOf,
    Reckoned,
    Sums,
    World,
    by_end,
    ends,
    reckon,
    stored,
    void_of,
    works_from,
)

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
        self.credited = 0  # by credit notes
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

    def waive(self, before: int, minimums_before: int, period: str) -> None:
        """Take back what was added about an earlier period since the subtotal was `before`."""
        self.minimums = minimums_before
        if self.subtotal != before:
            self.add("waived", before - self.subtotal, period=period)

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
    credited = by_credit_notes(world, grants)
    if credited != history.credited:
        made.add("credit_note", credited - history.credited)
    history.credited = credited
    own = reckoned.get(period.name, nothing)
    made.add_sums("metered", own.lines)
    if own.minimum:
        made.add("minimum", own.minimum)
    history.lines[period.name], history.minimums[period.name] = own.lines, own.minimum

    for earlier in [p for p in world.periods if p.start < period.start]:
        of_now, stated = reckoned.get(earlier.name, nothing), history.lines.get(earlier.name, {})
        before, minimums_before = made.subtotal, made.minimums
        change = changed(of_now.lines, stated)
        made.add_sums("adjusted", change, period=earlier.name)
        history.lines[earlier.name] = plus(stated, change)
        more = of_now.minimum - history.minimums[earlier.name]
        if more:
            made.add("minimum", more, period=earlier.name)
        history.minimums[earlier.name] += more
        if (period.name, earlier.name) in world.rejected:
            made.waive(before, minimums_before, earlier.name)

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


def by_credit_notes(world: World, grants: Sequence[Json]) -> int:
    """Return what credit notes give back that are not void."""
    notes = {g["id"]: g["amount"] for g in grants if g["kind"] == "credit_note"}
    takes = [g["takes"] for g in grants if g["kind"] == "void" and g["grant"] in notes]
    return sum(minor(a, world.currency) for a in notes.values()) - sum(
        minor(a, world.currency) for a in takes
    )


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
    rejected: Collection[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """Return every statement up to that of the period, each as the JSON object of section 6.

    Each has the units too, in the member `each`. A contract in several versions is a list of them.
    The account got it, or lost it, at the cuts. A person rejected what the statement of one period
    adjusts of another.
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
        rejected,
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
