"""A dead letter is open until its record was sent again, or its event was accepted in another way."""

import msgspec
import pytest

from pipeline.events.model import CUSTOMER_MESSAGE, Event, Headers
from pipeline.kafka.headers import REDRIVES_HEADER
from pipeline.kafka.partitioners import PARTITIONERS, partition_of
from pipeline.replay.deadletters import Letter, Selection, count_by_reason
from pipeline.replay.letter_status import Arrived, statuses
from pipeline.replay.letters import needed_since
from tests.oracle.wire import value

NOW = 1_790_000_000_000
GOOD = value(Event(NOW, CUSTOMER_MESSAGE, "/s", "m1", intent="help_request"), "acme", "c1")
KEY = b"acme:c1"


def letter(content: bytes | None = GOOD, offset: int = 7, redrives: int = 0) -> Letter:
    origin = ("events", 0, offset)
    return Letter(
        (0, offset), NOW, "future_time", "why", origin, NOW, KEY, content, (), redrives, ""
    )


def record(offset: int, content: bytes | None = GOOD, headers: Headers = ()) -> Arrived:
    return Arrived(("events", 0, offset), KEY, content, headers)


def redriven(number: int) -> Headers:
    return [(REDRIVES_HEADER, str(number).encode())]


def test_a_letter_is_open_if_its_own_record_is_all_there_is() -> None:
    assert statuses([letter()], [letter()], [record(7)]) == ["open"]


def test_a_letter_whose_record_was_sent_again_is_redriven() -> None:
    records = [record(7, b"{"), record(9, b"{", redriven(1))]

    assert statuses([letter(b"{")], [letter(b"{")], records) == ["redriven"]


def test_a_record_that_was_sent_again_and_rejected_again_has_one_open_letter() -> None:
    letters = [letter(b"{"), letter(b"{", 9, 1)]
    records = [record(7, b"{"), record(9, b"{", redriven(1))]

    assert statuses(letters, letters, records) == ["redriven", "open"]


@pytest.mark.parametrize("count", [b"9" * 5_000, b"x", b"", None])
def test_a_record_with_a_count_that_is_no_number_was_not_sent_again(count: bytes | None) -> None:
    records = [record(7, b"{"), record(9, b"{", [(REDRIVES_HEADER, count)])]

    assert statuses([letter(b"{")], [letter(b"{")], records) == ["open"]


def test_a_letter_is_accepted_if_an_event_with_its_identity_was_accepted() -> None:
    wrong = GOOD.replace(b"help_request", b"bliss")

    assert statuses([letter(wrong)], [letter(wrong)], [record(7, wrong), record(8)]) == ["accepted"]


def test_a_rejected_record_with_the_same_identity_accepts_nothing() -> None:
    rejected = [letter(), letter(offset=8)]

    assert statuses(rejected, rejected, [record(7), record(8)]) == ["open", "open"]


def test_letters_are_counted_by_status_and_selected_by_tenant_and_source() -> None:
    letters = [letter(), letter(b"{"), letter(None)]

    (count,) = count_by_reason(letters, ["open", "redriven", "accepted"]).values()

    assert (count.letters, count.open, count.redriven, count.accepted) == (3, 1, 1, 1)
    assert [Selection(source="/s").contains(each) for each in letters] == [True, False, False]
    assert all(Selection(tenant_id="acme").contains(each) for each in letters)
    assert not any(Selection(tenant_id="best").contains(each) for each in letters)


def test_only_partitions_that_can_have_the_record_again_are_needed() -> None:
    def partitions_of(*keys: bytes) -> set[int]:
        return {partition_of(key, 64, each) for key in keys for each in PARTITIONERS}

    elsewhere = msgspec.structs.replace(letter(), key=b"acme:wrong")
    earlier = msgspec.structs.replace(letter(), arrived=NOW - 1)
    unnamed = GOOD.replace(b'"subject"', b'"topic"')

    assert needed_since([], 64) == {}
    assert needed_since([letter(), earlier], 64) == dict.fromkeys(partitions_of(KEY), NOW - 1)
    assert set(needed_since([elsewhere], 64)) == partitions_of(b"acme:wrong", KEY)
    assert set(needed_since([letter(b"{")], 64)) == partitions_of(KEY)
    assert len(needed_since([letter(unnamed)], 64)) == 64
    assert len(needed_since([msgspec.structs.replace(letter(), key=None)], 64)) == 64
