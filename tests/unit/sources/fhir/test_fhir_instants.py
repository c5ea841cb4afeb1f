"""Instants by the column are those of harmonization.times, text by text."""

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from wardround.harmonization import times
from wardround.sources.fhir_instants import instants

WRITTEN = st.from_regex(
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,10})?(Z|[+-][01][0-9]:[0-6][0-9])?",
    fullmatch=True,
)
SHORTER = st.from_regex(r"[0-9]{4}(-[01][0-9](-[0-3][0-9](T[0-2][0-9]:[0-5][0-9])?)?)?", fullmatch=True)
HARMED = st.tuples(WRITTEN, st.integers(0, 35), st.sampled_from("0T:-+Z. x")).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
)
TEXTS = st.lists(st.one_of(WRITTEN, SHORTER, HARMED, st.text(max_size=30), st.none()), max_size=12)
EDGES = [
    "2020-02-29T00:00:00Z",
    "2021-02-29T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999-14:00",
    "2020-01-01T00:00:60Z",
    "2020-01-01T24:00:00Z",
    "2020-01-01T10:00:00+15:00",
    "2020-01-01T10:00:00.Z",
    "2020-03-29T02:30:00",
    "2020-10-25T02:30:00",
    "2020-10-25",
    "",
]


@given(texts=TEXTS, zone=st.sampled_from([None, "UTC", "Europe/Berlin", "America/New_York"]))
@example(texts=EDGES, zone=None)
@example(texts=EDGES, zone="Europe/Berlin")
def test_a_column_of_times_is_parsed_as_each_text_is(texts, zone):
    moments = [None if text is None else times.parse(text, zone) for text in texts]
    expected = [None if moment is None or isinstance(moment, str) else moment for moment in moments]
    time_us, precision, counts = instants(pa.array(texts, pa.string()), zone)
    assert time_us.to_pylist() == [moment and moment.time_us for moment in expected]
    assert precision.to_pylist() == [moment and int(moment.precision) for moment in expected]
    remarks = [moment if isinstance(moment, str) else moment.remark for moment in moments if moment is not None]
    assert counts == {remark: remarks.count(remark) for remark in remarks if remark}


def test_a_slice_of_a_column_is_read_from_where_it_begins():
    texts = pa.array(["x", "2020-01-01T00:00:00Z", "1970-01-01T00:00:01.5Z"])
    assert instants(texts.slice(2), None)[0].to_pylist() == [1_500_000]
