"""Columns to events: in bulk as row by row, and never a guess."""

# ruff: noqa: DTZ001, local times are what is tested

import math
import re
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import ClinicalError, ConfigError
from wardround.harmonization import times
from wardround.harmonization.events import EVENT, Precision, Scope, SourceReport
from wardround.sources import event_cells, event_times
from wardround.sources.event_columns import EventColumns
from wardround.sources.event_rows import ABSENT, UNLISTED, UNREADABLE, EventRows
from wardround.sources.site import Site

EVERYTHING = Scope()
BERLIN = Site(folder=Path(), timezone="Europe/Berlin")
NOWHERE = Site(folder=Path())
SECRET = "Xanthippe-4711"


def columns(**settings):
    return msgspec.convert(settings, EventColumns)


def events(table, site=BERLIN, scope=EVERYTHING, block=0, first_row=0, **settings):
    report = SourceReport("lab")
    rows = EventRows(columns(**settings), site, "lab", block=block)
    made = [
        one
        for batch in rows.events(pa.RecordBatch.from_pydict(table), first_row, scope, report)
        for one in batch.to_pylist()
    ]
    return made, report


LONG = {"patient": "p", "time": "t", "code": "c", "system": "local:lab", "number": "n", "unit": "u"}
ROW = {"p": ["1"], "t": ["2020-01-01 10:00:00"], "c": ["50912"], "n": ["1.5"], "u": ["mg/dL"]}

times_written = st.one_of(
    st.none(),
    st.sampled_from(["", " ", "2020", "2020-02", "2020-02-30", "nonsense", "2020-03-29 02:30", "2020-10-25 02:30:00"]),
    st.builds(
        lambda day, form: day.strftime(form).rjust(10, "0"),
        st.datetimes(datetime(1000, 1, 1), datetime(2999, 1, 1)),
        st.sampled_from(
            [
                "%Y-%m-%d",
                "%Y-%m-%dT%H:%M",
                "%Y-%m-%d %H:%M:%S",
                "%Y-%m-%dT%H:%M:%S.%f",
                "%Y-%m-%dT%H:%M:%SZ",
                "%Y-%m-%d %H:%M:%S+01:30",
                "%Y-%m-%dT%H:%M:%S.%f-0500",
            ]
        ),
    ),
)
numbers_written = st.one_of(
    st.none(),
    st.sampled_from(
        [
            "",
            "-9",
            "-9.0",
            "?",
            "<5",
            ">= 5.5",
            "≤0.1",
            "5,2",
            "1e3",
            "1e999",
            "nan",
            "inf",
            "+7",
            ".5",
            "5.",
            ".",
            "0x10",
            "1 000",
            "--1",
            "< <5",
            "٥",
        ]
    ),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(str),
)
texts_written = st.one_of(st.none(), st.sampled_from(["", " ", "a", " a ", "b", "x" * 201, "ä"]))


def reference_number(text, missing):
    found = re.fullmatch(r"(<=|>=|<|>|≤|≥)?\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)", text, re.ASCII)
    if not found:
        return None, None, True
    number = float(found[2])
    if math.isinf(number):
        return None, None, True
    if number in missing:
        return None, None, False
    return number, {"≤": "<=", "≥": ">="}.get(found[1], found[1]), False


def reference(table, site, report):
    """The rules of a long table, one row after another."""
    made = []
    for row, cells in enumerate(zip(*table.values(), strict=True)):
        told = [None if cell is None or not cell.strip() else cell.strip() for cell in cells]
        patient, at, code, number, unit = [told[0], *(None if cell in {"-9", "?"} else cell for cell in told[1:])]
        if code is None:
            report.refuse("no code")
        elif patient is None:
            report.refuse("no patient")
        elif at is None:
            report.refuse("no time")
        elif isinstance(moment := times.parse(at, site.timezone), str):
            report.refuse(moment)
        else:
            if moment.remark:
                report.note(moment.remark)
            if number is None:
                report.note(ABSENT)
                continue
            value, comparator, strange = reference_number(number, {-9.0})
            if value is None and not strange:
                report.note(ABSENT)
                continue
            if strange:
                report.note(UNREADABLE)
            if max(map(len, [patient, code, unit or ""])) > 200:
                report.refuse("text too long")
                continue
            made.append((patient, moment.time_us, int(moment.precision), code, value, comparator, unit, row))
    return made


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(texts_written, times_written, texts_written, numbers_written, texts_written), max_size=30),
    site=st.sampled_from([BERLIN, NOWHERE]),
)
def test_in_bulk_as_row_by_row(rows, site):
    table = {name: pa.array([row[place] for row in rows], pa.string()) for place, name in enumerate("ptcnu")}
    made, report = events(table, site, missing=["-9", "?"], **LONG)
    told = SourceReport("lab")
    listed = {name: column.to_pylist() for name, column in table.items()}
    named = ("patient", "time_us", "precision", "code", "number", "comparator", "unit", "row")
    assert [tuple(event[name] for name in named) for event in made] == reference(listed, site, told)
    assert (report.refused, report.noted) == (told.refused, told.noted)


@settings(max_examples=150)
@given(cells=st.lists(times_written, max_size=40), zone=st.sampled_from(["Europe/Berlin", "America/New_York", None]))
def test_texts_of_times_in_bulk_as_one_by_one(cells, zone):
    found = event_times.instants(pa.array(cells, pa.string()), "t", zone, epoch="")
    for place, text in enumerate(cells):
        reasons = {reason for reason, where in (found.refused | found.noted).items() if where[place]}
        moment = None if text is None or not text.strip() else times.parse(text, zone)
        if moment is None or isinstance(moment, str):
            assert found.time_us[place].as_py() is None
            assert reasons == ({moment} if moment else set())
        else:
            assert found.time_us[place].as_py() == moment.time_us
            assert found.precision[place].as_py() == moment.precision
            assert reasons == ({moment.remark} if moment.remark else set())


def test_texts_that_look_like_times_but_are_none_are_refused_in_bulk_too():
    wrong = ["2020-01-01 24:00:00", "2020-01-01 10:60:00", "2020-13-01 10:00:00", "2020-02-30 10:00:00"]
    wrong += ["0000-01-01 10:00:00", "2020-01-00 10:00:00", "2020-01-01 10:00:61", "2021-02-29 10:00:00"]
    found = event_times.instants(pa.array(["2020-01-01 10:00:00", *wrong, "2020-01-01 10:00:60"]), "t", "UTC", epoch="")
    assert found.time_us.to_pylist() == [1577872800_000000, *[None] * 8, 1577872860_000000]
    assert found.refused[times.UNPARSEABLE].tolist() == [False, *[True] * 8, False]


@pytest.mark.parametrize(
    "kind",
    [pa.int32(), pa.int64(), pa.float64(), pa.decimal128(22, 2), pa.string(), pa.large_string(), pa.string_view()],
    ids=str,
)
def test_a_code_is_the_same_text_whatever_the_column_s_type(kind):
    cells = pa.array(["50912", None, "7"]) if kind == pa.string_view() else pa.array([50912, None, 7])
    assert event_cells.texts(cells.cast(kind), "c").to_pylist() == ["50912", None, "7"]
    if kind != pa.string_view():
        coded = cells.cast(kind).dictionary_encode()
        assert event_cells.texts(coded, "c").to_pylist() == ["50912", None, "7"]


def test_a_float_that_no_longer_says_which_number_it_was_is_no_code():
    assert event_cells.texts(pa.array([2.0**53, 2.0**53 - 1, math.nan, math.inf]), "c").to_pylist() == [
        None, "9007199254740991", None, None,
    ]  # fmt: skip


def test_a_decimal_comma_is_declared_and_then_a_point_is_refused():
    cells = pa.array(["5,2", "<0,5", "5.200", "1.234,5", "7", ",5"])
    found = event_cells.numbers(cells, "n", decimal_comma=True)
    assert found.number.to_pylist() == [5.2, 0.5, None, None, 7.0, 0.5]
    assert found.strange.tolist() == [False, False, True, True, False, False]
    assert event_cells.numbers(cells, "n", decimal_comma=False).number.to_pylist()[0] is None


@pytest.mark.parametrize(
    "column",
    [pa.array([[1]]), pa.array([b"\x01"]), pa.array([{"a": 1}]), pa.array([timedelta(1)])],
    ids=["list", "bytes", "struct", "duration"],
)
def test_bytes_and_nested_cells_are_refused_by_name(column):
    with pytest.raises(ClinicalError, match="'t'"):
        event_times.instants(column, "t", "UTC", epoch="")


def test_numbers_are_times_only_where_the_mapping_says_what_they_count():
    with pytest.raises(ClinicalError, match="epoch"):
        events(ROW | {"t": [1577872800]}, **LONG)
    for epoch, count in (("s", 1577872800), ("ms", 1577872800000), ("us", 1577872800000000)):
        made, _ = events(ROW | {"t": [count]}, epoch=epoch, **LONG)
        assert made[0]["time_us"] == 1577872800000000
    _, report = events(ROW | {"t": [2**62]}, epoch="s", **LONG)
    assert report.refused == {times.UNPARSEABLE: 1}


def test_a_naive_time_without_a_zone_is_refused_and_one_with_an_offset_is_not():
    made, report = events(
        {name: cells * 2 for name, cells in ROW.items()} | {"t": ["2020-01-01 10:00", "2020-01-01T10:00Z"]},
        NOWHERE,
        **LONG,
    )
    assert [event["row"] for event in made] == [1]
    assert report.refused == {times.NAIVE: 1}


def test_a_date_is_the_day_at_the_site_and_a_birth_the_day_itself():
    table = {"p": ["1"], "t": pa.array([18262], pa.date32()), "b": pa.array([datetime(1950, 3, 4, 22)])}
    made, _ = events(
        table, patient="p", columns=[{"from": "b", "code": "patient|birth-date"}, {"from": "t", "code": "patient|seen"}]
    )
    assert (made[0]["time_us"], made[0]["precision"]) == (-625795200_000000, Precision.DAY)
    assert (made[1]["time_us"], made[1]["precision"]) == (1577833200_000000, Precision.DAY)


def test_a_birth_keeps_the_precision_that_it_is_written_with():
    table = {"p": ["1", "2", "3", "4"], "b": ["1950", "1950-03", "1950-03-04", "1950-03-04T00:00:00-05:00"]}
    made, _ = events(table, patient="p", columns=[{"from": "b", "code": "patient|birth-date"}])
    assert [event["precision"] for event in made] == [1, 2, 3, 3]
    assert made[3]["time_us"] == made[2]["time_us"]


def test_when_a_fact_was_known_is_read_and_a_time_that_cannot_be_read_is_refused():
    table = {name: cells * 3 for name, cells in ROW.items()} | {"k": ["2020-01-02", None, "soon"]}
    made, report = events(table, known="k", **LONG)
    assert [event["known_us"] for event in made] == [1577919600_000000, None]
    assert report.refused == {times.UNPARSEABLE: 1}


def test_a_status_that_nobody_mapped_is_unknown_and_so_not_used():
    table = {name: cells * 4 for name, cells in ROW.items()} | {"s": ["F", "corrected", "Z", None]}
    made, report = events(table, status="s", statuses={"F": "final"}, **LONG)
    assert [event["status"] for event in made] == ["final", "corrected", "unknown", None]
    assert report.noted == {"status not in the mapping": 1}


def test_a_comparator_that_is_not_understood_takes_its_number_with_it():
    table = {name: cells * 4 for name, cells in ROW.items()} | {"k": ["<", "=", "~", None]}
    made, report = events(table, comparator="k", **LONG)
    assert [(event["number"], event["comparator"]) for event in made] == [
        (1.5, "<"),
        (1.5, None),
        (None, None),
        (1.5, None),
    ]
    assert report.noted == {"comparator unparseable": 1}


def test_one_column_may_be_numbers_and_texts():
    table = {name: cells * 3 for name, cells in ROW.items()} | {"n": ["5", "POSITIVE", None]}
    made, report = events(table, value="n", values={"POSITIVE": "snomed|10828004"}, **LONG)
    assert [(event["number"], event["value"]) for event in made] == [(5.0, None), (None, "snomed|10828004")]
    assert report.noted == {ABSENT: 1}
    _, report = events(table | {"n": ["5", "other", None]}, value="n", values={"POSITIVE": "snomed|10828004"}, **LONG)
    assert report.refused == {UNLISTED: 1}


def test_a_wide_row_gives_an_event_for_each_of_its_columns_and_they_share_its_row():
    table = {"p": ["1", "2"], "t": ["2020-01-01"] * 2, "chol": [200.0, None], "sex": ["1", "9"], "smoker": ["yes", "?"]}
    made, report = events(
        table, block=3, first_row=5, patient="p", time="t", missing=["?"],
        columns=[
            {"from": "chol", "code": "loinc|2093-3", "unit": "mg/dL"},
            {"from": "sex", "code": "patient|sex", "values": {"1": "male", "0": "female"}},
            {"from": "smoker", "code": "local:x|smoker", "text": True},
        ],
    )  # fmt: skip
    assert [
        (event["code"], event["number"], event["value"], event["row"] % 2**48, event["row"] >> 48) for event in made
    ] == [
        ("2093-3", 200.0, None, 5, 3),
        ("sex", None, "male", 5, 3),
        ("smoker", None, "yes", 5, 3),
    ]
    assert made[1]["time_us"] is None
    assert report.refused == {UNLISTED: 1}


def test_a_table_without_patients_has_one_in_each_row_and_a_fixed_time_holds_for_all():
    made, _ = events(
        {"chol": [1.0, 2.0]}, first_row=7, time_fixed="1988-07-01", columns=[{"from": "chol", "code": "loinc|2093-3"}]
    )
    assert [event["patient"] for event in made] == ["7", "8"]
    assert {event["time_us"] for event in made} == {583711200_000000}


def test_the_scope_leaves_out_codes_and_what_was_known_before_but_nothing_of_the_patient():
    table = {
        "p": ["1"] * 3,
        "t": ["2020-01-01", "2021-01-01", "2022-01-01"],
        "c": ["a", "ab", "b"],
        "n": [1, 2, 3],
        "u": ["g"] * 3,
    }
    since = 1600000000_000000
    for codes, rows in ((None, [1, 2]), ({"local:lab": frozenset({"a*"})}, [1]), ({"loinc": frozenset({"a"})}, [])):
        made, report = events(table, scope=Scope(codes=codes, since_us=since), **LONG)
        assert [event["row"] for event in made] == rows
        assert not report.refused
    born, _ = events(
        {"p": ["1"], "b": ["1950"]},
        scope=Scope(codes={}, since_us=since),
        patient="p",
        columns=[{"from": "b", "code": "patient|birth-date"}],
    )
    assert len(born) == 1


def test_systems_are_a_column_s_with_the_mapping_s_or_the_known_names():
    table = {name: cells * 3 for name, cells in ROW.items()} | {"s": ["SNOMED-CT", "http://loinc.org", "urn:x"]}
    made, _ = events(table, system_column="s", systems={"SNOMED-CT": "snomed"}, **(LONG | {"system": ""}))
    assert [event["system"] for event in made] == ["snomed", "loinc", "urn:x"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"code": "c"},
        {"code": "c", "system": "a", "system_column": "b"},
        {"code": "c", "system": "a", "unit": "u", "unit_fixed": "g"},
        {"code": "c", "system": "a", "time": "t", "time_fixed": "2020"},
        {"code": "c", "system": "a", "time_fixed": "soon"},
        {"code": "c", "system": "a", "values": {"a": "b"}},
        {"code": "c", "system": "a", "status": "s", "statuses": {"F": "done"}},
        {"code": "c", "columns": [{"from": "a", "code": "loinc|1"}]},
        {"columns": [{"from": "a", "code": "loinc"}]},
        {"columns": [{"from": "a", "code": "icd10|I2*"}]},
        {"columns": [{"from": "a", "code": "patient|sex"}]},
        {"columns": [{"from": "a", "code": "patient|sex", "values": {"1": "man"}}]},
        {"columns": [{"from": "a", "code": "patient|birth-date", "unit": "d"}]},
        {"columns": [{"from": "a", "code": "patient|shoe-size"}]},
        {"columns": [{"from": "a", "code": "patient|consent:HRESCH", "values": {"1": "yes"}}]},
    ],
)
def test_columns_that_give_no_events_are_refused_when_the_source_is_opened(wrong):
    with pytest.raises(ConfigError, match="events 1"):
        EventRows(columns(**wrong), BERLIN, "lab")


def test_a_batch_is_the_schema_s_and_says_nothing_of_a_cell_when_it_fails():
    rows = EventRows(columns(**LONG), BERLIN, "lab")
    (batch,) = rows.events(pa.RecordBatch.from_pydict(ROW), 0, Scope(), SourceReport("lab"))
    assert batch.schema == EVENT
    with pytest.raises(ClinicalError) as caught:
        list(rows.events(pa.RecordBatch.from_pydict(ROW | {"n": [SECRET.encode()]}), 0, Scope(), SourceReport("lab")))
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


def test_rows_are_the_same_however_they_are_cut_into_batches():
    random = np.random.default_rng(7)  # noqa: TID251, a seeded table
    table = pa.RecordBatch.from_pydict(
        {
            "p": random.integers(0, 9, 500),
            "t": pa.array(random.integers(0, 10**9, 500), pa.timestamp("s")),
            "c": random.integers(0, 5, 500),
            "n": random.normal(size=500),
            "u": ["g"] * 500,
        }
    )
    rows = EventRows(columns(**LONG), BERLIN, "lab")
    whole = [one for batch in rows.events(table, 0, Scope(), SourceReport("lab")) for one in batch.to_pylist()]
    cut = [
        one
        for start in range(0, 500, 37)
        for batch in rows.events(table.slice(start, 37), start, Scope(), SourceReport("lab"))
        for one in batch.to_pylist()
    ]
    assert whole == cut
