"""The encoding of the journal's entries."""

import pytest

from pipeline.ledger.journal import (
    Conclusion,
    Entry,
    NewerFormatError,
    decode_entry,
    encode_entry,
)
from tests.support.batches import NESTED


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"hello",
        b"[]",
        NESTED,
        b'{"format":1,"run":"a","items":[' + NESTED + b"]}",
        b'{"run":"a"}',
        b'{"format":1,"run":"a","items":[{"type":"nonsense"}]}',
        b'{"format":1,"run":"a","items":{}}',
    ],
)
def test_a_record_that_no_resmeter_wrote_is_no_entry(value: bytes | None) -> None:
    assert decode_entry(value) is None


def test_an_entry_of_a_newer_format_is_not_ignored() -> None:
    with pytest.raises(NewerFormatError, match="format 2, this version knows 1"):
        decode_entry(b'{"format":2,"run":"a","items":[{"type":"new"}]}')


def test_an_entry_keeps_its_bytes() -> None:
    """Whatever is in the journal stays there for ever."""
    entry = Entry(run="a", items=(Conclusion("rm_1", "delivered"),))

    assert encode_entry(entry) == (
        b'{"format":1,"run":"a",'
        b'"items":[{"type":"conclusion","identifier":"rm_1","state":"delivered"}]}'
    )
