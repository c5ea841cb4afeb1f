"""Files of real and synthetic resources as a source of events."""

import gzip
import json
import os
from collections import Counter
from itertools import islice
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
from tests.unit.sources.fhir import views
from tests.unit.sources.fhir.readers import observation

from wardround.errors import ClinicalError, ConfigError
from wardround.harmonization.events import EVENT, Scope
from wardround.sources import fhir_events
from wardround.sources.fhir_events import FhirFilesSettings
from wardround.sources.site import Site

ROOT = Path(__file__).parents[4]
DATA = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data"))
SYNTHEA = DATA / "synthea_fhir_r4" / "dev"
EXAMPLES = DATA / "fhir_r4_examples"
EVERYTHING = Scope()
LINES = 3000

pytestmark = views.needs_duckdb
synthetic = pytest.mark.skipif(not SYNTHEA.is_dir(), reason="the synthetic resources are not at WARDROUND_DATA")


def read(folder, path, scope=EVERYTHING, zone="America/New_York", **settings):
    asked = FhirFilesSettings(name="fhir", path=path, **settings)
    source = fhir_events.open_source(asked, Site(folder=Path(folder), timezone=zone))
    return pa.Table.from_batches(list(source.batches(scope)), EVENT), source


def resources(name):
    with gzip.open(SYNTHEA / f"{name}.ndjson.gz") as file:
        yield from map(msgspec.json.decode, file)


def expected(name):
    """What a clinician would count in the resources, read by hand."""
    for one in resources(name):
        subject = (one.get("subject") or one.get("patient") or {}).get("reference", "").removeprefix("urn:uuid:")
        match name:
            case "Patient":
                yield one["id"], "birth-date"
                yield one["id"], "sex"
                if "deceasedDateTime" in one:
                    yield one["id"], "death"
            case "Observation":
                for part in (one, *one.get("component", ())):
                    yield from ((subject, coding["code"]) for coding in part["code"]["coding"])
            case "Encounter":
                yield from [(subject, "seen")] * (("start" in one["period"]) + ("end" in one["period"]))
                yield subject, one["class"]["code"]
                yield from ((subject, coding["code"]) for kind in one["type"] for coding in kind["coding"])
            case _:
                field = {"Immunization": "vaccineCode", "MedicationRequest": "medicationCodeableConcept"}
                yield from ((subject, coding["code"]) for coding in one[field.get(name, "code")]["coding"])


TYPES = (
    "Patient", "Observation", "Condition", "Procedure", "MedicationRequest", "Immunization", "AllergyIntolerance",
    "Encounter", "DiagnosticReport",
)  # fmt: skip


@synthetic
@pytest.mark.parametrize("name", TYPES)
def test_every_fact_of_synthetic_patients_is_an_event_once(name):
    table, source = read(SYNTHEA, f"{name}.ndjson.gz")
    found = Counter(zip(table["patient"].to_pylist(), table["code"].to_pylist(), strict=True))
    assert found == Counter(expected(name))
    assert source.report.refused == source.report.noted == {}
    assert source.report.events == table.num_rows
    assert len(set(table["row"].to_pylist())) == source.report.read
    if name != "Patient":
        assert not table["time_us"].null_count
        assert set(table["status"].to_pylist()) == {"final"}


@synthetic
def test_the_numbers_of_synthetic_observations_are_those_that_are_written():
    table, _ = read(SYNTHEA, "Observation.ndjson.gz")
    written = islice(resources("Observation"), LINES)
    values = [part.get("valueQuantity", {}) for one in written for part in (one, *one.get("component", ()))]
    assert table["number"].to_pylist()[: len(values)] == [value.get("value") for value in values]
    assert table["unit"].to_pylist()[: len(values)] == [value.get("code", value.get("unit")) for value in values]
    assert table["known_us"].null_count == 0


@synthetic
def test_a_folder_is_read_again_as_it_was():
    first, source = read(SYNTHEA.parent, "dev", scope=Scope(codes={"loinc": frozenset({"4548-4"})}))
    snapshot = source.report.snapshot
    assert snapshot["files"] == "14"
    again = pa.Table.from_batches(list(source.batches(Scope(codes={"loinc": frozenset({"4548-4"})}))), EVENT)
    assert again.equals(first)
    assert source.report.snapshot == snapshot
    assert set(first["system"].to_pylist()) == {"loinc", "patient"}


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the example resources are not at WARDROUND_DATA")
def test_the_standards_own_examples_are_events():
    table, source = read(EXAMPLES.parent, EXAMPLES.name)
    found = {(row["code"], row["number"], row["unit"], row["status"]) for row in table.to_pylist()}
    assert ("29463-7", 185.0, "[lb_av]", "final") in found
    assert ("birth-date", None, None, None) in found
    kinds = Counter((key or "").partition("/")[0] for key in table["order_key"].to_pylist())
    assert {"Patient", "Observation", "Condition", "MedicationRequest", "Immunization", "Encounter"} <= set(kinds)
    assert source.report.refused == {"coding without a system or a code": 1}


def test_later_files_come_later_and_a_lone_file_is_a_source_too(tmp_path):
    for number, name in enumerate(["2020-01.ndjson", "2020-02.ndjson", "notes.txt"]):
        (tmp_path / name).write_text(json.dumps(observation(valueInteger=number)))
    table, source = read(tmp_path, ".")
    assert table["number"].to_pylist() == [0.0, 1.0]
    assert table["row"].to_pylist() == sorted(table["row"].to_pylist())
    assert source.report.snapshot["files"] == "2"
    assert read(tmp_path, "2020-02.ndjson")[0]["number"].to_pylist() == [1.0]
    assert list(source.arrays(["x"])) == list(source.links()) == []


def test_nothing_at_the_path_is_told(tmp_path):
    with pytest.raises(ConfigError, match="nothing at 'away'"):
        read(tmp_path, "away")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClinicalError, match=r"no \.ndjson or \.ndjson\.gz file"):
        read(tmp_path, "empty")


def test_settings_are_a_table_of_the_mapping():
    text = '[[sources]]\nkind = "fhir"\nname = "w"\npath = "x"\npatient = "urn:mrn"\n'
    decoded = msgspec.toml.decode(text, type=dict[str, list[FhirFilesSettings]])
    assert decoded["sources"] == [FhirFilesSettings(name="w", path="x", patient="urn:mrn")]
    with pytest.raises(msgspec.ValidationError):
        msgspec.toml.decode(text + "pth = 1", type=dict[str, list[FhirFilesSettings]])
