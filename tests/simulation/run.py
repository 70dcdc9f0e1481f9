"""Run the pipeline once over a history, under faults, and return what it bills."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from pipeline.config import Settings, StripeSettings, WorkerSettings
from pipeline.dev.emulator.state import State
from pipeline.errors import FencedError
from pipeline.kafka.bounds import Acknowledgement
from pipeline.kafka.stepover import STEP_OVER_PREFIX
from pipeline.ledger import Ledger, deliveries, holds, leases, outbox, records, reports
from pipeline.stream.basis import Basis
from pipeline.stream.state import decode_state, is_sealed
from tests.simulation.catalog import CatalogReader
from tests.simulation.conflicts import append_conflict
from tests.simulation.histories import CUSTOMERS, GRACE, T0, TENANTS, WINDOW, History
from tests.simulation.ledgers import Ledgers, open_ledgers, stored_records
from tests.simulation.operator import decide_about_waiting
from tests.simulation.sink import LEASE_SECONDS, Sink
from tests.simulation.statements import stated_units
from tests.simulation.worker import Worker
from tests.simulation.world import FaultPoint, Loop, Process, ProcessKilled, Topic, World
from tests.support.tenants import tenants_with

_Key = TypeVar("_Key")

_TURNS_MAX = 3_000
_LONG_QUIET_MS = 3_600_000
_DECIDES_DURING_A_CALL = 0.05
_CLOCKS = (0, 0, 30_000, -30_000, 120_000, -120_000, -240_000)
OUTAGE_TURNS = 10
OUTAGE_TURN_MS = 3 * 3_600_000
_SETTINGS = Settings(
    worker=WorkerSettings(
        settle_margin_seconds=0,
        inflight_batches_max=3,
        seal_after_days=1,
        dead_letter_window_records=1,
    ),
    stripe=StripeSettings(),
)


class Faults(NamedTuple):
    """The probabilities of faults other than kills (see `FaultPoint`)."""

    rebalance: float = 0.0  # at every turn
    stop: float = 0.0  # at every turn: a worker stops, and resumes later as a zombie
    stripe: float = 0.0  # at every call: the call fails, before or after its effect
    rejoin: float = 0.0  # when a zombie continues: it comes back into the group
    older_ledger: float = 0.0  # at every turn: a copy of the ledger is made, or takes its place
    second_ledger: bool = False  # a second sink has a ledger of its own
    transaction: float = 0.0  # at every arrival: it begins a transaction, which stays open a while
    meanwhile: float = 0.0  # at every request for a clock: a record arrives while it waits
    deletion: float = 0.0  # at every turn: Kafka deletes records that nobody has read
    clocks: float = 0.0  # at every turn: other brokers, with other clocks, lead the partitions
    hidden_clock: int = 0  # ms: how far brokers are behind that lead events, and no changelog
    another_log: float = 0.0  # at every turn: the workers find another log under the topic's name
    compaction: float = 0.0  # at every turn and every recovery: the changelog is compacted
    wake: float = 0.0  # at every write of a worker: a paused one wakes, and goes on
    sleep: bool = False  # paused workers wake at the end only, after an outage if there is one
    pause: float = 0.0  # at every write of a worker: the worker is paused
    old_workers: float = 0.0  # when a worker starts: it is of a version without the fence
    second_sink: bool = False
    conflicts: float = 0.0  # at every turn: a record of a known id with another value in a column
    catalog_away: float = 0.0  # at every reading of the catalog: its broker does not respond
    operator: bool = False  # at the end and during calls, somebody decides about what waits
    outage: bool = False  # at the end Stripe answers no call for 30 hours, though it may count it
    workers_max: int = 1


class Outcome(NamedTuple):
    """The state of ledger, topics and Stripe at the end of a run."""

    records: dict[str, tuple[Any, ...]]  # usage records in the ledger, by id
    emitted: dict[str, set[bytes]]  # in the topic: the different contents of each id
    quarantined: int
    conflicts: int  # in the topic: records of a known id with another value in a column
    uncertain: dict[tuple[str, str], int]
    delivered: dict[tuple[str, str], int]  # in the ledger: tenant, outcome → units
    stripe: dict[tuple[str, str, int], int]  # at Stripe: customer, event name, hour → units
    pending: dict[tuple[str, str], int]
    stated: dict[str, int]  # on the tenant's statement: units that no reversal takes back
    identifiers: Counter[str]  # of meter events: how often Stripe counted each
    dead_letters: set[tuple[int, int]]  # origin: partition, offset
    events: dict[bytes, int | None]  # number in each conversation's state; None if it is sealed
    arrived: dict[tuple[int, int], int]  # partition, offset → the record's timestamp
    clocks_seen: (
        bool  # whether a worker saw clocks that differ, from a record that it did not expect
    )
    deleted: set[tuple[int, int]]  # partition, offset: deleted before anybody read them
    reported: set[tuple[int, int]]  # of those that the changelog has as lost and not acknowledged
    counts: dict[str, int]
    effects: list[str]
    kills: list[str]


def run(
    history: History, fault_point: FaultPoint, faults: Faults, seed: int, partitions: int
) -> Outcome:
    """Run a history to its end under faults, and return the outcome."""
    with open_ledgers() as ledgers, asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(_Run(history, fault_point, faults, seed, partitions, ledgers).play())


class _Run:
    def __init__(
        self,
        history: History,
        fault_point: FaultPoint,
        faults: Faults,
        seed: int,
        partitions: int,
        ledgers: Ledgers,
    ) -> None:
        self.world = World(fault_point, T0, partitions, seed)
        self._history = history
        self._faults = faults
        self._draw = random.Random(seed)
        self._broker = random.Random(f"broker {seed}")  # apart: older seeds keep their other faults
        # Each broker's clock, in ms from the right time.
        self._clock_draw = random.Random(f"clocks {seed}")
        self._clocks = [self._clock_draw.choice(_CLOCKS) for _ in range(partitions)]
        self._ledgers = ledgers
        self._partitions = partitions
        self._stripe = State()
        policies = history.catalog.policies.values()
        self._tenants = tenants_with(CUSTOMERS, policies)
        self.world.catalog = history.catalog.records
        outcomes = [
            outcome
            for policy in policies
            for outcome in (*policy.price, *policy.outcomes_billed, *policy.precedence)
        ]
        names = sorted({self._tenants.event_name_for(outcome) for outcome in outcomes})
        self._stripe.prepare(CUSTOMERS.values(), names, T0 / 1000)
        self._names = 0
        self._workers: list[Worker] = []
        self._sinks: list[Sink] = []
        self._counts: Counter[str] = Counter()
        self._waiting = list(history.sent)
        self.world.meanwhile = self._meanwhile
        self.world.during_call = self._doubt_and_decide
        self._operator = random.Random(f"operator {seed}")
        self.world.has_old_workers = faults.old_workers > 0
        self.world.compact = self._compact
        self.world.disturb = self._disturb
        self._paused: dict[Worker, asyncio.Task[Any]] = {}  # the step in which a worker was paused
        self._repaired = 0  # how many unfenced writes a recovery has read
        self._conflicts: set[bytes] = set()
        self._away_draw = random.Random(f"away {seed}")
        self._ledger_draw = random.Random(f"ledger {seed}")
        self._conflict_draw = random.Random(f"conflicts {seed}")
        self._outage_turns = OUTAGE_TURNS if faults.outage else 0

    async def play(self) -> Outcome:
        """Append to the log and take turns until no work is left."""
        waiting = self._waiting
        faults = self._faults
        self._change_leaders()
        await self._rebalance(1)
        self._sinks.append(self._new_sink())
        for _ in range(_TURNS_MAX):
            if waiting and self._has_open_calls(waiting[0].at):
                self.world.time += LEASE_SECONDS * 1000
            elif waiting:
                self._wait(waiting[0].at)
                for _ in range(self._draw.randrange(4)):
                    if waiting and not self._has_open_calls(waiting[0].at):
                        self._arrive(waiting.pop(0))
            elif self._outage_turns:
                self._outage_turns -= 1
                self.world.time += OUTAGE_TURN_MS
                self.world.stripe_answers = not self._outage_turns
            else:
                self.world.time += WINDOW + GRACE + LEASE_SECONDS * 1000
            calm = not waiting
            self._end_transactions(calm)
            if not calm:
                if self._clock_draw.random() < faults.clocks:
                    self._change_leaders()
                self._delete_some()
                await self._show_another_log()
            await self._turn(calm)
            if self._conflict_draw.random() < faults.conflicts:
                self._counts["conflicts"] += append_conflict(
                    self.world, self._conflict_draw, self._conflicts
                )
            if calm and not self._outage_turns and await self._is_done():
                if faults.operator:
                    ledger = Ledger(self._ledgers.engine)
                    decided = decide_about_waiting(
                        ledger, self._stripe, self._tenants, self.world.time
                    )
                    self._counts["decided"] += decided
                    if decided:
                        continue
                await self._leave()
                return self._outcome()
        raise AssertionError(f"the run does not end: {self.world.fault_point.effects[-20:]}")

    def _doubt_and_decide(self) -> None:
        """Let an operator doubt what is not delivered, and decide, while a call is under way.

        This is what `resmeter ledger resume --perhaps-sent` does, and `resmeter deliveries` after it.
        While a sink has another ledger, it may call what is released here: the runbook says to stop it.
        """
        has_second = any(sink.is_second for sink in self._sinks)
        if self._faults.operator and self._operator.random() < _DECIDES_DURING_A_CALL:
            if has_second:
                return
            ledger, now_ms = Ledger(self._ledgers.engine), self.world.time
            holds.mark_uncertain(ledger, now_ms)
            found = decide_about_waiting(ledger, self._stripe, self._tenants, now_ms)
            self._counts["decided"] += found

    def _has_open_calls(self, until: int) -> bool:
        """Return whether calls are open whose idempotency keys Stripe would forget by `until`."""
        if until - self.world.time < _LONG_QUIET_MS:
            return False
        return bool(leases.due(Ledger(self._ledgers.engine), until, 1))

    def _wait(self, until: int) -> None:
        """Let some time pass before the next arrival, so that timers fire in between."""
        world = self.world
        if until > world.time and self._happens(self._faults.meanwhile):
            world.time = max(world.time, until - self._broker.choice([1, 1_000, 30_000]))
        elif until > world.time and self._draw.random() < 0.5:
            world.time = self._draw.randint(world.time, until)

    def _arrive(self, sent: Any) -> None:
        world = self.world
        world.time = max(world.time, sent.at)
        at = world.time + world.events_clocks.get(sent.partition, 0)
        offset = world.events.append(sent.partition, at, sent.key, sent.value, sent.headers)
        if sent.partition not in world.transactions and self._happens(self._faults.transaction):
            world.transactions[sent.partition] = offset
            self._counts["transactions"] += 1

    def _end_transactions(self, calm: bool) -> None:
        """Commit some open transactions, or all: the records since then can be read at once."""
        for partition in list(self.world.transactions):
            if calm or self._broker.random() < 0.2:
                del self.world.transactions[partition]

    def _delete_some(self) -> None:
        """Delete records that nobody has read; an operator may acknowledge earlier losses."""
        world, broker = self.world, self._broker
        if self._happens(self._faults.deletion):
            self._counts["deletions"] += world.delete_unread(
                broker.randrange(self._partitions), broker.randrange(1, 4)
            )
        for partition, low in world.lows.items():
            if self._happens(self._faults.deletion / 2):
                world.acknowledgements[partition] = Acknowledgement(
                    low, "ada", "known", "2026-11-27T08:00:00Z", world.topic_id
                )

    def _change_leaders(self) -> None:
        """Let each broker lead one partition of the events and one of the changelog."""
        world, clocks, hidden = self.world, self._clocks, self._faults.hidden_clock
        if (
            hidden
        ):  # others lead the changelog: no worker can read the clocks of the events' leaders
            world.events_clocks = dict.fromkeys(range(self._partitions), -hidden)
            self._counts["hidden clocks"] += 1
            return
        if not self._faults.clocks:
            return
        leaders = [*clocks]
        self._clock_draw.shuffle(leaders)
        world.events_clocks = dict(enumerate(leaders))
        self._clock_draw.shuffle(leaders)
        world.changelog_clocks = dict(enumerate(leaders))
        self._counts["clocks"] += 1
        self._counts["all clocks"] += self._faults.workers_max == 1

    async def _show_another_log(self) -> None:
        """Kill the workers, and let new ones find another log; then the operator brings it back."""
        world, broker = self.world, self._broker
        is_known = all(any(r.value and not r.key for r in p) for p in world.changelog.partitions)
        if not self._happens(self._faults.another_log) or not is_known:
            return
        right = (world.events, world.transactions, world.lows, world.committed, world.topic_id)
        other = Topic(self._partitions)
        is_made_again = broker.random() < 0.5
        for number, log in enumerate(world.events.partitions):
            if is_made_again:  # a copy whose offsets differ
                for record in log[broker.randrange(3) :] * 2:
                    other.append(number, record.timestamp, record.key, record.value, record.headers)
            else:  # the end is cut
                read = world.committed.get(number, 0)
                other.partitions[number] = log[: max(0, read - broker.randrange(1, 3))]
        world.events, world.transactions, world.lows = other, {}, {}
        world.meanwhile = lambda: None
        if is_made_again:
            world.topic_id = "second"
            world.committed = dict(world.committed) if broker.random() < 0.5 else {}
        for _ in range(2):
            for worker in self._workers:
                worker.process.end()
            await self._restart_the_dead()
            for worker in self._workers:
                await self._step(worker, worker.turn(3))
        for worker in self._workers:
            worker.process.end()
        world.events, world.transactions, world.lows, world.committed, world.topic_id = right
        world.meanwhile = self._meanwhile
        self._counts["another log"] += bool(world.refusals)
        await self._restart_the_dead()

    def _meanwhile(self) -> None:
        """Let time pass, and records arrive, while a worker waits for the broker."""
        if not self._happens(self._faults.meanwhile):
            return
        until = self.world.time + self._broker.choice([1_000, 60_000, 120_000, WINDOW])
        while self._waiting and self._waiting[0].at <= until:
            if self._has_open_calls(self._waiting[0].at):
                return
            self._arrive(self._waiting.pop(0))
            self._counts["meanwhile"] += 1
        if not self._has_open_calls(until):
            self.world.time = max(self.world.time, until)

    def _is_catalog_away(self) -> bool:
        return bool(self._waiting) and self._away_draw.random() < self._faults.catalog_away

    def _happens(self, chance: float) -> bool:
        return bool(chance) and self._broker.random() < chance

    # --- turns ------------------------------------------------------------------------------------

    async def _turn(self, calm: bool) -> None:
        draw, faults = self._draw, self._faults
        self._compact()
        await self._go_on()
        if not calm and draw.random() < faults.stop:
            await self._stop_one()
        if (draw.random() < faults.stop and not faults.sleep) or (calm and not self._sleeps()):
            await self._continue_all()
        if calm and not self._sleeps():
            self._end_old_workers()
        await self._replace_the_paused()
        if not calm and draw.random() < faults.rebalance:
            await self._join_or_leave()
        for worker in list(self._workers):
            if worker not in self._running():
                continue
            await self._step(worker, worker.turn(draw.randrange(1, 6)))
            commits = not worker.process.is_dead and (calm or draw.random() < 0.5)
            if commits and worker in self._running():  # a worker paused in its turn does one thing
                await self._step(worker, _now(worker.commit))
            self._forget_epochs(worker)
        for sink in list(self._sinks):
            if sink.process.is_stopped:
                continue
            await self._step(sink, _now(sink.take))
            if not sink.process.is_dead and (calm or draw.random() < 0.5):
                await self._step(sink, sink.flush())
        if faults.older_ledger and not calm:
            self._change_ledger()
        await self._restart_the_dead()

    async def _step(self, process: Worker | Sink, step: Any) -> None:
        """Run a step of a process, until it ends or the process is killed or stopped."""
        if process in self._paused:
            step.close()  # the worker is still in the step in which it was paused
            return
        await self._finish(process, asyncio.ensure_future(step))

    async def _finish(self, process: Worker | Sink, task: "asyncio.Task[Any]") -> None:
        """Run a step on; if its process is stopped, keep the step until the process wakes."""
        status = process.process
        while not task.done() and not status.is_stopped and not status.is_dead:
            await asyncio.sleep(0)
        if isinstance(process, Worker) and not task.done() and not status.is_dead:
            self._paused[process] = task
            return
        if status.is_dead or not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return
        error = task.exception()
        if isinstance(error, FencedError):
            status.end()
        elif error is not None and not isinstance(error, ProcessKilled):
            raise error

    async def _restart_the_dead(self) -> None:
        for worker in list(self._paused):
            if worker.process.is_dead or worker not in self._workers:
                worker.process.is_stopped = False
                await self._finish(worker, self._paused.pop(worker))
        if any(worker.process.is_dead for worker in self._workers):
            alive = [worker for worker in self._workers if not worker.process.is_dead]
            self._workers = alive
            await asyncio.sleep(0)
            await self._rebalance(max(1, len([w for w in alive if not w.process.is_stopped])))
        for sink in self._sinks:
            if sink.process.is_dead:
                self._sinks.remove(sink)
                self._sinks.append(self._new_sink(is_second=sink.is_second))

    def _sleeps(self) -> bool:
        return self._faults.sleep and self._outage_turns > 0

    # --- the changelog ----------------------------------------------------------------------------

    def _compact(self) -> None:
        """Let the broker compact the changelog.

        It does so at least an hour after the newest version was written. Before, a worker that was
        replaced by a newer version may write without a fence, and the next recovery repairs that.
        Nothing repairs what an old worker writes that slept for an hour while it read states back.
        """
        if any(worker.is_old for worker in self._paused):
            return
        if self.world.unfenced_writes == self._repaired and self._happens(self._faults.compaction):
            self._counts["compactions"] += 1
            for number in range(self._partitions):
                self.world.changelog.compact(number, self._broker)

    def _forget_epochs(self, worker: Worker) -> None:
        """Let brokers forget old epochs, where the owner has had the time to renew its own."""
        world = self.world
        if worker.generation == world.generation and not (
            worker.process.is_dead or worker.process.is_stopped
        ):
            for number in worker.positions:
                world.epochs.forget(number, world.time)

    def _disturb(self, process: Process) -> None:
        """Pause a worker before its effect, or let one wake that was paused."""
        if not self._waiting:
            return
        if self._happens(self._faults.pause) and not process.is_stopped:
            process.is_stopped = True
            self._counts["paused"] += 1
        elif self._happens(self._faults.wake):
            asleep = [worker for worker in self._workers if worker.process.is_stopped]
            if asleep:
                self._broker.choice(asleep).process.is_stopped = False
                self._counts["woken"] += 1

    # --- the ledger -------------------------------------------------------------------------------

    def _change_ledger(self) -> None:
        """Copy the ledger, or put a copy in its place: for new sinks, or below the running ones."""
        draw, chance = self._ledger_draw, self._faults.older_ledger
        if draw.random() < chance:
            self._ledgers.back_up()
        # Before its first entry, the journal cannot say that nothing was sent.
        if self.world.journal and draw.random() < chance:
            self._counts["older ledger"] += 1
            self._ledgers.restore(draw)
            loses_commits = draw.random() < 0.5
            for sink in self._sinks:
                if sink.is_second:
                    continue
                if loses_commits:
                    sink.fail_over(self._ledgers.engine)
                else:
                    sink.process.end()

    # --- the group --------------------------------------------------------------------------------

    async def _rebalance(self, size: int) -> None:
        """Assign the partitions to the running workers; start workers until there are `size`."""
        world, faults = self.world, self._faults
        unfenced = world.unfenced_writes
        for worker in self._running():
            await self._step(worker, worker.revoke())
        world.generation += 1
        running = self._running()
        while len(running) < size:
            worker = Worker(
                world,
                self._name("worker"),
                _SETTINGS,
                CatalogReader(world.visible_catalog, self._is_catalog_away),
                is_old=bool(self._waiting) and self._happens(faults.old_workers),
            )
            self._workers.append(worker)
            running.append(worker)
        for number, worker in enumerate(running):
            await self._step(worker, worker.assign(range(number, self._partitions, len(running))))
        if unfenced > self._repaired and not any(worker.is_old for worker in running):
            for worker in running:
                await self._step(worker, worker.runner.drain())
            if set(running) <= set(self._running()):
                self._repaired = unfenced

    def _running(self) -> list[Worker]:
        """Return the workers that are neither stopped nor in the middle of what a stop interrupted."""
        return [worker for worker in self._awake_ones() if worker not in self._paused]

    def _awake_ones(self) -> list[Worker]:
        return [w for w in self._workers if not w.process.is_stopped and not w.process.is_dead]

    async def _join_or_leave(self) -> None:
        running = self._running()
        for worker in running:
            await self._step(worker, worker.revoke())
        if set(running) != set(self._running()):
            return  # the dead are replaced at the end of the turn
        size = self._draw.randint(1, self._faults.workers_max)
        for worker in running[size:]:
            self._workers.remove(worker)
        await self._rebalance(size)
        if self._faults.second_sink and len(self._sinks) < 2:
            self._sinks.append(self._new_sink())
        if self._faults.second_ledger and not any(sink.is_second for sink in self._sinks):
            self._sinks.append(self._new_sink(is_second=True))

    async def _stop_one(self) -> None:
        """Stop a worker with work in flight; other workers get its partitions."""
        running = self._running()
        if not running:
            return
        worker = self._draw.choice(running)
        worker.process.is_stopped = True
        self._counts["stopped"] += 1
        await self._rebalance(max(1, len(running) - 1))

    async def _replace_the_paused(self) -> None:
        """Give the partitions of paused workers to others, once the group has noticed."""
        world = self.world
        is_missed = any(
            worker.process.is_stopped and worker.generation == world.generation
            for worker in self._workers
        )
        is_mended = world.unfenced_writes == self._repaired or any(
            worker.is_old for worker in self._running()
        )
        if is_missed or not self._running() or not is_mended:
            await self._rebalance(max(1, len(self._running())))

    def _end_old_workers(self) -> None:
        """End the upgrade: new workers take the place of those from before the fence."""
        for worker in self._workers:
            if worker.is_old:
                worker.process.end()

    async def _continue_all(self) -> None:
        """Resume all zombies: they write what was in flight, and their commits are rejected."""
        for worker in [w for w in self._workers if w.process.is_stopped]:
            worker.process.is_stopped = False
            await self._awake(worker)

    async def _go_on(self) -> None:
        """Let workers that woke at some point go on from there."""
        for worker in self._awake_ones():
            if worker in self._paused or worker.generation != self.world.generation:
                await self._awake(worker)

    async def _awake(self, worker: Worker) -> None:
        """Let a worker that was paused go on, until it knows what happened meanwhile."""
        task = self._paused.pop(worker, None)
        if task is not None:
            await self._finish(worker, task)
        if worker not in self._running() or worker.generation == self.world.generation:
            return
        # The worker does not know yet that it lost its partitions, and reads and writes once more.
        await self._step(worker, worker.turn(2))
        if worker in self._running():
            await self._step(worker, worker.revoke())
        if worker not in self._running():
            return
        if self._happens(self._faults.rejoin):
            # It was away for a rebalance or more, and has its old states in memory.
            self._counts["rejoined"] += 1
            await self._rebalance(len(self._running()))
        else:
            self._workers.remove(worker)

    def _new_sink(self, *, is_second: bool = False) -> Sink:
        """Start a sink; `is_second`: with the second ledger."""
        return Sink(
            self.world,
            self._name("sink"),
            self._ledgers.second if is_second else self._ledgers.engine,
            self._tenants,
            self._stripe,
            faults=self._faults.stripe,
            is_second=is_second,
        )

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}-{self._names}"

    # --- the end ----------------------------------------------------------------------------------

    async def _is_done(self) -> bool:
        world = self.world
        if self._running() != self._workers or any(w.is_recovering for w in self._workers):
            return False
        if self._paused or world.unfenced_writes > self._repaired:
            return False
        for worker in self._workers:
            if worker.runner.unacknowledged() or worker.runner.open_conversations():
                return False
            for number, position in worker.positions.items():
                end, low = len(world.events.partitions[number]), world.lows.get(number, 0)
                if position < end or not self._has_noticed(worker, number):
                    return False
                if max(world.committed.get(number, 0), low) < end:
                    return False
        ledgers = [Ledger(self._ledgers.engine)]
        if any(sink.is_second for sink in self._sinks):
            ledgers.append(Ledger(self._ledgers.second))
        return all(map(self._has_billed, ledgers))

    def _has_billed(self, ledger: Ledger) -> bool:
        world = self.world
        stored = sum(records.offsets(ledger, "usage.records").values())
        if stored < sum(map(len, world.records.partitions)):
            return False
        open_events = leases.due(ledger, world.time + 10**9, 1)
        if outbox.unjournalled_items(ledger, 1):
            return False
        pending = [
            entry
            for entry in deliveries.pending_sums(ledger)
            if entry.tenant_id in CUSTOMERS and entry.quantity > 0
        ]
        return not open_events and not pending

    async def _leave(self) -> None:
        for worker in self._workers:
            await self._step(worker, worker.revoke())

    def _has_noticed(self, worker: Worker, number: int) -> bool:
        """Return whether a worker knows of all deleted records of a partition."""
        basis = worker.runner.partitions[number].basis
        ranges = () if basis is None else basis.lost
        acknowledged = self.world.acknowledgements.get(number)
        return all(
            any(first <= offset < end for first, end in ranges)
            or (acknowledged is not None and offset < acknowledged.until)
            for partition, offset in self.world.deleted
            if partition == number
        )

    def _outcome(self) -> Outcome:
        world, ledger = self.world, Ledger(self._ledgers.engine)
        stored, quarantined = stored_records(ledger)
        counted = self._stripe.meter_events.counted
        assert not any(event.problem for event in counted), counted
        letters = [dict(letter.headers) for letter in world.dead_letters.partitions[0]]
        return Outcome(
            records=stored,
            emitted=self._emitted(),
            quarantined=quarantined,
            conflicts=self._counts["conflicts"],
            uncertain=_summed(
                ((usage.tenant_id, usage.outcome), usage.uncertain)
                for usage in reports.usage(ledger)
            ),
            delivered=_summed(
                (
                    (usage.tenant_id, usage.outcome),
                    usage.delivered + usage.netted + usage.settled,
                )
                for usage in reports.usage(ledger)
            ),
            stripe=_summed(
                ((event.customer, event.event_name, event.timestamp // 3600), event.value)
                for event in counted
                if event.cancelled is None
            ),
            pending={
                (pending.tenant_id, pending.outcome): pending.quantity
                for pending in deliveries.pending_sums(ledger)
            },
            stated=stated_units(ledger, TENANTS, self._tenants, world.time),
            identifiers=Counter(event.identifier for event in counted),
            dead_letters={
                (int(headers["resmeter-partition"] or 0), int(headers["resmeter-offset"] or 0))
                for headers in letters
            },
            events={
                key: None if is_sealed(stored) else decode_state(stored).events
                for number in range(self._partitions)
                for key, stored in self._last_states(number).items()
            },
            arrived={
                (number, record.offset): record.timestamp
                for number, records in enumerate(world.events.partitions)
                for record in records
            },
            clocks_seen=world.clocks_seen,
            deleted=world.deleted,
            reported={
                (number, offset)
                for worker in self._workers
                for number, partition in worker.runner.partitions.items()
                for first, end in (partition.basis or Basis()).lost
                for offset in range(first, end)
            },
            counts={
                **self._counts,
                "shared": int(world.is_shared),
                "withdrawn": sum(event.cancelled is not None for event in counted),
            },
            effects=world.fault_point.effects,
            kills=world.fault_point.kills,
        )

    def _last_states(self, number: int) -> dict[bytes, bytes]:
        """Return what compaction would leave of a partition's states in the end."""
        return {
            record.key: record.value
            for record in self.world.changelog.partitions[number]
            if record.key and record.value and not record.key.startswith(STEP_OVER_PREFIX)
        }

    def _emitted(self) -> dict[str, set[bytes]]:
        emitted: dict[str, set[bytes]] = {}
        for partition in self.world.records.partitions:
            for record in partition:
                assert record.value is not None
                if record.value in self._conflicts:
                    continue
                record_id = record.value.split(b'"', 4)[3].decode()
                emitted.setdefault(record_id, set()).add(record.value)
        return emitted


def _summed(units: Iterable[tuple[_Key, int]]) -> dict[_Key, int]:
    sums: dict[_Key, int] = {}
    for key, number in units:
        sums[key] = sums.get(key, 0) + number
    return sums


async def _now(step: Any) -> None:
    step()
