"""Whatever arrives when: no period lessens another, nothing is lost, and no meter gets too much."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select

from pipeline.catalog.account_periods import AccountPeriod, AccountPeriods
from pipeline.catalog.accounts import account_of
from pipeline.catalog.tenants import Tenants, load_tenants
from pipeline.events.times import format_time, parse_time
from pipeline.ledger import Ledger, months, open_ledger, records, upgrade
from pipeline.ledger.entries import Stored
from pipeline.ledger.month_entries import Closing
from pipeline.ledger.statements import state_account
from pipeline.ledger.tables import meter_event, meter_event_record, pending_record, usage_record
from pipeline.sink.metering import Metering, Reckonings
from pipeline.sink.planner import LedgerPlans, Planned, plan_pending
from pipeline.sink.stripe.meter import body_sha256
from pipeline.sink.stripe.wanted import charged_to
from pipeline.usage.record import UsageRecord
from tests.support.ledger import TOPIC, arrivals, record

HOUR_MS = 3_600_000
EDGES = [parse_time(f"2026-{day}T00:00:00Z") for day in ("10-15", "11-01")]
NOW = parse_time("2026-11-20T00:00:00Z")
TENANTS = ("acme", "acme-eu", "bluejay", "heron")
CONTRACTS = (
    "",
    "included.resolution = 2",
    'cap.units = 2\ncap.action = "stop"',
    'price.resolution = "0.99"\nincluded.resolution = 1',
    'tiers.resolution = [{ up_to = 2, price = "2" }, { price = "1" }]',
)
# acme and acme-eu share an account with a contract, bluejay moves into it, heron has no contract.
FILE = """
contract_files = ["contract.toml"]
[accounts.group]
stripe_customer = "cus_group"
contract = "group"
[tenants.acme]
account = "group"
[tenants.acme-eu]
account = "group"
[tenants.bluejay]
stripe_customer = "cus_bluejay"
account = [{ name = "bluejay" }, { name = "group", from = 2026-10-20T05:00:00Z }]
[tenants.heron]
stripe_customer = "cus_heron"
"""


class Prices(NamedTuple):
    """One price for all."""

    price: str

    def price_for(self, *_: object) -> tuple[Decimal, str]:
        return Decimal(self.price), "usd"

    def priced_by(self, *_: object) -> str:
        return "digest"


class Step(NamedTuple):
    """A charge, its reversal if it has one, and what happens after each."""

    tenant_id: str
    at: int
    price: str
    reversal: int | None  # stored so many steps after its charge; -1: before it
    then: str  # "", "plan", "close"


times = st.builds(
    lambda edge, off: edge + off,
    st.sampled_from(EDGES),
    st.sampled_from((-HOUR_MS, -1, 0, 0, 1, HOUR_MS, HOUR_MS, 3 * HOUR_MS)),
)


def steps_of(tenants: Sequence[str]) -> st.SearchStrategy[list[Step]]:
    step = st.builds(
        Step,
        st.sampled_from(tenants),
        times,
        st.sampled_from(("0.99", "0.99", "0.99", "0.50")),
        st.sampled_from((None, None, -1, 0, 1, 2, 3)),
        st.sampled_from(("", *["plan"] * 7, "close")),
    )
    return st.lists(step, min_size=4, max_size=9)


# One tenant, so that limits are reached, or all.
steps = st.sampled_from((("acme",), ("acme", "acme-eu"), TENANTS)).flatmap(steps_of)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    upgrade(f"sqlite:///{folder}/empty.sqlite")
    return folder


class Bench:
    """A ledger and a planner, with what the tests ask about them."""

    def __init__(self, folder: Path, terms: str) -> None:
        shutil.copy(folder / "empty.sqlite", folder / "ledger.sqlite")
        begins = "effective_from = 2026-01-01T00:00:00Z\nperiod.anchor = 2026-01-15T00:00:00Z"
        (folder / "contract.toml").write_text(f'name = "group"\nversion = 1\n{begins}\n{terms}')
        (folder / "resmeter.toml").write_text(FILE)
        self.ledger: Ledger = open_ledger(f"sqlite:///{folder}/ledger.sqlite")
        # Nothing here needs to survive a power cut, and each commit would wait for the disk.
        engine = self.ledger._engine
        event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF"))
        engine.dispose()
        self.tenants: Tenants = load_tenants(folder / "resmeter.toml")
        self.periods = AccountPeriods(self.tenants.catalog)
        self.closed_until: Counter[str] = Counter()
        self._next: int | None = None

    def store(self, usage: Sequence[UsageRecord], price: str) -> None:
        batch = arrivals(usage, self._next or 0)
        expected = {0: self._next}
        stored = records.store(self.ledger, TOPIC, batch, expected, NOW - 1, Prices(price))
        assert isinstance(stored, Stored)
        self._next = stored.offsets[0]

    def plan(self) -> Planned:
        reckonings = Reckonings(lambda: 0.0)
        metering = Metering(self.ledger, self.tenants, charged_to, NOW, reckonings)
        return plan_pending(metering, body_sha256, LedgerPlans(self.ledger, NOW), chunk_records=3)

    def close(self, of: AccountPeriod) -> None:
        """Close a period, unless it is closed."""
        if of.period.start_ms < self.closed_until[of.account]:
            return
        self.closed_until[of.account] = of.period.end_ms
        closed = Closing(
            account=of.account,
            period_start=of.period.start_ms,
            period_end=of.period.end_ms,
            closed_at=NOW,
            topic=TOPIC,
            offsets={},
            grants=0,
            statement="",
        )
        with self.ledger.writing() as connection:
            months.enter(connection, closed)

    def events(self) -> dict[str, tuple[AccountPeriod, int]]:
        """Return the period and the value of each meter event."""
        m = meter_event.c
        query = select(m.identifier, m.tenant_id, m.timestamp, m.value)
        with self.ledger.reading() as connection:
            return {
                identifier: (self.periods.at(tenant_id, timestamp * 1000), value)
                for identifier, tenant_id, timestamp, value in connection.execute(query)
            }

    def units(self) -> Iterator[tuple[str, AccountPeriod]]:
        """Yield the meter event of each record in one, and the period of the record's unit."""
        r, link = usage_record.c, meter_event_record.c
        columns = (r.id, r.tenant_id, r.occurred_at, r.supersedes, link.identifier)
        query = select(*columns).outerjoin(meter_event_record, link.record_seq == r.seq)
        with self.ledger.reading() as connection:
            rows = {row.id: row for row in connection.execute(query)}
        for row in rows.values():
            if row.identifier is not None:
                charge = rows[row.supersedes] if row.supersedes else row
                yield row.identifier, self.periods.at(charge.tenant_id, charge.occurred_at)

    def sums(self) -> tuple[int, int]:
        """Return the sums of all records, and of those that are pending."""
        with self.ledger.reading() as connection:
            return tuple(  # type: ignore[return-value]
                connection.scalar(select(func.coalesce(func.sum(table.c.quantity), 0)))
                for table in (usage_record, pending_record)
            )

    def known(self) -> list[AccountPeriod]:
        """Return the periods that have a unit, each once."""
        r = usage_record.c
        query = select(r.tenant_id, r.occurred_at).where(r.quantity > 0)
        with self.ledger.reading() as connection:
            found = [self.periods.at(*row) for row in connection.execute(query)]
        return list({key(each): each for each in found}.values())

    def standing(self) -> Counter[tuple[str, int]]:
        """Count the units at each meter that no reversal takes back, by account and period.

        That is the meter's sum, less the reversals that wait for a later unit.
        """
        units: Counter[tuple[str, int]] = Counter()
        for of, value in self.events().values():
            units[key(of)] += value
        p, r, link = pending_record.c, usage_record.c, meter_event_record.c
        charge = usage_record.alias()
        waits = (
            select(p.tenant_id, p.occurred_at)
            .join_from(pending_record, usage_record, r.seq == p.seq)
            .join(charge, charge.c.id == r.supersedes)
            .join(meter_event_record, link.record_seq == charge.c.seq)
        )
        with self.ledger.reading() as connection:
            for row in connection.execute(waits):
                units[key(self.periods.at(*row))] -= 1
        return units

    def metered(self, of: AccountPeriod) -> int:
        """Return the units of a period that the subscription charges, as a statement says now."""
        account = account_of(self.tenants, of.account)
        name = format_time(of.period.start_ms)
        stated = state_account(self.ledger, account, self.tenants, name, NOW).statement
        tiers = charged_to(self.tenants.catalog, of.account, of.period.start_ms)["resolution"]
        prices = {tier.price for tier in tiers}
        return sum(
            line.quantity or 0
            for line in stated.lines
            if line.kind == "metered" and (of.terms is None or line.price in prices)
        )


def key(of: AccountPeriod) -> tuple[str, int]:
    return of.account, of.period.start_ms


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(CONTRACTS), steps)
def test_periods_never_lessen_each_other_and_no_meter_gets_more_than_is_metered(
    empty: Path, terms: str, drawn: list[Step]
) -> None:
    bench = Bench(empty, terms)
    waiting: dict[int, list[tuple[UsageRecord, str]]] = {}  # by the number of their step
    for number, step in enumerate(drawn):
        charge = record(f"c{number}", tenant_id=step.tenant_id, at=step.at)
        reversal = record(
            f"c{number}", 2, -1, tenant_id=step.tenant_id, at=NOW - number, supersedes=1
        )
        if step.reversal == -1:
            bench.store([reversal], step.price)
        elif step.reversal is not None:
            due = min(number + step.reversal, len(drawn) - 1)
            waiting.setdefault(due, []).append((reversal, step.price))
        bench.store([charge], step.price)
        for known, price in waiting.get(number, []):
            bench.store([known], price)
        if step.then == "close":
            bench.close(bench.periods.at(step.tenant_id, step.at))
        elif step.then == "plan":
            plan_and_check(bench)
    plan_and_check(bench)
    bench.ledger.close()


def plan_and_check(bench: Bench) -> None:
    before = bench.standing()
    planned = bench.plan()
    events, standing = bench.events(), bench.standing()

    # 1. The units of a meter event are those of its period.
    assert all(key(events[name][0]) == key(of) for name, of in bench.units())
    # 2. What is planned and what stays pending is everything, and each that stays has a reason.
    everything, pending = bench.sums()
    assert sum(value for _, value in events.values()) + pending == everything
    assert sum(planned.kept.values()) == pending
    # 3. Each meter has the units that are metered, or what it had before if that is more; a closed one stays.
    for each in bench.known():
        had, has = before[key(each)], standing[key(each)]
        is_closed = each.period.start_ms < bench.closed_until[each.account]
        assert has == (had if is_closed else max(had, bench.metered(each)))
