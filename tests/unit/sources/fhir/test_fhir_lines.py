"""Newline-delimited resources: bad lines by number, bounds, and what has the wrong shape."""

import gzip
import io
import json
import traceback

import pytest
from tests.unit.sources.fhir import views

from wardround.errors import ClinicalError
from wardround.sources import fhir_lines, fhir_plan
from wardround.sources.fhir_lines import Limits, Report

SECRET = "Xanthippe-4711"
VIEW = fhir_plan.compile_view(views.columns("id", "name.family.first()"))


def patient(number, **more):
    return json.dumps({"resourceType": "Patient", "id": f"p{number}", **more}).encode()


def ids(parts):
    return [row["a"] for part in parts for row in part.to_pylist()]


@views.both
def test_malformed_lines_are_told_by_number_and_nothing_else(backend):
    bad = [
        b'{"resourceType": "Patient", "id": "' + SECRET.encode(),
        b"[1]",
        b'"x"',
        b"{} {}",
        b"\xff\xfe",
        b'{"a": NaN}',
    ]
    bad += [b'{"resourceType":"Patient","a":"\\ud800"}', b"[" * 100_000]
    text = b"\n".join(part for line in bad for part in (patient(1), line))
    report, parts = views.tables(VIEW, text, backend)
    assert ids(parts) == ["p1"] * len(bad)
    assert report.malformed_lines == [2 * (n + 1) for n in range(len(bad))]
    assert report.malformed == len(bad)
    assert SECRET not in repr(report)
    assert report.batches_in_python == 0


@views.both
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n", b"\n \t \n"])
def test_line_endings_blank_lines_and_a_mark_at_the_start(backend, ending):
    text = b"\xef\xbb\xbf" + ending.join(patient(n) for n in range(5)) + ending
    report, parts = views.tables(VIEW, text, backend)
    assert ids(parts) == ["p0", "p1", "p2", "p3", "p4"]
    assert report.malformed == 0


@views.both
def test_other_types_are_counted_and_passed_over(backend):
    text = b"\n".join([patient(1), b'{"resourceType":"Observation","id":"o"}', b'{"id":"x"}', b'{"resourceType":5}'])
    report, parts = views.tables(VIEW, text, backend)
    assert ids(parts) == ["p1"]
    assert (report.resources, report.other_types) == (1, 3)


@views.both
def test_a_misfit_loses_what_does_not_fit_and_is_counted(backend):
    resources = [
        {"resourceType": "Patient", "id": "p1", "name": {"family": SECRET}},
        {"resourceType": "Patient", "id": "p2", "name": [{"family": 5}, {"family": "b"}, "x", None]},
        {"resourceType": "Patient", "id": 3, "name": [{"family": "c"}]},
        {"resourceType": "Patient", "id": "p4", "name": [{"family": "d"}], "birthDate": {"untouched": 1}},
    ]
    report, parts = views.tables(VIEW, views.lines(resources), backend)
    assert [list(row.values()) for part in parts for row in part.to_pylist()] == [
        ["p1", None],
        ["p2", "b"],
        [None, "c"],
        ["p4", "d"],
    ]
    assert report.misfits == 3
    assert report.batches_in_python == 0


@views.both
@pytest.mark.parametrize("lines", [1, 2, 3, 7])
def test_batches_and_chunks_may_end_anywhere(backend, lines, monkeypatch):
    monkeypatch.setattr(fhir_lines, "_CHUNK", 13)
    text = b"\n".join([*(patient(n) for n in range(7)), b"oops", patient(7)])
    report, parts = views.tables(VIEW, text, backend, limits=Limits(batch_lines=lines))
    assert ids(parts) == [f"p{n}" for n in range(8)]
    assert report.malformed_lines == [8]


@pytest.mark.parametrize("chunk", [7, 64, 1024 * 1024])
def test_a_line_beyond_the_limit_is_malformed_and_not_held(chunk, monkeypatch):
    monkeypatch.setattr(fhir_lines, "_CHUNK", chunk)
    text = b"\n".join([patient(1), b"x" * 500, patient(2), patient(3), b"y" * 500])
    report = Report()
    found = list(fhir_lines.batches(io.BytesIO(text), report, limits=Limits(line_bytes=100)))
    assert [number for batch in found for number in batch.numbers] == [1, 3, 4]
    assert report.malformed_lines == [2, 5]


def test_gzip_is_read_in_several_members():
    text = gzip.compress(patient(1) + b"\n") + gzip.compress(patient(2))
    _, parts = views.tables(VIEW, text, "python")
    assert ids(parts) == ["p1", "p2"]


def test_a_bomb_is_stopped_where_the_limit_is():
    bomb = gzip.compress(b"\n" * 50_000_000)
    assert len(bomb) < 100_000
    stream = io.BytesIO(bomb)
    with pytest.raises(ClinicalError, match="more than 4000000 bytes after decompression"):
        list(fhir_lines.batches(stream, Report(), limits=Limits(total_bytes=4_000_000)))
    assert stream.tell() < len(bomb)


@pytest.mark.parametrize("harm", [lambda whole: whole[:-20], lambda whole: whole[:30] + b"\0" * 20 + whole[50:]])
def test_a_damaged_file_is_told_without_content(harm):
    whole = gzip.compress(b"\n".join(patient(n, name=[{"family": SECRET}]) for n in range(500)))
    with pytest.raises(ClinicalError, match="damaged or cut short") as caught:
        list(fhir_lines.batches(io.BytesIO(harm(whole)), Report()))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@views.both
def test_an_error_names_the_column_and_no_value(backend):
    plan = fhir_plan.compile_view(views.columns("name.family"))
    resource = {"resourceType": "Patient", "name": [{"family": SECRET}, {"family": SECRET + "b"}]}
    with pytest.raises(ClinicalError, match="column 'a': a resource has 2 values where one belongs") as caught:
        views.tables(plan, views.lines([resource]), backend)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_lines_are_no_rows():
    report, parts = views.tables(VIEW, b"", "python")
    assert ids(parts) == []
    assert report == Report()
