"""Help texts are complete, fit the terminal, and teach with an example."""

import click
import pytest

from pipeline.cli import COMMANDS, SECTIONS, cli
from tests.support.command import resmeter

STEPS = ("topics create", "ledger upgrade", "check", "worker", "sink")


@pytest.mark.parametrize("group", ["topics", "ledger", "dlq", "rebill", "deliveries"])
def test_group_lists_whole_sentences_on_80_columns(
    resmeter_env: dict[str, str], group: str
) -> None:
    result = resmeter(group, "--help", env={**resmeter_env, "COLUMNS": "80"})

    assert result.returncode == 0
    _, _, commands = result.stdout.decode().partition("Commands:\n")
    assert commands
    assert "..." not in commands


def test_help_names_the_steps_in_the_order_of_the_readme(resmeter_env: dict[str, str]) -> None:
    result = resmeter("--help", env=resmeter_env)

    text, _, _ = result.stdout.decode().partition("Options:")
    positions = [text.find(f"resmeter {step}") for step in STEPS]
    assert -1 not in positions
    assert positions == sorted(positions)


def test_commands_are_grouped_by_who_uses_them(resmeter_env: dict[str, str]) -> None:
    text = resmeter("--help", env=resmeter_env).stdout.decode()

    for section, commands in SECTIONS.items():
        _, _, section_text = text.partition(f"{section}:\n")
        names = [line.split()[0] for line in section_text.split("\n\n")[0].splitlines()]
        assert [name for name in names if name in COMMANDS] == list(commands)


def _all_commands() -> list[tuple[str, ...]]:
    context = click.Context(cli)
    paths: list[tuple[str, ...]] = [()]
    for name in COMMANDS:
        paths.append((name,))
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            paths += [(name, inner) for inner in command.list_commands(context)]
    return paths


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", _all_commands(), ids=" ".join)
def test_help_fits_the_terminal_and_has_an_example(
    resmeter_env: dict[str, str], command: tuple[str, ...], columns: int
) -> None:
    result = resmeter(*command, "--help", env={**resmeter_env, "COLUMNS": str(columns)})

    assert result.returncode == 0
    lines = result.stdout.decode().splitlines()
    assert any(line.strip().startswith(("resmeter", "RESMETER_")) for line in lines) or not command
    # Examples are printed as they are; all other lines are wrapped.
    assert max(map(len, lines)) <= 80
