"""Instants: as `zoneinfo` has them for every zone, year and spelling, and the same one by one as in bulk."""

# ruff: noqa: DTZ001, local times are what is tested

import zoneinfo
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import ConfigError
from wardround.harmonization import times
from wardround.harmonization.events import Precision

EPOCH = datetime(1970, 1, 1)
ZONES = [
    "America/New_York",
    "Europe/Berlin",
    "Europe/Dublin",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/Cambridge_Bay",
    "Asia/Kathmandu",
    "America/St_Johns",
    "UTC",
]
zones = st.sampled_from(ZONES)
local_times = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31))
near_change = st.builds(
    lambda year, month, day, minute: datetime(year, month, day) + timedelta(minutes=minute),
    st.sampled_from([1916, 1967, 1987, 2007, 2020, 2037, 2038, 2101, 2164]),
    st.sampled_from([3, 4, 10, 11]),
    st.integers(1, 30),
    st.integers(0, 300),
)


def micros(naive):
    return (naive - EPOCH) // timedelta(microseconds=1)


def expected(naive, zone):
    """The rule in zoneinfo's own words: fold 0 of two, and in a gap the first instant after it."""
    where = zoneinfo.ZoneInfo(zone)
    first, second = (naive.replace(tzinfo=where, fold=fold).utcoffset() for fold in (0, 1))
    if first == second:
        return micros(naive - first), ""
    if first > second:
        return micros(naive - first), times.AMBIGUOUS
    low, high = micros(naive - second) - 1, micros(naive - first)
    while high - low > 1:
        middle = (low + high) // 2
        at = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=middle)).astimezone(where).utcoffset()
        low, high = (middle, high) if at == first else (low, middle)
    return high, times.GAP


@settings(max_examples=300)
@given(naive=st.one_of(local_times, near_change), zone=zones)
def test_a_local_time_is_the_instant_that_zoneinfo_says(naive, zone):
    moment = times.parse(naive.isoformat(sep=" ", timespec="microseconds"), zone)
    assert (moment.time_us, moment.remark) == expected(naive, zone)


@settings(max_examples=60)
@given(naive=st.lists(st.one_of(local_times, near_change), min_size=1, max_size=20), zone=zones)
def test_in_bulk_as_one_by_one(naive, zone):
    found, counts = times.localize(pa.array(naive, pa.timestamp("us")), zone)
    singly = [expected(one, zone) for one in naive]
    assert found.to_pylist() == [time_us for time_us, _ in singly]
    remarks = [remark for _, remark in singly if remark]
    assert counts == {remark: remarks.count(remark) for remark in set(remarks)}


@pytest.mark.parametrize("zone", ZONES)
def test_the_edges_of_a_year_are_like_any_day(zone):
    edges = [datetime(year, 1, 1) + timedelta(hours=hours) for year in (1990, 2020, 2164) for hours in range(-15, 16)]
    for edge in edges:
        found, counts = times.localize(pa.array([edge], pa.timestamp("us")), zone)
        assert (found.to_pylist(), counts) == ([expected(edge, zone)[0]], {})


def test_daylight_saving_does_not_end_in_2037():
    summer, _ = times.localize(pa.array([datetime(2164, 7, 1)], pa.timestamp("us")), "America/New_York")
    assert summer.to_pylist() == [micros(datetime(2164, 7, 1, 4))]


@pytest.mark.parametrize("zone", sorted(zoneinfo.available_timezones())[::9])
def test_the_changes_of_a_year_are_found_in_every_zone(zone):
    hours = [datetime(2019, 12, 31) + timedelta(hours=hour) for hour in range(0, 367 * 24, 7)]
    found, skipped, twice = times.instants(np.array([micros(hour) for hour in hours]), zone)
    assert [
        (int(at), times.GAP if gap else times.AMBIGUOUS if again else "")
        for at, gap, again in zip(found, skipped, twice, strict=True)
    ] == [expected(hour, zone) for hour in hours]


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-14 * 60, 14 * 60))
def test_a_stated_offset_needs_no_zone(naive, minutes):
    sign = "-" if minutes < 0 else "+"
    text = f"{naive.isoformat(timespec='microseconds')}{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    moment = times.parse(text, None)
    assert moment.time_us == micros(naive) - minutes * 60_000_000


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("2020", Precision.YEAR),
        ("2020-03", Precision.MONTH),
        ("2020-03-01", Precision.DAY),
        ("2020-03-01 10:20", Precision.MINUTE),
        ("2020-03-01T10:20:30", Precision.SECOND),
        ("2020-03-01T10:20:30.5", Precision.EXACT),
        ("2020-03-01T10:20:30.123456789Z", Precision.EXACT),
    ],
)
def test_a_time_says_how_exactly_it_is_known(text, precision):
    assert times.parse(text, "UTC").precision == precision


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20",
        "01.02.2020",
        "2020-13-01",
        "2020-02-30",
        "2021-02-29",
        "0000-01-01",
        "2020-01-01 24:00",
        "2020-01-01 10:61",
        "2020-01-01 10:20:61",
        "2020-01-01 10:20:99",
        "2020-01-01T10:20+15:00",
        "2020-01-01T10:20+01:60",
        "２０２０-01-01",
        "2020-01-01\n2020-01-02",
        "infinity",
        "44-03-15 BC",
        "10000-01-01",
    ],
)
def test_what_is_no_time_is_refused(text):
    assert times.parse(text, "UTC") == times.UNPARSEABLE


def test_a_naive_time_without_a_zone_is_refused_and_counted():
    assert times.parse("2020-01-01", None) == times.NAIVE
    found, counts = times.localize(pa.array([datetime(2020, 1, 1), None], pa.timestamp("s")), None)
    assert found.to_pylist() == [None, None]
    assert counts == {times.NAIVE: 1}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_a_timestamp_beyond_the_calendar_is_refused_and_never_comes_back_from_the_other_end(unit, zone):
    far = [2**62, -(2**62), 2**63 - 1, -(2**63)]
    found, counts = times.localize(pa.array([*far, 0], pa.int64()).cast(pa.timestamp(unit, zone)), "UTC")
    if unit == "ns":
        assert found.to_pylist() == [one // 1000 for one in far] + [0]
    else:
        assert found.to_pylist() == [None] * 4 + [0]
        assert counts == {times.UNPARSEABLE: 4}


@given(st.integers(-(2**62), 2**62))
def test_nanoseconds_are_cut_and_never_rounded_up(nanoseconds):
    found, _ = times.localize(pa.array([nanoseconds]).cast(pa.timestamp("ns")), "UTC")
    assert found.to_pylist() == [nanoseconds // 1000]


def test_a_zone_is_iana_s_or_refused():
    assert times.checked_zone("Europe/Berlin") == "Europe/Berlin"
    for name in ("Mars/Phobos", "../../etc/passwd", "", "/etc/localtime"):
        with pytest.raises(ConfigError):
            times.checked_zone(name)
