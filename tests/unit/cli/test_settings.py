"""`resmeter settings`."""

import pytest
from rich.text import Text

from pipeline.config import describe_settings
from tests.support.command import resmeter


@pytest.mark.parametrize("columns", ["20", "60", "80", "200"])
def test_a_narrow_terminal_drops_no_column(resmeter_env: dict[str, str], columns: str) -> None:
    shown = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": columns}

    result = resmeter("settings", env={**resmeter_env, **shown})

    assert result.returncode == 0
    header, *rows = Text.from_ansi(result.stdout.decode()).plain.splitlines()
    assert header.split() == ["variable", "default", "meaning"]
    starts = [row.split()[0] for row in rows if row.startswith("RESMETER_")]
    assert starts == [name for name, _, _ in describe_settings()]
