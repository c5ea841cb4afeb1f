"""HL7's times, one by one and as columns: with their precision, offset, and the site's zone."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.harmonization.events import Precision
from wardround.harmonization.times import NAIVE, UNPARSEABLE, Moment
from wardround.sources import hl7_time
from wardround.sources.hl7_time import NONE

BERLIN = "Europe/Berlin"


def us(text):
    return round(datetime.fromisoformat(text).timestamp() * 1_000_000)


@pytest.mark.parametrize(
    ("text", "instant", "precision"),
    [
        ("2024", "2024-01-01T00:00+01:00", Precision.YEAR),
        ("202407", "2024-07-01T00:00+02:00", Precision.MONTH),
        ("20240715", "2024-07-15T00:00+02:00", Precision.DAY),
        ("2024071513", "2024-07-15T13:00+02:00", Precision.DAY),
        ("202407151330", "2024-07-15T13:30+02:00", Precision.MINUTE),
        ("20240715133059", "2024-07-15T13:30:59+02:00", Precision.SECOND),
        ("20240715133059.25", "2024-07-15T13:30:59.250+02:00", Precision.EXACT),
        ("20240715133059-0500", "2024-07-15T13:30:59-05:00", Precision.SECOND),
        ("202407151330+0530", "2024-07-15T13:30+05:30", Precision.MINUTE),
        ("2024071513+0000", "2024-07-15T13:00+00:00", Precision.DAY),
        ("20240715133059^S", "2024-07-15T13:30:59+02:00", Precision.SECOND),
        (" 20240715 ", "2024-07-15T00:00+02:00", Precision.DAY),
    ],
)
def test_each_precision_and_offset(text, instant, precision):
    assert hl7_time.moment(text, BERLIN) == Moment(us(instant), precision)


BAD = [
    "",
    "24",
    "20240230",
    "20241301",
    "00000000",
    "20240715243000",
    "20240715136000",
    "20240715133060",
    "2024-07-15",
    "20240715T1330",
    "20240715+2500",
    "202407151330+1530",
    "202407151330+0575",
    "２０２４",
    "junk" * 5,
    "20240715133059Z",
    "2024071513305",
]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_time_is_refused(text):
    assert hl7_time.moment(text, BERLIN) == UNPARSEABLE
    assert hl7_time.day(text) == UNPARSEABLE
    assert hl7_time.iso("TS", text) is None


def test_a_time_without_offset_needs_a_zone():
    assert hl7_time.moment("20240715", None) == NAIVE
    found = hl7_time.column(pa.array(["20240715", "20240715120000+0000"]), np.full(2, NONE), None)
    assert (found.us[0], found.refused) == (NONE, {NAIVE: 1})
    assert found.us[1] == us("2024-07-15T12:00+00:00")


digits = st.dates(date(1, 1, 2), date(9998, 12, 30)).map(lambda day: f"{day:%Y%m%d}".rjust(8, "0") + "134559")
written = st.one_of(
    st.tuples(digits, st.sampled_from([4, 6, 8, 10, 12, 14]), st.sampled_from(["", ".1", ".123456789"]),
              st.sampled_from(["", "+0000", "-0330", "+1400", "+1500", "+0199"])).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[3]
    ),
    st.text("0123456789+-.Z^ ", max_size=20),
    st.sampled_from([*BAD, "20240331023000", "20241027023000", "202403310230", "20240331023000.5"]),
)  # fmt: skip


@given(texts=st.lists(written, max_size=12), zone=st.sampled_from([BERLIN, "America/St_Johns", "UTC"]))
def test_a_column_is_what_its_cells_are_one_by_one(texts, zone):
    found = hl7_time.column(pa.array(texts, pa.string()), np.full(len(texts), NONE), zone)
    refused = 0
    for place, text in enumerate(texts):
        one = hl7_time.moment(text, zone)
        if isinstance(one, str):
            assert found.us[place] == NONE
            refused += text != ""
        else:
            assert (found.us[place], found.precision[place]) == (one.time_us, one.precision)
    assert sum(found.refused.values()) == refused


def test_offsets_of_the_message_hold_for_times_without_one():
    texts = pa.array(["20240715120000", "20240715120000+0000", "20240715120000"])
    found = hl7_time.column(texts, np.array([-5 * 3_600_000_000, -5 * 3_600_000_000, NONE]), BERLIN)
    stated = ["2024-07-15T12:00-05:00", "2024-07-15T12:00+00:00", "2024-07-15T12:00+02:00"]
    assert found.us.tolist() == [us(one) for one in stated]


def test_the_sites_zone_holds_unless_the_sender_contradicts_it():
    stamps = pa.array(
        ["20240715120000+0200", "20240115120000+0100", "20240115120000+0200", "20240115120000", "junk+0200", ""]
    )
    assert hl7_time.sender_offsets(stamps, BERLIN).tolist() == [NONE, NONE, 7_200_000_000, NONE, NONE, NONE]
    assert hl7_time.sender_offsets(stamps, None).tolist()[:2] == [7_200_000_000, 3_600_000_000]


@given(st.dates())
def test_a_birth_is_the_day_whatever_time_and_zone_are_written(born):
    text = f"{born.year:04d}{born.month:02d}{born.day:02d}"
    begin = (datetime(born.year, born.month, born.day, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(
        microseconds=1
    )
    for suffix in ("", "2359", "235959-0800"):
        assert hl7_time.day(text + suffix) == Moment(int(begin), Precision.DAY)


@pytest.mark.parametrize(
    ("kind", "text", "iso"),
    [
        ("DT", "20240715", "2024-07-15"),
        ("DT", "202407", "2024-07"),
        ("TM", "1330", "13:30"),
        ("TM", "133059.25+0200", "13:30:59.25+02:00"),
        ("TM", "13", "13:00"),
        ("TM", "2460", None),
        ("DTM", "20240715133059-0500", "2024-07-15T13:30:59-05:00"),
        ("TS", "202407151330^M", "2024-07-15T13:30"),
        ("TS", "2024071513", "2024-07-15T13:00"),
    ],
)
def test_dates_and_times_as_iso_8601_writes_them(kind, text, iso):
    assert hl7_time.iso(kind, text) == iso
