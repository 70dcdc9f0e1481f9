"""`resmeter settings`."""

import pytest
from rich.text import Text

from pipeline.config import describe_settings
from tests.support.command import resmeter


@pytest.mark.parametrize("columns", ["20", "60", "80", "200"])
def test_every_setting_has_its_default_and_its_meaning_at_any_width(
    resmeter_env: dict[str, str], columns: str
) -> None:
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": columns}

    result = resmeter("settings", env={**resmeter_env, **terminal})

    assert result.returncode == 0
    text = Text.from_ansi(result.stdout.decode()).plain
    starts = [row.split()[0] for row in text.splitlines() if row.startswith("RESMETER_")]
    assert starts == [name for name, _, _ in describe_settings()]
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for variable, default, meaning in describe_settings():
        assert f"{variable}{f' = {default}' if default else ''} {meaning}" in words
