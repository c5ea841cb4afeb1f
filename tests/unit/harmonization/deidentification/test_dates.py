"""Ages by the calendar, days relative to an index, and shifts that keep intervals."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.harmonization.deidentify_dates import (
    OLDEST,
    completed_years,
    relative_days,
    shift_days,
    shifted,
    top_coded,
)
from wardround.harmonization.events import Precision
from wardround.harmonization.times import DAY_US

KEY = bytes(range(32))
dates = st.dates(date(1850, 1, 1), date(2150, 12, 31))


def us(day):
    return (day - date(1970, 1, 1)).days * DAY_US


def ages(births, moments, precisions=None, **zone):
    kinds = None if precisions is None else pa.array(precisions, pa.int8())
    found = completed_years(pa.array(births, pa.int64()), pa.array(moments, pa.int64()), kinds, **zone)
    return list(zip(found.least.to_pylist(), found.most.to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("born", "at", "age"),
    [
        (date(2000, 2, 29), date(2001, 2, 28), 0),
        (date(2000, 2, 29), date(2001, 3, 1), 1),
        (date(2000, 2, 29), date(2004, 2, 29), 4),
        (date(1999, 3, 1), date(2004, 2, 29), 4),
        (date(1969, 12, 31), date(1970, 1, 1), 0),
        (date(1950, 6, 15), date(2026, 6, 14), 75),
        (date(1950, 6, 15), date(2026, 6, 15), 76),
        (date(1950, 6, 15), date(1950, 6, 15), 0),
        (date(1950, 6, 15), date(1950, 6, 14), None),
    ],
)
def test_an_age_is_counted_by_the_calendar(born, at, age):
    assert ages([us(born)], [us(at)]) == [(age, age)]


@given(dates, dates)
def test_an_age_is_the_number_of_birthdays_seen(born, at):
    def birthday(year):
        try:
            return born.replace(year=year)
        except ValueError:
            return date(year, 3, 1)

    seen = sum(birthday(year) <= at for year in range(born.year + 1, at.year + 1))
    expected = None if at < born else seen
    assert ages([us(born)], [us(at) + DAY_US - 1]) == [(expected, expected)]


@given(dates, dates, st.sampled_from([Precision.YEAR, Precision.MONTH]))
def test_a_vague_birth_gives_the_ages_of_its_earliest_and_latest_day(born, at, precision):
    first = born.replace(day=1) if precision == Precision.MONTH else born.replace(month=1, day=1)
    year, month = (
        (first.year + 1, 1) if precision == Precision.YEAR else (first.year + first.month // 12, first.month % 12 + 1)
    )
    last = date(year, month, 1) - timedelta(days=1)
    if at < last:
        return
    (exact_last,), (exact_first,) = ages([us(last)], [us(at)]), ages([us(first)], [us(at)])
    assert ages([us(first)], [us(at)], [int(precision)]) == [(exact_last[0], exact_first[1])]


def test_an_infant_of_unknown_month_is_not_of_negative_age():
    assert ages([us(date(2026, 1, 1))], [us(date(2026, 3, 1))], [int(Precision.YEAR)]) == [(0, 0)]


def test_unknown_births_and_moments_have_no_age_and_an_unknown_precision_is_the_vaguest():
    born = us(date(2000, 1, 1))
    assert ages([None, born, born], [born, None, us(date(2010, 6, 1))], [3, 3, None]) == [
        (None, None),
        (None, None),
        (9, 10),
    ]


def test_the_date_of_a_moment_is_the_site_s():
    at = datetime(2020, 5, 4, 23, 30, tzinfo=ZoneInfo("America/New_York")).astimezone(UTC)
    moment = int(at.timestamp()) * 1_000_000
    born = us(date(2000, 5, 5))
    assert ages([born], [moment], zone="America/New_York") == [(19, 19)]
    assert ages([born], [moment], zone="UTC") == [(20, 20)]


def test_everybody_from_ninety_on_is_ninety():
    assert top_coded(pa.array([0, 89, 90, 91, 300, None])).to_pylist() == [0, 89, OLDEST, OLDEST, OLDEST, None]


@given(st.lists(st.tuples(st.integers(-(2**55), 2**55), st.integers(-(2**55), 2**55)), max_size=5))
def test_relative_days_are_rounded_down_and_exact(rows):
    times, index = [row[0] for row in rows], [row[1] for row in rows]
    found = relative_days(pa.array([*times, None], pa.int64()), pa.array([*index, 0], pa.int64()))
    assert found.to_pylist() == [*((time - at) // DAY_US for time, at in rows), None]


def test_the_last_microsecond_of_a_day_is_of_that_day():
    assert relative_days(pa.array([300 * 366 * DAY_US - 1]), pa.array([0])).to_pylist() == [300 * 366 - 1]


def test_a_shift_is_its_patient_s_in_its_study_and_never_nothing():
    patients = pa.array([str(at) for at in range(4000)] + ["7"])
    days = shift_days(KEY, "s", patients, most=2).to_pylist()
    assert set(days) == {-2, -1, 1, 2}
    assert days[-1] == days[7]
    assert days != shift_days(KEY, "t", patients, most=2).to_pylist()
    assert days != shift_days(KEY[::-1], "s", patients, most=2).to_pylist()
    assert all(800 < days.count(one) < 1200 for one in (-2, -1, 1, 2))
    with pytest.raises(ValueError, match="one day"):
        shift_days(KEY, "s", patients, most=0)


def test_a_shift_keeps_intervals():
    moved = shifted(pa.array([0, 5, None]), pa.array([-3, -3, 1])).to_pylist()
    assert moved == [-3 * DAY_US, 5 - 3 * DAY_US, None]
