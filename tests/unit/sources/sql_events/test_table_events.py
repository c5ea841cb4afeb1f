"""Files as event sources: encodings, broken lines and bombs; and the dirty data that there really are."""

# ruff: noqa: DTZ001, local times are what is tested

import csv
import gzip
import os
import tarfile
import traceback
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from wardround.errors import ClinicalError, ConfigError, MissingColumnError, UnavailableError
from wardround.harmonization.events import Scope
from wardround.sources import table_events, table_stream
from wardround.sources.site import Site

DATA = Path(os.environ.get("WARDROUND_DATA", Path(__file__).parents[5] / "shared" / "data"))
EVERYTHING = Scope()
SECRET = "Xanthippe-4711"
LAB = {
    "path": "lab.csv",
    "patient": "p",
    "time": "t",
    "code": "c",
    "system": "local:lab",
    "number": "n",
    "unit": "u",
}
HEADER = "p,t,c,n,u\n"


def source(folder, entries=(LAB,), kind="csv", zone="Europe/Berlin", **settings):
    form = table_events.CsvSettings if kind == "csv" else table_events.ParquetSettings
    table = {"kind": kind, "name": "lab", "events": list(entries), **settings}
    return table_events.open_source(msgspec.convert(table, form), Site(folder, zone))


def read(source, scope=EVERYTHING):
    return [event for batch in source.batches(scope) for event in batch.to_pylist()]


def lab(count, first=0):
    return "".join(f"{row:04d},2020-01-01,c{row % 3},{row}.5,mg/dL\n" for row in range(first, first + count))


def real(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name} below WARDROUND_DATA")
    return path


def test_cells_are_texts_and_identifiers_keep_their_zeros(tmp_path):
    (tmp_path / "lab.csv").write_text("\ufeff" + HEADER + lab(3))
    opened = source(tmp_path)
    assert [(event["patient"], event["number"], event["row"]) for event in read(opened)] == [
        ("0000", 0.5, 0), ("0001", 1.5, 1), ("0002", 2.5, 2),
    ]  # fmt: skip
    assert len(opened.report.snapshot["events 1: SHA-256"]) == 64


def test_the_files_of_a_folder_follow_one_another(tmp_path):
    (tmp_path / "labs").mkdir()
    (tmp_path / "labs" / "2.csv").write_text(HEADER + lab(2, 3))
    (tmp_path / "labs" / "1.csv.gz").write_bytes(gzip.compress((HEADER + lab(3)).encode()))
    (tmp_path / "labs" / ".3.csv").write_text("nonsense")
    events = read(source(tmp_path, [LAB | {"path": "labs"}]))
    assert [(event["patient"], event["row"]) for event in events] == [(f"{row:04d}", row) for row in range(5)]


def test_several_members_of_a_gzip_file_are_one_text(tmp_path):
    (tmp_path / "lab.csv.gz").write_bytes(gzip.compress((HEADER + lab(2)).encode()) + gzip.compress(lab(2, 2).encode()))
    assert len(read(source(tmp_path, [LAB | {"path": "lab.csv.gz"}]))) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "latin-1", "utf-16", "utf-16-le"])
def test_the_encoding_is_declared(tmp_path, encoding):
    (tmp_path / "lab.csv").write_bytes((HEADER + "Müller,2020-01-01,é,1,µmol/L\n").encode(encoding))
    (event,) = read(source(tmp_path, encoding=encoding))
    assert (event["patient"], event["code"], event["unit"]) == ("Müller", "é", "µmol/L")


def test_rows_with_wrong_bytes_are_refused_and_counted_and_others_stay_where_they_are(tmp_path):
    lines = [b"1,2020-01-01,a,1,g", "2,2020-01-01,ü,2,g".encode("latin-1"), b"3,2020-01-01,c,3,g"]
    (tmp_path / "lab.csv").write_bytes(HEADER.encode() + b"\n".join(lines) + b"\n")
    opened = source(tmp_path)
    assert [event["patient"] for event in read(opened)] == ["1", "3"]
    assert opened.report.refused == {table_events.UNDECODABLE: 1}
    assert opened.report.read == 3


def test_wrong_bytes_in_a_column_that_nobody_asked_for_do_no_harm(tmp_path):
    (tmp_path / "lab.csv").write_bytes(b"p,t,c,n,u,name\n1,2020-01-01,a,1,g,M\xfcller\n")
    assert len(read(source(tmp_path))) == 1


def test_lines_with_too_many_or_too_few_cells_are_refused_and_counted_once(tmp_path):
    (tmp_path / "lab.csv").write_text(HEADER + lab(2) + "only,three,cells\n" + lab(1) + "1,2,3,4,5,6\n" + lab(1))
    opened = source(tmp_path)
    assert len(read(opened)) == 4
    assert opened.report.refused == {table_events.MALFORMED: 2}
    assert opened.report.read == 6


def test_a_quoted_line_break_is_part_of_its_cell(tmp_path):
    (tmp_path / "lab.csv").write_text(HEADER + '1,2020-01-01,a,1,"g\nx,y"\n' + lab(1))
    assert [event["unit"] for event in read(source(tmp_path))] == ["g\nx,y", "mg/dL"]


def test_a_bomb_is_refused_before_it_goes_off(tmp_path, monkeypatch):
    monkeypatch.setattr(table_stream, "_FREE_BYTES", 1024 * 1024)
    with gzip.open(tmp_path / "lab.csv.gz", "wb") as file:
        file.write(HEADER.encode())
        file.write(b"1,2020-01-01,a,1,g\n" * 300_000)
    with pytest.raises(ClinicalError, match="200 times"):
        read(source(tmp_path, [LAB | {"path": "lab.csv.gz"}]))
    (tmp_path / "lab.csv").write_text(HEADER + lab(1000))
    with pytest.raises(ClinicalError, match="max_bytes"):
        read(source(tmp_path, max_bytes=1000))


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_gzip_file_that_is_cut_off_or_damaged_is_refused(tmp_path, cut):
    whole = gzip.compress((HEADER + lab(500)).encode())
    for broken in (whole[:-cut], whole[:20] + bytes([whole[20] ^ 255]) + whole[21:], b"no gzip at all"):
        (tmp_path / "lab.csv.gz").write_bytes(broken)
        with pytest.raises(ClinicalError):
            read(source(tmp_path, [LAB | {"path": "lab.csv.gz"}]))


def test_a_line_longer_than_a_block_is_refused_and_not_held_in_memory(tmp_path):
    (tmp_path / "lab.csv").write_text(HEADER + lab(1) + '"' + "x" * 10_000_000)
    with pytest.raises(ClinicalError):
        read(source(tmp_path))


def test_too_many_rows_are_refused(tmp_path):
    (tmp_path / "lab.csv").write_text(HEADER + lab(100))
    with pytest.raises(ClinicalError, match="max_rows"):
        read(source(tmp_path, max_rows=99))


def test_errors_name_the_file_by_its_place_and_nothing_of_its_lines(tmp_path):
    path = f"{SECRET}.csv"
    (tmp_path / path).write_text(f"p,t,c,n\n{SECRET},2020,{SECRET},1\n")
    for entry, kind in ((LAB | {"path": path}, MissingColumnError), (LAB | {"path": f"{SECRET}-no"}, UnavailableError)):
        with pytest.raises(kind) as caught:
            read(source(tmp_path, [entry]))
        assert SECRET not in "".join(traceback.format_exception(caught.value)).replace(str(tmp_path), "")
    (tmp_path / path).write_text(f"p,t,c,n,u\n{SECRET}\n")
    opened = source(tmp_path, [LAB | {"path": path}])
    read(opened)
    assert SECRET not in repr(opened.report)


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="encoding"):
        source(tmp_path, encoding="klingon")
    for wrong in ("hex", "base64", "rot13"):
        with pytest.raises(ConfigError):
            source(tmp_path, encoding=wrong)
    (tmp_path / "lab.csv").write_text("p,p,t,c,n,u\n1,2,2020-01-01,a,1,g\n")
    with pytest.raises(ConfigError, match="two columns"):
        read(source(tmp_path))


@pytest.mark.parametrize("kind", ["s", "us"])
def test_parquet_gives_what_csv_gives(tmp_path, kind):
    (tmp_path / "lab.csv").write_text(HEADER + lab(50))
    columns = dict(zip("ptcnu", zip(*(line.split(",") for line in lab(50).splitlines()), strict=True), strict=True))
    days = pa.array([datetime(2020, 1, 1)] * 50, pa.timestamp(kind))
    table = pa.table(columns | {"n": pa.array([float(one) for one in columns["n"]]), "t": days})
    table = table.set_column(2, "c", table.column("c").dictionary_encode())
    pyarrow.parquet.write_table(table, tmp_path / "lab.parquet", row_group_size=7)
    events = read(source(tmp_path, [LAB | {"path": "lab.parquet"}], kind="parquet"))
    assert [event | {"precision": 3} for event in events] == read(source(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\x00" * 100 + b"\xff\xff\xff\x7fPAR1", b"p,t\n1,2\n"])
def test_what_is_no_parquet_file_is_refused(tmp_path, content):
    (tmp_path / "lab.parquet").write_bytes(content)
    with pytest.raises(ClinicalError, match="Parquet"):
        read(source(tmp_path, [LAB | {"path": "lab.parquet"}], kind="parquet"))


def test_heart_disease_with_question_marks_and_nines():
    folder = real("heart_disease_uci/processed.cleveland.data").parent
    names = "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal num"
    entry = {
        "names": names.split(),
        "missing": ["?", "-9"],
        "time_fixed": "1988-07-01",
        "columns": [
            {
                "from": "sex",
                "code": "patient|sex",
                "values": {"1.0": "male", "0.0": "female", "1": "male", "0": "female"},
            },
            {"from": "chol", "code": "loinc|2093-3", "unit": "mg/dL"},
            {"from": "ca", "code": "local:uci|ca"},
        ],
    }
    found = {}
    for place, rows in (("cleveland", 303), ("hungarian", 294), ("switzerland", 123), ("va", 200)):
        opened = source(folder, [entry | {"path": f"processed.{place}.data"}])
        events = read(opened)
        assert opened.report.read == rows
        found[place] = {code: sum(event["code"] == code for event in events) for code in ("sex", "2093-3", "ca")}
        assert not any(event["number"] == -9 for event in events)
    assert found == {
        "cleveland": {"sex": 303, "2093-3": 303, "ca": 299},
        "hungarian": {"sex": 294, "2093-3": 271, "ca": 3},
        "switzerland": {"sex": 123, "2093-3": 123, "ca": 5},
        "va": {"sex": 200, "2093-3": 193, "ca": 2},
    }


def test_physionet_s_minus_one_is_no_value(tmp_path):
    archive = real("physionet2012/set-a.tar.gz")
    admitted = datetime(2012, 1, 1)
    minus = 0
    with tarfile.open(archive) as files, (tmp_path / "lab.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow("ptcn")
        for member in [one for one in files if one.name.endswith(".txt")][:60]:
            rows = list(csv.reader(files.extractfile(member).read().decode().splitlines()))[1:]
            for at, name, value in rows:
                hours, minutes = map(int, at.split(":"))
                writer.writerow([rows[0][2], admitted + timedelta(hours=hours, minutes=minutes), name, value])
                minus += float(value) == -1
    entry = {name: text for name, text in LAB.items() if name != "unit"} | {"missing": ["-1"]}
    opened = source(tmp_path, [entry])
    events = read(opened)
    assert minus > 20
    assert opened.report.noted["missing value"] == minus
    assert len(events) == opened.report.read - minus
    assert not any(event["number"] == -1 for event in events)


def test_mimic_s_shifted_years_have_daylight_saving():
    folder = real("mimic3_demo/labevents.csv.gz").parent
    entry = {
        "path": "labevents.csv.gz", "patient": "subject_id", "time": "charttime", "code": "itemid",
        "system": "local:mimic-lab", "number": "valuenum", "value": "value", "unit": "valueuom",
    }  # fmt: skip
    opened = source(folder, [entry], zone="America/New_York")
    events = read(opened, Scope(codes={"local:mimic-lab": frozenset({"50868"})}))
    first = events[0]
    assert (first["patient"], first["number"], first["unit"]) == ("10006", 19.0, "mEq/L")
    # 2164-09-24 20:21:00 in New York is four hours behind: summer time, a century after Arrow's own tables end.
    assert first["time_us"] == (datetime(2164, 9, 25, 0, 21) - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    assert opened.report.read == 76_074
    patients = [
        {"from": "dob", "code": "patient|birth-date"},
        {"from": "dod", "code": "patient|death"},
        {"from": "gender", "code": "patient|sex", "values": {"M": "male", "F": "female"}},
    ]
    known = read(
        source(
            folder, [{"path": "patients.csv.gz", "patient": "subject_id", "columns": patients}], zone="America/New_York"
        )
    )
    assert [sum(event["code"] == code for event in known) for code in ("birth-date", "death", "sex")] == [100, 100, 100]
    assert {event["precision"] for event in known if event["code"] == "birth-date"} == {3}


def test_synthea_s_observations_are_numbers_and_texts_in_one_column():
    folder = real("synthea_csv27/observations.csv.gz").parent
    entry = {
        "path": "observations.csv.gz", "patient": "PATIENT", "time": "DATE", "code": "CODE", "system": "loinc",
        "number": "VALUE", "value": "VALUE", "unit": "UNITS",
    }  # fmt: skip
    opened = source(folder, [entry], zone=None)
    events = read(opened)
    with gzip.open(folder / "observations.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numeric = {row["VALUE"] for row in rows if row["TYPE"] == "numeric"}
    assert opened.report.read == len(rows)
    assert sum(event["number"] is not None for event in events) >= sum(row["TYPE"] == "numeric" for row in rows)
    assert {event["value"] for event in events if event["value"] is not None}.isdisjoint(numeric)
    assert not any(event["number"] is not None and event["value"] is not None for event in events)
