"""CI draws a fixed set of examples, and then others under a seed that it prints."""

import subprocess
from pathlib import Path

import hypothesis

ROOT = Path(__file__).parent.parent.parent


def _commands(*arguments: str) -> str:
    """Return what `make` would run."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_profile_of_ci_is_fixed_and_the_fresh_one_is_not() -> None:
    assert hypothesis.settings.get_profile("ci").derandomize
    assert not hypothesis.settings.get_profile("fresh").derandomize
    assert not hypothesis.settings.get_profile("long").derandomize


def test_make_properties_runs_the_long_profile_under_a_seed_that_it_prints() -> None:
    commands = _commands("properties")

    assert "HYPOTHESIS_PROFILE=long" in commands
    assert "seed=$RANDOM" in commands
    assert "--hypothesis-seed=$seed" in commands
    assert "make properties PROFILE=long SEED=$seed" in commands


def test_a_seed_that_was_printed_can_be_given_back() -> None:
    commands = _commands("properties", "PROFILE=fresh", "SEED=77")

    assert "seed=77" in commands
    assert "HYPOTHESIS_PROFILE=fresh" in commands


def test_ci_runs_the_fixed_examples_and_then_fresh_ones() -> None:
    script = (ROOT / ".ci" / "run").read_text()

    assert script.index("test\n") < script.index("properties PROFILE=fresh\n")
    assert "export CI=1" in script
