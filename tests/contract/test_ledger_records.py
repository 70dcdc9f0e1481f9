"""Storing usage records: the same on SQLite and PostgreSQL."""

from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update

from pipeline.ledger import Ledger, continuation, records, reports
from pipeline.ledger.entries import ConsumedRecord, Moved, Stored
from pipeline.ledger.tables import consumer_offset, pending_record, refused_record, usage_record
from pipeline.usage.record import Origin, UsageRecord, encode_record
from tests.support.batches import NESTED
from tests.support.ledger import T0, TOPIC, arrivals, count, record, stored


def test_a_receipt_returns_the_record_as_it_was_stored(ledger: Ledger) -> None:
    first = record("c1", kind="confirmed")
    back = record("c1", 2, -1, supersedes=1, at=T0 + 1)

    result = stored(ledger, first, back)

    assert result == Stored(2, 0, (), {0: 2})
    receipts = reports.receipts(ledger, "acme", "c1")
    assert [receipt.record for receipt in receipts] == [first, back]
    assert (receipts[1].topic, receipts[1].partition, receipts[1].offset) == (TOPIC, 0, 1)
    assert receipts[1].origin == Origin("events", 3, (7,))
    assert receipts[1].superseded_policy == ("fin-2026", 1)


def test_the_same_record_again_changes_nothing(ledger: Ledger) -> None:
    stored(ledger, record("c1"))

    again = stored(ledger, record("c1"), record("c2"), record("c2"))

    assert (again.records, again.duplicates, again.quarantined) == (1, 2, ())
    assert count(ledger, usage_record) == count(ledger, pending_record) == 2
    assert records.offsets(ledger, TOPIC) == {0: 4}


def test_a_conflict_is_quarantined_and_the_first_content_stays(ledger: Ledger) -> None:
    stored(ledger, record("c1"))

    result = stored(ledger, record("c1", kind="confirmed"), record("c2"))

    assert (result.records, result.duplicates) == (1, 0)
    assert [(r.reason, r.offset) for r in result.quarantined] == [("conflict", 1)]
    assert result.quarantined[0].detail == "acme:c1:1: kind was 'assumed', is 'confirmed'"
    assert reports.receipts(ledger, "acme", "c1")[0].record.kind == "assumed"
    with ledger.reading() as connection:
        quarantined = connection.execute(select(refused_record)).one()
    assert quarantined.value == encode_record(record("c1", kind="confirmed"))
    assert records.offsets(ledger, TOPIC) == {0: 3}


CHANGED: dict[str, Any] = {
    "outcome": "procedure_handoff",
    "quantity": -1,
    "kind": "confirmed",
    "reason": "confirmed",
    "occurred_at": T0 + 1,
    "policy": "gorgias",
    "policy_version": 2,
    "evidence": ("c1-m1", "c1-m2"),
    "supersedes": "acme:c1:0",
}


@pytest.mark.parametrize("is_same_place", [False, True])
@pytest.mark.parametrize("column", CHANGED)
def test_a_record_with_another_value_in_any_column_is_a_conflict(
    ledger: Ledger, column: str, *, is_same_place: bool
) -> None:
    """At the same place in Kafka too: the topic may have been made again."""
    first = record("c1")
    changes = {column: CHANGED[column]}
    if column in {"quantity", "supersedes"}:  # one needs the other
        changes = {name: CHANGED[name] for name in ("quantity", "supersedes")}
    other = msgspec.structs.replace(first, **changes)
    stored(ledger, first)
    if is_same_place:
        with ledger.writing() as connection:
            connection.execute(update(consumer_offset).values(next_offset=0))

    result = stored(ledger, other, record("c2"))

    assert (result.records, result.duplicates) == (1, 0)
    assert [entry.reason for entry in result.quarantined] == ["conflict"]
    assert {name for name in CHANGED if f"{name} was" in result.quarantined[0].detail} == {*changes}
    assert reports.receipts(ledger, "acme", "c1")[0].record == first


def test_every_column_of_a_record_is_compared() -> None:
    by_id = {"id", "tenant_id", "conversation"}  # they make the id

    assert set(UsageRecord.__struct_fields__) == {*CHANGED, *by_id}
    assert len(records._CONTENT) == len(UsageRecord.__struct_fields__)


def test_a_conflict_within_one_batch_is_detected(ledger: Ledger) -> None:
    result = stored(ledger, record("c1"), record("c1", at=T0 + 1))

    assert result.records == 1
    assert [r.reason for r in result.quarantined] == ["conflict"]


NUL = encode_record(record("c1")).replace(b'"c1"', b'"c\\u00001"').replace(b":c1:", b":c\\u00001:")


def test_a_record_or_an_origin_that_is_nested_too_deeply_does_not_end_the_sink(
    ledger: Ledger,
) -> None:
    good = arrivals([record("c1")])[0]
    deep = ConsumedRecord(0, 0, NESTED, good.origin)
    with_deep_origin = good._replace(offset=1, origin=NESTED)

    result = records.store(ledger, TOPIC, [deep, with_deep_origin], {0: None}, T0)

    assert isinstance(result, Stored)
    assert [(r.reason, r.offset) for r in result.quarantined] == [("unreadable", 0)]
    assert result.records == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the message has no value"),
        (b"", "the message has no value"),
        (b"\xff\xfe\x00garbage", "malformed"),
        (b"{}", "missing required field `id`"),
        (encode_record(record("c1")).replace(b":1,", b":2,"), "quantity is 2"),
        (
            encode_record(record("c1")).replace(b"acme:c1:1", b"other:c1:1"),
            "id does not begin with",
        ),
        (encode_record(record("c1", policy_version=2**63)), "policy_version is out of range"),
        (NUL, "NUL character"),
        (encode_record(record("c" * 2_000)), "id has more than 1250 bytes"),
        (encode_record(record("c1", outcome="o" * 2_000)), "outcome has more than 1250 bytes"),
    ],
)
def test_an_unreadable_record_is_quarantined_and_the_rest_is_stored(
    ledger: Ledger, value: bytes | None, message: str
) -> None:
    good = arrivals([record("c8"), record("c9")])
    batch = [good[0], ConsumedRecord(0, 1, value), good[1]._replace(offset=2)]

    result = records.store(ledger, TOPIC, batch, {0: None}, T0)

    assert isinstance(result, Stored)
    assert (result.records, result.offsets) == (2, {0: 3})
    assert [(r.reason, r.offset) for r in result.quarantined] == [("unreadable", 1)]
    assert message in result.quarantined[0].detail
    with ledger.reading() as connection:
        assert connection.execute(select(refused_record)).one().value == value


@pytest.mark.parametrize(
    "origin",
    [
        b"garbage",
        b'{"topic":"e\\u0000","partition":3,"offsets":[7]}',
        b'{"topic":"e","partition":2147483648,"offsets":[7]}',
        b'{"topic":"e","partition":-1,"offsets":[7]}',
        b'{"topic":"e","partition":3,"offsets":[9223372036854775808]}',
        b'{"topic":"e","partition":3,"offsets":[999999999999999999999999999999]}',
    ],
)
def test_a_record_without_a_readable_origin_still_bills(ledger: Ledger, origin: bytes) -> None:
    value = encode_record(record("c1"))
    batch = [
        ConsumedRecord(0, 0, value, origin),
        ConsumedRecord(0, 1, encode_record(record("c2")), None),
    ]

    result = records.store(ledger, TOPIC, batch, {0: None}, T0)

    assert isinstance(result, Stored)
    assert result.records == 2
    assert reports.receipts(ledger, "acme", "c1")[0].origin is None


def test_the_offsets_of_a_topic_that_was_made_again_are_forgotten(ledger: Ledger) -> None:
    """Once it has grown beyond them, they would skip its first records."""
    assert records.is_known_topic(ledger, TOPIC, "first")
    stored(ledger, record("c1"))
    assert records.is_known_topic(ledger, TOPIC, "first")
    assert records.offsets(ledger, TOPIC) == {0: 1}

    assert not records.is_known_topic(ledger, TOPIC, "second")

    assert records.offsets(ledger, TOPIC) == {}
    again = stored(ledger, record("c1"), record("c2"))
    assert (again.records, again.duplicates, again.quarantined) == (1, 1, ())
    assert records.is_known_topic(ledger, TOPIC, "second")
    assert records.offsets(ledger, TOPIC) == {0: 2}


def test_nothing_is_stored_if_another_sink_moved_the_offset(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))

    late = records.store(ledger, TOPIC, arrivals([record("c3")], 1), {0: 1}, T0)
    new = records.store(ledger, TOPIC, arrivals([record("c3")]), {0: None}, T0)

    assert late == new == Moved({0: 2})
    assert count(ledger, usage_record) == count(ledger, pending_record) == 2


def test_one_moved_partition_prevents_storing_the_whole_batch(ledger: Ledger) -> None:
    stored(ledger, record("c1"))
    batch = arrivals([record("c2")], partition=1) + arrivals([record("c3")], 0)

    result = records.store(ledger, TOPIC, batch, {0: None, 1: None}, T0)

    assert result == Moved({0: 1, 1: None})
    assert count(ledger, usage_record) == 1
    assert count(ledger, consumer_offset) == 1


def test_text_of_any_script_and_length_is_returned_unchanged(ledger: Ledger) -> None:
    name = "\U0001f600é%_'\";--" + "x" * 244
    stored(ledger, record(name))

    assert reports.receipts(ledger, "acme", name)[0].record == record(name)


def test_a_receipt_excludes_conversations_whose_id_only_starts_with_the_same_text(
    ledger: Ledger,
) -> None:
    stored(ledger, record("c1"), record("c1:2"), record("c11"), record("c1", tenant_id="acme2"))

    assert len(reports.receipts(ledger, "acme", "c1")) == 1
    assert len(reports.receipts(ledger, "acme", "c1:2")) == 1
    assert reports.receipts(ledger, "acme", "c") == []


def test_a_record_that_the_ledger_has_not_read_shows_that_the_log_was_cut(ledger: Ledger) -> None:
    first, garbage = arrivals([record("c1")])[0], ConsumedRecord(0, 1, b"garbage")
    records.store(ledger, TOPIC, [first, garbage], {0: None}, T0)
    (other,) = arrivals([record("c2")], 1)

    assert continuation.has_read(ledger, TOPIC, first)
    assert continuation.has_read(ledger, TOPIC, garbage)
    (moved,) = arrivals([record("c1")], 9)  # a worker may write a record twice
    assert continuation.has_read(ledger, TOPIC, moved)
    assert not continuation.has_read(ledger, TOPIC, other._replace(partition=1))
    assert not continuation.has_read(ledger, TOPIC, ConsumedRecord(0, 2, b"garbage"))
    assert not continuation.has_read(ledger, TOPIC, ConsumedRecord(0, 2, None))


def test_a_partition_is_read_again_from_an_earlier_offset(ledger: Ledger) -> None:
    stored(ledger, record("c1"), record("c2"))

    assert not continuation.rewind(ledger, TOPIC, 0, 1, 0)
    assert continuation.rewind(ledger, TOPIC, 0, 2, 0)

    assert stored(ledger, record("c3"), record("c2")) == Stored(1, 1, (), {0: 2})
