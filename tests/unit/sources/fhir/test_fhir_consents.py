"""Consents among the resources of a source: who may be used, from when, and that a study heeds it."""

import io
import json

import pytest

from wardround.harmonization.events import Scope, SourceReport
from wardround.sources.fhir_reader import FhirReading, ResourceReader
from wardround.sources.site import Site

CONSENT = {
    "resourceType": "Consent",
    "id": "c1",
    "status": "active",
    "scope": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "research"}]},
    "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
    "patient": {"reference": "Patient/p1"},
    "dateTime": "2024-01-01T00:00:00Z",
    "provision": {
        "type": "permit",
        "purpose": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HRESCH"}],
    },
}


def read(tmp_path, *resources, scope=None, **settings):
    report = SourceReport("f")
    reader = ResourceReader(FhirReading(name="f", **settings), Site(tmp_path, "Europe/Zurich"), report)
    stream = io.BytesIO(b"\n".join(json.dumps(resource).encode() for resource in resources))
    rows = [row for batch in reader.batches([stream], scope or Scope()) for row in batch.to_pylist()]
    return [row for row in rows if row["code"].startswith("consent:")], report, reader


def told(rows):
    return {row["code"]: row["value"] for row in rows}


def test_a_permission_is_an_event_of_its_patient(tmp_path):
    rows, report, reader = read(tmp_path, CONSENT)
    assert told(rows)["consent:HRESCH"] == "permit"
    assert {(row["patient"], row["system"], row["order_key"]) for row in rows} == {("p1", "patient", "Consent/c1")}
    assert "Consent" in reader.resource_types
    assert report.events == len(rows)


def test_consents_are_read_whatever_codes_are_asked_for(tmp_path):
    rows, *_ = read(tmp_path, CONSENT, scope=Scope(codes={"loinc": frozenset({"2093-3"})}))
    assert told(rows)["consent:HRESCH"] == "permit"


def test_with_an_identifier_system_patients_are_named_as_the_reader_names_them(tmp_path):
    rows, *_ = read(tmp_path, CONSENT, patient="urn:mrn")
    assert {row["patient"] for row in rows} == {"Patient/p1"}


@pytest.mark.parametrize("place", ["bundle", "line"])
def test_a_consent_in_a_bundle_is_read_like_one_on_a_line(tmp_path, place):
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": CONSENT}]}
    rows, *_ = read(tmp_path, bundle if place == "bundle" else CONSENT)
    assert told(rows)["consent:HRESCH"] == "permit"


@pytest.mark.parametrize(
    "change",
    [
        {"decision": "permit"},
        {"provision": [{"type": "permit"}]},
        {"meta": {"profile": ["http://hl7.org/fhir/5.0/StructureDefinition/Consent"]}, "decision": "permit"},
        {"status": "inactive"},
    ],
    ids=["decision", "list", "profile", "inactive"],
)
def test_what_is_not_understood_or_withdrawn_denies(tmp_path, change):
    rows, report, _ = read(tmp_path, CONSENT | change)
    assert told(rows)["consent:HRESCH"] == "deny"
    assert "status" in change or sum(report.refused.values()) == 1
