"""Deliver meter events, one call at a time for each customer and meter.

The steps of a delivery, and what a crash after each step leads to:

0. The meter event is in the journal, which was read back (`journal`).
1. The lease and the attempt are stored. After a crash here, nothing was sent: the lease ends, and
   the event is sent later.
2. The call is made, unless the lease has ended meanwhile. After a crash here, the event may have
   been counted: the same identifier, key and body are sent again, and the attempt of step 1
   explains the biller's "already exists".
3. The conclusion is stored. After a crash here, nothing is left to do.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from pipeline.ledger import Ledger, deliveries, leases
from pipeline.ledger.entries import Conclusion, Lease, MeterEvent, NotLeased, State
from pipeline.logs import get_logger
from pipeline.metrics import SinkMetrics
from pipeline.sink.breaker import Breaker, Key
from pipeline.sink.meter import NEXT, NOT_COUNTED, Meter, Next

QUEUED_EVENTS_MAX = 10_000
QUEUED_OF_KEY_MAX = 1_000  # more than one queue delivers between two flushes
PAUSE_SECONDS_FIRST = 0.5


class DeliveryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the calls, their retries and their leases.

    `lease_seconds` must exceed the longest call, so that the sink stores its conclusion in time.
    """

    concurrent_max: int
    retry_pause_seconds_max: float
    lease_seconds: float
    rejections_in_a_row_max: int = 20


class Timing(NamedTuple):
    """Clock, pause and jitter. Tests replace them."""

    now: Callable[[], float] = time.time
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random


class _Queue(NamedTuple):
    """The events of one customer and meter, and the task that delivers them one by one."""

    events: deque[MeterEvent]
    task: asyncio.Task[None]


class Dispatcher:
    """Delivers the events that are due, through a queue for each customer and meter.

    Everything runs in one event loop. `owner` names this sink in the ledger's leases and, as its
    run, in the journal.
    """

    def __init__(
        self,
        ledger: Ledger,
        meter: Meter,
        metrics: SinkMetrics,
        owner: str,
        limits: DeliveryLimits,
        timing: Timing | None = None,
    ) -> None:
        self.meter = meter
        self._ledger = ledger
        self._metrics = metrics
        self._owner = owner
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.concurrent_max)
        self._lease_ms = int(limits.lease_seconds * 1000)
        self._breaker = Breaker(limits.rejections_in_a_row_max)
        self._timing = timing or Timing()
        self._log = get_logger(__name__)
        self._queues: dict[Key, _Queue] = {}
        self._queued: set[str] = set()  # identifiers
        self._pausing: set[asyncio.Task[None]] = set()
        self._unfit: dict[str, str] = {}  # event name → why its meter would not count
        # Identifiers of which a call of this process counted or may have, or is in flight, until the
        # journal has the conclusion. The ledger has the attempts, but it may lose commits.
        self.doubtful: set[str] = set()
        self._stopping = False
        self.halted: str | None = None
        # Gets the exception of the first queue that fails; the process must end then.
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def problems(self) -> list[str]:
        """Return why deliveries may not be arriving."""
        doubt = self._breaker.doubt
        waits = f"something other than {self.meter.name} responds, and deliveries wait: {doubt}"
        problems = [self.halted] if self.halted else [waits] if doubt else []
        return problems + [f"deliveries to a meter wait: {why}" for why in self._unfit.values()]

    async def dispatch(self) -> int:
        """Queue the meter events that are due, and return how many were added."""
        if self.halted or self._stopping:
            return 0
        await self._resume_customers()
        count = 0
        for event in await self._due():
            key = (event.customer, event.event_name)
            if self._breaker.is_halted(key):
                continue
            waiting = len(self._queues[key].events) if key in self._queues else 0
            # However many events wait, a customer without any in the queues gets one in.
            room = QUEUED_OF_KEY_MAX if len(self._queued) < QUEUED_EVENTS_MAX else 1
            if event.identifier in self._queued or waiting >= room:
                continue
            self._queued.add(event.identifier)
            if key not in self._queues:
                events: deque[MeterEvent] = deque()
                self._queues[key] = _Queue(events, asyncio.create_task(self._run(key, events)))
            self._queues[key].events.append(event)
            count += 1
        return count

    async def _resume_customers(self) -> None:
        """Resume the customers whose rejected meter events an operator has released or settled."""
        if self._breaker.halted:
            rejected = await asyncio.to_thread(deliveries.rejected_queues, self._ledger)
            self._breaker.resume_all_but(rejected)
            self._publish_halted_customers()

    def _publish_halted_customers(self) -> None:
        customers = {customer for customer, _ in self._breaker.halted}
        self._metrics.customers_halted.set(len(customers))

    async def _due(self) -> list[MeterEvent]:
        """Return what is due, without what its meter would take and not count."""
        ledger, now_ms = self._ledger, self._now_ms()
        unfit: dict[str, str] = {}
        while True:
            due = await asyncio.to_thread(
                leases.due,
                ledger,
                now_ms,
                QUEUED_EVENTS_MAX,
                run=self._owner,
                without=tuple(unfit),
            )
            found = await self.meter.unfit({event.event_name for event in due})
            if not found:
                break
            unfit |= found
        for event_name in sorted(unfit.keys() - self._unfit.keys()):
            self._log.error("meter_unfit", event_name=event_name, detail=unfit[event_name])
        self._unfit = unfit
        self._metrics.meters_unfit.set(len(unfit))
        return due

    async def idle(self) -> None:
        """Return once every queue is empty, or deliveries are halted.

        Raises:
            UnavailableError: the ledger cannot be reached.
        """
        while self._queues:
            await asyncio.gather(*(queue.task for queue in self._queues.values()))

    async def stop(self) -> None:
        """Start no further call; wait until the calls in flight are concluded."""
        self._stopping = True
        self._breaker.open()
        for task in self._pausing:
            task.cancel()
        tasks = [queue.task for queue in self._queues.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: Key, events: deque[MeterEvent]) -> None:
        failures = 0
        try:
            while events:
                await self._breaker.wait(key)
                async with self._slots:
                    if self._stopping or self.halted or self._breaker.is_halted(key):
                        return
                    if not self._breaker.may_call(key):
                        continue  # something else answered while this queue waited for its turn
                    event = events.popleft()
                    following = await self._deliver(event)
                if following == "retry":
                    # To the end of the queue: an event that always fails must not block the rest.
                    events.append(event)
                    failures += 1
                    await self._pause(failures)
                else:
                    self._queued.discard(event.identifier)
                    failures = 0
        except Exception as error:
            if not self.failed.done():
                self.failed.set_exception(error)
                self.failed.exception()  # marks it as retrieved, if nobody awaits it
            raise
        finally:
            self._breaker.leave(key)
            self._queued.difference_update(event.identifier for event in events)
            del self._queues[key]

    async def _deliver(self, event: MeterEvent) -> Next:
        now_ms = self._now_ms()
        # 0. What would go out is what was planned.
        if self.meter.body_sha256(event) != event.body_sha256:
            if await asyncio.to_thread(leases.mark_altered, self._ledger, event, now_ms):
                self._report_stuck(
                    event,
                    "altered",
                    "its content is not the one that was planned: somebody changed the ledger",
                )
            return "done"
        # 1. The lease and the attempt.
        lease = await asyncio.to_thread(
            leases.lease,
            self._ledger,
            event,
            self._owner,
            now_ms,
            until_ms=now_ms + self._lease_ms,
            remembered_from_ms=now_ms - self.meter.remembered_seconds * 1000,
            perhaps_counted=event.identifier in self.doubtful,
        )
        if isinstance(lease, NotLeased):
            if lease is NotLeased.UNCERTAIN:
                self._report_uncertain(event)
            elif lease is NotLeased.KEPT:
                self._log.info("meter_event_kept", identifier=event.identifier, detail=lease.value)
            return "done"
        # 2. The call.
        conclusion = await self._call(event, lease, now_ms + self._lease_ms)
        # 3. The conclusion.
        counted = await asyncio.to_thread(
            leases.conclude, self._ledger, lease, conclusion, self._now_ms()
        )
        is_withdrawal = lease.call == "withdraw"
        calls = self._metrics.withdrawals if is_withdrawal else self._metrics.deliveries
        calls.labels(conclusion.result).inc()
        if counted:
            self._report_counted_twice(event, counted)
        self._breaker.observe((event.customer, event.event_name), conclusion, lease.call)
        following = NEXT[conclusion.result]
        if is_withdrawal and following == "done":
            self._report_withdrawal(event, lease, conclusion)
        else:
            self._report(event, conclusion, following)
        return following

    async def _call(self, event: MeterEvent, lease: Lease, until_ms: int) -> Conclusion:
        if self._now_ms() >= until_ms:
            # This process stood still. Another sink may have delivered the event meanwhile, or an
            # operator may have released it, and after a day its identifier is forgotten.
            return Conclusion(
                result="refused", detail="the lease ended before the call: none is made"
            )
        began = time.perf_counter()
        was_doubtful = event.identifier in self.doubtful
        self.doubtful.add(event.identifier)
        call = self.meter.withdraw if lease.call == "withdraw" else self.meter.deliver
        conclusion = await call(event, lease)
        if conclusion.result in NOT_COUNTED and not was_doubtful:
            self.doubtful.discard(event.identifier)
        self._metrics.delivery_seconds.observe(time.perf_counter() - began)
        return conclusion

    def _report_counted_twice(self, event: MeterEvent, counted: list[str]) -> None:
        self._metrics.deliveries.labels("collision").inc()
        self._log.error(
            "delivery_counted_twice",
            identifier=event.identifier,
            tenant=event.tenant_id,
            value=event.value,
            detail=f"its units were also counted as {', '.join(counted)}: {self.meter.name} bills them twice",
        )

    def _report(self, event: MeterEvent, conclusion: Conclusion, following: Next) -> None:
        facts = {
            "identifier": event.identifier,
            "tenant": event.tenant_id,
            "outcome": event.outcome,
            "value": event.value,
            "http_status": conclusion.http_status,
            "request_id": conclusion.request_id,
            "detail": conclusion.detail or "",
        }
        answered = f"{self.meter.name} answered {conclusion.http_status}: {conclusion.detail}"
        if following == "halt":
            self._halt(f"{answered}; fix the key and restart the sink", conclusion)
        elif conclusion.result == "foreign":
            self._log.error("delivery_foreign", **facts)
        elif following == "retry":
            self._log.warning("delivery_retried", result=conclusion.result, **facts)
        elif conclusion.result in {"rejected", "collision"}:
            self._log.error(f"delivery_{conclusion.result}", **facts)
        if self._breaker.is_halted((event.customer, event.event_name)):
            self._publish_halted_customers()
            self._log.error(
                "customer_halted",
                customer=event.customer,
                event_name=event.event_name,
                rejections=self._limits.rejections_in_a_row_max,
                **facts,
            )
        if self._breaker.is_broad:
            number, customers = self._breaker.run
            self._halt(
                f"{self.meter.name} rejected the last {number} meter events, of {customers} customers, "
                f"so all deliveries stop. {answered}; fix the cause and restart the sink",
                conclusion,
            )

    def _report_withdrawal(self, event: MeterEvent, lease: Lease, conclusion: Conclusion) -> None:
        facts = {
            "identifier": event.identifier,
            "tenant": event.tenant_id,
            "value": event.value,
            "detail": conclusion.detail or "",
        }
        if conclusion.result == "withdrawn":
            self._log.info("meter_event_withdrawn", **facts)
        elif lease.perhaps_counted:
            self._report_uncertain(event)
        else:
            self._log.warning("meter_event_not_withdrawn", **facts)

    def _report_uncertain(self, event: MeterEvent) -> None:
        name, hours = self.meter.name, self.meter.remembered_seconds // 3600
        compare = f"compare {name}'s sums of this customer and hour"
        why = (
            f"a call of more than {hours} hours ago (or, if a clock was set back, of an unknown "
            f"time) may have been counted, of this ledger or of one that is lost, and {name} may "
            f"no longer recognise its identifier: {compare}"
        )
        if event.state == "withdrawing":
            why = f"a call to cancel it may have taken effect, and {name} does not say: {compare}"
        self._report_stuck(event, "uncertain", why)

    def _report_stuck(self, event: MeterEvent, state: State, why: str) -> None:
        self._metrics.stuck[state].inc()
        self._log.error(
            f"delivery_{state}",
            identifier=event.identifier,
            tenant=event.tenant_id,
            value=event.value,
            detail=f"{why}; `resmeter deliveries show` has it",
        )

    def _halt(self, why: str, conclusion: Conclusion) -> None:
        if self.halted is None:
            self.halted = why
            self._breaker.open()
            self._metrics.halted.set(1)
            status, detail = conclusion.http_status, conclusion.detail or ""
            self._log.error("deliveries_halted", http_status=status, detail=detail, why=why)

    async def _pause(self, failures: int) -> None:
        longest = min(
            PAUSE_SECONDS_FIRST * 2 ** min(failures - 1, 32), self._limits.retry_pause_seconds_max
        )
        # A random half to all of `longest`, so that queues do not retry at the same moment.
        seconds = longest * (0.5 + self._timing.jitter() / 2)
        task = asyncio.ensure_future(self._timing.pause(seconds))
        self._pausing.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._pausing.discard(task)

    def _now_ms(self) -> int:
        return int(self._timing.now() * 1000)
