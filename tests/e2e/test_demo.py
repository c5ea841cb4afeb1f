"""The demo as its user runs it: four hospitals, four formats, one contract, one model."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes


def test_four_hospitals_in_four_formats_train_one_model(tmp_path):
    command = [sys.executable, "-m", "wardround", "demo", "--json", "--folder", "demo", "--report", "report.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["comparison"]
    assert set(found["on_own_patients"]) == {"hospital-a", "hospital-b", "hospital-c", "hospital-d"}
    assert found["on_all_patients"]["federated"]["accuracy"]["value"] > 0.94
    assert "<svg" in (tmp_path / "report.html").read_text()
    kinds = set()
    for name in ("hospital-a", "hospital-b", "hospital-c", "hospital-d"):
        text = (tmp_path / "demo" / name / "mapping.toml").read_text()
        kinds |= {kind for kind in ("fhir", "omop", "hl7v2", "csv") if f'kind = "{kind}"' in text}
        lineage = (tmp_path / "demo" / name / "state" / "lineage.jsonl").read_text().splitlines()
        assert json.loads(lineage[0])["records"] > 30
    assert kinds == {"fhir", "omop", "hl7v2", "csv"}
