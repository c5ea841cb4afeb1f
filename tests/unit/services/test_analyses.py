"""Analyses and appraisal in whole runs under secure aggregation: the pooled answer, and nobody's own numbers."""

import json
import math
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from lifelines import CoxPHFitter, datasets
from tests.unit.secagg import parties
from tests.unit.services.test_secure_rounds import ROSTER

import wardround
from wardround import analysis
from wardround.analysis import BoostedTrees, Cox, Glm, KaplanMeier, Quantiles
from wardround.clinical import appraisal
from wardround.clinical.appraisal import Appraisal
from wardround.errors import CodecError
from wardround.protocol import commands, events, run_state
from wardround.protocol import run as runs
from wardround.protocol.plan import Optimizer, SecureAggregation, Training
from wardround.sdk import report
from wardround.sdk.evidence import evidence
from wardround.secagg import isolation
from wardround.training import metrics

SITES = ("angus", "banff", "crail", "dunbar")
SECURE = SecureAggregation(roster=ROSTER, max_weight=10_000)
COLUMNS = ("age", "prio", "fin")
TRAINING = Training(rounds=2, epochs=1, optimizer=Optimizer(learning_rate=0.05))


def rossi():
    """The recidivism data of Rossi et al. (1980) that come with lifelines, dealt to four sites."""
    frame = datasets.load_rossi()
    frame["site"] = [SITES[place] for place in np.random.default_rng(2).integers(0, 4, len(frame))]  # noqa: TID251
    return frame


def table(frame, columns, labels, *, held_out=None):
    features = frame[list(columns)].to_numpy(np.float32)
    found = frame[list(labels)].to_numpy(np.float32)
    count = len(frame)
    held = np.zeros(count, bool) if held_out is None else held_out
    return wardround.StudyTable(
        features,
        found if len(labels) > 1 else found[:, 0],
        held,
        wardround.LoadReport(read=count, used=count, dropped=0),
    )


def contract(label):
    columns = tuple(wardround.Column(name=name, kind="boolean" if name == "fin" else "number") for name in COLUMNS)
    return wardround.DataContract(columns=columns, label=label, min_records=1)


def declared(data, model, **changes):
    return wardround.declare(
        title="t", purpose="p", legal_basis="l", researcher="ada", participants=SITES, min_participants=3,
        data=data, model=wardround.BuiltinModel(name=model), expires=4_000_000_000, secure=SECURE, **changes,
    )  # fmt: skip


def run(study, tables):
    told = []
    done = wardround.simulate(study, tables, progress=lambda status: told.extend(status.events))
    assert done.status.phase == "completed", done.status.reason
    return done, told


def by_site(frame, labels):
    return {site: table(frame[frame["site"] == site], COLUMNS, labels) for site in SITES}


def test_cox_by_secure_sums_is_the_pooled_stratified_fit_and_ends_when_it_has_converged():
    frame = rossi()
    data = contract(wardround.Label(name="week", outcome="survival", event="arrest"))
    study = declared(
        data,
        "cox",
        training=Training(rounds=0),
        analyses=(Cox(columns=COLUMNS), KaplanMeier(edges=(10.0, 20.0, 40.0, 53.0), group="fin")),
    )
    done, told = run(study, by_site(frame, ("week", "arrest")))
    cox, curves = done.analyses()
    pooled = CoxPHFitter().fit(frame[[*COLUMNS, "week", "arrest", "site"]], "week", "arrest", strata="site")
    found = {one["name"]: one for one in cox["terms"]}
    for name in COLUMNS:
        assert found[name]["coefficient"] == pytest.approx(pooled.params_[name], abs=1e-6)
        assert found[name]["standard_error"] == pytest.approx(pooled.standard_errors_[name], abs=1e-6)
    assert curves["status"] == "done"
    rounds = [event["number"] for event in told if event["event"] == "round-opened"]
    assert 3 <= len(rounds) - 1 < 12, "it stops once it has converged"
    assert done.status.rounds == 1 + 25
    assert all(event["evaluation"] is None for event in told if event["event"] == "update-accepted")


def test_a_logistic_regression_and_the_training_after_it():
    frame = rossi()
    data = contract(wardround.Label(name="arrest"))
    study = declared(data, "logistic", training=TRAINING, analyses=(Glm(family="binomial", columns=COLUMNS),))
    done, told = run(study, by_site(frame, ("arrest",)))
    design = np.column_stack([np.ones(len(frame)), frame[list(COLUMNS)]]).astype(np.float32).astype(np.float64)
    labels, params = frame["arrest"].to_numpy(np.float64), np.zeros(4)
    for _ in range(30):
        mean = 1 / (1 + np.exp(-design @ params))
        information = (design * (mean * (1 - mean))[:, None]).T @ design
        params = params + np.linalg.solve(information, design.T @ (labels - mean))
    found = done.analyses()[0]["terms"]
    np.testing.assert_allclose([one["coefficient"] for one in found], params, rtol=1e-6)
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    np.testing.assert_allclose([one["standard_error"] for one in found], errors, rtol=1e-6)
    kinds = [event["kind"] for event in told if event["event"] == "round-opened"]
    assert kinds[0] == "statistics"
    assert kinds[-3:] == ["train", "train", "evaluate"]
    assert set(kinds[1:-3]) == {"analysis"}
    assert done.model != study.initial


def walk(value):
    if isinstance(value, dict):
        for part in value.values():
            yield from walk(part)
    elif isinstance(value, list):
        for part in value:
            yield from walk(part)
    else:
        yield value


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])
def test_the_last_model_is_appraised_over_all_sites(secure):
    frame = rossi()
    data = contract(wardround.Label(name="arrest"))
    asked = Appraisal(subgroups=("fin",) if secure else (), resamples=50)
    changes = {} if secure else {"secure": None}
    study = wardround.declare(**{
        "title": "t", "purpose": "p", "legal_basis": "l", "researcher": "ada", "participants": SITES,
        "min_participants": 3, "data": data, "model": wardround.BuiltinModel(name="logistic"),
        "expires": 4_000_000_000, "secure": SECURE, "training": TRAINING, "appraisal": asked,
    } | changes)  # fmt: skip
    held = np.arange(len(frame)) % 2 == 0
    tables = {}
    for site in SITES:
        chosen = (frame["site"] == site).to_numpy()
        tables[site] = table(frame[chosen], COLUMNS, ("arrest",), held_out=held[chosen])
    done, told = run(study, tables)
    found = json.loads(done.findings["appraisal"])
    assert all(value is None or not isinstance(value, float) or math.isfinite(value) for value in walk(found))
    assert found["records"] == int(held.sum())
    features = np.concatenate([one.features[one.held_out] for one in tables.values()])
    labels = np.concatenate([one.labels[one.held_out] for one in tables.values()])
    from wardround.sdk.predict import predict

    guess = predict(study.plan, done.model, done.standardization, features)
    assert found["metrics"]["auc"]["value"] == pytest.approx(
        metrics.auc(labels, guess), abs=found["metrics"]["auc"]["resolution"] + 1e-9
    )
    assert found["metrics"]["brier"]["value"] == pytest.approx(metrics.brier(labels, guess), abs=1e-6)
    assert found["metrics"]["auc"]["low"] < found["metrics"]["auc"]["value"] < found["metrics"]["auc"]["high"]
    last = [event for event in told if event["event"] == "update-accepted" and event["number"] == 4]
    if secure:
        assert found["subgroups"]["fin"]["with"]["records"] == int((features[:, 2] == 1).sum())
        assert all(event["evaluation"] is None for event in last)
    else:
        bounds = [event["evaluation"]["intervals"]["accuracy"] for event in last]
        assert all(low <= event["evaluation"]["metrics"]["accuracy"] <= high
                   for (low, high), event in zip(bounds, last, strict=True))  # fmt: skip


def test_a_site_with_one_class_and_one_with_a_constant_column_change_nothing_for_the_rest():
    frame = rossi()
    frame.loc[frame["site"] == "angus", "arrest"] = 0
    frame.loc[frame["site"] == "banff", "prio"] = 3
    data = contract(wardround.Label(name="arrest"))
    study = declared(data, "logistic", training=Training(rounds=0), analyses=(Glm(family="binomial", columns=COLUMNS),))
    found = run(study, by_site(frame, ("arrest",)))[0].analyses()[0]
    assert found["status"] == "converged"


def test_analyses_and_subgroups_need_secure_aggregation():
    data = contract(wardround.Label(name="arrest"))
    common = {
        "title": "t", "purpose": "p", "legal_basis": "l", "researcher": "ada", "participants": SITES,
        "min_participants": 3, "data": data, "model": wardround.BuiltinModel(name="logistic"),
        "expires": 4_000_000_000, "training": TRAINING,
    }  # fmt: skip
    with pytest.raises(CodecError, match="need secure aggregation"):
        wardround.declare(**common, analyses=(Glm(family="binomial", columns=COLUMNS),))
    with pytest.raises(CodecError, match="need secure aggregation"):
        wardround.declare(**common, appraisal=Appraisal(subgroups=("fin",)))
    with pytest.raises(CodecError, match="1 to 100,000 rounds"):
        wardround.declare(**common | {"training": Training(rounds=0)})


def test_trees_and_quantiles_by_secure_sums_are_those_of_the_pooled_records():
    frame = rossi()
    data = wardround.DataContract(
        columns=(
            wardround.Column(name="age", minimum=15.0, maximum=60.0),
            wardround.Column(name="prio", minimum=0.0, maximum=20.0),
            wardround.Column(name="fin", kind="boolean"),
        ),
        label=wardround.Label(name="arrest"),
        min_records=1,
    )
    asked = (
        BoostedTrees(columns=COLUMNS, trees=3, depth=2, bins=8, min_child_records=10),
        Quantiles(columns=("age",), probabilities=(0.5,), rounds=2, bins=16),
    )
    study = declared(data, "logistic", training=Training(rounds=0), analyses=asked)
    done, told = run(study, by_site(frame, ("arrest",)))
    whole, known = table(frame, COLUMNS, ("arrest",)), analysis.states(asked, data, b"")
    while not all(one.is_done for one in known):
        sums = [Fraction(float(one)) for one in analysis.site_sums(asked, known, whole, data)]
        known = analysis.advance(asked, known, sums, data, least_count=5)
    alone = json.loads(json.dumps(analysis.results(asked, known, data, least_count=5)))
    assert done.analyses() == alone
    assert len({event["number"] for event in told if event["event"] == "round-opened"}) > 3


def test_the_page_draws_every_kind_of_analysis():
    frame = rossi()
    data = wardround.DataContract(
        columns=(
            wardround.Column(name="age", minimum=15.0, maximum=60.0),
            wardround.Column(name="prio", minimum=0.0, maximum=20.0),
            wardround.Column(name="fin", kind="boolean"),
        ),
        label=wardround.Label(name="arrest"),
        min_records=1,
    )
    asked = (
        Glm(family="binomial", columns=COLUMNS),
        BoostedTrees(columns=COLUMNS, trees=2, depth=2, bins=8, min_child_records=10),
        Quantiles(columns=("age", "prio"), rounds=2, bins=16),
    )
    study = declared(data, "logistic", training=Training(rounds=0), analyses=asked)
    done, told = run(study, by_site(frame, ("arrest",)))
    page = report.run_page("t", told, evidence(study.plan, told, done.findings))
    assert all(words in page for words in ("standard error", "share of the gain", "0.25"))
    survival = contract(wardround.Label(name="week", outcome="survival", event="arrest"))
    edges = KaplanMeier(edges=(10.0, 20.0, 40.0, 53.0), group="fin")
    study = declared(survival, "cox", training=Training(rounds=0), analyses=(edges,))
    done, told = run(study, by_site(frame, ("week", "arrest")))
    page = report.run_page("t", told, evidence(study.plan, told, done.findings))
    assert "Log-rank test: " in page
    assert "fin: yes" in page


def test_a_round_of_analyses_asks_those_whose_numbers_are_in_the_last_and_waits_for_them():
    """Else the difference of two rounds' sums would be the records and events of the site that is missing."""
    frame = rossi()
    data = contract(wardround.Label(name="arrest"))
    study = declared(data, "logistic", training=Training(rounds=0), analyses=(Glm(family="binomial", columns=COLUMNS),))
    _, told = run(study, by_site(frame, ("arrest",)))
    first = next(place for place, one in enumerate(told) if one["event"] == "round-combined" and one["number"] == 2)
    state = run_state.run_of(events.decode_run(msgspec.json.encode(one)) for one in told[: first + 1])
    assert state.analysts == frozenset(SITES)
    gathering = commands.Ticked(frozenset(SITES[1:]))
    assert not runs.decide(state, gathering, state.gather_until - 1), "with three of four there, nobody is asked"
    opened = runs.decide(state, commands.Ticked(frozenset((*SITES, "elgin"))), state.gather_until - 1)
    assert opened[0].sites == SITES


def test_a_member_joins_no_cohort_of_analyses_that_would_single_somebody_out():
    one = parties.make_terms("abcdef", kind="analysis")
    other = parties.make_terms("abcdef", kind="analysis", bases=("b" * 64,) * 6, number=2)
    trained = parties.make_terms("abcdef", bases=("b" * 64,) * 6, number=2)
    assert isolation.content_of(one, "a") == isolation.content_of(other, "a")
    assert isolation.content_of(one, "a") != isolation.content_of(trained, "a")


@pytest.mark.parametrize("numbers", [[-1] * 12, [2**60] * 12])
def test_counts_that_no_records_give_are_refused(numbers):
    survival = contract(wardround.Label(name="week", outcome="survival", event="arrest"))
    asked = (KaplanMeier(edges=(10.0, 20.0, 40.0, 53.0)),)
    sums = [Fraction(one) for one in numbers[:9]]
    with pytest.raises(CodecError, match="negative, or larger"):
        analysis.advance(asked, analysis.states(asked, survival, b""), sums, survival, least_count=5)
    cox = (Cox(columns=("age",)),)
    lying = [Fraction(one) for one in (26, -1, 7, 24, 28, 25)][: analysis.length(cox, survival)]
    with pytest.raises(CodecError):
        analysis.advance(cox, analysis.states(cox, survival, b""), lying, survival, least_count=5)


def test_cells_of_few_records_stay_out_of_the_public_state():
    """X'X of two indicators tells how many have both."""
    columns = tuple(wardround.Column(name=name, kind="boolean") for name in "pq")
    data = wardround.DataContract(columns=columns, label=wardround.Label(name="y", outcome="number"), min_records=1)
    rows = np.array([[1, 0]] * 30 + [[0, 1]] * 30 + [[1, 1]] + [[0, 0]] * 30, np.float32)
    asked = (Glm(family="gaussian", columns=("p", "q")),)
    one = wardround.StudyTable(rows, rows[:, 0], np.zeros(91, bool), wardround.LoadReport(read=91, used=91, dropped=0))
    known = analysis.states(asked, data, b"")
    sums = [Fraction(float(number)) for number in analysis.site_sums(asked, known, one, data)]
    (state,) = analysis.advance(asked, known, sums, data, least_count=5)
    assert (state.status, state.information) == ("too few records", ())
    (state,) = analysis.advance(asked, known, sums, data, least_count=1)
    assert state.information


def test_a_run_that_cannot_be_appraised_stops_and_says_so(monkeypatch):
    """The same numbers would fail again: trying for ever would hang the run."""

    def impossible(*_, **__):
        raise CodecError("a sum of the appraisal is larger than sites can have sent")

    monkeypatch.setattr(appraisal, "results", impossible)
    frame = rossi()
    data = contract(wardround.Label(name="arrest"))
    study = declared(data, "logistic", training=TRAINING, appraisal=Appraisal(resamples=20))
    done = wardround.simulate(study, by_site(frame, ("arrest",)))
    assert done.status.phase == "stopped"
    assert "cannot be combined" in done.status.reason
