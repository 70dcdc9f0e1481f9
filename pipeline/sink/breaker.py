"""Decide from the results of earlier calls which queues may call the biller."""

import asyncio

from pipeline.ledger.entries import Conclusion

PROBES_MAX = 3

Key = tuple[str, str]  # customer, event name


class Breaker:
    """Keeps one fault of the connection or the account from affecting every meter event.

    While something other than the biller responds (results `foreign`), each call may have been
    counted, and its meter event becomes uncertain after 23 hours. So only `PROBES_MAX` queues
    continue to call, and all others wait, until the biller itself responds.

    Many rejections in a row have one cause: after `rejections_in_a_row_max` of them the dispatcher
    halts all deliveries.
    """

    def __init__(self, rejections_in_a_row_max: int) -> None:
        self._rejections_max = rejections_in_a_row_max
        self._rejections = 0
        self._probes: set[Key] = set()
        self._trusted = asyncio.Event()
        self._trusted.set()
        self._is_open = False
        self.doubt: str | None = None  # the foreign response; None if the biller responds

    @property
    def is_run_of_rejections(self) -> bool:
        return self._rejections >= self._rejections_max

    def observe(self, key: Key, conclusion: Conclusion) -> None:
        """Take the result of a call into account."""
        if conclusion.result == "foreign":
            self.doubt = f"HTTP {conclusion.http_status}: {conclusion.detail}"
            self._trusted.clear()
            if len(self._probes) < PROBES_MAX:
                self._probes.add(key)
        elif conclusion.http_status is not None:
            self.doubt = None
            self._probes.clear()
            self._trusted.set()
        if conclusion.result in {"rejected", "collision"}:
            self._rejections += 1
        elif conclusion.result in {"delivered", "duplicate"}:
            self._rejections = 0

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
