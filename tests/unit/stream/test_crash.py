"""The log line of a crash says whether a restart is enough."""

import pytest

from pipeline.errors import (
    BrokenInvariantError,
    ConfigurationError,
    TooManyDeadLettersError,
    UnknownStateError,
)
from pipeline.stream.crash import consequence_of


@pytest.mark.parametrize(
    "error",
    [UnknownStateError("form bit 8"), TooManyDeadLettersError("51 %"), ConfigurationError(["x"])],
)
def test_an_error_that_a_restart_repeats_asks_for_its_cause_to_be_fixed(error: Exception) -> None:
    assert "fix the cause first" in consequence_of(error)
    assert "start it again" not in consequence_of(error)


@pytest.mark.parametrize("error", [None, BrokenInvariantError("x"), TimeoutError("x")])
def test_any_other_failure_asks_for_a_restart(error: Exception | None) -> None:
    assert consequence_of(error).endswith("start it again")
