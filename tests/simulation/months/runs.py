"""Draw a run of months from its seed, and name the command that repeats it."""

import asyncio
import random
from typing import NamedTuple

from tests.simulation.ledgers import open_ledgers
from tests.simulation.months.check import problems
from tests.simulation.months.draws import Months, draw_months
from tests.simulation.months.run import MonthFaults, MonthRun, MonthsOutcome
from tests.simulation.world import FaultPoint, Loop


class MonthsResult(NamedTuple):
    """The outcome of a seed's run, and the properties that it violates."""

    seed: int
    effects: list[str]
    kills: list[str]
    counts: dict[str, int]
    problems: list[str]

    @property
    def totals(self) -> dict[str, int]:
        """What a command adds up over its runs."""
        return self.counts

    @property
    def report(self) -> str:
        """The problems of the run, and the command that repeats it."""
        return "\n".join(
            [
                f"seed {self.seed}: {len(self.problems)} problems; repeat with",
                f"    python -m tests.simulation --world months --seed {self.seed}",
                f"killed: {'; '.join(self.kills) or 'no process'}",
                *self.problems[:20],
            ]
        )


def random_months(seed: int) -> MonthsResult:
    """Run the accounts and the faults of a seed: kills, failures of Stripe, an older ledger."""
    draw = random.Random(f"months faults {seed}")
    faults = MonthFaults(
        stripe=draw.choice([0.0, 0.1, 0.3]),
        older_ledger=draw.choice([0.0, 0.0, 0.05]),
        second_sink=draw.random() < 0.3,
        lag_minutes=draw.choice([0, 10, 50]),
        outage=draw.choice([0.0, 0.2]),
        standstill=draw.choice([0.0, 0.0, 0.2]),
        grants=draw.choice([0.0, 0.6]),
    )
    chance = draw.choice([0.0, 0.02, 0.1])
    fault_point = FaultPoint(chance=chance, kills_max=12, draw=draw)
    return _run(seed, draw_months(seed), fault_point, faults)


def killed_months(seed: int, kill_at: int, *, after: bool) -> MonthsResult:
    """Run a small month with one kill, before or after effect `kill_at`; 0 kills nothing."""
    months = draw_months(seed, is_small=True)
    return _run(seed, months, FaultPoint(kill_at, after=after), MonthFaults())


def _run(seed: int, months: Months, fault_point: FaultPoint, faults: MonthFaults) -> MonthsResult:
    with open_ledgers() as ledgers, asyncio.Runner(loop_factory=Loop) as runner:
        outcome: MonthsOutcome = runner.run(
            MonthRun(months, fault_point, faults, seed, ledgers).play()
        )
        found = problems(months, outcome)
    return MonthsResult(seed, fault_point.effects, fault_point.kills, outcome.counts, found)
