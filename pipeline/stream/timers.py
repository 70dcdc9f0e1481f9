"""Probe at an interval for conversations that are due, and settle them between two batches."""

import asyncio
import time

from pipeline.stream.host import Probe
from pipeline.stream.runner import BatchRunner


class Timers:
    """Probe at an interval for conversations that are due, and settle them."""

    def __init__(self, runner: BatchRunner, interval_seconds: float) -> None:
        self._runner = runner
        self._interval_seconds = interval_seconds
        self._next = 0.0  # when to probe again, monotonic seconds
        self._probing: asyncio.Task[list[Probe]] | None = None

    async def run(self) -> None:
        """Settle after a finished probe, and start the next one when it is time.

        Call this between two batches.
        """
        now = time.monotonic()
        if self._probing is not None and self._probing.done():
            more = await self._runner.settle(self._probing.result())
            self._next = now if more else now + self._interval_seconds
            self._probing = None
        if self._probing is None and now >= self._next:
            self._probing = asyncio.ensure_future(self._runner.probe())

    def cancel(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
