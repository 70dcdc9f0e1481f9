"""Run a worker or a sink that crashes at a named point, or in a mode that disturbs it.

    python -m tests.proof.crashing POINT N worker|sink

The process kills itself with SIGKILL when it reaches POINT for the Nth time. Three modes take the
place of a point: `clock` moves the host's clock by an hour, forwards and back, every N seconds;
`generation` shows the worker's loop a rebalance at every Nth check; `slow` makes each batch take N
seconds more.
"""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

WORKER_POINTS = (
    "before results",
    "after results",
    "after states",
    "before commit",
    "after commit",
)
SINK_POINTS = (
    "before store",
    "after store",
    "before plan",
    "after plan",
    "before lease",
    "before call",
    "after call",
    "after conclude",
)


def main() -> None:
    """Plant the point or the mode, and run the command."""
    point, number, *arguments = sys.argv[1:]
    if point == "clock":
        _step_the_clock(float(number))
    elif point == "generation":
        _change_the_generation(int(number))
    elif point == "slow":
        _slow_down(float(number))
    else:
        places = _worker_places() if arguments[0] == "worker" else _sink_places()
        _plant(point, _Countdown(int(number)), places)
    sys.argv = ["resmeter", *arguments]
    from pipeline.cli import main as resmeter

    resmeter()


class _Countdown:
    """Kills the process at the Nth `tick`."""

    def __init__(self, number: int) -> None:
        self._remaining = number

    def tick(self) -> None:
        self._remaining -= 1
        if self._remaining <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _plant(point: str, countdown: _Countdown, places: dict[str, tuple[Any, str]]) -> None:
    """Tick before each call of the point's function, or after it."""
    when, what = point.split()
    holder, name = places[what]
    original: Callable[..., Any] = getattr(holder, name)

    def planted(*arguments: Any, **more: Any) -> Any:
        if when == "before":
            countdown.tick()
        result = original(*arguments, **more)
        if when == "after":
            countdown.tick()
        return result

    async def planted_in_loop(*arguments: Any, **more: Any) -> Any:
        if when == "before":
            countdown.tick()
        result = await original(*arguments, **more)
        if when == "after":
            countdown.tick()
        return result

    setattr(holder, name, planted_in_loop if iscoroutinefunction(original) else planted)


def _worker_places() -> dict[str, tuple[Any, str]]:
    from pipeline.stream.faust_runtime import FaustConsumer
    from pipeline.stream.outputs import Outputs

    return {
        "results": (Outputs, "write_results"),
        "states": (Outputs, "write_states"),
        "commit": (FaustConsumer, "_commit"),
    }


def _sink_places() -> dict[str, tuple[Any, str]]:
    from pipeline.ledger import deliveries, records
    from pipeline.sink.stripe.meter import StripeMeter

    return {
        "store": (records, "store"),
        "plan": (deliveries, "store_planned"),
        "lease": (deliveries, "lease"),
        "call": (StripeMeter, "deliver"),
        "conclude": (deliveries, "conclude"),
    }


def _step_the_clock(seconds: float) -> None:
    real, began = time.time, time.monotonic()

    def stepping() -> float:
        steps = int((time.monotonic() - began) / seconds)
        return real() + (3600.0, 0.0, -3600.0)[steps % 3]

    time.time = stepping


def _slow_down(seconds: float) -> None:
    from pipeline.stream.outputs import Outputs

    original = Outputs.write_results

    async def slowly(*arguments: Any) -> None:
        await asyncio.sleep(seconds)
        await original(*arguments)

    Outputs.write_results = slowly  # type: ignore[method-assign,assignment]


def _change_the_generation(every: int) -> None:
    from pipeline.stream.faust_runtime import FaustApp

    looks = itertools.count(1)

    def look(app: Any) -> int:
        generation: int = app.__dict__.get("generation", 0)
        loop = sys._getframe(1).f_code.co_name == "_drain_messages"
        return -1 if loop and next(looks) % every == 0 else generation

    def change(app: Any, generation: int) -> None:
        app.__dict__["generation"] = generation

    FaustApp.consumer_generation_id = property(look, change)


if __name__ == "__main__":
    main()
