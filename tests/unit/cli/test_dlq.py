"""`resmeter dlq`, without a broker."""

import msgspec
import pytest

from pipeline.cli.output import print_text
from pipeline.cli.views.dlq import count_lines
from pipeline.replay.deadletters import ReasonCount

AT = 1_777_885_200_000


@pytest.mark.parametrize("detail", ["[/red]", "[red]free", "data.score: [/] is no number"])
def test_detail_is_listed_as_it_is_written(capsys: pytest.CaptureFixture[str], detail: str) -> None:
    for line in count_lines(
        {"invalid_data": ReasonCount(1, AT, AT, detail, {"acme"})}, with_status=True
    ):
        print_text(line)

    assert detail in capsys.readouterr().out


def test_list_fits_80_columns_and_cuts_no_figure() -> None:
    count = ReasonCount(1234567, AT, AT + 1000, "x" * 20, {"acme", "b"}, (0, 1742))

    count = msgspec.structs.replace(count, redriven=4, accepted=7)

    header, figures, status, newest = count_lines(
        {"conversation_too_long": count}, with_status=True
    )

    assert header.split() == ["reason", "letters", "first", "last"]
    assert figures.split() == [
        *("conversation_too_long", "1234567", "2026-05-04T09:00:00Z", "2026-05-04T09:00:01Z")
    ]
    assert status.strip() == "1234556 open, 4 redriven, 7 accepted; 2 tenants"
    assert newest.strip() == f"newest 0:1742: {'x' * 20}"
    assert max(map(len, (header, figures, newest))) <= 80


def test_reasons_are_listed_by_the_number_of_their_dead_letters() -> None:
    counts = {"a": ReasonCount(1, AT, AT, ""), "b": ReasonCount(3, AT, AT, "")}
    lines = list(count_lines(counts, with_status=False))

    reasons = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert reasons == ["reason", "b", "a"]
    assert not any("open" in line for line in lines)
