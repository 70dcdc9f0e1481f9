"""What always holds for statements, whatever arrives when (docs/reference/money.md §4.4)."""

import json
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import hypothesis.strategies as st
import msgspec
from hypothesis import given

from pipeline.billing.account import Account
from pipeline.billing.contract import Contract, Terms, Tier
from pipeline.billing.grants import Credit, Grant, Pack, Void
from pipeline.billing.periods import DAY_MS, HOUR_MS, NEVER_MS, Period
from pipeline.billing.run import ClosesAfter, left_at, statements
from pipeline.billing.statement import Statement, statement_object
from pipeline.billing.units import Entered
from pipeline.events.times import parse_time

FIRST = parse_time("2026-09-01T00:00:00Z")
LAST = parse_time("2026-12-01T00:00:00Z")
AS_OF = parse_time("2027-03-02T00:00:00Z")  # all is known
CLOSE_AFTER_MS = 45 * 60_000
OUTCOMES = ("resolution", "qualification")
PRICES = tuple(map(Decimal, ("0.99", "0.005", "0.333", "9.99", "0")))

# Around the ends and closes of periods, and anywhere.
edges = st.builds(
    lambda month, off: parse_time(f"2026-{month:02d}-01T00:00:00Z") + off,
    st.integers(9, 12),
    st.sampled_from((-1, 0, 1, CLOSE_AFTER_MS - 1, CLOSE_AFTER_MS, CLOSE_AFTER_MS + 1)),
)
times = st.one_of(st.integers(FIRST, LAST - 1), edges)
delays = st.sampled_from((0, 0, HOUR_MS, 10 * DAY_MS, 40 * DAY_MS))
prices = st.sampled_from(PRICES)


class World(NamedTuple):
    """An account with all that is ever stored about it."""

    contract: Contract
    records: list[Entered]
    grants: Sequence[Grant]

    @property
    def closes(self) -> ClosesAfter:
        return ClosesAfter(self.contract.calendar, CLOSE_AFTER_MS)

    def statements(self, as_of: int = AS_OF) -> list[Statement]:
        through = self.contract.calendar.period_at(as_of)
        return list(
            statements(self.contract, self.records, self.grants, self.closes, through, as_of)
        )


@st.composite
def terms(draw: st.DrawFn, anchor_ms: int, effective_from: int) -> Terms:
    tiers: dict[str, tuple[Tier, ...]] = {
        outcome: (Tier(None, draw(prices)),) for outcome in OUTCOMES if draw(st.booleans())
    }
    if draw(st.booleans()):
        tiers["resolution"] = (
            Tier(draw(st.integers(1, 3)), draw(prices)),
            Tier(None, draw(prices)),
        )
    return Terms(
        effective_from=effective_from,
        anchor_ms=anchor_ms,
        tiers=tiers,
        included={"resolution": draw(st.integers(0, 3))},
        cap_units=draw(st.none() | st.integers(0, 5)),
        cap_amount=draw(st.none() | st.sampled_from((1, 99, 250, 1_500))),
        cap_action=draw(st.sampled_from(("alert", "stop"))),
        minimum=draw(st.sampled_from((0, 0, 500))),
        prorate=draw(st.booleans()),
    )


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    anchors = st.sampled_from(
        [parse_time(f"2026-{day}:00:00Z") for day in ("01-01T00", "01-31T00", "03-15T07")]
    )
    versions = [draw(terms(draw(anchors), FIRST - 40 * DAY_MS))]
    dates = draw(st.lists(st.integers(FIRST, LAST), max_size=2, unique=True))
    versions += [draw(terms(draw(anchors), effective_from)) for effective_from in dates]
    return Contract(draw(st.sampled_from(("usd", "jpy", "kwd"))), versions)


@st.composite
def records_of(draw: st.DrawFn) -> list[Entered]:
    records: list[Entered] = []
    for number in range(draw(st.integers(0, 12))):
        charge = Entered(
            id=f"c{number:02d}",
            tenant_id=draw(st.sampled_from(("acme", "beta"))),
            outcome=draw(st.sampled_from(OUTCOMES)),
            quantity=1,
            occurred_at=(occurred_at := draw(times)),
            stored_at=occurred_at + draw(delays),
            price=draw(st.none() | prices),
        )
        records.append(charge)
        if draw(st.booleans()):
            returned_at = occurred_at + draw(delays)
            records.append(
                msgspec.structs.replace(
                    charge,
                    id=f"r{number:02d}",
                    quantity=-1,
                    supersedes=charge.id,
                    occurred_at=returned_at,
                    stored_at=returned_at + draw(delays),
                )
            )
    return draw(st.permutations(records))


@st.composite
def worlds(draw: st.DrawFn) -> World:
    grants: list[Grant] = []
    world = World(draw(contracts()), draw(records_of()), grants)
    step = 10 if world.contract.currency == "kwd" else 1
    for number in range(draw(st.integers(0, 4))):
        dates: dict[str, Any] = {
            "id": f"g{number}",
            "created_at": draw(times),
            "starts_at": (starts_at := draw(times)),
            "ends_at": starts_at + draw(st.sampled_from((1, 40 * DAY_MS, NEVER_MS))),
        }
        if draw(st.booleans()):
            outcomes = frozenset(draw(st.lists(st.sampled_from(OUTCOMES), min_size=1)))
            grants.append(Pack(units=draw(st.integers(1, 4)), outcomes=outcomes, **dates))
        else:
            grants.append(Credit(amount=draw(st.integers(1, 99)) * 5 * step, **dates))
    for grant in tuple(grants):
        if not isinstance(grant, Void) and draw(st.integers(0, 3)) == 0:
            at = grant.created_at + draw(delays)
            entered = [each for each in grants if each.created_at <= at]
            left = left_at(world.contract, world.records, entered, world.closes, grant.id, at)
            takes = left - draw(st.integers(0, left // step)) * step
            # Later voids may find less than before, so only one enters.
            grants.append(Void(grant=grant.id, created_at=at, takes=takes))
            break
    return world


def of_periods(stated: Sequence[Statement]) -> Counter[tuple[str, str, Decimal]]:
    """Add up the metered and adjusted lines, in minor units, by the period that they are about."""
    sums: Counter[tuple[str, str, Decimal]] = Counter()
    for statement in stated:
        for line in statement.lines:
            if line.outcome is not None and line.price is not None:
                about = line.period or statement.period.name
                sums[about, line.outcome, line.price] += line.amount
    return Counter({key: amount for key, amount in sums.items() if amount})


def minimums(stated: Sequence[Statement]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for statement in stated:
        for line in statement.lines:
            if line.kind == "minimum":
                sums[line.period or statement.period.name] += line.amount
    return Counter({key: amount for key, amount in sums.items() if amount})


def from_scratch(world: World, periods: Sequence[Period], cut_ms: int) -> list[Statement]:
    """State the periods as if all that is known at a time had been known from the start."""
    account = Account(world.contract, world.closes)
    known = [record for record in world.records if record.stored_at < cut_ms]
    entered = [grant for grant in world.grants if grant.created_at < cut_ms]
    account.know(known, sorted(entered, key=lambda grant: grant.created_at))
    return [account.state(period, cut_ms, is_final=True) for period in periods]


@given(worlds())
def test_all_statements_add_up_to_the_reckoning_of_everything_known_now(world: World) -> None:
    stated = world.statements()

    for number, statement in enumerate(stated, 1):
        cut_ms = world.closes.close_of(statement.period)
        if cut_ms > AS_OF:
            break
        scratch = from_scratch(world, [each.period for each in stated[:number]], cut_ms)
        assert of_periods(stated[:number]) == of_periods(scratch)
        assert minimums(stated[:number]) == minimums(scratch)
        assert statement.units == scratch[-1].units
        assert statement.closing.packs == scratch[-1].closing.packs


@given(worlds())
def test_what_is_charged_does_not_depend_on_when_a_record_arrived(world: World) -> None:
    grants = [grant for grant in world.grants if not isinstance(grant, Void)]
    at_once = [
        msgspec.structs.replace(record, stored_at=record.occurred_at) for record in world.records
    ]

    late = World(world.contract, world.records, grants).statements()
    early = World(world.contract, at_once, grants).statements()

    assert of_periods(late) == of_periods(early)
    assert minimums(late) == minimums(early)


@given(worlds(), times)
def test_a_final_statement_never_changes(world: World, as_of: int) -> None:
    earlier = [each for each in world.statements(as_of) if each.is_final]
    later = {each.period: each for each in world.statements()}

    for statement in earlier:
        assert statement == later[statement.period]


@given(worlds(), times)
def test_a_total_is_what_its_lines_come_to_and_never_below_zero(world: World, as_of: int) -> None:
    stated = world.statements(as_of)

    for before, statement in zip([None, *stated], stated, strict=False):
        first = statement.lines[0] if statement.lines else None
        assert statement.total == sum(line.amount for line in statement.lines) >= 0
        if before is not None and before.closing.carried:
            is_left = first is None and statement.closing.carried == before.closing.carried
            assert is_left or (first is not None and first.amount == before.closing.carried)


@given(worlds(), times)
def test_no_grant_goes_below_zero_or_beyond_what_it_has(world: World, as_of: int) -> None:
    whole = {
        grant.id: grant.units if isinstance(grant, Pack) else grant.amount
        for grant in world.grants
        if not isinstance(grant, Void)
    }

    for statement in world.statements(as_of):
        for grant, left in {**statement.closing.packs, **statement.closing.credits}.items():
            assert 0 <= left <= whole[grant]


@given(worlds())
def test_each_unit_is_in_one_state(world: World) -> None:
    for statement in world.statements():
        c = statement.counts
        states = (c.taken_back, c.included, c.pack, c.metered, c.over_cap, c.unpriced)
        assert c.known == sum(states) == len({unit.id for unit in statement.units})


@given(worlds())
def test_no_period_exceeds_a_cap_that_stops(world: World) -> None:
    stated = world.statements()
    periods = {each.period.name: each.period for each in stated}

    for number in range(1, len(stated) + 1):
        sums: Counter[str] = Counter()
        for (period, _, _), amount in of_periods(stated[:number]).items():
            sums[period] += amount
        for name, amount in sums.items():
            terms = world.contract.terms_for(periods[name])
            if terms.cap_action == "stop" and terms.cap_amount is not None:
                assert amount <= terms.cap_amount


@given(worlds(), times)
def test_a_replay_gives_the_same_bytes(world: World, as_of: int) -> None:
    def replayed(records: list[Entered]) -> list[bytes]:
        replay = World(world.contract, records, world.grants)
        return [
            json.dumps(statement_object("acme", each)).encode() for each in replay.statements(as_of)
        ]

    assert replayed(world.records) == replayed(world.records[::-1])
