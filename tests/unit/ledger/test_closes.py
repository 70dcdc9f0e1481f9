"""What a closing knew: the records before its offsets, wherever the offsets began again."""

from collections.abc import Mapping

import pytest

from pipeline.billing.approvals import Decisions
from pipeline.billing.contract import Contract
from pipeline.billing.periods import Calendar
from pipeline.ledger.closes import Closed, Closes, Reading, Restart

CALENDAR = Calendar()
TOPIC = "usage.records"
MADE_AGAIN = Restart(None, "second", "first", after_record=10, after_closing=1)
CUT = Restart(0, None, None, after_record=10, after_closing=1)


def closed(
    month: int, offsets: Mapping[int, int], topic_id: str = "", seq: int | None = None
) -> Closed:
    period = CALENDAR.named(f"2026-{month:02}")
    return Closed(
        period_start=period.start_ms,
        period_end=period.end_ms,
        closed_at=period.end_ms + 1,
        seq=month if seq is None else seq,
        topic=TOPIC,
        topic_id=topic_id,
        customer="",
        offsets=offsets,
        grants=0,
        statement="",
        waived=(),
    )


def closes(
    *closings: Closed,
    restarts: tuple[Restart, ...] = (),
    offsets: Mapping[int, int] | None = None,
    topic_id: str = "",
) -> Closes:
    ids = {TOPIC: topic_id} if topic_id else {}
    reading = Reading(ids, {TOPIC: offsets or {}}, restarts)
    return Closes("acme", Contract("usd"), closings, reading, Decisions())


def test_a_closing_knows_the_records_before_its_offsets() -> None:
    two = closes(closed(1, {0: 5}), closed(2, {0: 9, 1: 2}))

    known = [two.first_knowing(0, seq=100, offset=offset) for offset in (4, 5, 8, 9)]

    assert known == [0, 1, 1, 2]
    assert [two.first_knowing(1, 1, offset) for offset in (0, 1, 2)] == [1, 1, 2]
    assert two.first_knowing(2, 1, 0) == 2  # a partition that nobody had read


@pytest.mark.parametrize("restart", [MADE_AGAIN, CUT])
def test_after_its_offsets_began_anew_an_older_closing_knows_no_new_record(
    restart: Restart,
) -> None:
    two = closes(closed(1, {0: 5}), closed(2, {0: 3}), restarts=(restart,))

    assert two.first_knowing(0, seq=10, offset=4) == 0
    assert two.first_knowing(0, seq=10, offset=5) == 1  # the second knows all from before
    assert two.first_knowing(0, seq=11, offset=2) == 1
    assert two.first_knowing(0, seq=11, offset=3) == 2


def test_a_partition_that_was_cut_changes_nothing_for_another() -> None:
    two = closes(closed(1, {0: 5, 1: 5}), closed(2, {0: 3, 1: 9}), restarts=(CUT,))

    assert two.first_knowing(1, seq=11, offset=4) == 0


@pytest.mark.parametrize(
    ("topic_id", "known"), [("first", [0, 1, 1]), ("second", [0, 0, 0]), ("", [0, 1, 1])]
)
def test_the_topics_id_says_of_which_records_a_closing_speaks(
    topic_id: str, known: list[int]
) -> None:
    """Its ledger may have noticed the new topic earlier than this one."""
    one = closes(closed(1, {0: 5}, topic_id), restarts=(MADE_AGAIN,))

    assert [
        one.first_knowing(0, seq, offset) for seq, offset in ((10, 4), (10, 5), (11, 4))
    ] == known


def test_a_closing_of_a_topic_that_the_ledger_never_read_knows_nothing_here() -> None:
    one = closes(closed(1, {0: 5}, "first"), topic_id="second", offsets={0: 5})

    assert one.first_knowing(0, 1, 0) == 1
    assert one.reading.is_behind(one.closings[0])


@pytest.mark.parametrize(
    ("offsets", "is_behind"),
    [
        ({}, True),
        ({0: 4, 1: 9}, True),
        ({0: 5}, True),
        ({0: 5, 1: 2}, False),
        ({0: 9, 1: 9}, False),
    ],
)
def test_a_ledger_is_behind_a_closing_until_it_has_read_all_that_the_closing_knew(
    offsets: dict[int, int], *, is_behind: bool
) -> None:
    one = closes(closed(1, {0: 5, 1: 2}), offsets=offsets)

    assert one.reading.is_behind(one.closings[0]) is is_behind


def test_what_a_topic_no_longer_has_is_not_waited_for() -> None:
    one = closes(closed(1, {0: 5}), restarts=(MADE_AGAIN,), offsets={})

    assert not one.reading.is_behind(one.closings[0])
