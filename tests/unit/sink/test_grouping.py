"""Grouping loses no record, uses none twice, and sends no negative value."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger.entries import HOUR_MS, MeterEvent, PendingRecord
from pipeline.sink.grouping import (
    GROUP_RECORDS_MAX,
    Destination,
    Group,
    freeze,
    group_records,
    identifier_of,
)

NOON = 490_000 * HOUR_MS
DESTINATION = Destination("acme", "resolution", "cus_1", "m")


def digest(event: MeterEvent) -> str:
    """Stand in for a biller's digest of a call."""
    return f"{event.identifier} {event.customer} {event.value}"


def record(seq: int, quantity: int, hour: int = 0, ms: int = 0) -> PendingRecord:
    return PendingRecord(seq, f"acme:c{seq}:1", quantity, NOON + hour * HOUR_MS + ms)


records_of_a_day = st.lists(
    st.tuples(st.sampled_from([1, 1, 1, -1, -1]), st.integers(0, 5), st.integers(0, HOUR_MS - 1)),
    max_size=40,
).map(lambda drawn: [record(seq, *parts) for seq, parts in enumerate(drawn)])


@given(records_of_a_day)
def test_every_record_is_grouped_or_carried(records: list[PendingRecord]) -> None:
    grouping = group_records(records)

    records_after = [r for group in grouping.groups for r in group.records] + list(grouping.carried)
    assert sorted(records_after) == sorted(records)
    planned = sum(group.value for group in grouping.groups)
    carried = sum(r.quantity for r in grouping.carried)
    assert planned + carried == sum(r.quantity for r in records)


@given(records_of_a_day)
def test_each_value_is_the_sum_of_its_records_and_never_below_zero(
    records: list[PendingRecord],
) -> None:
    for group in group_records(records).groups:
        assert group.value == sum(r.quantity for r in group.records)
        assert group.value >= 0
        assert group.timestamp * 1000 // HOUR_MS == group.hour


@given(records_of_a_day)
def test_units_known_to_be_taken_back_are_never_sent(records: list[PendingRecord]) -> None:
    grouping = group_records(records)

    total = sum(r.quantity for r in records)
    assert sum(group.value for group in grouping.groups) == max(0, total)
    assert sum(r.quantity for r in grouping.carried) == min(0, total)
    if total >= 0:
        assert not grouping.carried


@given(records_of_a_day, st.integers())
def test_the_order_of_the_records_does_not_matter(records: list[PendingRecord], seed: int) -> None:
    shuffled = list(records)
    random.Random(seed).shuffle(shuffled)

    assert group_records(shuffled) == group_records(records)


@given(records_of_a_day)
def test_no_hour_is_grouped_twice(records: list[PendingRecord]) -> None:
    hours = [group.hour for group in group_records(records).groups if group.value]

    assert hours == sorted(set(hours))


def test_each_hour_has_its_own_group() -> None:
    grouping = group_records(
        [record(1, 1, hour=0, ms=5), record(2, 1, hour=1), record(3, 1, hour=1, ms=9_999)]
    )

    assert [(g.hour - 490_000, g.value) for g in grouping.groups] == [(0, 1), (1, 2)]
    assert grouping.groups[1].timestamp == (NOON + HOUR_MS + 9_999) // 1000


def test_timestamp_is_that_of_the_newest_charge_not_of_a_reversal() -> None:
    grouping = group_records([record(1, 1, ms=1000), record(2, 1, ms=2000), record(3, -1, ms=3000)])

    assert grouping.groups[0].timestamp == (NOON + 2000) // 1000


def test_a_negative_hour_reduces_the_next_one() -> None:
    grouping = group_records(
        [record(1, -1, hour=0), record(2, 1, hour=3), record(3, 1, hour=3, ms=1)]
    )

    assert [(g.hour - 490_000, g.value, len(g.records)) for g in grouping.groups] == [(3, 1, 3)]


def test_a_negative_sum_after_the_last_hour_reduces_the_newest_group() -> None:
    grouping = group_records([record(1, 1, hour=0), record(2, 1, hour=1), record(3, -1, hour=2)])

    assert [(g.hour - 490_000, g.value) for g in grouping.groups] == [(0, 1), (2, 0)]


def test_reversals_without_a_charge_stay_pending() -> None:
    grouping = group_records([record(1, -1), record(2, -1, hour=1), record(3, 1, hour=1)])

    assert [r.quantity for r in grouping.carried] == [-1]
    assert [(g.value, len(g.records)) for g in grouping.groups] == [(0, 2)]


@given(records_of_a_day)
def test_only_reversals_are_carried(records: list[PendingRecord]) -> None:
    assert {r.quantity for r in group_records(records).carried} <= {-1}


def test_records_that_cancel_out_are_netted() -> None:
    grouping = group_records([record(1, 1), record(2, -1, hour=1)])

    assert [(g.value, len(g.records)) for g in grouping.groups] == [(0, 2)]
    assert freeze(grouping.groups[0], DESTINATION, digest).event.state == "netted"


def test_identifier_does_not_depend_on_the_order_of_the_records() -> None:
    group = group_records([record(1, 1), record(2, 1)]).groups[0]
    reversed_ = Group(group.hour, group.value, group.timestamp, group.records[::-1])

    identifier = identifier_of(group, "acme", "resolution")
    assert identifier == identifier_of(reversed_, "acme", "resolution")
    assert len(identifier) <= 100
    assert identifier != identifier_of(group, "acme", "qualification")
    assert identifier != identifier_of(
        group_records([record(1, 1)]).groups[0], "acme", "resolution"
    )


def test_freezing_a_group_twice_gives_the_same_meter_event() -> None:
    group = group_records([record(1, 1), record(2, 1)]).groups[0]

    first, second = (freeze(group, DESTINATION, digest) for _ in range(2))
    assert first == second
    assert first.event.value == 2
    other = freeze(group, DESTINATION._replace(customer="cus_2"), digest)
    assert other.event.body_sha256 != first.event.body_sha256


def test_no_group_is_too_large_for_an_entry_of_the_journal() -> None:
    """After a rebill has taken back very many units, as many charges may be pending at once."""
    records = [record(n, -1) for n in range(25_000)]
    records += [record(n, 1, hour=1 + n % 3) for n in range(25_000, 50_007)]

    groups = group_records(records).groups

    assert max(len(group.records) for group in groups) <= GROUP_RECORDS_MAX
    assert sorted(r for group in groups for r in group.records) == sorted(records)
    assert [group.value for group in groups if group.value] == [7]
    assert all(group.value == sum(r.quantity for r in group.records) for group in groups)
    events = [freeze(group, DESTINATION, digest).event for group in groups]
    assert [event.state for event in events].count("planned") == 1
    assert len({event.identifier for event in events}) == len(groups)
