"""Draw a run from its seed, and name the command that repeats the run."""

import random
from typing import NamedTuple

from tests.simulation.check import problems
from tests.simulation.histories import draw_history
from tests.simulation.run import Faults, Outcome, run
from tests.simulation.world import FaultPoint

PARTITIONS = 3
_HIDDEN = (20_000, 60_000, 120_000, 240_000)


class Result(NamedTuple):
    """The outcome of a seed's run, and the properties that it violates."""

    seed: int
    outcome: Outcome
    problems: list[str]

    @property
    def effects(self) -> list[str]:
        return self.outcome.effects

    @property
    def kills(self) -> list[str]:
        return self.outcome.kills

    @property
    def totals(self) -> dict[str, int]:
        """What a command adds up over its runs."""
        stopped = self.outcome.counts.get("stopped", 0)
        return {"records": len(self.outcome.records), "stopped": stopped}

    @property
    def report(self) -> str:
        """The problems of the run, and the command that repeats it."""
        return "\n".join(
            [
                f"seed {self.seed}: {len(self.problems)} problems; repeat with",
                f"    python -m tests.simulation --seed {self.seed}",
                f"killed: {'; '.join(self.outcome.kills) or 'no process'}",
                *self.problems[:20],
            ]
        )


def random_run(seed: int) -> Result:
    """Run the history and the faults of a seed: kills, rebalances, zombies, failures of Stripe."""
    draw = random.Random(seed)
    worlds = random.Random(f"worlds {seed}")
    clocks = random.Random(f"clocks {seed}").choice([0.0, 0.0, 0.02, 0.1])
    history = draw_history(
        seed,
        conversations=draw.randint(1, 6),
        partitions=PARTITIONS,
        slow_clocks=bool(clocks),
    )
    faults = Faults(
        rebalance=draw.choice([0.0, 0.1, 0.3]),
        stop=draw.choice([0.0, 0.1, 0.3]),
        stripe=draw.choice([0.0, 0.3, 0.6]),
        # By the seed, not drawn: the other draws of a seed stay as they were.
        older_ledger=0.2 if seed % 4 == 1 else 0.0,
        second_ledger=seed % 8 >= 5,
        rejoin=0.7 if seed % 4 == 3 else 0.0,
        second_sink=draw.random() < 0.5,
        workers_max=draw.randint(1, 3),
        # From a source of their own, so that older seeds draw what they drew.
        conflicts=worlds.choice([0.0, 0.0, 0.3]),
        outage=worlds.random() < 0.5,
        operator=worlds.random() < 0.6,
    )
    fault_point = FaultPoint(chance=draw.choice([0.0, 0.02, 0.1]), kills_max=12, draw=draw)
    # Drawn apart, so that an older seed keeps its history and its other faults.
    broker = random.Random(f"broker {seed}")
    faults = faults._replace(
        transaction=broker.choice([0.0, 0.05, 0.3]),
        meanwhile=broker.choice([0.0, 0.8, 1.0]),
        deletion=broker.choice([0.0, 0.0, 0.3]),
        another_log=broker.choice([0.0, 0.0, 0.05]),
    )
    owners = random.Random(f"owners {seed}")
    faults = faults._replace(
        compaction=owners.choice([0.0, 0.3, 1.0]),
        pause=owners.choice([0.0, 0.0, 0.03]),
        wake=owners.choice([0.0, 0.1, 0.3]),
        old_workers=owners.choice([0.0, 0.0, 0.0, 0.5]),
    )
    if owners.random() < 0.25:
        faults = faults._replace(sleep=True, wake=0.0, pause=0.03, compaction=1.0)
    faults = faults._replace(
        catalog_away=random.Random(f"away {seed}").choice([0.0, 0.0, 0.3, 0.8])
    )
    if clocks:
        # One worker can read every broker's clock. Others learn of clocks from the records.
        is_hidden = clocks < 0.1
        faults = faults._replace(
            clocks=clocks,
            hidden_clock=worlds.choice(_HIDDEN) if is_hidden else 0,
            workers_max=faults.workers_max if is_hidden else 1,
            old_workers=0.0,  # they neither promise what they settle nor are kept from writing
            another_log=0.0,
        )
    outcome = run(history, fault_point, faults, seed, PARTITIONS)
    return Result(seed, outcome, problems(history, outcome))


def killed_run(seed: int, kill_at: int, *, after: bool, hidden_clock: int = 0) -> Result:
    """Run a small history with one kill, before or after effect `kill_at`; 0 kills nothing."""
    history = draw_history(seed, conversations=2, partitions=2, slow_clocks=bool(hidden_clock))
    faults = Faults(hidden_clock=hidden_clock)
    outcome = run(history, FaultPoint(kill_at, after=after), faults, seed, 2)
    return Result(seed, outcome, problems(history, outcome))
