"""Run random histories and faults until a run fails: python -m tests.simulation --seeds 10000."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import click
import structlog

from tests.simulation.draws import Result, killed_run, random_run
from tests.simulation.months.runs import MonthsResult, killed_months, random_months


class _Killed(Protocol):
    """Runs a seed with one kill."""

    def __call__(self, seed: int, kill_at: int, *, after: bool) -> Result | MonthsResult: ...


_RUNS: dict[str, tuple[Callable[[int], Result | MonthsResult], _Killed]] = {
    "conversations": (random_run, killed_run),
    "months": (random_months, killed_months),
}


@click.command()
@click.option("--seeds", default=1_000, show_default=True, help="Number of random runs.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option(
    "--world",
    type=click.Choice(["conversations", "months"]),
    default="conversations",
    show_default=True,
    help="What is run: conversations through workers and sinks, or months through sinks and invoices.",
)
@click.option("--seed", type=int, help="Run this seed only, and list its effects.")
@click.option(
    "--exhaustive",
    default=0,
    show_default=True,
    help="Number of histories to kill before and after each of their effects, one kill a run.",
)
def main(seeds: int, first: int, world: str, seed: int | None, exhaustive: int) -> None:
    """Run the pipeline over random histories and faults, and check the properties of every run."""
    # The logs of worker and sink would hide the report.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable()
    random_one, killed_one = _RUNS[world]
    if seed is not None:
        result = random_one(seed)
        for effect in result.effects:
            click.echo(effect)
        click.echo(result.report if result.problems else "all properties hold")
        sys.exit(3 if result.problems else 0)
    began = time.monotonic()
    totals: Counter[str] = Counter()
    for number in range(first, first + seeds):
        result = random_one(number)
        if result.problems:
            click.echo(result.report)
            sys.exit(3)
        totals.update(runs=1, effects=len(result.effects), kills=len(result.kills))
        totals.update(result.totals)
    for number in range(first, first + exhaustive):
        effects = len(killed_one(number, 0, after=False).effects)
        for kill_at in range(1, effects + 1):
            for after in (False, True):
                result = killed_one(number, kill_at, after=after)
                if result.problems:
                    click.echo(f"kill at effect {kill_at}, after={after}")
                    click.echo(result.report)
                    sys.exit(3)
                totals.update(runs=1, effects=len(result.effects), kills=1)
    seconds = time.monotonic() - began
    summary = ", ".join(f"{name} {count:,}" for name, count in totals.items())
    click.echo(f"all properties hold: {summary}, in {seconds:.0f} s")


if __name__ == "__main__":
    main()
