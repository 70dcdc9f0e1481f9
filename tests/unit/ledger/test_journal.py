"""The encoding of the journal's entries."""

import pytest

from pipeline.ledger.journal import Conclusion, Entry, Item, Withdrawal
from pipeline.ledger.journal_encoding import (
    NewerFormatError,
    decode_entry,
    encode_entry,
    encode_items,
)
from pipeline.ledger.month_entries import Closing, Granted
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
    with pytest.raises(NewerFormatError, match="format 3, this version knows 2"):
        decode_entry(b'{"format":3,"run":"a","items":[{"type":"new"}]}')


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (Withdrawal("rm_1", 7), b'{"type":"withdrawal","identifier":"rm_1","until":7}'),
        (
            Conclusion("rm_1", "withdrawn"),
            b'{"type":"conclusion","identifier":"rm_1","state":"withdrawn"}',
        ),
        (Conclusion("rm_1", "kept"), b'{"type":"conclusion","identifier":"rm_1","state":"kept"}'),
    ],
)
def test_an_entry_of_a_withdrawal_has_a_format_that_older_versions_stop_at(
    item: Item, encoded: bytes
) -> None:
    (entry,) = encode_items("a", [item])

    assert entry == b'{"format":2,"run":"a","items":[' + encoded + b"]}"


def test_an_entry_keeps_its_bytes() -> None:
    """Whatever is in the journal stays there for ever."""
    entry = Entry(run="a", items=(Conclusion("rm_1", "delivered"),))

    assert encode_entry(entry) == (
        b'{"format":1,"run":"a",'
        b'"items":[{"type":"conclusion","identifier":"rm_1","state":"delivered"}]}'
    )


def test_an_entry_about_an_account_has_a_format_at_which_older_versions_stop() -> None:
    """They would pass over a kind of item that they do not know."""
    closing = Closing(
        account="acme",
        period_start=1,
        period_end=2,
        closed_at=3,
        topic="usage.records",
        offsets={0: 7, 11: 3},
        grants=0,
        statement="{}",
    )
    entry = Entry(run="a", items=(closing, Granted("acme", "{}")))

    assert encode_entry(entry) == (
        b'{"format":2,"run":"a","items":[{"type":"closing","account":"acme","period_start":1,'
        b'"period_end":2,"closed_at":3,"topic":"usage.records","offsets":{"0":7,"11":3},"grants":0,'
        b'"statement":"{}"},{"type":"granted","account":"acme","line":"{}"}]}'
    )
    (value,) = encode_items("a", entry.items)
    assert value == encode_entry(entry)
    decoded = decode_entry(value)
    assert decoded is not None
    assert decoded.items == entry.items
