"""This file delivers meter events: one call at a time for a customer and meter, until it counts.

The steps of a delivery, and what dying after each costs:

1. The claim and the attempt are written. Nothing went out: the lease ends, and it is tried again.
2. The call is made. It may have been counted: the same identifier, key and body go out again, and
   Stripe's "already exists" is understood through the attempt of step 1.
3. The answer is written. Nothing: it is done.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

from pipeline.ledger import Ledger, deliveries
from pipeline.ledger.entries import Claim, MeterEvent
from pipeline.logs import get_logger
from pipeline.metrics import SinkMetrics
from pipeline.sink.stripe.meter import REMEMBERED_SECONDS, Meter
from pipeline.sink.stripe.responses import Then, read_answer

HELD_EVENTS_MAX = 10_000
PAUSE_SECONDS_FIRST = 0.5

_Lane = tuple[str, str]  # customer, event name


class Dispatcher:
    """Delivers what is due, in lanes. Everything runs in one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        meter: Meter,
        metrics: SinkMetrics,
        *,
        owner: str,
        concurrent_max: int,
        retry_pause_seconds_max: float,
        lease_seconds: float,
        now: Callable[[], float] = time.time,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._ledger = ledger
        self._meter = meter
        self._metrics = metrics
        self._owner = owner
        self._slots = asyncio.Semaphore(concurrent_max)
        self._pause_seconds_max = retry_pause_seconds_max
        self._lease_ms = int(lease_seconds * 1000)
        self._now = now
        self._pause = pause
        self._jitter = jitter
        self._log = get_logger(__name__)
        self._lanes: dict[_Lane, asyncio.Task[None]] = {}
        self._queues: dict[_Lane, deque[MeterEvent]] = {}
        self._held: set[str] = set()
        self._uncertain: set[str] = set()
        self._pausing: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.halted: str | None = None
        # Ends with the exception of the first lane that fails: then the process must end too.
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def dispatch(self) -> int:
        """Take what is due into the lanes, and return how many meter events that are."""
        if self.halted or self._stopping:
            return 0
        found = await asyncio.to_thread(
            deliveries.due, self._ledger, self._now_ms(), HELD_EVENTS_MAX
        )
        taken = 0
        for event in found:
            if event.identifier in self._held or len(self._held) >= HELD_EVENTS_MAX:
                continue
            self._held.add(event.identifier)
            lane = (event.customer, event.event_name)
            self._queues.setdefault(lane, deque()).append(event)
            if lane not in self._lanes:
                self._lanes[lane] = asyncio.create_task(self._run(lane))
            taken += 1
        return taken

    async def idle(self) -> None:
        """Return once every lane is empty, or halted.

        Raises:
            UnavailableError: the ledger cannot be reached.
        """
        while self._lanes:
            await asyncio.gather(*self._lanes.values())

    async def stop(self) -> None:
        """Let the calls in flight be answered and written down, begin no other."""
        self._stopping = True
        for task in self._pausing:
            task.cancel()
        await asyncio.gather(*self._lanes.values(), return_exceptions=True)

    async def _run(self, lane: _Lane) -> None:
        queue = self._queues[lane]
        failures = 0
        try:
            while queue:
                then: Then = "done"
                async with self._slots:
                    if self._stopping or self.halted:
                        return
                    event = queue.popleft()
                    then = await self._deliver(event)
                if then == "retry":
                    # To the end: one that always fails must not hold up those behind it.
                    queue.append(event)
                    failures += 1
                    await self._wait(failures)
                else:
                    self._held.discard(event.identifier)
                    failures = 0
        except Exception as error:
            if not self.failed.done():
                self.failed.set_exception(error)
                self.failed.exception()  # looked at, where nobody waits for it
            raise
        finally:
            self._held.difference_update(event.identifier for event in queue)
            del self._lanes[lane], self._queues[lane]

    async def _deliver(self, event: MeterEvent) -> Then:
        now = self._now_ms()
        claim = await asyncio.to_thread(
            deliveries.claim,
            self._ledger,
            event,
            self._owner,
            now,
            now + self._lease_ms,
            now - REMEMBERED_SECONDS * 1000,
        )
        if not isinstance(claim, Claim):
            self._passed_over(event, claim)
            return "done"
        began = time.perf_counter()
        answer = await self._meter.send(event, claim.idempotency_key)
        self._metrics.delivery_seconds.observe(time.perf_counter() - began)
        result, then = read_answer(answer, event.identifier, perhaps_counted=claim.perhaps_counted)
        await asyncio.to_thread(
            deliveries.conclude,
            self._ledger,
            event,
            claim,
            self._owner,
            self._now_ms(),
            result=result,
            http_status=answer.status,
            request_id=answer.request_id,
            replayed=answer.replayed,
            detail=answer.message or None,
        )
        self._metrics.deliveries.labels(result).inc()
        facts = {
            "identifier": event.identifier,
            "tenant": event.tenant_id,
            "outcome": event.outcome,
            "value": event.value,
            "http_status": answer.status,
            "request_id": answer.request_id,
            "detail": answer.message,
        }
        if then == "halt":
            self._halt(answer.status, answer.message)
        elif then == "retry":
            self._log.warning("delivery_retried", result=result, **facts)
        elif result in {"rejected", "collision"}:
            self._log.error(f"delivery_{result}", **facts)
        return then

    def _passed_over(self, event: MeterEvent, why: Literal["taken", "forgotten"]) -> None:
        if why == "forgotten" and event.identifier not in self._uncertain:
            self._uncertain.add(event.identifier)
            self._metrics.deliveries_uncertain.set(len(self._uncertain))
            self._log.error(
                "delivery_uncertain",
                identifier=event.identifier,
                tenant=event.tenant_id,
                value=event.value,
                detail=(
                    "a call of more than 23 hours ago may have been counted, and Stripe forgets "
                    "identifiers after 24: compare Stripe's sums of this customer and hour"
                ),
            )

    def _halt(self, status: int | None, message: str) -> None:
        if self.halted is None:
            self.halted = f"Stripe answered {status}: {message}; fix the key and restart the sink"
            self._metrics.halted.set(1)
            self._log.error("deliveries_halted", http_status=status, detail=message)

    async def _wait(self, failures: int) -> None:
        longest = min(PAUSE_SECONDS_FIRST * 2 ** min(failures - 1, 32), self._pause_seconds_max)
        # Between half and all of it: not all lanes at the same moment, and none at once.
        task = asyncio.ensure_future(self._pause(longest * (0.5 + self._jitter() / 2)))
        self._pausing.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._pausing.discard(task)

    def _now_ms(self) -> int:
        return int(self._now() * 1000)
