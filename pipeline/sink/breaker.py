"""Decide from the results of earlier calls which queues may call the biller."""

import asyncio
from collections import Counter
from collections.abc import Container

from pipeline.ledger.entries import Call, Conclusion

PROBES_MAX = 3
# Then another queue probes in its place: a firewall may dislike what this one sends.
PROBE_CALLS_MAX = 30
# A run of rejections that concerns fewer customers has its cause in these customers.
CUSTOMERS_MIN = 3

Key = tuple[str, str]  # customer, event name


class Breaker:
    """Keeps one fault of the connection or the account from affecting every meter event.

    While something other than the biller responds (results `foreign`), each call may have been
    counted, and its meter event becomes uncertain after 23 hours. So only `PROBES_MAX` queues
    continue to call, and all others wait, until the biller itself responds. If it responds to others
    only, the fault is in what the queue sends: its foreign responses keep nobody waiting any more.

    Many rejections in a row have one cause. After `rejections_in_a_row_max` of one customer and meter,
    only that queue halts, until an operator has decided about them. If the run is broad, the
    dispatcher halts all deliveries. It is broad if it has as many rejections, of several customers:
    one customer counts for at most a third of the run.
    """

    def __init__(self, rejections_in_a_row_max: int) -> None:
        self._rejections_max = rejections_in_a_row_max
        self._of_customer_max = -(-rejections_in_a_row_max // CUSTOMERS_MIN)
        self._in_a_row: Counter[Key] = Counter()  # rejections since the last delivery of the queue
        self._run: Counter[str] = Counter()  # rejections by customer since the last delivery of all
        self._probes: set[Key] = set()
        self._foreign: Counter[Key] = Counter()  # foreign responses in a row
        self._faulty: set[Key] = set()  # queues with foreign responses, while others had answers
        self._trusted = asyncio.Event()
        self._trusted.set()
        self._is_open = False
        self.doubt: str | None = None  # the foreign response; None if the biller responds

    @property
    def is_broad(self) -> bool:
        """Whether the present run of rejections is of many customers."""
        counted = sum(min(number, self._of_customer_max) for number in self._run.values())
        return len(self._run) >= CUSTOMERS_MIN and counted >= self._rejections_max

    @property
    def run(self) -> tuple[int, int]:
        """The present run of rejections: how many, and of how many customers."""
        return self._run.total(), len(self._run)

    @property
    def halted(self) -> set[Key]:
        """The queues that may not call until an operator has decided about their meter events."""
        return {key for key in self._in_a_row if self.is_halted(key)}

    def is_halted(self, key: Key) -> bool:
        return self._in_a_row[key] >= self._rejections_max

    def resume_all_but(self, rejected: Container[Key]) -> None:
        """Resume the halted queues that have no rejected meter event any more."""
        for key in self.halted:
            if key not in rejected:
                del self._in_a_row[key]

    def observe(self, key: Key, conclusion: Conclusion, call: Call = "deliver") -> None:
        """Take the result of a call into account; a refusal to cancel says nothing of what follows."""
        if conclusion.result == "foreign" and key not in self._faulty:
            self.doubt = f"HTTP {conclusion.http_status}: {conclusion.detail}"
            self._trusted.clear()
            self._foreign[key] += 1
            if len(self._probes) < PROBES_MAX:
                self._probes.add(key)
            if self._foreign[key] % PROBE_CALLS_MAX == 0:
                self.leave(key)
        elif conclusion.result != "foreign" and conclusion.http_status is not None:
            self._foreign.pop(key, None)
            self._faulty.update(self._foreign)
            self._faulty.discard(key)
            self.doubt = None
            self._probes.clear()
            self._trusted.set()
        if call == "withdraw":
            return
        if conclusion.result in {"rejected", "collision"}:
            self._in_a_row[key] += 1
            self._run[key[0]] += 1
        elif conclusion.result in {"delivered", "duplicate"}:
            self._in_a_row.pop(key, None)
            self._run.clear()

    def may_call(self, key: Key) -> bool:
        """Return whether this queue may call now."""
        return self._is_open or self._trusted.is_set() or key in self._probes

    async def wait(self, key: Key) -> None:
        """Return when this queue may call: immediately, unless responses are foreign."""
        while not self.may_call(key):
            if len(self._probes) < PROBES_MAX:
                self._probes.add(key)
            else:
                await self._trusted.wait()

    def leave(self, key: Key) -> None:
        """Forget a queue that has ended; a waiting queue may call in its place."""
        if key in self._probes:
            self._probes.discard(key)
            self._wake()

    def open(self) -> None:
        """Let every queue continue from now on, because deliveries end."""
        self._is_open = True
        self._trusted.set()

    def _wake(self) -> None:
        """Let the waiting queues check again; the first of them takes the free place."""
        if not self._trusted.is_set():
            self._trusted.set()
            self._trusted.clear()
