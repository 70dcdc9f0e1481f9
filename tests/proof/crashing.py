"""Run a worker or a sink that crashes at a named point, or under a constant disturbance.

    python -m tests.proof.crashing POINT N worker|sink

The process kills itself with SIGKILL when it reaches POINT for the Nth time. With `stop` before it,
as in `stop before states`, the process freezes itself (SIGSTOP) there, once. Instead of a point you
can name a mode. `clock` changes the process's clock every N seconds: an hour fast, right, an hour
slow. `generation` makes every Nth check of the worker's loop see a rebalance. `slow` delays each
batch by N seconds.
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

STOP = "stop "
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
    "before append",
    "after append",
    "after adopt",
    "before lease",
    "before call",
    "after call",
    "after conclude",
)


def main() -> None:
    """Plant the crash or the disturbance, and run the command."""
    point, number, *arguments = sys.argv[1:]
    if point == "clock":
        _step_the_clock(float(number))
    elif point == "generation":
        _change_the_generation(int(number))
    elif point == "slow":
        _slow_down(float(number))
    else:
        functions = _worker_functions() if arguments[0] == "worker" else _sink_functions()
        how = signal.SIGSTOP if point.startswith(STOP) else signal.SIGKILL
        _plant(point.removeprefix(STOP), _Countdown(int(number), how), functions)
    sys.argv = ["resmeter", *arguments]
    from pipeline.cli import main as resmeter

    resmeter()


class _Countdown:
    """Sends the process a signal at the Nth `tick`."""

    def __init__(self, number: int, how: signal.Signals) -> None:
        self._remaining = number
        self._how = how

    def tick(self) -> None:
        self._remaining -= 1
        if self._remaining == 0:
            os.kill(os.getpid(), self._how)


def _plant(point: str, countdown: _Countdown, functions: dict[str, tuple[Any, str]]) -> None:
    """Tick before, or after, each call of the point's function."""
    when, step = point.split()
    holder, name = functions[step]
    original: Callable[..., Any] = getattr(holder, name)

    def planted(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            countdown.tick()
        result = original(*arguments, **options)
        if when == "after":
            countdown.tick()
        return result

    async def planted_in_loop(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            countdown.tick()
        result = await original(*arguments, **options)
        if when == "after":
            countdown.tick()
        return result

    setattr(holder, name, planted_in_loop if iscoroutinefunction(original) else planted)


def _worker_functions() -> dict[str, tuple[Any, str]]:
    """Return the class and the name of the function of each step."""
    from pipeline.stream.faust_runtime import FaustConsumer
    from pipeline.stream.outputs import Outputs

    return {
        "results": (Outputs, "write_results"),
        "states": (Outputs, "write_states"),
        "fence": (Outputs, "fence"),
        "commit": (FaustConsumer, "_commit"),
    }


def _sink_functions() -> dict[str, tuple[Any, str]]:
    """Return the module or class and the name of the function of each step."""
    from pipeline.kafka.single import SingleTopic
    from pipeline.ledger import adoption, leases, records
    from pipeline.sink.stripe.meter import StripeMeter

    return {
        "store": (records, "store"),
        "append": (SingleTopic, "append"),
        "adopt": (adoption, "apply"),
        "lease": (leases, "lease"),
        "call": (StripeMeter, "deliver"),
        "conclude": (leases, "conclude"),
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

    checks = itertools.count(1)

    def read(app: Any) -> int:
        generation: int = app.__dict__.get("generation", 0)
        is_loop = sys._getframe(1).f_code.co_name == "_drain_messages"
        return -1 if is_loop and next(checks) % every == 0 else generation

    def write(app: Any, generation: int) -> None:
        app.__dict__["generation"] = generation

    FaustApp.consumer_generation_id = property(read, write)


if __name__ == "__main__":
    main()
