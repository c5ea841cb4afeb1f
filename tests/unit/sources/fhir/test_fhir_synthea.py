"""Synthetic patients, not made here: both back ends give the same rows of views that a study would use."""

import gzip
import os
from pathlib import Path

import pytest
from tests.unit.sources.fhir import views

from wardround.sources import fhir_plan

ROOT = Path(__file__).parents[4]
FOLDER = Path(os.environ.get("WARDROUND_DATA", ROOT.parent / "shared" / "data")) / "synthea_fhir_r4" / "dev"
LINES = 1500

pytestmark = [
    views.needs_duckdb,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the synthetic resources are not at WARDROUND_DATA"),
]


def column(name, path, **more):
    return {"name": name, "path": path, **more}


VITALS = {
    "resource": "Observation",
    "constant": [{"name": "loinc", "valueUri": "http://loinc.org"}],
    "where": [{"path": "status = 'final' and code.coding.exists(system = %loinc)"}],
    "select": [
        {
            "column": [
                column("id", "getResourceKey()", type="id"),
                column("patient", "subject.getReferenceKey(Patient)", type="string"),
                column("time", "effective.ofType(dateTime)", type="dateTime"),
            ],
            "unionAll": [
                {
                    "forEach": "component",
                    "column": [
                        column("code", "code.coding.where(system = %loinc).code.first()", type="code"),
                        column("value", "value.ofType(Quantity).value", type="decimal"),
                        column("unit", "value.ofType(Quantity).unit", type="string"),
                        column("part", "%rowIndex", type="integer"),
                    ],
                },
                {
                    "column": [
                        column("code", "code.coding.where(system = %loinc).code.first()", type="code"),
                        column("value", "value.ofType(Quantity).value", type="decimal"),
                        column("unit", "value.ofType(Quantity).unit", type="string"),
                        column("part", "-1", type="integer"),
                    ],
                },
            ],
        }
    ],
}
PEOPLE = {
    "resource": "Patient",
    "select": [
        {
            "column": [
                column("id", "id"),
                column("sex", "gender"),
                column("born", "birthDate"),
                column(
                    "race",
                    "extension('http://hl7.org/fhir/us/core/StructureDefinition/us-core-race')"
                    ".extension('ombCategory').value.ofType(Coding).code.first()",
                ),
                column("numbers", "identifier.value", collection=True),
            ]
        },
        {"forEachOrNull": "name", "column": [column("n", "%rowIndex"), column("given", "given.join(' ')")]},
    ],
}
PROBLEMS = {
    "resource": "Condition",
    "select": [
        {
            "column": [
                column("patient", "subject.getReferenceKey(Patient)"),
                column("onset", "onset.ofType(dateTime)"),
                column("over", "abatement.exists()"),
            ]
        },
        {"forEach": "code.coding", "column": [column("system", "system"), column("code", "code")]},
    ],
}


@pytest.mark.parametrize("view", [VITALS, PEOPLE, PROBLEMS], ids=lambda view: view["resource"])
def test_duckdb_and_python_agree_on_synthetic_patients(view):
    with gzip.open(FOLDER / f"{view['resource']}.ndjson.gz") as file:
        text = b"".join(line for line, _ in zip(file, range(LINES), strict=False))
    plan = fhir_plan.compile_view(view)
    report, by_duckdb = views.tables(plan, text, "duckdb")
    _, by_python = views.tables(plan, text, "python")
    rows = [row for part in by_duckdb for row in part.to_pylist()]
    assert rows == [row for part in by_python for row in part.to_pylist()]
    assert len(rows) >= report.resources > 300
    assert (report.malformed, report.misfits, report.other_types, report.batches_in_python) == (0, 0, 0, 0)
    assert all(row["id"] if "id" in row else row["patient"] for row in rows)
