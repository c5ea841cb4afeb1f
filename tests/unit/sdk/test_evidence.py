"""What a run showed: the document, its advice in plain words, and the page that is drawn from it."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from tests.unit.cli.test_simulate import SITES as CLI_SITES
from tests.unit.cli.test_simulate import STUDY, place  # noqa: F401, a fixture
from tests.unit.services.test_local_rounds import run, study, table

from wardround.cli.main import wardround
from wardround.protocol.plan import Local
from wardround.sdk import comparison, report
from wardround.sdk.evidence import evidence


def accepted(site, number, *, own=None, common=0.8, cosine=0.5, norm=1.0):
    apart = None if number == 1 else {"cosine": cosine, "norm": norm, "aggregate_norm": 1.0}
    said = {
        "records": 10,
        "metrics": {"auc": common, "brier": None},
        "personal": {} if own is None else {"auc": own},
        "divergence": apart,
        "intervals": {"auc": [0.78, 0.82]},
    }
    return {"event": "update-accepted", "at": 0.0, "site": site, "number": number, "evaluation": said}


PLAN = study(Local()).plan


def advice(*events):
    return evidence(PLAN, events, {})["advice"]


def test_a_site_that_gains_by_its_own_model_is_told_so_and_one_that_loses_too():
    assert advice(accepted("b", 2, own=0.86)) == [
        "b gains 6 points of auc on 10 held-out records by its personal model: use that one."
    ]
    assert advice(accepted("b", 2, own=0.74)) == [
        "b loses 6 points of auc on 10 held-out records by its personal model: use the other."
    ]
    assert advice(accepted("b", 2, own=0.81)) == []
    assert advice(accepted("b", 2)) == []


def test_a_site_that_pulls_against_the_others_and_one_that_moves_far_are_named():
    events = [accepted(site, number, cosine=-0.3 if site == "c" else 0.9, norm=9.0 if site == "a" else 1.0)
              for number in (1, 2, 3) for site in "abc"]  # fmt: skip
    words = advice(*events)
    assert any(one.startswith("c pulls against the others (mean cosine -0.30)") for one in words)
    assert any(one.startswith("a moves 9.0 times as far") for one in words)
    assert len(words) == 2


def test_an_undefined_metric_stays_undefined_and_a_site_keeps_its_intervals():
    found = evidence(PLAN, [accepted("b", 2)], {})["sites"]["b"]
    assert found["metrics"]["brier"] == {"value": None, "low": None, "high": None}
    assert found["metrics"]["auc"] == {"value": 0.8, "low": 0.78, "high": 0.82}


def test_the_page_shows_gains_angles_and_escapes_names():
    events = [accepted("<b>", number, own=0.9) for number in (1, 2, 3)]
    page = report.run_page("t", [{**event, "at": 1.0} for event in events], evidence(PLAN, events, {}))
    assert "&lt;b&gt; gains 10 points" in page
    assert "<b>" not in page
    assert "cosine between each site" in page
    assert "own model beside the global one" in page


def test_a_real_runs_document_holds_no_number_that_is_not_one():
    done, told = run(study(Local(personal=0.1, divergence=True), rounds=3))
    found = evidence(done.plan, told, done.findings)
    again = json.loads(json.dumps(found, allow_nan=False))
    assert set(again["sites"]) == {"angus", "banff", "crail"}
    for site in again["sites"].values():
        assert len(site["divergence"]) == 3
        assert all(-1.0 <= one["cosine"] <= 1.0 for one in site["divergence"])
        assert all(math.isfinite(value) for value in site["personal"].values())


@pytest.mark.usefixtures("place")
def test_a_simulation_compares_models_and_writes_its_findings(place):  # noqa: F811
    (place / "study.toml").write_text(
        STUDY + "\n[appraisal]\nresamples = 20\n\n[training.local]\npersonal = 0.5\ndivergence = true\n"
    )
    sites = [word for site in CLI_SITES for word in ("--site", f"{site}={place / site}.toml")]
    done = CliRunner().invoke(
        wardround, ["simulate", str(place / "study.toml"), *sites, "--to", str(place / "out"), "--compare", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads((place / "out" / "report.json").read_text())
    assert [row["site"] for row in found["comparison"]] == list(CLI_SITES)
    assert set(found["comparison"][0]) == {"site", "metric", "own", "federated", "personal", "left out", "pooled"}
    assert found["appraisal"]["metrics"]["auc"]["value"] > 0.7
    page = (place / "out" / "report.html").read_text()
    assert "Models on each site" in page
    assert "Calibration" in page or "calibration" in page


def score(value, low=None, high=None):
    return {"rmse": comparison.Score(value, low, high)}


def test_patients_of_different_sites_stay_different_when_records_are_pooled():
    one, other = table("angus", records=4), table("banff", records=2)
    one.patients[:] = [0, 1, 0, 2]
    assert comparison._joined([one, other]).patients.tolist() == [0, 1, 0, 2, 3, 4]
    assert comparison._joined([one]).patients.dtype == np.int32


def test_a_site_that_does_better_alone_is_named_with_what_its_records_can_tell():
    found = comparison.Comparison(
        {
            "a": {"own": score(1.0, 0.9, 1.1), "federated": score(1.5), "personal": score(1.2)},
            "b": {"own": score(1.0, 0.5, 1.4), "federated": score(1.2)},
            "c": {"own": score(1.0), "federated": score(0.9)},
            "d": {"own": score(None), "federated": score(0.9)},
        },
        {},
    )
    assert comparison.advice(PLAN, found) == [
        "a does better with its own records alone: rmse 1.000, against 1.200 of the best shared or personal model."
    ]
