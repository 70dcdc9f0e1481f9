"""`resmeter topics` stores who decided: the login name, if nobody else is named."""

import pytest

from tests.support.command import resmeter

DECISIONS = (
    ("topics", "acknowledge"),
    ("topics", "step-over"),
    ("ledger", "resume"),
    ("deliveries", "release"),
    ("deliveries", "settle"),
)


@pytest.mark.parametrize("command", DECISIONS, ids=" ".join)
def test_every_command_that_decides_has_the_same_default_for_who(
    resmeter_env: dict[str, str], command: tuple[str, ...]
) -> None:
    text = " ".join(resmeter(*command, "--help", env=resmeter_env).stdout.decode().split())

    assert "Who decides; kept in the " in text
    assert ". Your login name if not set." in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("acknowledge", "--partition", "3", "--until", "9", "--reason", "known"),
        ("step-over", "3:1", "--to", "9", "--reason", "bad disk"),
    ],
    ids=["acknowledge", "step-over"],
)
def test_a_decision_needs_no_name(resmeter_env: dict[str, str], arguments: tuple[str, ...]) -> None:
    env = {**resmeter_env, "RESMETER_KAFKA__SECURITY_PROTOCOL": "none"}

    result = resmeter("topics", *arguments, env=env)

    # The settings are read after the options, so the options are complete.
    assert result.stderr.decode().startswith("error: RESMETER_KAFKA__SECURITY_PROTOCOL")
