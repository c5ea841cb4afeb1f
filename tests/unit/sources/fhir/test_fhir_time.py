"""Dates and numbers of limited precision, the official boundary cases of FHIRPath R4 among them."""

import os
import re
import xml.etree.ElementTree as ET
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.sources import fhir_time
from wardround.sources.fhir_elements import Kind

ROOT = Path(__file__).parents[4]
CONFORMANCE = Path(os.environ.get("WARDROUND_CONFORMANCE", ROOT.parent / "shared" / "conformance"))
OFFICIAL = CONFORMANCE / "fhirpath" / "r4" / "tests-fhir-r4.xml"
CALL = re.compile(r"^(\()?(@?T?[-\d.:T+]+)\)?(?:\.toDecimal\(\))?\.(low|high)Boundary\((-?\d*)\)$")

# 0.0034 is rounded towards zero there and 1.587 away from it; T08 is taken for T08:00, which FHIR has not.
AGAINST_THE_SUITE = {
    "LowBoundaryDecimal15",
    "HighBoundaryDecimal15",
    "HighBoundaryDecimal16",
    "HighBoundaryDateTimeMillisecond1",
    "HighBoundaryDateTimeMillisecond3",
}


def when(text, kind=Kind.DATETIME):
    moment = fhir_time.read(kind, text)
    assert moment is not None
    return moment


@pytest.mark.parametrize(
    ("left", "right", "order"),
    [
        ("2014", "2014", 0),
        ("2013", "2014-05", -1),
        ("2014", "2014-05", None),
        ("2014-05-05", "2014-05-05T10:00Z", None),
        ("2014-05-05T10:00:00Z", "2014-05-05T12:00:00+02:00", 0),
        ("2014-05-05T10:00:00", "2014-05-05T10:00:00.000", 0),
        ("2014-05-05T10:00:00.5Z", "2014-05-05T10:00:00Z", 1),
        ("2014-05-05T12:00", "2014-05-05T23:00Z", None),
        ("2014-05-05T01:00", "2014-05-05T23:00Z", -1),
        ("2014-05-07", "2014-05-05T21:00-12:00", 1),
        ("2014-05-05T10:00Z", "2014-05-05T10:00:30Z", None),
    ],
)
def test_an_order_is_told_only_where_it_is_certain(left, right, order):
    assert fhir_time.compare(when(left), when(right)) == order
    assert fhir_time.compare(when(right), when(left)) == (None if order is None else -order)


@pytest.mark.parametrize(
    "text",
    ["2014-13", "2014-02-30", "2014-1-1", "0000", "14", "2014-01-01T24:00", "2014-01-01T10:60"],
)
def test_what_no_calendar_has_is_no_moment(text):
    assert fhir_time.read(Kind.DATETIME, text) is None


@pytest.mark.parametrize(
    "text", ["2014-01-01T10:00+15:00", "2014-01-01T10:00Z\n", "2014-01-01 10:00", "２014", "2014-01T10:00", ""]
)
def test_what_is_written_otherwise_is_no_moment(text):
    assert fhir_time.read(Kind.DATETIME, text) is None


@pytest.mark.parametrize(
    ("kind", "text", "low", "high"),
    [
        (Kind.DATE, "1970-06", "1970-06-01", "1970-06-30"),
        (Kind.DATE, "2012-02", "2012-02-01", "2012-02-29"),
        (Kind.DATE, "1970", "1970-01-01", "1970-12-31"),
        (Kind.DATETIME, "2010-10-10", "2010-10-10T00:00:00.000+14:00", "2010-10-10T23:59:59.999-12:00"),
        (Kind.DATETIME, "2010-10-10T10:00Z", "2010-10-10T10:00:00.000Z", "2010-10-10T10:00:59.999Z"),
        (Kind.DATETIME, "2010-10-10T10:00:01.5Z", "2010-10-10T10:00:01.500Z", "2010-10-10T10:00:01.599Z"),
        (Kind.TIME, "12:34", "12:34:00.000", "12:34:59.999"),
    ],
)
def test_boundaries_have_every_digit(kind, text, low, high):
    assert fhir_time.boundary(when(text, kind), high=False) == low
    assert fhir_time.boundary(when(text, kind), high=True) == high


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-1000, max_value=1000), st.integers(0, 9))
def test_a_number_lies_between_its_boundaries(value, digits):
    low = fhir_time.decimal_boundary(value, high=False, digits=digits)
    high = fhir_time.decimal_boundary(value, high=True, digits=digits)
    assert low < value < high
    assert high - low >= Decimal("0.001")


@given(st.datetimes().map(lambda value: value.isoformat()[:19]), st.integers(1, 6))
def test_a_date_lies_between_its_boundaries(text, parts):
    text = text[: (4, 7, 10, 13, 16, 19)[parts - 1]]
    moment = when(text)
    low, high = (when(fhir_time.boundary(moment, high=high)[:-6]) for high in (False, True))
    assert fhir_time.compare(low, high) in {-1, 0}
    assert fhir_time.boundary(moment, high=True).startswith(text)


def official():
    if not OFFICIAL.is_file():
        return []
    root = ET.parse(OFFICIAL).getroot()
    found = []
    for group in root.iter("group"):
        if group.get("name") in {"LowBoundary", "HighBoundary"}:
            for case in group.iter("test"):
                match = CALL.match(case.findtext("expression"))
                if match:
                    found.append(pytest.param(match, case.findtext("output"), case.get("name"), id=case.get("name")))
    return found


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="the official cases are not at WARDROUND_CONFORMANCE")
@pytest.mark.parametrize(("match", "output", "name"), official())
def test_an_official_boundary(match, output, name):
    bracket, text, side, digits = match.groups()
    count = int(digits) if digits else None
    high = side == "high"
    if text.startswith("@"):
        kind = Kind.TIME if text[1] == "T" else Kind.DATETIME if "T" in text else Kind.DATE
        found = fhir_time.boundary(when(text.lstrip("@").removeprefix("T"), kind), high=high, digits=count)
        expected = output.lstrip("@").removeprefix("T")
    else:
        negative = text.startswith("-") and not bracket  # The sign binds looser than the call.
        found = fhir_time.decimal_boundary(
            Decimal(text.removeprefix("-") if negative else text), high=high, digits=count
        )
        found = -found if negative and found is not None else found
        expected = None if output is None else Decimal(output)
    assert (found == expected) == (name not in AGAINST_THE_SUITE)
