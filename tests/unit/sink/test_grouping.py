"""Adding up: nothing is lost, nothing is twice, nothing below zero goes out."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger.entries import PendingRecord
from pipeline.sink.grouping import HOUR_MS, Group, fix, identifier_of, plan

NOON = 490_000 * HOUR_MS


def record(seq: int, quantity: int, hour: int = 0, ms: int = 0) -> PendingRecord:
    return PendingRecord(seq, f"acme:c{seq}:1", quantity, NOON + hour * HOUR_MS + ms)


records_of_a_day = st.lists(
    st.tuples(st.sampled_from([1, 1, 1, -1, -1]), st.integers(0, 5), st.integers(0, HOUR_MS - 1)),
    max_size=40,
).map(lambda drawn: [record(seq, *parts) for seq, parts in enumerate(drawn)])


@given(records_of_a_day)
def test_what_is_planned_and_what_is_carried_are_all_of_it(records: list[PendingRecord]) -> None:
    made = plan(records)

    found = [r for group in made.groups for r in group.records] + list(made.carried)
    assert sorted(found) == sorted(records)
    planned = sum(group.value for group in made.groups)
    carried = sum(r.quantity for r in made.carried)
    assert planned + carried == sum(r.quantity for r in records)


@given(records_of_a_day)
def test_each_value_is_the_sum_of_its_records_and_never_below_zero(
    records: list[PendingRecord],
) -> None:
    for group in plan(records).groups:
        assert group.value == sum(r.quantity for r in group.records)
        assert group.value >= 0
        assert group.timestamp * 1000 // HOUR_MS == group.hour


@given(records_of_a_day)
def test_what_is_known_to_be_taken_back_is_never_sent(records: list[PendingRecord]) -> None:
    made = plan(records)

    total = sum(r.quantity for r in records)
    assert sum(group.value for group in made.groups) == max(0, total)
    assert sum(r.quantity for r in made.carried) == min(0, total)
    if total >= 0:
        assert not made.carried


@given(records_of_a_day, st.integers())
def test_the_order_of_arrival_is_irrelevant(records: list[PendingRecord], seed: int) -> None:
    shuffled = list(records)
    random.Random(seed).shuffle(shuffled)

    assert plan(shuffled) == plan(records)


@given(records_of_a_day)
def test_no_hour_is_planned_twice(records: list[PendingRecord]) -> None:
    hours = [group.hour for group in plan(records).groups if group.value]

    assert hours == sorted(set(hours))


def test_hours_are_separate() -> None:
    made = plan([record(1, 1, hour=0, ms=5), record(2, 1, hour=1), record(3, 1, hour=1, ms=9_999)])

    assert [(g.hour - 490_000, g.value) for g in made.groups] == [(0, 1), (1, 2)]
    assert made.groups[1].timestamp == (NOON + HOUR_MS + 9_999) // 1000


def test_the_timestamp_is_that_of_the_newest_charge_not_of_a_correction() -> None:
    made = plan([record(1, 1, ms=1000), record(2, 1, ms=2000), record(3, -1, ms=3000)])

    assert made.groups[0].timestamp == (NOON + 2000) // 1000


def test_a_negative_hour_lessens_the_next_one() -> None:
    made = plan([record(1, -1, hour=0), record(2, 1, hour=3), record(3, 1, hour=3, ms=1)])

    assert [(g.hour - 490_000, g.value, len(g.records)) for g in made.groups] == [(3, 1, 3)]


def test_a_negative_end_lessens_what_was_not_sent_before_it() -> None:
    made = plan([record(1, 1, hour=0), record(2, 1, hour=1), record(3, -1, hour=2)])

    assert [(g.hour - 490_000, g.value) for g in made.groups] == [(0, 1), (2, 0)]


def test_what_stays_negative_stays_pending() -> None:
    made = plan([record(1, -1), record(2, -1, hour=1), record(3, 1, hour=1)])

    assert [r.quantity for r in made.carried] == [-1]
    assert [(g.value, len(g.records)) for g in made.groups] == [(0, 2)]


@given(records_of_a_day)
def test_what_is_carried_holds_nothing_that_cancels_out(records: list[PendingRecord]) -> None:
    assert {r.quantity for r in plan(records).carried} <= {-1}


def test_what_cancels_out_is_netted_with_nothing_to_send() -> None:
    made = plan([record(1, 1), record(2, -1, hour=1)])

    assert [(g.value, len(g.records)) for g in made.groups] == [(0, 2)]
    assert fix(made.groups[0], "acme", "resolution", "cus_1", "m").event.state == "netted"


def test_the_identifier_is_that_of_the_records_whatever_their_order() -> None:
    group = plan([record(1, 1), record(2, 1)]).groups[0]
    turned = Group(group.hour, group.value, group.timestamp, group.records[::-1])

    identifier = identifier_of(group, "acme", "resolution")
    assert identifier == identifier_of(turned, "acme", "resolution")
    assert len(identifier) <= 100
    assert identifier != identifier_of(group, "acme", "qualification")
    assert identifier != identifier_of(plan([record(1, 1)]).groups[0], "acme", "resolution")


def test_a_meter_event_is_the_same_however_often_it_is_fixed() -> None:
    group = plan([record(1, 1), record(2, 1)]).groups[0]

    first, second = (fix(group, "acme", "resolution", "cus_1", "m") for _ in range(2))
    assert first == second
    assert first.event.value == 2
    other = fix(group, "acme", "resolution", "cus_2", "m")
    assert other.event.body_sha256 != first.event.body_sha256
