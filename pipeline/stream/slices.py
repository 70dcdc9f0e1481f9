"""Run long work a slice at a time, so that it does not block the event loop."""

import asyncio
from collections.abc import Callable, Generator
from typing import TypeVar

_SLICE_SECONDS_MAX = 0.1

_Result = TypeVar("_Result")


class Slices:
    """Runs one piece of work at a time: a generator that yields often, and returns a result.

    Args:
        stopwatch: monotonic seconds.
        fail: called with the error that ended a piece of work after its first slice.
    """

    def __init__(
        self, stopwatch: Callable[[], float], fail: Callable[[BaseException], object]
    ) -> None:
        self._stopwatch = stopwatch
        self._fail = fail
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._task is not None

    def start(
        self, work: Generator[None, None, _Result], take: Callable[[_Result], object]
    ) -> None:
        """Run the first slice now and the others later; pass the result to `take`.

        Raise an error of the first slice; pass an error of a later slice to `fail`.
        """
        if not self._run_slice(work, take):
            self._task = asyncio.ensure_future(self._run_rest(work, take))
            self._task.add_done_callback(self._on_end)

    async def wait(self) -> None:
        """Wait until nothing is running."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def _run_slice(
        self, work: Generator[None, None, _Result], take: Callable[[_Result], object]
    ) -> bool:
        """Run one slice of the work; return whether the work is complete."""
        until = self._stopwatch() + _SLICE_SECONDS_MAX
        while True:
            try:
                next(work)
            except StopIteration as end:
                take(end.value)
                return True
            if self._stopwatch() >= until:
                return False

    async def _run_rest(
        self, work: Generator[None, None, _Result], take: Callable[[_Result], object]
    ) -> None:
        while True:
            await asyncio.sleep(0)  # heartbeats, probes and effects run
            if self._run_slice(work, take):
                return

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)
