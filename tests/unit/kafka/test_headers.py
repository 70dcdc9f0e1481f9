"""A dead letter is the unchanged record, with the reason and its origin in headers."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from pipeline.events.model import REASONS, Reason, Rejected
from pipeline.events.wire import read_record
from pipeline.kafka.headers import BYTES_MAX, DeadLetter, read_dead_letter_headers

NAMES = [
    "resmeter-reason",
    "resmeter-detail",
    "resmeter-topic",
    "resmeter-partition",
    "resmeter-offset",
    "resmeter-timestamp",
]


class Arrived(msgspec.Struct):
    """The members of a Kafka record that a dead letter needs."""

    key: bytes | None = b"acme:c-1"
    value: bytes | None = b"{"
    headers: Sequence[tuple[str, Any]] = ()  # the content of a header may be null
    offset: int = 90211
    timestamp: int = 1_777_885_260_000


def letter(
    record: Arrived, reason: Reason = "malformed_json", detail: str = "the value is not JSON"
) -> DeadLetter:
    return DeadLetter.of(record, "conversation.events", 3, Rejected(reason, detail))


@pytest.mark.parametrize("key", [None, b"", b"acme:c-1", b"\xff\xfe"])
@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff\x00" * 1000], ids=repr)
def test_key_and_value_are_unchanged(key: bytes | None, value: bytes | None) -> None:
    dead_letter = letter(Arrived(key=key, value=value))

    assert (dead_letter.key, dead_letter.value) == (key, value)


def test_reason_and_origin_are_in_the_headers_as_text() -> None:
    assert letter(Arrived()).headers == (
        ("resmeter-reason", b"malformed_json"),
        ("resmeter-detail", b"the value is not JSON"),
        ("resmeter-topic", b"conversation.events"),
        ("resmeter-partition", b"3"),
        ("resmeter-offset", b"90211"),
        ("resmeter-timestamp", b"1777885260000"),
    )


def test_the_headers_of_the_record_are_kept_and_come_first() -> None:
    original = [("ce_specversion", b"1.0"), ("ce_id", b"ev-1"), ("ce_id", b"ev-2")]

    dead_letter = letter(Arrived(headers=original))

    assert dead_letter.headers[:3] == tuple(original)
    assert [name for name, _ in dead_letter.headers[3:]] == NAMES


def test_the_last_headers_of_a_record_that_is_rejected_again_are_the_new_ones() -> None:
    first = letter(Arrived(offset=7), "future_time", "time is ahead")

    again = letter(Arrived(headers=first.headers, offset=8), "key_mismatch", "key is missing")

    assert dict(again.headers)["resmeter-reason"] == b"key_mismatch"
    assert dict(again.headers)["resmeter-offset"] == b"8"
    assert ("resmeter-offset", b"7") in again.headers


def test_a_detail_in_any_language_is_utf8() -> None:
    dead_letter = letter(Arrived(), detail="channel: is 'fäx 📠'; it must be one of messenger")

    assert (
        dict(dead_letter.headers)["resmeter-detail"]
        == "channel: is 'fäx 📠'; it must be one of messenger".encode()
    )


def test_a_detail_without_a_utf8_form_is_written_with_replacements() -> None:
    dead_letter = letter(Arrived(), detail="channel: is '\ud800'; it must be one of messenger")

    assert (
        dict(dead_letter.headers)["resmeter-detail"]
        == b"channel: is '?'; it must be one of messenger"
    )


@pytest.mark.parametrize("reason", REASONS)
def test_reason_and_offset_are_also_members(reason: Reason) -> None:
    dead_letter = letter(Arrived(offset=5), reason)

    assert (dead_letter.reason, dead_letter.offset) == (reason, 5)


def test_reason_and_detail_come_from_the_reader() -> None:
    record = Arrived(value=b"[]")
    rejected = read_record(record.value, record.key, record.timestamp, record.headers)
    assert isinstance(rejected, Rejected)

    dead_letter = DeadLetter.of(record, "conversation.events", 3, rejected)

    assert (
        dict(dead_letter.headers)["resmeter-reason"]
        == rejected.reason.encode()
        == b"not_cloudevents"
    )
    assert dict(dead_letter.headers)["resmeter-detail"] == rejected.detail.encode()


def size(dead_letter: DeadLetter) -> int:
    return (
        len(dead_letter.key or b"")
        + len(dead_letter.value or b"")
        + sum(len(name) + len(content or b"") for name, content in dead_letter.headers)
    )


@pytest.mark.parametrize(
    ("record", "cut"),
    [
        (Arrived(value=b"v" * BYTES_MAX), f"value={BYTES_MAX}"),
        (Arrived(key=b"k" * (BYTES_MAX + 1)), f"key={BYTES_MAX + 1},value=1"),
        (Arrived(headers=[("h", b"x" * BYTES_MAX)]), f"headers={BYTES_MAX + 9}"),
        (Arrived(headers=[("h", None)] * 100_000), "headers=900000"),
        (
            Arrived(value=b"v" * BYTES_MAX, headers=[("h", b"x" * BYTES_MAX)]),
            f"headers={BYTES_MAX + 9},value={BYTES_MAX}",
        ),
    ],
)
def test_a_record_larger_than_the_topic_allows_is_cut_and_a_header_names_the_parts(
    record: Arrived, cut: str
) -> None:
    dead_letter = letter(record)

    assert dict(dead_letter.headers)["resmeter-cut"] == cut.encode()
    assert size(dead_letter) < BYTES_MAX + 2_000
    assert (record.key or b"").startswith(dead_letter.key or b"")
    assert (record.value or b"").startswith(dead_letter.value or b"")
    assert dict(dead_letter.headers)["resmeter-offset"] == b"90211"


def test_a_record_that_just_fits_is_not_cut() -> None:
    value = b"v" * (BYTES_MAX - len(b"acme:c-1") - len("h") - 8)

    dead_letter = letter(Arrived(value=value, headers=[("h", None)]))

    assert dead_letter.value == value
    assert dead_letter.headers[0][0] == "h"
    assert "resmeter-cut" not in dict(dead_letter.headers)


def test_a_long_detail_is_cut() -> None:
    dead_letter = letter(Arrived(), detail="x" * 2_000_000)

    assert len(dict(dead_letter.headers)["resmeter-detail"] or b"") == 1_000


@pytest.mark.parametrize("reason", REASONS)
def test_reading_the_headers_reverses_writing_them(reason: Reason) -> None:
    original = (("ce_id", b"ev-1"), ("resmeter-signature", b"v1:k:00"), ("empty", None))
    record = Arrived(value=b"v" * BYTES_MAX, headers=original[:2])

    read = read_dead_letter_headers(letter(record, reason, "channel: is 'fäx'").headers)

    assert (read.reason, read.detail) == (reason, "channel: is 'fäx'")
    assert read.origin == ("conversation.events", 3, 90211)
    assert read.arrived_ms == 1_777_885_260_000
    assert read.redrives == 0
    assert read.cut == f"value={BYTES_MAX}"
    assert read.original == original[:2]


def test_headers_of_another_program_have_no_reason_and_no_origin() -> None:
    read = read_dead_letter_headers(
        [("resmeter-reason", b"boredom"), ("resmeter-offset", b"x"), ("h", None)]
    )

    assert (read.reason, read.origin, read.arrived_ms) == ("", None, None)
    assert read.original == (("h", None),)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("resmeter-partition", b"2147483648"),
        ("resmeter-partition", b"-1"),
        ("resmeter-offset", b"-2"),
        ("resmeter-offset", b"9" * 30),
        ("resmeter-offset", b"9" * 5_000),
        ("resmeter-timestamp", b"9" * 30),
        ("resmeter-timestamp", b"-1"),
        ("resmeter-redrives", b"9" * 5_000),
    ],
)
def test_a_number_that_kafka_cannot_have_is_none(name: str, content: bytes) -> None:
    """A producer may send our headers: they must not end `resmeter dlq`."""
    whole = {
        "resmeter-topic": b"events",
        "resmeter-partition": b"3",
        "resmeter-offset": b"7",
        "resmeter-timestamp": b"5",
        name: content,
    }

    read = read_dead_letter_headers(list(whole.items()))

    assert read.redrives == 0
    assert (read.origin, read.arrived_ms)[name == "resmeter-timestamp"] in {None, ("events", 3, 7)}
    assert name == "resmeter-redrives" or None in {read.origin, read.arrived_ms}
