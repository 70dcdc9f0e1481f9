"""A dead letter is the record as it came, with why and where from in its headers."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from pipeline.events.model import REASONS, Reason, Rejected
from pipeline.events.wire import read_record
from pipeline.kafka.headers import BYTES_MAX, DeadLetter

NAMES = [
    "resmeter-reason",
    "resmeter-detail",
    "resmeter-topic",
    "resmeter-partition",
    "resmeter-offset",
    "resmeter-timestamp",
]


class Arrived(msgspec.Struct):
    """What of a Kafka record is looked at."""

    key: bytes | None = b"acme:c-1"
    value: bytes | None = b"{"
    headers: Sequence[tuple[str, Any]] = ()  # a content may be null
    offset: int = 90211
    timestamp: int = 1_777_885_260_000


def letter(
    record: Arrived, reason: Reason = "malformed_json", detail: str = "the value is not JSON"
) -> DeadLetter:
    return DeadLetter.of(record, "conversation.events", 3, Rejected(reason, detail))


@pytest.mark.parametrize("key", [None, b"", b"acme:c-1", b"\xff\xfe"])
@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff\x00" * 1000], ids=repr)
def test_key_and_value_are_the_bytes_that_came(key: bytes | None, value: bytes | None) -> None:
    made = letter(Arrived(key=key, value=value))

    assert (made.key, made.value) == (key, value)


def test_why_and_where_from_are_in_the_headers_as_text() -> None:
    assert letter(Arrived()).headers == (
        ("resmeter-reason", b"malformed_json"),
        ("resmeter-detail", b"the value is not JSON"),
        ("resmeter-topic", b"conversation.events"),
        ("resmeter-partition", b"3"),
        ("resmeter-offset", b"90211"),
        ("resmeter-timestamp", b"1777885260000"),
    )


def test_the_headers_that_came_are_kept_and_stand_first() -> None:
    came = [("ce_specversion", b"1.0"), ("ce_id", b"ev-1"), ("ce_id", b"ev-2")]

    made = letter(Arrived(headers=came))

    assert made.headers[:3] == tuple(came)
    assert [name for name, _ in made.headers[3:]] == NAMES


def test_of_a_record_that_is_rejected_again_the_last_headers_are_the_new_ones() -> None:
    first = letter(Arrived(offset=7), "future_time", "time is ahead")

    again = letter(Arrived(headers=first.headers, offset=8), "key_mismatch", "key is absent")

    assert dict(again.headers)["resmeter-reason"] == b"key_mismatch"
    assert dict(again.headers)["resmeter-offset"] == b"8"
    assert ("resmeter-offset", b"7") in again.headers


def test_a_detail_in_any_language_is_utf8() -> None:
    made = letter(Arrived(), detail="channel: 'fäx 📠' is none of messenger")

    assert (
        dict(made.headers)["resmeter-detail"] == "channel: 'fäx 📠' is none of messenger".encode()
    )


def test_a_detail_that_has_no_utf8_is_written_nonetheless() -> None:
    made = letter(Arrived(), detail="channel: '\ud800' is none of messenger")

    assert dict(made.headers)["resmeter-detail"] == b"channel: '?' is none of messenger"


@pytest.mark.parametrize("reason", REASONS)
def test_reason_and_offset_are_at_hand_for_counting_and_placing(reason: Reason) -> None:
    made = letter(Arrived(offset=5), reason)

    assert (made.reason, made.offset) == (reason, 5)


def test_the_reason_is_that_which_the_codec_gave() -> None:
    record = Arrived(value=b"[]")
    rejected = read_record(record.value, record.key, record.timestamp, record.headers)
    assert isinstance(rejected, Rejected)

    made = DeadLetter.of(record, "conversation.events", 3, rejected)

    assert dict(made.headers)["resmeter-reason"] == rejected.reason.encode() == b"not_cloudevents"
    assert dict(made.headers)["resmeter-detail"] == rejected.detail.encode()


def size(made: DeadLetter) -> int:
    return (
        len(made.key or b"")
        + len(made.value or b"")
        + sum(len(name) + len(content or b"") for name, content in made.headers)
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
def test_what_no_topic_would_take_is_cut_and_says_so(record: Arrived, cut: str) -> None:
    made = letter(record)

    assert dict(made.headers)["resmeter-cut"] == cut.encode()
    assert size(made) < BYTES_MAX + 2_000
    assert (record.key or b"").startswith(made.key or b"")
    assert (record.value or b"").startswith(made.value or b"")
    assert dict(made.headers)["resmeter-offset"] == b"90211"


def test_what_just_fits_is_not_cut() -> None:
    value = b"v" * (BYTES_MAX - len(b"acme:c-1") - len("h") - 8)

    made = letter(Arrived(value=value, headers=[("h", None)]))

    assert made.value == value
    assert made.headers[0][0] == "h"
    assert "resmeter-cut" not in dict(made.headers)


def test_a_detail_that_repeats_a_long_name_is_cut() -> None:
    made = letter(Arrived(), detail="x" * 2_000_000)

    assert len(dict(made.headers)["resmeter-detail"] or b"") == 1_000
