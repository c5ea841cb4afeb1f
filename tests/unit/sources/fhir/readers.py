"""Resources to events, for the tests in this folder."""

import io
import json
from pathlib import Path

import pyarrow as pa

from wardround.harmonization.events import EVENT, Scope, SourceReport
from wardround.sources.fhir_reader import FhirReading, ResourceReader
from wardround.sources.site import Site

EVERYTHING = Scope()


def reader(*, zone=None, limits=None, folder=Path(), **settings):
    site = Site(folder=folder, timezone=zone)
    return ResourceReader(FhirReading(name="fhir", **settings), site, SourceReport("fhir"), limits=limits)


def read(texts, scope=EVERYTHING, **settings):
    """The rows, and the reader that gave them."""
    used = reader(**settings)
    found = list(used.batches([io.BytesIO(text) for text in texts], scope))
    return pa.Table.from_batches(found, EVENT).to_pylist(), used


def events(*resources, **settings):
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in resources]
    return read([b"\n".join(lines)], **settings)


def observation(code="8480-6", **more):
    return {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2020-01-02T03:04:05Z",
        **more,
    }


def resource(kind, **more):
    return {"resourceType": kind, "id": "r1", "subject": {"reference": "Patient/p1"}, **more}


def coded(*codes, system="http://snomed.info/sct"):
    return {"coding": [{"system": system, "code": code} for code in codes]}
