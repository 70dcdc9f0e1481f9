"""Lay out the receipt of a conversation for a terminal."""

from collections.abc import Iterator

from pipeline.cli.output import TEXT_COLUMNS_MIN, wrapped
from pipeline.ledger.receipt import Explanation
from pipeline.ledger.receipt_text import render

_LABEL_COLUMNS = 13


def receipt_lines(explanation: Explanation, columns: int) -> Iterator[str]:
    """Yield the lines of the receipt, wrapped and indented below their labels."""
    for line in render(explanation):
        yield wrapped(line, max(columns, TEXT_COLUMNS_MIN), " " * _LABEL_COLUMNS)
