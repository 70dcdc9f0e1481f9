"""Tables are whole in a narrow terminal, and progress appears on terminals only."""

import pytest
from rich.table import Table
from rich.text import Text

from pipeline.cli.output import print_table, progress


@pytest.fixture(params=["a terminal", "no terminal"], autouse=True)
def narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    if request.param == "a terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")


def plain(capsys: pytest.CaptureFixture[str]) -> str:
    return Text.from_ansi(capsys.readouterr().out).plain


def test_table_wider_than_the_terminal_keeps_every_column_and_figure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("tenant", "the newest says", "amount"):
        table.add_column(name)
    table.add_row("contoso-travel", "time is more than 5 minutes after arrival", "1421.57")

    print_table(table)

    header, row = (line.split("  ") for line in plain(capsys).splitlines())
    assert [cell.strip() for cell in header if cell] == ["tenant", "the newest says", "amount"]
    assert [cell.strip() for cell in row if cell] == [
        "contoso-travel",
        "time is more than 5 minutes after arrival",
        "1421.57",
    ]


def test_table_keeps_its_title_and_its_footer(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title="Billed under fin-2026: $0.99 a resolution", show_footer=True)
    table.add_column("conversations", footer="200")
    table.add_column("amount", footer="$141.57")
    table.add_row("1234567", "$7.00")

    print_table(table)

    printed = plain(capsys)
    for text in ("conversations", "amount", "1234567", "$7.00", "200", "$141.57"):
        assert text in printed
    assert "…" not in printed


def test_progress_on_a_terminal_takes_a_known_and_an_unknown_total(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    with progress("reading") as on_record:
        for done in range(3):
            on_record(done, None)
            on_record(done, 3)


def test_progress_prints_nothing_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading") as on_record:
        on_record(1, 2)

    assert capsys.readouterr() == ("", "")
