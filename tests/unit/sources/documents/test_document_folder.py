"""Folders are read in order and within bounds, and a name is read in one way only."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import ConfigError
from wardround.harmonization.events import PATIENT, Scope, SourceReport
from wardround.sources import document_events
from wardround.sources.document_events import DocumentEvents
from wardround.sources.document_folder import DigestedFolder, NameTemplate


def test_links_pipes_empty_and_large_files_are_counted_and_never_opened_or_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.xml").write_bytes(b"secret")
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "sub" / "b.xml").write_bytes(b"good")
    (inside / "c.xml").write_bytes(b"x" * 101)
    (inside / "d.xml").write_bytes(b"")
    (inside / "e.xml").symlink_to(outside / "a.xml")
    (inside / "f").symlink_to(outside, target_is_directory=True)
    os.mkfifo(inside / "g.xml")
    (inside / "h.txt").write_bytes(b"other")
    report = SourceReport("s")
    found = list(DigestedFolder(inside, "*.xml", 100, report).documents())
    assert found == [("sub/b.xml", b"good")]
    assert report.read == 5
    refused = {"too large": 1, "empty file": 1, "unreadable file or link": 1, "not a plain file": 1}
    assert report.refused == refused
    assert report.snapshot["files"] == "5"


def test_the_digest_says_which_documents_were_read(tmp_path):
    def digest():
        report = SourceReport("s")
        list(DigestedFolder(tmp_path, "*", 100, report).documents())
        return report.snapshot["sha256"]

    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    first = digest()
    assert digest() == first
    (tmp_path / "b").write_bytes(b"3")
    second = digest()
    (tmp_path / "b").rename(tmp_path / "c")
    assert len({first, second, digest()}) == 3


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("{patient}_{date}.pdf", "17_20200301.pdf", {"patient": "17", "date": "20200301"}),
        ("{patient}", "HG00096", {"patient": "HG00096"}),
        ("{family}::{patient}", "C1::HG1", {"family": "C1", "patient": "HG1"}),
        ("note-{patient}.txt", "note-1.txt", {"patient": "1"}),
        ("{patient}_{date}.pdf", "1_7_20200301.pdf", {"patient": "1", "date": "7_20200301"}),
        ("{patient}_{date}.pdf", "17.pdf", {}),
        ("{patient}_{date}.pdf", "_20200301.pdf", {}),
        ("{patient}.pdf", "1.pdf.exe", {}),
        ("{patient}", "x" * 2000, {}),
    ],
)
def test_a_name_says_what_its_template_says(template, name, expected):
    assert NameTemplate(template).read(name) == expected


@pytest.mark.parametrize(
    "template", ["{date}.pdf", "", "{patient}{date}", "{patient}_{patient}", "{patient}_{Date}", "{patient"]
)
def test_a_template_that_could_be_read_in_two_ways_is_refused(template):
    with pytest.raises(ConfigError):
        NameTemplate(template)


@given(st.lists(st.text("abc", min_size=1, max_size=5), min_size=2, max_size=5))
def test_what_was_put_together_comes_apart(parts):
    names = ["patient", "one", "two", "three", "four"][: len(parts)]
    template = NameTemplate("-".join(f"{{{name}}}" for name in names))
    assert template.read("-".join(parts)) == dict(zip(names, parts, strict=True))


def test_no_name_takes_long():
    template = NameTemplate("-".join(f"{{{name}}}" for name in ("patient", "a", "b", "c", "d", "e", "f", "g")) + "!")
    begun = time.process_time()
    for name in ("-" * 1000, "a-" * 500, "a" * 1000, "-a" * 500):
        assert template.read(name) == {}
    assert time.process_time() - begun < 1


def test_batches_are_bounded_and_rows_count_what_the_scope_leaves_out(monkeypatch):
    monkeypatch.setattr(document_events, "BATCH_ROWS", 4)
    report = SourceReport("s")
    rows = DocumentEvents(Scope(codes={"a": frozenset({"1"})}, since_us=100), report)
    batches = []
    for number in range(10):
        rows.add("p", ("a", "1"), ("a", "2"), time_us=100 + number)
        rows.add("p", ("a", "1"), time_us=200, known_us=50)
        rows.add("p", (PATIENT, "seen"), time_us=0)
        batches += rows.full()
    batches += rows.rest()
    assert [batch.num_rows for batch in batches] == [4, 4, 4, 4, 4]
    found = [row for batch in batches for row in batch.to_pylist()]
    assert [row["row"] for row in found[:4]] == [0, 2, 3, 5]
    assert report.events == 20
