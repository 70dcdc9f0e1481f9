"""Commands that listen accept valid ports only."""

import pytest

from tests.support.command import resmeter


@pytest.mark.parametrize("command", ["emulator", "kafka"])
@pytest.mark.parametrize("port", ["-1", "65536", "99999", "x"])
def test_invalid_port_is_bad_usage(resmeter_env: dict[str, str], command: str, port: str) -> None:
    result = resmeter(command, "--port", port, env=resmeter_env)

    assert (result.returncode, result.stdout) == (2, b"")
    assert b"Invalid value for '--port'" in result.stderr
