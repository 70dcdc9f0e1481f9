"""What the states of a partition were made from is stored, compared with the log, and acknowledged."""

import pytest

from pipeline.errors import UnknownStateError
from pipeline.kafka.bounds import Acknowledgement, Bounds, TopicFacts
from pipeline.stream.basis import (
    Basis,
    decode_basis,
    differences,
    encode_basis,
    lost_range,
    newest_basis,
)

TOPIC = TopicFacts("id-1", {0: 1, 1: 2})
BASIS = Basis().on(TOPIC)
BOUNDS = Bounds(10, 20, 20)
KNOWN = Acknowledgement(9, "ada", "known", "2026-11-27T08:00:00Z", "id-1")


def found(basis: Basis = BASIS, topic: TopicFacts = TOPIC, read_up_to: int | None = 15) -> str:
    return "\n".join(differences("events[1]", basis, topic, BOUNDS, read_up_to))


def test_a_log_that_goes_on_is_accepted() -> None:
    assert found() == ""
    assert found(read_up_to=20) == ""
    assert found(read_up_to=None) == ""
    assert found(basis=Basis()) == ""  # an older version wrote no basis


def test_brokers_that_give_no_topic_id_are_accepted() -> None:
    assert found(topic=TOPIC._replace(topic_id="")) == ""
    assert BASIS.on(TOPIC._replace(topic_id="")) == BASIS


def test_another_topic_is_refused_by_its_id() -> None:
    message = found(topic=TOPIC._replace(topic_id="id-2"))

    assert "events[1]" in message
    assert "id-1" in message
    assert "id-2 now" in message
    assert "Bring back the topic" in message


def test_states_beyond_the_end_of_the_log_are_refused() -> None:
    message = found(read_up_to=23)

    assert "up to offset 23, but the log ends at offset 20: 3 records are gone" in message
    assert "unclean election" in message


def test_another_number_of_partitions_is_refused() -> None:
    message = found(topic=TOPIC._replace(leaders={0: 1, 1: 1, 2: 1}))

    assert "had 2 partitions" in message
    assert "and has 3 now" in message
    assert "RESMETER_TOPICS__PARTITIONS" not in message


@pytest.mark.parametrize(
    ("next_offset", "came", "lost"),
    [
        (None, 10, range(0)),  # nothing was read before
        (4, 10, range(4, 10)),
        (4, None, range(4, 10)),
        (10, 10, range(0)),
        (12, 15, range(0)),  # the marker of a transaction, or records that were aborted
        (4, 8, range(4, 8)),  # retention went on after that record was fetched
        (12, 11, range(0)),  # delivered again
    ],
)
def test_only_offsets_below_the_low_watermark_are_lost(
    next_offset: int | None, came: int | None, lost: range
) -> None:
    assert list(lost_range(BOUNDS, next_offset, came)) == list(lost)


def test_what_is_stored_is_read_back() -> None:
    basis = BASIS.with_loss(2, 9).with_loss(11, 13)

    assert decode_basis(encode_basis(basis)) == basis
    assert basis.lost_records == 9


def test_an_acknowledgement_takes_the_ranges_before_its_offset() -> None:
    basis = BASIS.with_loss(2, 9).with_loss(11, 13)

    known = basis.with_acknowledgement(KNOWN)

    assert known.lost == ((11, 13),)
    assert known.acknowledged == KNOWN
    assert known.with_acknowledgement(KNOWN) is known
    assert basis.with_acknowledgement(KNOWN._replace(until=8)) is basis
    assert basis.with_acknowledgement(KNOWN._replace(topic_id="id-0")) is basis


@pytest.mark.parametrize(
    ("again", "lost"),
    [
        ((2, 9), ((2, 9), (11, 13))),  # a rebalance came before the offset was committed
        ((2, 13), ((2, 13),)),
        ((9, 11), ((2, 13),)),
        ((0, 5), ((0, 9), (11, 13))),
        ((12, 20), ((2, 9), (11, 20))),
        ((15, 17), ((2, 9), (11, 13), (15, 17))),
    ],
)
def test_a_loss_that_is_found_twice_counts_once(
    again: tuple[int, int], lost: tuple[tuple[int, int], ...]
) -> None:
    assert BASIS.with_loss(2, 9).with_loss(11, 13).with_loss(*again).lost == lost


def test_what_is_known_already_changes_nothing() -> None:
    lost = BASIS.with_loss(2, 9)
    assert lost.with_loss(4, 9) is lost

    known = lost.with_acknowledgement(KNOWN)
    assert known.with_loss(2, 9) is known
    assert known.with_loss(2, 12).lost == ((9, 12),)


def test_many_ranges_are_joined_and_none_is_forgotten() -> None:
    basis = BASIS
    for n in range(100):
        basis = basis.with_loss(n * 10, n * 10 + 1)

    assert len(basis.lost) == 20
    assert (basis.lost[0][0], basis.lost[-1][1]) == (0, 991)
    assert len(encode_basis(basis)) < 1_000


def test_the_clock_records_of_an_older_version_change_nothing() -> None:
    for value in (b"", None):
        assert newest_basis(value, BASIS) == BASIS
        assert newest_basis(value, None) is None


def test_an_older_basis_that_a_paused_worker_wrote_later_does_not_count() -> None:
    newer = BASIS.with_loss(2, 9)

    assert newest_basis(encode_basis(BASIS), newer) == newer
    assert newest_basis(encode_basis(newer), BASIS) == newer


def test_members_of_a_later_version_are_skipped() -> None:
    assert decode_basis(b'{"topic_id":"id-1","partitions":2,"changes":1,"new":5}') == BASIS


def test_a_clock_record_that_no_worker_wrote_is_named() -> None:
    with pytest.raises(UnknownStateError, match="no worker wrote it"):
        decode_basis(b"hello")
