"""A run by its seed: what is drawn from it, and the command that repeats it."""

import random
from typing import NamedTuple

from tests.simulation.check import problems
from tests.simulation.histories import draw_history
from tests.simulation.run import Faults, Outcome, run
from tests.simulation.world import Seam

PARTITIONS = 3


class Result(NamedTuple):
    """What a seed came to."""

    seed: int
    outcome: Outcome
    problems: list[str]

    @property
    def told(self) -> str:
        """What failed, and how to see it again."""
        return "\n".join(
            [
                f"seed {self.seed}: {len(self.problems)} problems; repeat it with",
                f"    python -m tests.simulation --seed {self.seed}",
                f"killed: {'; '.join(self.outcome.kills) or 'nobody'}",
                *self.problems[:20],
            ]
        )


def random_run(seed: int) -> Result:
    """Run what a seed draws: history, kills, rebalances, zombies, Stripe's faults."""
    draw = random.Random(seed)
    history = draw_history(seed, conversations=draw.randint(1, 6), partitions=PARTITIONS)
    faults = Faults(
        rebalance=draw.choice([0.0, 0.1, 0.3]),
        stop=draw.choice([0.0, 0.1, 0.3]),
        stripe=draw.choice([0.0, 0.3, 0.6]),
        second_sink=draw.random() < 0.5,
        workers_max=draw.randint(1, 3),
    )
    seam = Seam(chance=draw.choice([0.0, 0.02, 0.1]), kills_max=12, draw=draw)
    outcome = run(history, seam, faults, seed, PARTITIONS)
    return Result(seed, outcome, problems(history, outcome))


def killed_run(seed: int, kill_at: int, *, after: bool) -> Result:
    """Run a small history with one kill, before or after one effect; 0 for none."""
    history = draw_history(seed, conversations=2, partitions=2)
    outcome = run(history, Seam(kill_at, after=after), Faults(), seed, 2)
    return Result(seed, outcome, problems(history, outcome))
