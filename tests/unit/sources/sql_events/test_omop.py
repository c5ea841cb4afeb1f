"""The OMOP CDM: one meaning whether it is a database or a folder of files."""

import csv
import json
import os
import sqlite3
import tarfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow.csv
import pyarrow.parquet
import pytest

from wardround.errors import ConfigError, MissingColumnError, UnavailableError
from wardround.harmonization.events import PATIENT, Scope
from wardround.sources import omop
from wardround.sources.site import Site

EVERYTHING = Scope()
ROOT = Path(__file__).parents[5] / "shared"
DATA = Path(os.environ.get("WARDROUND_DATA", ROOT / "data"))
CONFORMANCE = Path(os.environ.get("WARDROUND_CONFORMANCE", ROOT / "conformance"))
TABLES = {
    "person": "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth",
    "measurement": "measurement_id,person_id,measurement_concept_id,measurement_date,measurement_datetime,"
    "operator_concept_id,value_as_number,value_as_concept_id,unit_concept_id,measurement_source_concept_id,unit_source_value",
    "observation": "observation_id,person_id,observation_concept_id,observation_date,value_as_number,value_as_string,"
    "value_as_concept_id,observation_source_concept_id",
    "condition_occurrence": "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,"
    "condition_source_concept_id",
    "visit_occurrence": "visit_occurrence_id,person_id,visit_start_date,visit_end_date",
    "death": "person_id,death_date,death_datetime",
    "concept": "concept_id,concept_name,vocabulary_id,concept_code",
}
CONCEPTS = [
    "3027114,Cholesterol,LOINC,2093-3",
    "8840,mg/dL,UCUM,mg/dL",
    "45877985,Detected,LOINC,LA11882-0",
    "201826,Type 2 diabetes,SNOMED,44054006",
    "35206882,Type 2 diabetes,ICD10CM,E11.9",
    "900,House code,Epic LAB,CHOL",
]


def cdm(folder, **rows):
    folder.mkdir(exist_ok=True)
    for table, header in TABLES.items():
        lines = CONCEPTS if table == "concept" else rows.get(table, [])
        (folder / f"{table.upper()}.csv").write_text("\n".join([header, *lines]) + "\n")
    return folder


def stored(folder, kinds="INTEGER"):
    path = folder.with_suffix(f".{kinds or 'untyped'}.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        for file in sorted(folder.glob("*.csv")):
            with file.open(encoding="utf-8") as text:
                header, *rows = csv.reader(text)
            columns = ", ".join(f"{name} {kinds if name.endswith('_id') else ''}" for name in header)
            connection.execute(f"CREATE TABLE {file.stem} ({columns})")
            holes = ", ".join("?" * len(header))
            cells = [[cell or None for cell in row] for row in rows]
            connection.executemany(f"INSERT INTO {file.stem} VALUES ({holes})", cells)
    return path


def source(path, zone="America/New_York", **settings):
    table = {"kind": "omop", "name": "cdm", "path": path.name, **settings}
    return omop.open_source(msgspec.convert(table, omop.OmopSettings), Site(path.parent, zone))


def read(source, scope=EVERYTHING):
    return [event for batch in source.batches(scope) for event in batch.to_pylist()]


def meaning(events):
    return Counter(json.dumps({name: cell for name, cell in event.items() if name != "row"}) for event in events)


@pytest.fixture(scope="module")
def synthea(tmp_path_factory):
    archive = DATA / "omop_synthea27nj" / "cdm54_csv.tar.gz"
    if not archive.exists():
        pytest.skip("needs omop_synthea27nj below WARDROUND_DATA")
    folder = tmp_path_factory.mktemp("omop") / "cdm"
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return folder


def test_the_same_events_from_csv_parquet_and_sqlite(synthea):
    events = read(source(synthea))
    assert Counter(event["system"] for event in events) == {
        "loinc": 16756,
        PATIENT: 3697,
        "snomed": 2569,
        "rxnorm": 883,
    }
    parquet = synthea.parent / "parquet"
    parquet.mkdir()
    for file in synthea.glob("*.csv"):
        table = pyarrow.csv.read_csv(file)
        pyarrow.parquet.write_table(table, parquet / f"{file.stem.lower()}.parquet")
    assert meaning(read(source(parquet))) == meaning(events)
    for kinds in ("INTEGER", ""):
        opened = source(stored(synthea, kinds), page_rows=3000)
        again = read(opened)
        assert meaning(again) == meaning(events)
        assert read(opened) == again
    assert opened.report.noted["missing value"] == 933
    assert not opened.report.refused


def test_a_scope_is_asked_of_the_database_and_gives_the_same(synthea):
    path = stored(synthea, "BIGINT")
    whole = read(source(path))
    for codes in (
        {"loinc": {"8302-2", "29463-7"}},
        {"snomed": {"44054006"}, "loinc": {"nonsense"}},
        {"loinc": {"8302-*"}},
        {},
    ):
        scope = Scope(codes={system: frozenset(some) for system, some in codes.items()})
        opened = source(path)
        events = read(opened, scope)
        assert meaning(events) == meaning(event for event in whole if scope.wants(event["system"], event["code"]))
    assert opened.report.read < 2000


def test_every_column_that_is_read_is_the_cdm_s():
    path = CONFORMANCE / "omop_dq" / "cdm_OMOP_CDMv5.4_Field_Level.csv"
    if not path.exists():
        pytest.skip("needs omop_dq below WARDROUND_CONFORMANCE")
    with path.open(encoding="utf-8") as file:
        fields = {(row["cdmTableName"], row["cdmFieldName"]): row for row in csv.DictReader(file)}
    for entry in omop._CLINICAL:
        for name in entry.needed:
            assert fields[entry.table, name]["isRequired"] == "Yes"
        assert fields[entry.table, entry.key]["isPrimaryKey"] == "Yes"
        absent = {name for name in entry.optional if (entry.table, name) not in fields}
        assert absent <= {"value_as_string", "operator_concept_id"}
    for table, key, start, end in omop._SEEN:
        assert fields[table, key]["isPrimaryKey"] == "Yes"
        assert {(table, f"{start}_date"), (table, f"{end}_date")} <= fields.keys()


def test_births_and_sexes(tmp_path):
    people = ["1,8507,1950,3,4", "2,8532,1950,3,", "3,8521,1950,,", "4,0,1950,13,1", "5,77,1950,,4", "6,8551,,,"]
    opened = source(cdm(tmp_path / "cdm", person=people))
    events = read(opened)
    born = {
        event["patient"]: (event["time_us"], event["precision"]) for event in events if event["code"] == "birth-date"
    }
    assert born == {
        "1": (-625795200_000000, 3),
        "2": (-626054400_000000, 2),
        "3": (-631152000_000000, 1),
        "5": (-631152000_000000, 1),
    }
    sexes = {event["patient"]: event["value"] for event in events if event["code"] == "sex"}
    assert sexes == {"1": "male", "2": "female", "3": "other", "6": "unknown"}
    assert opened.report.refused == {"unparseable time": 1, "value not in the mapping": 1}


def test_a_measurement_has_its_unit_its_comparator_and_both_its_concepts(tmp_path):
    rows = [
        "1,1,3027114,2020-01-01,2020-01-01 10:00:00,4171756,200,0,8840,900,MG/DL",
        "2,1,3027114,2020-01-01,2020-01-01 00:00:00,0,200,,77,3027114,mg%",
        "3,1,0,20200101,,4172703,200,,,900,",
        "4,1,3027114,2020-01-01,,99,200,,,0,",
        "5,1,3027114,2020-01-01,,,,45877985,,0,",
        "6,1,0,2020-01-01,,,1,,,0,",
        "7,1,3027114,2020-01-01,,,,,,0,",
        "8,1,12345,2020-01-01,,,1,,,0,",
    ]
    opened = source(cdm(tmp_path / "cdm", measurement=rows))
    events = [event for event in read(opened) if event["system"] != PATIENT]
    told = [
        (
            e["order_key"][12:],
            f"{e['system']}|{e['code']}",
            e["number"],
            e["comparator"],
            e["value"],
            e["unit"],
            e["precision"],
        )
        for e in sorted(events, key=lambda e: (e["order_key"], e["system"]))
    ]
    assert told == [
        ("1", "loinc|2093-3", 200.0, "<", None, "mg/dL", 5),
        ("1", "omop:Epic LAB|CHOL", 200.0, "<", None, "mg/dL", 5),
        ("2", "loinc|2093-3", 200.0, None, None, "mg%", 3),
        ("3", "omop:Epic LAB|CHOL", 200.0, None, None, None, 3),
        ("4", "loinc|2093-3", None, None, None, None, 3),
        ("5", "loinc|2093-3", None, None, "loinc|LA11882-0", None, 3),
        ("8", "omop|12345", 1.0, None, None, None, 3),
    ]
    assert len({event["row"] for event in events if event["order_key"] == "measurement:1"}) == 1
    assert opened.report.refused == {"no concept": 1}
    assert opened.report.noted == {
        "no standard concept": 1, "comparator unparseable": 1, "missing value": 1, "concept not in the vocabulary": 1,
    }  # fmt: skip


def test_an_observation_without_a_value_is_a_fact_and_conditions_keep_both_codes(tmp_path):
    opened = source(
        cdm(
            tmp_path / "cdm",
            observation=["1,1,201826,2020-01-01,,,,0", "2,1,201826,2020-01-01,,never,,0"],
            condition_occurrence=["7,1,201826,2020-01-01,35206882"],
            visit_occurrence=["1,1,2020-01-01,2020-01-03", "2,1,2020-02-01,"],
            death=["1,2021-01-01,2021-01-01 08:00:00"],
        )
    )
    events = read(opened)
    observed = [event for event in events if (event["order_key"] or "").startswith("observation")]
    assert {(event["code"], event["value"]) for event in observed} == {("44054006", "never"), ("44054006", None)}
    assert {(e["system"], e["code"]) for e in events if (e["order_key"] or "").startswith("condition")} == {
        ("snomed", "44054006"), ("icd10cm", "E11.9"),
    }  # fmt: skip
    assert sum(event["code"] == "seen" for event in events) == 3
    assert [event["precision"] for event in events if event["code"] == "death"] == [5]


def test_without_a_vocabulary_a_concept_is_its_number(tmp_path):
    folder = cdm(tmp_path / "cdm", condition_occurrence=["7,1,201826,2020-01-01,35206882"])
    (folder / "CONCEPT.csv").unlink()
    for path in (folder, stored(folder)):
        assert {(e["system"], e["code"]) for e in read(source(path)) if e["system"] != PATIENT} == {
            ("omop", "201826"), ("omop", "35206882"),
        }  # fmt: skip


def test_naive_times_without_a_zone_are_refused_and_births_are_not(tmp_path):
    rows = ["1,1,3027114,2020-01-01,,,1,,,0,"]
    opened = source(cdm(tmp_path / "cdm", person=["1,8507,1950,3,4"], measurement=rows), zone=None)
    assert {event["code"] for event in read(opened)} == {"birth-date", "sex"}
    assert opened.report.refused == {"naive time without a declared zone": 1}


def test_what_is_no_cdm_is_refused(tmp_path):
    with pytest.raises(UnavailableError):
        read(source(tmp_path / "nowhere"))
    folder = cdm(tmp_path / "cdm")
    (folder / "PERSON.csv").write_text("person_id\n1\n")
    with pytest.raises(MissingColumnError, match="year_of_birth"):
        read(source(folder))
    for place in ({}, {"path": "cdm", "dsn": "env:A"}, {"dsn": "env:A"}, {"dsn": "host=a"}):
        with pytest.raises(ConfigError):
            omop.open_source(omop.OmopSettings(name="cdm", **place), Site(tmp_path, "UTC"))
