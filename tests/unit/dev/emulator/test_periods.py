"""Periods step from the anchor's day, and money is rounded once to what the currency has."""

import calendar
import itertools
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dev.emulator.money import times
from pipeline.dev.emulator.periods import Cycle, next_day_of_month

anchors = st.integers(1_704_067_200, 1_893_456_000)  # from 2024 to 2030


def date(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


@given(anchors, st.sampled_from(["month", "year"]), st.integers(1, 12), st.integers(-40, 40))
def test_each_boundary_has_the_day_of_the_anchor_or_the_last_of_a_month_that_lacks_it(
    anchor: int, interval: str, every: int, number: int
) -> None:
    boundary = date(Cycle(anchor, interval, every).boundary(number))

    start = date(anchor)
    assert boundary.day == min(start.day, calendar.monthrange(boundary.year, boundary.month)[1])
    assert boundary.time() == start.time()
    months = (boundary.year - start.year) * 12 + boundary.month - start.month
    assert months == number * every * (12 if interval == "year" else 1)


@given(
    anchors,
    st.sampled_from(["day", "week", "month", "year"]),
    st.integers(1, 6),
    st.integers(-(10**8), 10**8),
)
def test_a_period_ends_at_the_first_boundary_after_its_start(
    anchor: int, interval: str, every: int, offset: int
) -> None:
    cycle = Cycle(anchor, interval, every)
    at = anchor + offset
    end = cycle.after(at)

    assert at < end
    number = next(n for n in itertools.count() if end in {cycle.boundary(n), cycle.boundary(-n)})
    before = cycle.boundary(number - 1 if end == cycle.boundary(number) else -number - 1)
    assert before <= at


def test_january_31_bills_on_february_28_and_returns_to_the_31st() -> None:
    cycle = Cycle(int(datetime(2027, 1, 31, tzinfo=UTC).timestamp()), "month", 1)

    days = [date(cycle.boundary(number)).strftime("%m-%d") for number in range(5)]

    assert days == ["01-31", "02-28", "03-31", "04-30", "05-31"]


@given(anchors, st.integers(1, 31), st.integers(0, 23))
def test_the_next_day_of_a_month_is_after_the_time_and_within_a_month(
    at: int, day: int, hour: int
) -> None:
    found = date(next_day_of_month(at, day, hour, 0, 0))

    assert 0 < found.timestamp() - at <= 31 * 86_400
    assert found.day == min(day, calendar.monthrange(found.year, found.month)[1])


@pytest.mark.parametrize(("currency", "step"), [("usd", 1), ("jpy", 1), ("isk", 100), ("kwd", 10)])
@given(
    unit=st.decimals(-1_000, 1_000, allow_nan=False, places=12),
    quantity=st.integers(0, 10**9),
)
def test_a_product_is_rounded_once_halves_away_from_zero(
    currency: str, step: int, unit: Decimal, quantity: int
) -> None:
    amount = times(unit, quantity, currency)

    exact = unit * quantity / step
    assert amount == exact.quantize(Decimal(1), ROUND_HALF_UP) * step
