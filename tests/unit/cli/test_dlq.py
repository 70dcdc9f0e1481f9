"""`resmeter dlq`, as far as no broker is needed."""

import pytest

from pipeline.cli.dlq import counted
from pipeline.cli.output import print_table
from pipeline.events.times import format_time
from pipeline.replay.redrive import Count

AT = 1_777_885_200_000


@pytest.mark.parametrize("detail", ["[/red]", "[red]free", "data.score: [/] is no number"])
def test_a_detail_is_listed_as_it_is_written(
    capsys: pytest.CaptureFixture[str], detail: str
) -> None:
    print_table(counted({"invalid_data": Count(1, AT, AT, detail, {"acme"})}))

    assert detail in capsys.readouterr().out


def test_a_narrow_terminal_cuts_no_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    print_table(counted({"future_time": Count(1234567, AT, AT + 1, "x" * 80, {"acme", "b"})}))

    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == [
        "reason",
        "letters",
        "first",
        "last",
        "tenants",
        "newest",
        "which",
        "says",
    ]
    assert row.split() == [
        *("future_time", "1234567", format_time(AT), format_time(AT + 1), "2", "0:0", "x" * 80),
    ]


def test_reasons_come_by_the_number_of_their_letters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(counted({"a": Count(1, AT, AT, ""), "b": Count(3, AT, AT, "")}))

    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()] == ["reason", "b", "a"]
