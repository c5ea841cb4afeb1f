"""Views over a few resources, by either back end, for the tests in this folder."""

import importlib.util
import io
import json

import pytest

from wardround.harmonization import memory_database
from wardround.sources import fhir_plan, fhir_run

HAS_DUCKDB = importlib.util.find_spec("duckdb") is not None
needs_duckdb = pytest.mark.skipif(not HAS_DUCKDB, reason="duckdb is not installed")
both = pytest.mark.parametrize("backend", ["python", pytest.param("duckdb", marks=needs_duckdb)])

ANNA = {
    "resourceType": "Patient",
    "id": "anna",
    "active": True,
    "gender": "female",
    "birthDate": "1978-03-12",
    "_birthDate": {"id": "bd", "extension": [{"url": "urn:time", "valueDateTime": "1978-03-12T08:00:00Z"}]},
    "multipleBirthInteger": 2,
    "name": [
        {"use": "official", "family": "Ahl", "given": ["Anna", None, "Bea"]},
        {"use": "usual", "given": ["Nan"], "period": {"start": "2001", "end": "2003-04"}},
    ],
    "contact": [
        {"name": {"family": "C1"}, "telecom": [{"system": "phone", "value": "1"}, {"system": "email", "value": "2"}]},
        {"name": {"family": "C2"}, "telecom": [{"system": "phone", "value": "3"}]},
        {"name": {"family": "C3"}},
    ],
    "extension": [
        {"url": "urn:sex", "valueCode": "F"},
        {"url": "urn:race", "extension": [{"url": "omb", "valueCoding": {"code": "2106-3"}}, {"url": "text"}]},
    ],
    "managingOrganization": {"reference": "https://x.example/fhir/Organization/o1"},
    "link": [{"other": {"reference": "Patient/anna"}}, {"other": {"reference": "RelatedPerson/r1"}}],
}
BARE = {"resourceType": "Patient", "id": "bare"}


def lines(resources):
    return b"\n".join(
        resource if isinstance(resource, bytes) else json.dumps(resource).encode() for resource in resources
    )


def tables(plan, text, backend, **limits):
    database = memory_database.open_memory_database() if backend == "duckdb" else None
    report, parts = fhir_run.tables(plan, io.BytesIO(text), database, **limits)
    return report, list(parts)


def run(view, resources, backend, **options):
    """Rows as dicts, by one back end; DuckDB may decline a view, never change it."""
    plan = fhir_plan.compile_view(view, **options)
    _, parts = tables(plan, lines(resources), backend)
    return [row for part in parts for row in part.to_pylist()]


def runs_in_sql(view, **options):
    runner = fhir_run.ViewRunner(fhir_plan.compile_view(view, **options), memory_database.open_memory_database())
    return not runner.reason


def columns(*paths, resource="Patient", **rest):
    """A view with one column for each path, called a, b, c, ..."""
    named = [{"name": chr(97 + n), "path": path} for n, path in enumerate(paths)]
    return {"resource": resource, "select": [{"column": named}], **rest}


def values(path, resource, backend, **options):
    """The value of one path for one resource."""
    (row,) = run(columns(path, resource=resource["resourceType"]), [resource], backend, **options)
    return row["a"]


def named(name, path, **more):
    return {"name": name, "path": path, **more}
