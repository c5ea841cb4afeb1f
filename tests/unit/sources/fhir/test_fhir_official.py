"""The official cases of SQL on FHIR v2, as they are published, by both back ends.

They lie outside of the project, where WARDROUND_CONFORMANCE says.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from tests.unit.sources.fhir import views

from wardround.errors import ClinicalError, ConfigError
from wardround.sources import fhir_plan

ROOT = Path(__file__).parents[4]
CONFORMANCE = Path(os.environ.get("WARDROUND_CONFORMANCE", ROOT.parent / "shared" / "conformance"))
FOLDER = CONFORMANCE / "sql_on_fhir_v2" / "tests"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the official cases are not at WARDROUND_CONFORMANCE")


def cases():
    for file in sorted(FOLDER.glob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        for case in document["tests"]:
            yield pytest.param(document["resources"], case, id=f"{file.stem}: {case['title']}")


def as_set(rows):
    return Counter(json.dumps(row, sort_keys=True) for row in rows)


def exactly(expected, found):
    """Rows in any order, 5 and 5.0 alike."""
    return as_set(json.loads(json.dumps(expected), parse_int=float)) == as_set(
        json.loads(json.dumps(found), parse_int=float)
    )


@views.both
@pytest.mark.parametrize(("resources", "case"), list(cases()))
def test_an_official_case(resources, case, backend):
    if case.get("expectError"):
        with pytest.raises((ConfigError, ClinicalError)):
            views.run(case["view"], resources, backend)
        return
    found = views.run(case["view"], resources, backend)
    assert exactly(case["expect"], found)
    if "expectColumns" in case:
        assert [column.name for column in fhir_plan.compile_view(case["view"]).columns] == case["expectColumns"]


@views.needs_duckdb
def test_which_official_views_only_run_in_python():
    asked = [case.values[1] for case in cases() if not case.values[1].get("expectError")]
    in_python = {case["title"] for case in asked if not views.runs_in_sql(case["view"])}
    assert in_python == {"add observation"}  # arithmetic with decimals
