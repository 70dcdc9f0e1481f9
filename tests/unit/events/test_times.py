"""Times convert between RFC 3339 text and whole milliseconds since the epoch."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events.times import format_time, parse_canonical, parse_time

FIRST_MS = parse_time("0001-01-01T00:00:00Z")
LAST_MS = parse_time("9999-12-31T23:59:59.999Z")
DAY_MS = 86_400_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2026-05-04T09:00:00.000Z", 1_777_885_200_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
    ],
)
def test_a_time_is_milliseconds_since_the_epoch(text: str, ms: int) -> None:
    assert parse_time(text) == ms
    assert parse_time(format_time(ms)) == ms


@pytest.mark.parametrize(
    "text",
    [
        "2026-05-04T09:00:00.000Z",
        "2026-05-04T09:00:00Z",
        "2026-05-04t09:00:00z",
        "2026-05-04T09:00:00.0Z",
        "2026-05-04T09:00:00+00:00",
        "2026-05-04T09:00:00-00:00",
        "2026-05-04T11:00:00+02:00",
        "2026-05-04T14:30:00.000+05:30",
        "2026-05-03T23:15:00-09:45",
        "2026-05-05T08:59:00+23:59",
    ],
)
def test_every_spelling_of_one_moment_gives_the_same_number(text: str) -> None:
    assert parse_time(text) == parse_canonical(text) == 1_777_885_200_000


@pytest.mark.parametrize(
    ("fraction", "ms"),
    [
        ("1", 100),
        ("12", 120),
        ("123", 123),
        ("1239", 123),
        ("0009", 0),
        ("999999999", 999),
        ("9" * 400, 999),
    ],
)
def test_a_fraction_is_cut_to_milliseconds_and_not_rounded(fraction: str, ms: int) -> None:
    assert parse_time(f"1970-01-01T00:00:00.{fraction}Z") == ms


def test_a_fraction_before_the_epoch_is_cut_to_the_earlier_millisecond() -> None:
    assert parse_time("1969-12-31T23:59:59.9999Z") == -1


def test_a_leap_second_counts_as_the_second_after_it() -> None:
    assert parse_time("2016-12-31T23:59:60.500Z") == parse_time("2017-01-01T00:00:00.500Z")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-05-04",
        "2026-05-04 09:00:00Z",
        "2026-05-04T09:00Z",
        "2026-05-04T09:00:00,5Z",
        "2026-05-04T09:00:00.Z",
        "2026-05-04T09:00:00+0200",
        "2026-05-04T09:00:00+02",
        "2026-5-4T9:0:0Z",
        "20260504T090000Z",
        "+2026-05-04T09:00:00Z",
        "2026-05-04T09:00:00Z\n",
        " 2026-05-04T09:00:00Z",
        "٢٠٢٦-05-04T09:00:00Z",
        "1777885200000",
    ],
)
def test_an_invalid_time_is_rejected_and_shown(text: str) -> None:
    with pytest.raises(ValueError, match="is not an RFC 3339 time"):
        parse_time(text)
    with pytest.raises(ValueError, match="is not an RFC 3339 time"):
        parse_canonical(text)


@pytest.mark.parametrize("text", ["2026-05-04T09:00:00", "2026-05-04t09:00:00.1239"])
def test_a_time_without_zone_is_rejected_with_the_fix(text: str) -> None:
    for parse in (parse_time, parse_canonical):
        with pytest.raises(ValueError, match=f"^'{text}' has no time zone: add Z or an offset"):
            parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-05-04T24:00:00Z",
        "2026-05-04T09:60:00Z",
        "2026-05-04T09:00:61Z",
        "2026-05-04T09:00:00+24:00",
        "2026-05-04T09:00:00+00:60",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-00:01",
        "0001-01-01T00:00:00+00:01",
    ],
)
def test_a_date_that_does_not_exist_is_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="is out of range"):
        parse_time(text)


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(ValueError, match="is not an RFC 3339 time") as caught:
        parse_time("x" * 100_000)

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (FIRST_MS, "0001-01-01T00:00:00.000Z"),
        (LAST_MS, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_is_written_in_utc_with_three_digits(ms: int, text: str) -> None:
    assert format_time(ms) == text


@given(st.integers(FIRST_MS, LAST_MS))
def test_reading_reverses_writing(ms: int) -> None:
    text = format_time(ms)

    assert len(text) == 24
    assert parse_time(text) == parse_canonical(text) == ms


@given(st.lists(st.integers(FIRST_MS, LAST_MS)))
def test_texts_sort_like_their_times(times: list[int]) -> None:
    assert sorted(map(format_time, times)) == [*map(format_time, sorted(times))]


@given(
    micros=st.integers((FIRST_MS + DAY_MS) * 1000, (LAST_MS - DAY_MS) * 1000),
    zone=st.integers(-1439, 1439),
    digits=st.integers(0, 6),
    letters=st.sampled_from(["TZ", "tz", "Tz"]),
)
def test_both_readers_agree_with_the_standard_library(
    micros: int, zone: int, digits: int, letters: str
) -> None:
    moment = EPOCH + timedelta(microseconds=micros)
    local = moment + timedelta(minutes=zone)
    fraction = f".{local.microsecond:06d}"[: digits + 1] if digits else ""
    offset = f"{'-' if zone < 0 else '+'}{abs(zone) // 60:02d}:{abs(zone) % 60:02d}"
    text = (
        f"{local:%Y-%m-%d}".zfill(10)
        + f"{letters[0]}{local:%H:%M:%S}{fraction}"
        + (offset if zone else letters[1])
    )
    written = moment.replace(microsecond=int((fraction[1:] or "0").ljust(6, "0")))
    expected = (written - EPOCH) // timedelta(milliseconds=1)

    # `parse_canonical` twice: the second call finds the text memoised.
    assert [parse_time(text), parse_canonical(text), parse_canonical(text)] == [expected] * 3
