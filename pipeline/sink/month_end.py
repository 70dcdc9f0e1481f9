"""Close periods and complete their invoices beside the deliveries of a sink, at intervals."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.logs import get_logger
from pipeline.metrics import SinkMetrics
from pipeline.sink.closer import DRAFTED_MS, Closer
from pipeline.sink.completing import money_text
from pipeline.sink.counts import publish_invoices
from pipeline.sink.progress import Progress, State

_EVENTS: dict[State, str] = {
    "open": "invoice_open",
    "waiting": "invoice_waiting",
    "stopped": "invoice_stopped",
    "invoiced": "invoice_final",
    "missed": "invoice_missed",
    "without": "invoice_none",
}
REST_LOOKS = 12  # until an account without a draft is asked again


class MonthEnd:
    """Looks at every account with a customer; says in the log what it did and what holds it up.

    Args:
        closer: does it.
        metrics: what the looks find.
        may_look: whether the sink may send at all.
        every_seconds: between two looks.
    """

    def __init__(
        self,
        closer: Closer,
        metrics: SinkMetrics,
        may_look: Callable[[], Awaitable[bool]],
        every_seconds: float,
    ) -> None:
        self._closer = closer
        self._metrics = metrics
        self._may_look = may_look
        self._every_seconds = every_seconds
        self._log = get_logger("sink")
        self._said: dict[tuple[str, str], Progress] = {}
        self._rests: dict[str, int] = {}  # account without a draft → looks to leave it out

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`. What cannot be reached is tried again at the next look."""
        while not stop.is_set():
            if await self._may_look():
                await self.look(time.time())
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._every_seconds)

    async def look(self, now: float) -> None:
        """Do what can be done now, and publish what is left."""
        accounts = await asyncio.to_thread(self._closer.accounts)
        for name in list(self._rests):
            self._rests[name] -= 1
            if self._rests[name] <= 0:
                del self._rests[name]
        names = [name for name in accounts if name not in self._rests]
        try:
            found = await self._closer.look(names)
        except (ConfigurationError, UnavailableError) as error:
            self._log.warning("close_delayed", detail=str(error))
            return
        for each in found:
            ended_ms = now * 1000 - each.period.end_ms
            if each.state == "open" and each.invoice is None and ended_ms > DRAFTED_MS:
                self._rests[each.account] = REST_LOOKS
            self._say(each)
        seen = {(each.account, each.period.name) for each in found}
        self._said = {
            place: progress
            for place, progress in self._said.items()
            if place in seen or place[0] in self._rests
        }
        publish_invoices(self._metrics, found, now)

    def _say(self, progress: Progress) -> None:
        """Log how far a period is, if that has changed."""
        place = (progress.account, progress.period.name)
        if self._said.get(place) == progress:
            return
        self._said[place] = progress
        say = self._log.error if progress.state in ("stopped", "missed") else self._log.info
        say(
            _EVENTS[progress.state],
            account=progress.account,
            period=progress.period.name,
            invoice=progress.invoice,
            amount=None
            if progress.amount is None
            else money_text(progress.amount, progress.currency),
            detail="; ".join(progress.texts) or None,
        )
