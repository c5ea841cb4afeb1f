"""Text documents become events by rules; hostile, broken and secret ones are refused by name, in bounded time."""

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tests.unit.sources.documents import make_pdf

from wardround.errors import ConfigError
from wardround.harmonization.clinical_text import Rule
from wardround.harmonization.events import EVENT, Scope
from wardround.sources import pdf, pdf_pages
from wardround.sources.pdf import PdfSettings
from wardround.sources.site import Site

ROOT = Path(__file__).parents[4]
REAL = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "ccda"
LVEF = Rule(code="loinc|10230-1", phrases=("LVEF", "ejection fraction"), kind="number", unit="%")
MI = Rule(code="snomed|22298006", phrases=("myocardial infarction", "MI"), absent="local:text|no-mi")
RULES = (LVEF, MI)
MARCH = 1583020800000000


def read(tmp_path, files, *, scope=None, zone="UTC", rules=RULES, **settings):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    settings = {"file_name": "{patient}_{date}.txt", "pattern": "*.txt", **settings}
    source = pdf.open_source(PdfSettings(name="notes", folder=".", rules=rules, **settings), Site(tmp_path, zone))
    batches = list(source.batches(scope or Scope()))
    assert all(batch.schema == EVENT for batch in batches)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert source.report.events == len(rows)
    assert list(source.links()) == list(source.arrays([])) == []
    return rows, source.report


def test_a_pdf_becomes_the_events_of_its_patient(tmp_path):
    made = make_pdf.pdf("Findings: LVEF (biplane): 45 %", "No evidence of MI.")
    rows, report = read(tmp_path, {"a/17_20200301.pdf": made}, file_name="{patient}_{date}.pdf", pattern="*.pdf")
    first, second = rows
    assert first["patient"] == second["patient"] == "17"
    assert (first["system"], first["code"], first["number"], first["unit"]) == ("loinc", "10230-1", 45.0, "%")
    assert (first["time_us"], first["known_us"], first["precision"]) == (MARCH, MARCH, 3)
    assert (second["system"], second["code"], second["value"]) == ("local:text", "no-mi", "absent")
    assert report.refused == {}
    assert report.noted == {"text: denied": 1}


def test_a_note_that_says_a_thing_five_times_says_it_once_and_may_contradict_itself(tmp_path):
    text = "MI. MI. LVEF 45 %. LVEF 45 %. LVEF 40 %. No MI."
    rows, report = read(
        tmp_path, {"1_20200301.txt": text}, rules=(LVEF, Rule(code="x|mi", phrases=("MI",), absent="x|mi"))
    )
    assert [(row["value"], row["number"]) for row in rows] == [
        ("present", None),
        (None, 45.0),
        (None, 40.0),
        ("absent", None),
    ]
    assert report.noted["present and absent in one document"] == 1


def test_what_is_of_a_relative_of_the_past_or_only_considered_is_no_event(tmp_path):
    text = "Father had MI.\nHistory of MI.\nRule out MI.\nLVEF 40-45 %"
    rows, report = read(tmp_path, {"1_20200301.txt": text})
    assert rows == []
    assert report.noted == {"text: of a relative": 1, "text: of the past": 1, "text: only considered": 1}
    assert report.refused == {"text: range of numbers": 1}


def test_the_past_counts_where_a_rule_says_so_without_a_time(tmp_path):
    rule = Rule(code="x|mi", phrases=("MI",), history=True)
    (row,), _ = read(tmp_path, {"1_20200301.txt": "History of MI"}, rules=(rule,))
    assert (row["time_us"], row["precision"], row["known_us"]) == (None, None, MARCH)


@pytest.mark.parametrize(
    ("text", "patient", "refused"),
    [
        ("MRN: 17\nMI", "17", {}),
        ("  mrn = 17 \nMI", "17", {}),
        ("MRN: 17\nMRN: 17\nMI", "17", {}),
        ("MRN: 17\nMRN: 18\nMI", None, {"document of two patients": 1}),
        ("The MRN: 17\nMI", None, {"document without a patient": 1}),
        ("MRN:\n17\nMI", None, {"document without a patient": 1}),
        ("MRN 17\nMI", None, {"document without a patient": 1}),
    ],
)
def test_a_labelled_line_says_whose_a_document_is(tmp_path, text, patient, refused):
    rows, report = read(tmp_path, {"a.txt": text}, file_name="", patient_label="MRN")
    assert [row["patient"] for row in rows] == ([patient] if patient else [])
    assert report.refused == refused


def test_the_name_and_the_line_must_agree(tmp_path):
    settings = {"patient_label": "MRN"}
    assert len(read(tmp_path, {"17_20200301.txt": "MRN: 17\nMI"}, **settings)[0]) == 1
    assert read(tmp_path, {"17_20200301.txt": "MRN: 18\nMI"}, **settings)[1].refused == {"document of two patients": 1}


@pytest.mark.parametrize(
    ("written", "order", "expected"),
    [
        ("2020-03-01", "dmy", MARCH),
        ("20200301", "mdy", MARCH),
        ("01/03/2020", "dmy", MARCH),
        ("03/01/2020", "mdy", MARCH),
        ("1.3.2020", "dmy", MARCH),
        ("2020-03-01T10:00+01:00", "ymd", MARCH + 9 * 3_600_000_000),
        ("01/03/20", "dmy", "unparseable time"),
        ("31/02/2020", "dmy", "unparseable time"),
        ("01/03/2020", "ymd", "unparseable time"),
        ("March", "dmy", "unparseable time"),
    ],
)
def test_a_date_is_read_in_the_declared_order_or_not_at_all(tmp_path, written, order, expected):
    settings = {"file_name": "{patient}.txt", "date_label": "Date", "date_order": order}
    rows, report = read(tmp_path, {"1.txt": f"Date: {written}\nMI"}, **settings)
    if isinstance(expected, int):
        assert [row["time_us"] for row in rows] == [expected]
    else:
        assert (rows, report.refused) == ([], {expected: 1})


def test_a_document_without_a_date_or_with_two_gives_events_without_a_time(tmp_path):
    settings = {"file_name": "{patient}.txt", "date_label": "Date"}
    rows, report = read(tmp_path, {"1.txt": "MI", "2.txt": "Date: 20200301\nDate: 20200302\nMI"}, **settings)
    assert [row["time_us"] for row in rows] == [None, None]
    assert report.noted == {"document without a date": 1, "document with two dates": 1}


def test_a_naive_date_without_a_zone_is_refused(tmp_path):
    _, report = read(tmp_path, {"1_20200301.txt": "MI"}, zone=None)
    assert report.refused == {"naive time without a declared zone": 1}


BOMB = b"BT /F1 10 Tf 12 TL 40 800 Td " + b"(AAAAAAAA) Tj " * 8_000_000 + b" ET"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.7\n" + bytes(range(256)) * 40, "broken PDF"),
        (make_pdf.pdf("MI")[:-200], "broken PDF"),
        (b"no PDF at all", "broken PDF"),
        (make_pdf.pdf("MI", trailer=make_pdf.ENCRYPTED), "encrypted PDF"),
        (make_pdf.pdf(""), "PDF without text"),
        (make_pdf.pdf(), "PDF with no page or too many pages"),
        (make_pdf.pdf(*["MI"] * 6), "PDF with no page or too many pages"),
        (make_pdf.pdf("x" * 90 + "\n" * 30) + b"x" * 2_000_000, "too large"),
        (make_pdf.pdf(BOMB, compress=True), "PDF took too long or too much memory"),
    ],
    ids=["garbage", "cut", "text", "encrypted", "empty", "no page", "six pages", "large", "bomb"],
)
def test_a_pdf_that_cannot_be_trusted_is_refused_and_the_next_is_read(tmp_path, content, reason):
    files = {"1_20200301.pdf": content, "2_20200301.pdf": make_pdf.pdf("MI")}
    settings = {"max_pages": 5, "max_bytes": 1_000_000, "timeout_seconds": 1}
    rows, report = read(tmp_path, files, file_name="{patient}_{date}.pdf", pattern="*.pdf", **settings)
    assert report.refused == {reason: 1}
    assert [row["patient"] for row in rows] == ["2"]


def test_the_reading_process_can_open_no_file_and_start_none():
    script = """
import codecs
import os
import pypdfium2.raw
from wardround.sources import pdf_text
def read(pdfium, content, most):
    for act in (lambda: open("/etc/passwd"), lambda: os.fork(), lambda: os.pipe()):
        try:
            act()
        except OSError:
            continue
        return {"pages": ["free"]}
    return {"pages": ["bound"]}
pdf_text._read = read
codecs.lookup("utf-16-le")
os.setuid(65534)  # the superuser's processes are not counted
pdf_text.main(1, 5)
"""
    if os.getuid() != 0:
        script = script.replace("os.setuid(65534)", "pass")
    done = subprocess.run([sys.executable, "-c", script], input=b"", capture_output=True, timeout=60, check=False)
    assert done.stdout == b'{"pages": ["bound"]}', done.stderr.decode()[-500:]


def test_an_answer_that_is_none_is_a_broken_pdf(monkeypatch, tmp_path):
    for script in ("echo nonsense", "exit 3", "echo '{}'; exit 3", "head -c 40000000 /dev/zero", "kill -9 $$"):
        fake = tmp_path / "python"
        fake.write_text(f"#!/bin/sh\ncat >/dev/null\n{script}\n", encoding="utf-8")
        fake.chmod(0o755)
        monkeypatch.setattr(pdf_pages.sys, "executable", str(fake))
        assert pdf_pages.pages(b"x") in {"broken PDF", "PDF took too long or too much memory"}


def test_the_reading_process_ends_by_itself_when_its_time_is_over():
    command = [sys.executable, "-P", "-m", "wardround.sources.pdf_text", "5", "1"]
    content = make_pdf.pdf(BOMB, compress=True)
    done = subprocess.run(command, input=content, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_text_that_is_not_utf_8_is_refused(tmp_path):
    _, report = read(tmp_path, {"1_20200301.txt": b"\xff\xfeM\x00I\x00"})
    assert report.refused == {"text that is not UTF-8": 1}


def test_no_message_or_report_holds_a_word_of_the_documents(tmp_path):
    files = {"Smith_20200301.txt": "MI Jones LVEF 7777 %", "Smith_x.txt": "MI", "Miller.txt": "MI"}
    _, report = read(tmp_path, files)
    told = repr(report)
    assert not any(secret in told for secret in ("Smith", "Jones", "Miller", "7777"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"rules": ()}, "no rules"),
        ({"file_name": ""}, "whose a document is"),
        ({"file_name": "{patient}{date}"}, "text between places"),
        ({"headings": {"x": "y"}}, "can mean"),
        ({"rules": (Rule(code="x", phrases=("y",)),)}, "write system|code"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path, settings, complaint):
    with pytest.raises(ConfigError, match=complaint.replace("|", r"\|")):
        read(tmp_path, {}, **settings)


def test_scope_is_kept_and_rows_stay(tmp_path):
    files = {"1_20200301.txt": "LVEF 45 %. MI", "2_20200302.txt": "MI"}
    everything, _ = read(tmp_path, files)
    some, _ = read(tmp_path, files, scope=Scope(codes={"snomed": frozenset({"22298006"})}))
    assert some == [row for row in everything if row["system"] == "snomed"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the C-CDA documents are not at WARDROUND_DATA")
def test_a_real_discharge_summary_is_read(tmp_path):
    path = next(REAL.rglob("Unstructured_Document_embed.ccda"))
    text = ET.parse(path).getroot().find(".//{urn:hl7-org:v3}nonXMLBody/{urn:hl7-org:v3}text").text
    rules = (
        Rule(code="x|ht", phrases=("hypertension",)),
        Rule(code="x|mi", phrases=("seizure activity",), absent="x|no"),
    )
    labels = {"patient_label": "Patient ID", "date_label": "Date of Discharge", "date_order": "mdy", "file_name": ""}
    rows, _ = read(tmp_path, {"a.pdf": base64.b64decode(text)}, pattern="*.pdf", rules=rules, **labels)
    assert {row["patient"] for row in rows} == {"12345"}
    assert {row["time_us"] for row in rows} == {1238025600000000}  # 26 March 2009
    assert ("ht", "present") in {(row["code"], row["value"]) for row in rows}
