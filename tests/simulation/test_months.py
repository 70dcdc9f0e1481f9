"""Whatever fails, and wherever, a month ends with the statement that the law gives, and its invoice."""

from collections import Counter
from functools import cache

import pytest

from tests.simulation.months.runs import killed_months, random_months

SEEDS = 12
STEP = 4
_run = cache(random_months)  # the last test looks at the same runs
pytestmark = pytest.mark.xdist_group("months")


@pytest.mark.parametrize("first", range(0, SEEDS, STEP))
def test_random_faults_change_no_statement_and_no_invoice(first: int) -> None:
    for seed in range(first, first + STEP):
        result = _run(seed)

        assert not result.problems, result.report


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("seed", [27])
def test_a_kill_at_any_effect_of_a_months_end_changes_nothing(seed: int, *, after: bool) -> None:
    effects = killed_months(seed, 0, after=False).effects
    assert any("/v1/invoiceitems" in effect for effect in effects)
    first = next(n for n, effect in enumerate(effects, 1) if "/v1/invoices" in effect)

    for kill_at in range(first, len(effects) + 1):
        result = killed_months(seed, kill_at, after=after)

        assert not result.problems, f"killed at effect {kill_at}: {result.report}"


def test_every_kind_of_fault_happens_to_months() -> None:
    results = [_run(seed) for seed in range(SEEDS)]

    kills = {kill.split(" ", 1)[1] for result in results for kill in result.kills}
    effects = {effect.split(" ", 1)[1] for result in results for effect in result.effects}
    for effect in ("transaction", "entry", "POST /v1/invoices/*"):
        assert {f"before {effect}", f"after {effect}"} & kills, effect
    assert effects >= {"POST /v1/invoiceitems", "POST /v1/invoices/*/finalize"}
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result.counts)
    for kind in ("older ledger", "grants", "decided", "approved", "rejected", "waiting"):
        assert counts[kind], kind
