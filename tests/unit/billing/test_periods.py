"""Periods step as Stripe steps a billing cycle anchor, and have names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.billing.periods import ALWAYS_MS, DAY_MS, HOUR_MS, Calendar
from pipeline.events.times import parse_time


def calendar(*anchors: tuple[str | None, str]) -> Calendar:
    """Return the periods of anchors, each with the day from which it holds."""
    return Calendar(
        [
            (
                ALWAYS_MS if day is None else parse_time(f"{day}T00:00:00Z"),
                parse_time(f"{anchor}:00Z"),
            )
            for day, anchor in anchors
        ]
    )


def names(of: Calendar, first: str, count: int) -> list[str]:
    periods = [of.named(first)]
    while len(periods) < count:
        periods.append(of.after(periods[-1]))
    return [period.name for period in periods]


def test_a_day_that_a_month_lacks_becomes_its_last_day() -> None:
    assert names(calendar((None, "2026-01-31T05:00")), "2027-12", 5) == [
        *("2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31", "2028-04-30")
    ]


def test_periods_reach_back_before_the_anchor() -> None:
    assert names(calendar((None, "2026-08-15T00:00")), "2026-01", 2) == ["2026-01-15", "2026-02-15"]


def test_the_last_old_period_ends_at_the_new_anchors_first_boundary() -> None:
    of = calendar((None, "2026-01-01T00:00"), ("2026-11-20", "2026-01-15T00:00"))

    assert names(of, "2026-10", 4) == ["2026-10-01", "2026-11-01", "2026-12-01", "2026-12-15"]
    partial = of.named("2026-12-01")
    assert ((partial.end_ms - partial.start_ms) // DAY_MS, partial.whole_ms // DAY_MS) == (14, 31)


def test_an_anchor_with_the_same_boundaries_makes_no_partial_period() -> None:
    of = calendar((None, "2026-01-01T00:00"), ("2026-11-20", "2025-05-01T00:00"))

    assert names(of, "2026-11", 3) == ["2026-11-01", "2026-12-01", "2027-01-01"]
    assert of.named("2026-11").end_ms - of.named("2026-11").start_ms == 30 * DAY_MS


def test_an_anchor_that_is_replaced_before_its_first_boundary_has_no_period() -> None:
    of = calendar(
        (None, "2026-01-01T00:00"),
        ("2026-11-02", "2026-01-20T00:00"),
        ("2026-11-03", "2026-01-10T00:00"),
    )

    assert names(of, "2026-10", 3) == ["2026-10-01", "2026-11-01", "2026-11-10"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("2026-11-02", "no period begins then; the nearest begin on 2026-11-01 and 2026-11-15"),
        ("2026-11", "several periods begin then; write the start of one: 2026-11-01T00:00:00Z, "),
        ("2026-13", "is out of range"),
        ("November", "write a date such as 2026-11-01, or a month such as 2026-11"),
    ],
)
def test_a_name_that_is_not_of_one_period_is_refused(name: str, problem: str) -> None:
    of = calendar((None, "2026-01-01T00:00"), ("2026-11-01", "2026-01-15T00:00"))

    with pytest.raises(ValueError, match=problem):
        of.named(name)


def test_two_periods_that_begin_on_one_day_are_named_by_their_time() -> None:
    of = calendar((None, "2026-01-01T00:00"), ("2026-11-01", "2026-01-01T05:00"))

    with pytest.raises(ValueError, match="2026-11-01T00:00:00Z, 2026-11-01T05:00:00Z"):
        of.named("2026-11-01")
    assert of.named("2026-11-01T05:00:00Z").start_ms == parse_time("2026-11-01T05:00:00Z")


@given(
    st.integers(parse_time("0002-01-01T00:00:00Z"), parse_time("9999-12-31T00:00:00Z")),
    st.integers(0, 50 * 366 * 24),
)
def test_every_time_is_in_one_period(ms: int, anchor_hour: int) -> None:
    of = Calendar([(ALWAYS_MS, anchor_hour * HOUR_MS)])

    period = of.period_at(ms)

    assert period.start_ms <= ms < period.end_ms
    assert of.period_at(period.start_ms) == of.period_at(period.end_ms - 1) == period
    assert of.after(period).start_ms == period.end_ms
    assert of.named(period.name) == period
