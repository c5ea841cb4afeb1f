import contextlib
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ConfigError
from wardround.sandbox import hours

VIENNA = ZoneInfo("Europe/Vienna")
NIGHTS = [hours.parse("Mon-Fri 19:00-06:00"), hours.parse("Sat,Sun 00:00-24:00")]


def at(text, where=VIENNA, fold=0):
    return datetime.fromisoformat(text).replace(tzinfo=where, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-03-02T18:59", False),  # a Monday
        ("2026-03-02T19:00", True),
        ("2026-03-03T05:59", True),
        ("2026-03-03T06:00", False),
        ("2026-03-02T03:00", False),  # the night of Sunday is not Monday's
        ("2026-03-07T03:00", True),  # Saturday
        ("2026-03-08T23:59", True),
        ("2026-03-09T00:00", False),
    ],
)
def test_a_window_belongs_to_the_day_on_which_it_begins(when, expected):
    assert hours.is_open(NIGHTS, VIENNA, at(when)) is expected


def test_it_is_the_clock_on_the_wall_that_counts():
    windows = [hours.parse("Mon-Sun 02:00-03:00")]
    assert not hours.is_open(windows, VIENNA, at("2026-03-29T01:59"))
    assert not hours.is_open(windows, VIENNA, at("2026-03-29T01:59") + 60), "in spring there is no such hour"
    for fold in (0, 1):  # and in autumn there are two
        assert hours.is_open(windows, VIENNA, at("2026-10-25T02:30", fold=fold))
    assert not hours.is_open(windows, ZoneInfo("UTC"), at("2026-10-25T02:30", fold=1) - 3600)


@given(st.floats(0, 4e9))
def test_without_windows_it_is_always_open(now):
    assert hours.is_open([], VIENNA, now)


@given(st.integers(0, 6), st.integers(0, 1439), st.integers(0, 1440), st.integers(0, 10079))
def test_a_window_is_what_walking_from_its_begin_to_its_end_meets(day, begin, end, minute):
    if begin == end:
        return
    names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    text = f"{names[day]} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    length = (end - begin) if end > begin else end - begin + 1440
    start = day * 1440 + begin
    expected = (minute - start) % 10080 < length
    monday = at("2026-03-02T00:00", ZoneInfo("UTC"))
    assert hours.is_open([hours.parse(text)], ZoneInfo("UTC"), monday + 60 * minute) is expected


WRONG = [
    "Mon",
    "Mon-Fri",
    "mon 10:00-11:00",
    "Mon 10:00-10:00",
    "Mon 24:00-10:00",
    "Mon 10:00-24:30",
    "Mon 10:60-11:00",
]


@pytest.mark.parametrize("text", [*WRONG, "Mon-Fri-Sat 10:00-11:00", "", "Mon 1:00-2:00"])
def test_what_is_no_time_of_the_week_is_refused(text):
    with pytest.raises(ConfigError, match=r"sandbox\.hours"):
        hours.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_a_window_or_refused(text):
    with contextlib.suppress(ConfigError):
        assert hours.parse(text).days


@pytest.mark.parametrize("name", ["Europe/Atlantis", "../../etc/passwd", "", "/etc/localtime", "a\0b"])
def test_an_unknown_zone_is_refused(name):
    with pytest.raises(ConfigError, match=r"sandbox\.zone"):
        hours.zone(name)
