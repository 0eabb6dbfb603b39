"""Which period is meant, which hours are in it, and the parts it falls into."""

import re
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.clock import epoch_ms, rfc3339
from kernel.errors import ValidationError
from kernel.metering.period import DAY_MS, Granularity, Period, moment
from kernel.storage.counts import HOUR_MS

NOW = epoch_ms("2024-03-15T10:30:00Z")
LAST_MS = epoch_ms("9999-12-31T23:59:59.999Z")
GRANULARITIES: list[Granularity] = ["hour", "day", "week", "month"]

periods = st.builds(
    lambda start, length, granularity: Period(start, min(start + length, LAST_MS), granularity),
    st.integers(0, LAST_MS),
    st.integers(0, 366 * DAY_MS),
    st.sampled_from(GRANULARITIES),
)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2024-01-15", "2024-01-15T00:00:00.000Z"),
        ("2024-01-15T10:00:00Z", "2024-01-15T10:00:00.000Z"),
        ("2024-01-15T10:00:00.25Z", "2024-01-15T10:00:00.250Z"),
        ("2024-03-31T02:30:00+02:00", "2024-03-31T00:30:00.000Z"),
        ("2024-02-29", "2024-02-29T00:00:00.000Z"),
        ("9999-12-31", "9999-12-31T00:00:00.000Z"),
        ("1970-01-01", "1970-01-01T00:00:00.000Z"),
    ],
)
def test_a_moment(text: str, means: str) -> None:
    assert rfc3339(moment(text)) == means


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "now", "1704067200", "2024", "2024-13-01", "2023-02-29", "2024-02-30", "2024-1-1"),
        *(
            "0000-01-01",
            "10000-01-01",
            "1969-12-31",
            "9999-12-31T23:59:59-01:00",
            "1970-01-01T00:00:00+01:00",
        ),
        *("2024-01-01T00:00:00", "2024-01-01 00:00:00Z", "2024-01-01T00:00:60Z", "2024-01-01T24:00:00Z"),
        *("2024-01-01T00:00:00+25:00", "2024-01-01Z", "2024-W01-1", "٢٠٢٤-01-01", "2024-01-01\n"),
    ],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|is not"):
        moment(text)


class TestBounds:
    def test_the_last_thirty_days_are_usual(self) -> None:
        period = Period.of(None, None, "day", NOW)
        assert (period.start, period.end) == (NOW - 30 * DAY_MS, NOW)

    def test_one_end_is_enough(self) -> None:
        assert Period.of(NOW - DAY_MS, None, "day", NOW).end == NOW
        assert Period.of(None, NOW - DAY_MS, "day", NOW).start == NOW - 31 * DAY_MS
        assert Period.of(None, DAY_MS, "day", NOW).start == 0

    def test_the_future_and_nothing_are_periods(self) -> None:
        later = NOW + 400 * DAY_MS
        assert Period.of(later, None, "day", NOW).parts() == []
        assert len(Period.of(later, later + DAY_MS, "hour", NOW).parts()) in (24, 25)

    @pytest.mark.parametrize("length", [-1, 366 * DAY_MS + 1])
    def test_backwards_and_too_long_are_refused(self, length: int) -> None:
        with pytest.raises(ValidationError) as refused:
            Period.of(NOW, NOW + length, "day", NOW)
        assert refused.value.details["field"] == "start_date"

    def test_a_year_is_not_too_long(self) -> None:
        assert len(Period.of(0, 366 * DAY_MS, "hour", NOW).parts()) == 8784

    def test_an_hour_belongs_where_it_begins(self) -> None:
        assert Period(1, HOUR_MS).hours == range(1, 1)
        assert Period(0, HOUR_MS + 1).hours == range(0, 2)
        assert len(Period(NOW, NOW).hours) == 0


class TestParts:
    @pytest.mark.parametrize(
        ("granularity", "starts"),
        [
            ("day", ["2024-01-31T12:00", "2024-02-01T00:00", "2024-02-02T00:00"]),
            ("week", ["2024-01-31T12:00"]),
            ("month", ["2024-01-31T12:00", "2024-02-01T00:00"]),
        ],
    )
    def test_are_cut_to_the_period(self, granularity: Granularity, starts: list[str]) -> None:
        period = Period(epoch_ms("2024-01-31T12:00:00Z"), epoch_ms("2024-02-02T06:00:00Z"), granularity)
        parts = period.parts()
        assert [rfc3339(start)[:16] for start, _ in parts] == starts
        assert parts[-1][1] == period.end

    def test_weeks_begin_on_monday(self) -> None:
        period = Period(moment("2024-01-01"), moment("2024-02-01"), "week")
        assert [rfc3339(start)[:10] for start, _ in period.parts()] == [
            "2024-01-01",
            "2024-01-08",
            "2024-01-15",
            "2024-01-22",
            "2024-01-29",
        ]

    def test_the_last_month_there_is(self) -> None:
        parts = Period(moment("9999-11-15"), LAST_MS, "month").parts()
        assert [rfc3339(start)[:10] for start, _ in parts] == ["9999-11-15", "9999-12-01"]

    @given(periods)
    def test_cover_the_period_once_and_begin_where_they_should(self, period: Period) -> None:
        parts = period.parts()
        if period.start == period.end:
            assert parts == []
            return
        assert (parts[0][0], parts[-1][1]) == (period.start, period.end)
        assert all(before[1] == after[0] for before, after in pairwise(parts))
        assert all(start < end for start, end in parts)
        assert all(_begins(start, period.granularity) for start, _ in parts[1:])

    @given(periods)
    def test_hours_are_those_of_the_clock(self, period: Period) -> None:
        hours = period.hours
        assert all(period.start <= hour * HOUR_MS < period.end for hour in (*hours[:1], *hours[-1:]))
        assert (hours.start - 1) * HOUR_MS < period.start
        assert hours.stop * HOUR_MS >= period.end


def _begins(ms: int, granularity: Granularity) -> bool:
    """Whether a part begins at this moment, by the calendar."""
    at = datetime.fromtimestamp(ms // 1000, UTC)
    patterns = {
        "hour": r"00:00 .*",
        "day": r"00:00 00 .*",
        "week": r"00:00 00 .. 1",
        "month": r"00:00 00 01 .",
    }
    return re.fullmatch(patterns[granularity], f"{at:%M:%S %H %d %u}") is not None and ms % 1000 == 0
