"""Run random histories and faults until a run fails: python -m tests.simulation --seeds 10000."""

import logging
import sys
import time
from collections import Counter

import click
import structlog

from tests.simulation.draws import killed_run, random_run


@click.command()
@click.option("--seeds", default=1_000, show_default=True, help="Number of random runs.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Run this seed only, and list its effects.")
@click.option(
    "--exhaustive",
    default=0,
    show_default=True,
    help="Number of histories to kill before and after each of their effects, one kill a run.",
)
def main(seeds: int, first: int, seed: int | None, exhaustive: int) -> None:
    """Run the pipeline over random histories and faults, and check the properties of every run."""
    # The logs of worker and sink would hide the report.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable()
    if seed is not None:
        result = random_run(seed)
        for effect in result.outcome.effects:
            click.echo(effect)
        click.echo(result.report if result.problems else "all properties hold")
        sys.exit(3 if result.problems else 0)
    began = time.monotonic()
    totals: Counter[str] = Counter()
    for number in range(first, first + seeds):
        result = random_run(number)
        if result.problems:
            click.echo(result.report)
            sys.exit(3)
        totals.update(
            runs=1,
            effects=len(result.outcome.effects),
            kills=len(result.outcome.kills),
            records=len(result.outcome.records),
            stopped=result.outcome.counts.get("stopped", 0),
        )
    for number in range(first, first + exhaustive):
        effects = len(killed_run(number, 0, after=False).outcome.effects)
        for kill_at in range(1, effects + 1):
            for after in (False, True):
                result = killed_run(number, kill_at, after=after)
                if result.problems:
                    click.echo(f"kill at effect {kill_at}, after={after}")
                    click.echo(result.report)
                    sys.exit(3)
                totals.update(runs=1, effects=len(result.outcome.effects), kills=1)
    seconds = time.monotonic() - began
    summary = ", ".join(f"{name} {count:,}" for name, count in totals.items())
    click.echo(f"all properties hold: {summary}, in {seconds:.0f} s")


if __name__ == "__main__":
    main()
