"""Odd sites in one federation: every figure of the report is a number or undefined, and the others' fit stands."""

import json
import math

import numpy as np
import pytest
from tests.unit.services.test_secure_rounds import ROSTER

import wardround
from wardround.analysis import Cox, Glm, KaplanMeier
from wardround.clinical import tabulate
from wardround.clinical.appraisal import Appraisal
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.tabulate import Layout
from wardround.protocol.plan import Local, SecureAggregation, Training
from wardround.sdk import report
from wardround.sdk.evidence import evidence

COLUMNS = (
    Column(name="age", minimum=0.0, maximum=120.0, missing="mask"),
    Column(name="lactate", missing="mean"),
    Column(name="ward", kind="category", categories=("a", "b"), missing="mask", other=True),
    Column(name="smoker", kind="boolean", missing="mean"),
)
BINARY = DataContract(columns=COLUMNS, label=Label(name="died"), min_records=10, holdout=0.3)
SURVIVAL = DataContract(
    columns=COLUMNS, label=Label(name="days", outcome="survival", event="died", unit="d"), min_records=10, holdout=0.3
)


def rows(seed, count=80):
    draw = np.random.default_rng(seed)  # noqa: TID251, seeded
    age = draw.uniform(20, 95, count).round(1)
    lactate = draw.lognormal(0.6, 0.5, count).round(2)
    return {
        "age": age.tolist(),
        "lactate": lactate.tolist(),
        "ward": draw.choice(["a", "b"], count).tolist(),
        "smoker": draw.choice([0, 1], count).tolist(),
        "died": (draw.random(count) < 1 / (1 + np.exp(-(age - 60) / 15 - lactate + 2))).astype(int).tolist(),
        "days": draw.exponential(200, count).round(0).tolist(),
    }


def sites():
    found = {name: rows(place) for place, name in enumerate("abcdefgh")}
    found["b"]["died"] = [0] * 80  # one class, and a stratum without events
    found["c"]["lactate"] = [2.0] * 80  # constant
    found["d"]["lactate"] = [None] * 80  # missing altogether
    found["e"]["ward"] = ["zeppelin"] * 80  # a category nobody else has
    found["f"] = rows(9, count=10)  # ten records
    found["g"]["died"] = [int(age > 60) for age in found["g"]["age"]]  # perfectly separable
    found["h"]["age"] = [None if place % 2 else age for place, age in enumerate(found["h"]["age"])]
    return found


def tables(contract):
    return {name: tabulate.study_table(contract, cells, Layout()) for name, cells in sites().items()}


def walk(value):
    if isinstance(value, dict):
        for part in value.values():
            yield from walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from walk(part)
    else:
        yield value


def shown(contract, model, *, secure, analyses=(), **changes):
    study = wardround.declare(
        title="odd sites", purpose="p", legal_basis="l", researcher="ada", participants=list("abcdefgh"),
        min_participants=3, data=contract, model=wardround.BuiltinModel(name=model), expires=4_000_000_000,
        secure=secure, analyses=analyses, **changes,
    )  # fmt: skip
    events = []
    done = wardround.simulate(study, tables(contract), progress=lambda status: events.extend(status.events))
    assert done.status.phase == "completed", done.status.reason
    found = evidence(study.plan, events, done.findings)
    again = json.loads(json.dumps(found, allow_nan=False))
    assert all(math.isfinite(one) for one in walk(again) if isinstance(one, float))
    page = report.run_page("odd sites", events, found)
    assert "nan" not in page.lower().replace("finance", "")
    assert "zeppelin" not in page
    return again


LOCAL = Local(personal=0.1, divergence=True, finetune_epochs=1)
TRAINING = Training(rounds=3, epochs=1, local=LOCAL)


@pytest.mark.parametrize("algorithm", [Local(), LOCAL, Local(algorithm="fedprox", strength=1.0)])
def test_a_binary_study_in_the_clear(algorithm):
    found = shown(
        BINARY, "logistic", secure=None, appraisal=Appraisal(resamples=20), training=Training(rounds=3, local=algorithm)
    )
    assert found["sites"]["b"]["metrics"]["auc"]["value"] is None, "one class has no area under a curve"
    assert found["sites"]["a"]["metrics"]["auc"]["value"] is not None
    assert found["appraisal"]["metrics"]["auc"]["value"] > 0.5


def test_a_binary_study_under_secure_aggregation_with_a_regression():
    secure = SecureAggregation(roster=ROSTER, max_weight=1000)
    found = shown(
        BINARY,
        "logistic",
        secure=secure,
        training=TRAINING,
        analyses=(Glm(family="binomial", columns=("age", "lactate", "smoker")),),
        appraisal=Appraisal(resamples=20, subgroups=("smoker", "ward=other")),
    )
    assert found["sites"] == {}
    assert found["analyses"][0]["status"] == "converged"
    assert found["appraisal"]["subgroups"]["ward=other"]["with"]["records"] > 0


def test_a_survival_study_with_a_stratum_without_events():
    secure = SecureAggregation(roster=ROSTER, max_weight=1000)
    found = shown(
        SURVIVAL,
        "cox",
        secure=secure,
        training=TRAINING,
        analyses=(
            Cox(columns=("age", "smoker")),
            KaplanMeier(edges=(50.0, 100.0, 200.0, 400.0), group="smoker"),
            KaplanMeier(edges=(50.0,), group="ward=other"),
        ),
        appraisal=Appraisal(resamples=20),
    )
    assert found["analyses"][0]["status"] == "converged"


def test_separable_data_everywhere_is_said_to_be():
    everywhere = {name: dict(cells) for name, cells in sites().items()}
    for cells in everywhere.values():
        cells["died"] = [int((age or 0) > 60) for age in cells["age"]]
    secure = SecureAggregation(roster=ROSTER, max_weight=1000)
    study = wardround.declare(
        title="t", purpose="p", legal_basis="l", researcher="ada", participants=list("abcdefgh"), min_participants=3,
        data=BINARY, model=wardround.BuiltinModel(name="logistic"), expires=4_000_000_000, secure=secure,
        training=Training(rounds=0), analyses=(Glm(family="binomial", columns=("age",)),),
    )  # fmt: skip
    made = {name: tabulate.study_table(BINARY, cells, Layout()) for name, cells in everywhere.items()}
    assert wardround.simulate(study, made).analyses()[0]["status"] == "separated"
