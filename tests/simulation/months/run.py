"""Run sinks through some months, under faults, and return what they bill."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from aiokafka.partitioner import murmur2
from sqlalchemy import Engine

from pipeline.billing.approvals import Verdict
from pipeline.billing.periods import DAY_MS, HOUR_MS, Period
from pipeline.catalog.accounts import account_of
from pipeline.dev.emulator.state import State
from pipeline.events.times import format_time
from pipeline.ledger import Ledger, approving, leases, records
from pipeline.ledger.invoices import invoices_of as invoices
from pipeline.ledger.month_entries import MonthItem
from pipeline.ledger.months import closed_starts
from pipeline.ledger.statements import Prepared, prepare_grant
from pipeline.replay.closing import Checks
from pipeline.replay.decided import Decided
from pipeline.sink.closer import Closer
from pipeline.sink.stripe.client import StripeClient
from pipeline.sink.stripe.meter import StripeMeter
from pipeline.usage.record import encode_record
from tests.simulation.ledgers import Ledgers
from tests.simulation.months.draws import MINUTE, START, Months, draw_grant
from tests.simulation.months.stripe_account import (
    Network,
    NetworkFaults,
    client_of,
    invoices_of,
    subscribe_all,
)
from tests.simulation.operator import decide_about_waiting
from tests.simulation.sink import Sink
from tests.simulation.world import FaultPoint, Process, ProcessKilled, World

# After the end of a period: when sinks take a look. Its draft waits for an hour.
_LOOKS = [n * MINUTE for n in (1, 5, 15, 30, 44, 46, 62, 240, 1_500)]
_CALM_TURNS_MAX = 200
CLOSE_AFTER = 45 * MINUTE
AMOUNT_MAX = Decimal("0.50")  # larger adjustments wait for a person


class MonthFaults(NamedTuple):
    """The probabilities of faults other than kills."""

    stripe: float = 0.0  # of each request
    older_ledger: float = 0.0  # at every moment: a copy of the ledger is made, or takes its place
    second_sink: bool = False
    lag_minutes: int = 0  # how late Stripe's sums and drafts know an event
    standstill: float = 0.0  # at every moment: workers stand still, and have not decided for hours
    outage: float = 0.0  # at every moment: Stripe takes no meter events
    grants: float = 0.0  # at every moment: an account gets a pack or a credit


class MonthsOutcome(NamedTuple):
    """What is there at the end of a run."""

    world: World
    state: State
    ledger: Ledger  # the sinks'
    rebuilt: Ledger  # a new one that has read the journal and the records again
    counts: Counter[str]


class MonthRun:
    """One run."""

    def __init__(
        self,
        months: Months,
        fault_point: FaultPoint,
        faults: MonthFaults,
        seed: int,
        ledgers: Ledgers,
    ) -> None:
        self._months = months
        self._faults = faults
        self._draw = random.Random(f"months run {seed}")
        self._ledgers = ledgers
        self.world = World(fault_point, START, 1, seed)
        self.state = State(lag_seconds=faults.lag_minutes * 60.0)
        self._network = NetworkFaults(0.0, random.Random(f"months network {seed}"))
        self._sinks: list[Sink] = []
        self._closers: dict[Sink, Closer] = {}
        self._names = 0
        self._decided_until = START  # by the workers
        self._granted = 0
        self._grant_draw = random.Random(f"months grants {seed}")
        self.counts: Counter[str] = Counter()

    async def play(self) -> MonthsOutcome:
        world, faults = self.world, self._faults
        calendars = (account.contract.calendar for account in self._months.accounts)
        begin = min(calendar.period_at(START).start_ms for calendar in calendars)
        await subscribe_all(self.state, self._months.tenants.catalog, begin)
        self._network.chance = faults.stripe
        self._sinks = [self._new_sink() for _ in range(1 + faults.second_sink)]
        arrivals = list(self._months.arrivals)
        for at in self._moments():
            await self._pass_until(at)
            while arrivals and arrivals[0].at <= at:
                self._arrive(arrivals.pop(0).record)
            self._change_ledger()
            await self._grant()
            await self._approve(chance=0.3)
            self._decided_until = at
            if self._draw.random() < faults.standstill:
                self._decided_until -= self._draw.choice([MINUTE, HOUR_MS, 30 * HOUR_MS])
            world.stripe_answers = self._draw.random() >= faults.outage
            await self._turn()
            world.stripe_answers = True
        self._network.chance = 0.0
        for _ in range(_CALM_TURNS_MAX):
            world.time += 10 * MINUTE
            self._decided_until = world.time
            await self._approve(chance=1.0)
            await self._turn()
            with suppress(ProcessKilled):  # the next turn has another sink
                await self._finish_by_hand()
            if self._is_done():
                return self._outcome()
        raise AssertionError(f"the run does not end: {world.fault_point.effects[-20:]}")

    def _moments(self) -> list[int]:
        looks = {
            period.end_ms + after
            for account in self._months.accounts
            for period in self._months.ended(account)
            for after in _LOOKS
        }
        arrivals = {arrival.at for arrival in self._months.arrivals}
        return sorted(at for at in {*looks, *arrivals, self._months.end} if at <= self._months.end)

    async def _pass_until(self, at: int) -> None:
        """Let time pass; while calls are open, in steps in which sinks can repeat them."""
        world = self.world
        while at - world.time > HOUR_MS and self._has_open_calls():
            world.time += 20 * MINUTE
            await self._turn()
        world.time = at

    def _has_open_calls(self) -> bool:
        far = self.world.time + 10**9
        return bool(leases.due(Ledger(self._ledgers.engine), far, 1))

    def _arrive(self, record: Any) -> None:
        key = f"{record.tenant_id}:{record.conversation}".encode()
        partition = murmur2(key) % 2**31 % 2
        self.world.records.append(partition, self.world.time, key, encode_record(record), [])

    def _change_ledger(self) -> None:
        """Copy the ledger, or put a copy in its place, with new sinks."""
        draw, chance = self._draw, self._faults.older_ledger
        if draw.random() < chance:
            self._ledgers.back_up()
        # Before its first entry, the journal cannot say that nothing was sent.
        if self.world.journal and draw.random() < chance:
            self.counts["older ledger"] += 1
            self._ledgers.restore(draw)
            self._sinks = [self._new_sink() for _ in self._sinks]

    async def _grant(self) -> None:
        """Give an account a pack or a credit, days from the end of a period."""
        if self._grant_draw.random() >= self._faults.grants:
            return
        draw, now, months = self._grant_draw, self.world.time, self._months
        account = draw.choice(months.accounts)
        period = account.contract.calendar.period_at(now)
        is_between = period.start_ms + 5 * DAY_MS < now < period.end_ms - 2 * DAY_MS
        ended = {each.start_ms for each in months.ended(account) if each.end_ms <= now}
        ledger = Ledger(self._ledgers.engine)
        if is_between and ended <= set(closed_starts(ledger, account.name)):
            self._granted += 1
            billed, tenants = account_of(months.tenants, account.name), months.tenants
            line = draw_grant(draw, f"g{self._granted}", account.name, now)
            item = prepare_grant(ledger, billed, tenants, line)
            await self._step(self._sinks[0], _now(partial(self._sinks[0].enter, [item])))
            self.counts["grants"] += 1

    async def _approve(self, chance: float) -> None:
        """Let a person approve or reject what waits for one, before periods are closed."""
        sink, tenants = self._sinks[0], self._months.tenants
        if self._grant_draw.random() >= chance or not sink.is_followed():
            return
        now, items = self.world.time, list[MonthItem]()
        for account in self._months.accounts:
            billed = account_of(tenants, account.name)
            found = approving.waiting(sink.ledger, billed, tenants, now, AMOUNT_MAX).found
            for each in found:
                if each.blocks:
                    is_approved = each.what == "unmatched" or self._grant_draw.random() < 0.5
                    verdict: Verdict = "approved" if is_approved else "rejected"
                    self.counts[verdict] += 1
                    items.append(
                        approving.prepare_approval(
                            account.name, each, verdict, "ann", "looked at it", now
                        )
                    )
        if items:
            await self._step(sink, _now(partial(sink.enter, items)))

    def _decide(self) -> None:
        """Let an operator decide about the meter events that wait."""
        ledger, tenants = Ledger(self._ledgers.engine), self._months.tenants
        self.counts["decided"] += decide_about_waiting(ledger, self.state, tenants, self.world.time)

    # --- turns ------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        self.state.advance(self.world.seconds())
        for sink in self._sinks:
            await self._step(sink, _now(sink.take))
            for step in (sink.flush, partial(self._close, sink)):
                if not sink.process.is_dead:
                    await self._step(sink, step())
        if not self._has_open_calls():
            self._decide()
        self._sinks = [self._new_sink() if s.process.is_dead else s for s in self._sinks]

    async def _close(self, sink: Sink) -> None:
        """Close what has ended and is ready, and go on with the invoices, as the sink does by itself."""
        if not sink.is_followed():
            return
        for progress in await self._closers[sink].look(
            [each.name for each in self._months.accounts]
        ):
            self.counts[progress.state] += 1

    async def _finish_by_hand(self) -> None:
        """Do what the sinks leave to an operator: the close of a first period, and invoices of our own."""
        sink = self._sinks[0]
        closer = self._closer(sink, by_itself=False)
        for account in self._months.accounts:
            for period in self._months.ended(account):
                (progress,) = await closer.look([account.name], format_time(period.start_ms))
                if progress.state == "missed" and (progress.amount or 0) > 0:
                    await closer.make_own(account.name, format_time(period.start_ms))
                    self.counts["own invoices"] += 1

    def _prepared(self, ledger: Ledger, asked: Sequence[tuple[str, Period]]) -> dict[str, Prepared]:
        """Prepare closings, while the workers have decided up to a time."""
        tenants = self._months.tenants
        decided = [Decided(0, self._decided_until, unread=0, due=0, lost=0)]
        checks = Checks(ledger, tenants, decided, self.world.time, AMOUNT_MAX)
        prepared: dict[str, Prepared] = {}
        for name, period in asked:
            found = checks.readiness(account_of(tenants, name), format_time(period.start_ms))
            prepared[name] = Prepared(found.stated, found.missing, found.closing)
        return prepared

    async def _step(self, sink: Sink, step: Any) -> None:
        """Run a step of a sink, until it ends or the sink is killed."""
        task = asyncio.ensure_future(step)
        while not task.done() and not sink.process.is_dead:
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
        with suppress(ProcessKilled, asyncio.CancelledError):
            await task

    def _new_sink(self, engine: Engine | None = None) -> Sink:
        self._names += 1

        sink = Sink(
            self.world,
            f"sink-{self._names}",
            engine or self._ledgers.engine,
            self._months.tenants,
            self.state,
            meter=lambda process: StripeMeter(self._client(process)),
        )

        self._closers[sink] = self._closer(sink)
        return sink

    def _client(self, process: Process) -> StripeClient:
        return client_of(Network(self.world, process, self.state, self._network))

    def _closer(self, sink: Sink, *, by_itself: bool = True) -> Closer:
        async def write(items: Sequence[MonthItem]) -> list[str | None]:
            return sink.enter(items)

        return Closer(
            sink.ledger,
            lambda: self._months.tenants,
            invoices_of(self._client(sink.process)),
            partial(self._prepared, sink.ledger),
            write,
            lambda: self.world.time,
            after_ms=CLOSE_AFTER,
            by_itself=by_itself,
        )

    def _outcome(self) -> MonthsOutcome:
        self.world.fault_point = FaultPoint()  # the run has ended
        rebuilt = self._new_sink(self._ledgers.second)
        for _ in range(len(self._months.arrivals) + 1):
            rebuilt.take()
        used, new = Ledger(self._ledgers.engine), Ledger(self._ledgers.second)
        return MonthsOutcome(self.world, self.state, used, new, self.counts)

    def _is_done(self) -> bool:
        """Return whether all is stored and sent, and each period that has ended has its invoice."""
        ledger = Ledger(self._ledgers.engine)
        stored = sum(records.offsets(ledger, "usage.records").values())
        if stored < sum(map(len, self.world.records.partitions)):
            return False
        for account in self._months.accounts:
            ended = {each.start_ms for each in self._months.ended(account)}
            final = {i.period_start for i in invoices(ledger, account.name) if i.state != "planned"}
            if not ended <= final:
                return False
        return not self._has_open_calls()


async def _now(step: Any) -> None:
    step()
