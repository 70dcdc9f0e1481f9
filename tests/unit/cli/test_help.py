"""Help texts: whole, and in the order in which things are run."""

import pytest

from tests.support.command import resmeter

STEPS = ("topics create", "ledger upgrade", "check", "worker", "sink")


@pytest.mark.parametrize("group", ["topics", "ledger", "dlq", "rebill"])
def test_what_a_command_does_is_told_whole_on_80_columns(
    resmeter_env: dict[str, str], group: str
) -> None:
    result = resmeter(group, "--help", env={**resmeter_env, "COLUMNS": "80"})

    assert result.returncode == 0
    _, _, commands = result.stdout.decode().partition("Commands:\n")
    assert commands
    assert "..." not in commands


def test_the_way_to_run_it_is_that_of_the_readme(resmeter_env: dict[str, str]) -> None:
    result = resmeter("--help", env=resmeter_env)

    text, _, _ = result.stdout.decode().partition("Options:")
    found = [text.find(f"resmeter {step}") for step in STEPS]
    assert -1 not in found
    assert found == sorted(found)
