import math
import random
import warnings

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter
from lifelines.datasets import load_gbsg2, load_lung, load_rossi
from tests.unit.analysis.test_glm import added, fitted, numbers

from wardround.analysis import iteration, several
from wardround.analysis.terms import Cox, Fit
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.errors import CodecError

ROSSI = ("fin", "age", "race", "wexp", "mar", "paro", "prio")


def contract(names, indicators=()):
    columns = tuple(Column(name=name, kind="boolean" if name in indicators else "number") for name in names)
    return DataContract(columns=columns, label=Label(name="time", outcome="survival", unit="d", event="seen"))


def table(features, labels, held_out=None):
    count = len(labels)
    held = np.zeros(count, bool) if held_out is None else held_out
    features = np.asarray(features, np.float32)
    return StudyTable(features, np.asarray(labels, np.float32).reshape(count, 2), held, LoadReport(count, count, 0))


def sites_of(frame, names, time, event, site):
    groups = [frame[frame[site] == one] for one in sorted(frame[site].unique())]
    return [table(group[list(names)].to_numpy(float), group[[time, event]].to_numpy(float)) for group in groups]


def lifelines_fit(frame, time, event):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitter = CoxPHFitter()
        options = {"precision": 1e-12, "r_precision": 1e-14, "step_size": 1.0}
        return fitter.fit(frame, time, event, strata=["site"], fit_options=options)


def records(count, seed=0, sites=3):
    """Features ``(count, 3)``, labels ``(count, 2)`` with many ties, site of each."""
    rng = random.Random(f"cox {seed}")
    features, labels, site = [], [], []
    for _ in range(count):
        row = [rng.gauss(60, 10), rng.random() < 0.5, rng.gauss(0, 1)]
        rate = math.exp(0.03 * (row[0] - 60) + 0.6 * row[1] - 0.4 * row[2]) / 20
        time, censoring = rng.expovariate(rate), rng.uniform(5, 40)
        features.append(row)
        labels.append([math.ceil(min(time, censoring)), time <= censoring])
        site.append(rng.randrange(sites))
    return np.array(features, np.float32), np.array(labels, np.float32), np.array(site)


NAMES = ("age", "drug", "marker")
AGREED = contract(NAMES, indicators=("drug",))


def at_sites(features, labels, site):
    return [table(features[site == one], labels[site == one]) for one in range(int(site.max()) + 1)]


@pytest.mark.parametrize("sites", [1, 2, 4])
def test_rossi_agrees_with_lifelines(sites):
    frame = load_rossi()
    frame["site"] = np.arange(len(frame)) % sites
    shown = fitted(Cox(columns=ROSSI), sites_of(frame, ROSSI, "week", "arrest", "site"), contract(ROSSI))
    other = lifelines_fit(frame, "week", "arrest")
    assert shown["status"] == "converged"
    assert numbers(shown, "coefficient") == pytest.approx(other.params_[list(ROSSI)].tolist(), rel=1e-7)
    assert numbers(shown, "standard_error") == pytest.approx(other.standard_errors_[list(ROSSI)].tolist(), rel=1e-7)
    assert numbers(shown, "p") == pytest.approx(other.summary.loc[list(ROSSI), "p"].tolist(), rel=1e-6)
    assert numbers(shown, "ratio") == pytest.approx(other.hazard_ratios_[list(ROSSI)].tolist(), rel=1e-7)
    assert shown["log_likelihood"] == pytest.approx(other.log_likelihood_, rel=1e-9)
    test = other.log_likelihood_ratio_test()
    assert shown["likelihood_ratio_test"]["statistic"] == pytest.approx(test.test_statistic, rel=1e-6)
    assert shown["likelihood_ratio_test"]["p"] == pytest.approx(test.p_value, rel=1e-5)
    assert (shown["records"], shown["events"]) == (432, 114)


def test_lung_at_its_own_institutions_agrees_with_lifelines():
    names = ["age", "sex", "ph.ecog", "wt.loss"]
    frame = load_lung()[["inst", "time", "status", *names]].dropna(subset=["inst"])
    shown = fitted(Cox(columns=tuple(names)), sites_of(frame, names, "time", "status", "inst"), contract(names))
    other = lifelines_fit(frame.dropna().rename(columns={"inst": "site"}), "time", "status")
    assert numbers(shown, "coefficient") == pytest.approx(other.params_[names].tolist(), rel=1e-6)
    assert numbers(shown, "standard_error") == pytest.approx(other.standard_errors_[names].tolist(), rel=1e-6)
    assert shown["records"] == len(frame.dropna())


def test_breast_cancer_agrees_with_lifelines():
    names = ["age", "tsize", "pnodes", "progrec", "estrec"]
    frame = load_gbsg2()[["time", "cens", "tgrade", *names]].assign(site=lambda one: one["tgrade"].map(len))
    frame = frame.drop(columns="tgrade")
    shown = fitted(Cox(columns=tuple(names)), sites_of(frame, names, "time", "cens", "site"), contract(names))
    other = lifelines_fit(frame, "time", "cens")
    assert numbers(shown, "coefficient") == pytest.approx(other.params_[names].tolist(), rel=1e-6)
    assert numbers(shown, "standard_error") == pytest.approx(other.standard_errors_[names].tolist(), rel=1e-6)


def slow(analysis, beta, features, labels):
    """The partial likelihood's deviance, score and information by its definition, one event after the other."""
    x, time, seen = features.astype(float), labels[:, 0], labels[:, 1] > 0
    rate = np.exp(x @ beta)
    total, score, information = 0.0, np.zeros(x.shape[1]), np.zeros((x.shape[1],) * 2)
    for at in sorted(set(time[seen].tolist())):
        risk, dying = time >= at, (time == at) & seen
        for rank in range(dying.sum()):
            share = rank / dying.sum() if analysis.ties == "efron" else 0.0
            weight = rate * (risk - share * dying)
            phi, mean = weight.sum(), weight @ x / weight.sum()
            total -= math.log(phi)
            score -= mean
            information += (x.T * weight) @ x / phi - np.outer(mean, mean)
        total += (x @ beta)[dying].sum()
        score += x[dying].sum(axis=0)
    return -2 * total, score, information


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 40), beta=st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_sums_are_those_of_the_definition(ties, seed, count, beta):
    features, labels, _ = records(count, seed)
    features[:, 0] /= 50
    labels[:, 0] = np.ceil(labels[:, 0] / 5)
    analysis = Cox(columns=NAMES, ties=ties)
    sums = iteration.site_sums(analysis, Fit(coefficients=tuple(beta)), table(features, labels), AGREED)
    deviance, score, information = slow(analysis, np.array(beta), features, labels)
    assert sums[:2].tolist() == [count, labels[:, 1].sum()]
    assert sums[2] == pytest.approx(deviance, abs=1e-9)
    assert sums[3:6].tolist() == np.count_nonzero(features, axis=0).tolist()
    assert sums[6:9] == pytest.approx(score, abs=1e-9)
    assert sums[9:] == pytest.approx(information[np.triu_indices(3)], abs=1e-9)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_the_estimate_is_where_the_score_by_definition_is_zero(ties):
    features, labels, site = records(200)
    analysis = Cox(columns=NAMES, ties=ties)
    shown = fitted(analysis, at_sites(features, labels, site), AGREED)
    centred = features - features.mean(axis=0)
    parts = [
        slow(analysis, np.array(numbers(shown, "coefficient")), centred[site == one], labels[site == one])
        for one in range(3)
    ]
    information = sum(part[2] for part in parts)
    assert sum(part[1] for part in parts) == pytest.approx([0, 0, 0], abs=1e-4)
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    assert numbers(shown, "standard_error") == pytest.approx(errors, rel=1e-6)


@settings(max_examples=15)
@given(data=st.data())
def test_however_records_lie_at_sites_the_fit_is_the_stratified_one(data):
    features, labels, _ = records(90)
    site = np.array(data.draw(st.lists(st.integers(0, 2), min_size=90, max_size=90)))
    site[:6] = [0, 0, 1, 1, 2, 2]
    order = np.array(data.draw(st.permutations(range(90))))
    shown = fitted(Cox(columns=NAMES), at_sites(features, labels, site), AGREED)
    other = fitted(Cox(columns=NAMES), at_sites(features[order], labels[order], site[order])[::-1], AGREED)
    for key in ("coefficient", "standard_error"):
        assert numbers(other, key) == pytest.approx(numbers(shown, key), rel=1e-8)


def test_far_from_zero_columns_lose_no_digits():
    features, labels, site = records(200)
    rounded = np.round(features * 16) / 16
    moved = rounded + np.float32(4096)
    shown = fitted(Cox(columns=("age", "marker")), at_sites(rounded, labels, site), AGREED)
    other = fitted(Cox(columns=("age", "marker")), at_sites(moved, labels, site), AGREED)
    assert numbers(other, "coefficient") == pytest.approx(numbers(shown, "coefficient"), rel=1e-9)


def test_incomplete_records_take_no_part_and_held_out_ones_do():
    features, labels, _ = records(200)
    features[1::4, 0] = math.nan
    kept = np.arange(200) % 4 != 1
    shown = fitted(Cox(columns=NAMES), [table(features, labels, np.arange(200) % 4 == 0)], AGREED)
    alone = fitted(Cox(columns=NAMES), [table(features[kept], labels[kept])], AGREED)
    assert shown == alone
    assert shown["records"] == 150


def test_a_site_without_events_changes_only_the_records():
    features, labels, site = records(150)
    still = labels.copy()
    still[:, 1] = 0
    shown = fitted(Cox(columns=NAMES), at_sites(features, labels, site), AGREED)
    more = fitted(Cox(columns=NAMES), [*at_sites(features, labels, site), table(features, still)], AGREED)
    assert more["records"] == 300
    assert more["terms"] == shown["terms"]


def test_sites_with_one_record_or_none_are_welcome():
    features, labels, site = records(150)
    more = [table(features[:1], [[3.0, 1.0]]), table(np.empty((0, 3)), np.empty((0, 2)))]
    shown = fitted(Cox(columns=NAMES), at_sites(features, labels, site), AGREED)
    other = fitted(Cox(columns=NAMES), [*at_sites(features, labels, site), *more], AGREED)
    assert other["records"] == 151
    assert numbers(other, "coefficient") == pytest.approx(numbers(shown, "coefficient"), rel=1e-12)


def test_no_event_at_all_is_told():
    features, labels, site = records(100)
    labels[:, 1] = 0
    shown = fitted(Cox(columns=NAMES), at_sites(features, labels, site), AGREED)
    assert (shown["status"], shown["events"], shown["log_likelihood"]) == ("no events", None, None)
    assert numbers(shown, "coefficient") == [None] * 3


@pytest.mark.parametrize("value", [0.1, 0.0, 2000.0])
def test_a_column_constant_at_every_site_is_named(value):
    features, labels, site = records(100)
    features[:, 2] = value + site
    shown = fitted(Cox(columns=NAMES), at_sites(features, labels, site), AGREED)
    assert (shown["status"], shown["detail"][-12:]) == ("singular", "See: marker.")
    assert numbers(shown, "ratio") == [None] * 3


def test_columns_that_depend_on_one_another_are_named():
    features, labels, site = records(100)
    features[:, 2] = 3 * features[:, 1] - 1
    shown = fitted(Cox(columns=NAMES), at_sites(features, labels, site), AGREED)
    assert (shown["status"], shown["detail"][-18:]) == ("singular", "See: drug, marker.")


def test_a_column_entirely_missing_leaves_too_few_records():
    features, labels, site = records(100)
    features[:, 2] = math.nan
    shown = fitted(Cox(columns=NAMES), at_sites(features, labels, site), AGREED)
    assert (shown["status"], shown["records"]) == ("too few records", None)


def test_ten_records():
    features, labels, _ = records(10, seed=1)
    shown = fitted(Cox(columns=("marker",)), [table(features, labels)], AGREED)
    assert shown["status"] == "converged"
    few = fitted(Cox(columns=("marker",)), [table(features, labels)], AGREED, least_count=11)
    assert few["status"] == "too few records"


@pytest.mark.parametrize("iterations", [15, 25, 100])
@pytest.mark.parametrize("count", [60, 1000])
def test_a_group_without_events_is_told(iterations, count):
    features, labels, site = records(count)
    labels[features[:, 1] == 1, 1] = 0
    shown = fitted(Cox(columns=NAMES, iterations=iterations), at_sites(features, labels, site), AGREED)
    assert shown["status"] == "separated"
    assert numbers(shown, "coefficient") == [None] * 3


def test_risk_in_perfect_order_is_told():
    labels = np.column_stack([np.arange(1, 41), np.ones(40)])
    features = np.column_stack([np.arange(40), np.zeros(40), np.zeros(40)])
    shown = fitted(
        Cox(columns=("age",)), [table(features[::2], labels[::2]), table(features[1::2], labels[1::2])], AGREED
    )
    assert shown["status"] == "separated"


def test_few_events_or_few_of_a_group_are_not_shown():
    features, labels, site = records(100)
    rare = labels.copy()
    rare[:, 1] = np.arange(100) < 3
    shown = fitted(Cox(columns=("age",)), at_sites(features, rare, site), AGREED, least_count=5)
    assert (shown["status"], shown["records"], shown["events"]) == ("too few records", None, None)
    features[:, 1] = np.arange(100) < 97
    shown = fitted(Cox(columns=NAMES), at_sites(features, labels, site), AGREED, least_count=5)
    assert shown["status"] == "too few records"


def test_sums_at_a_wild_point_are_finite_and_the_step_is_halved():
    features, labels, site = records(100)
    analysis, tables = Cox(columns=NAMES, iterations=100), at_sites(features, labels, site)
    fit = iteration.start(analysis, AGREED)
    fit = iteration.step(analysis, fit, added(analysis, fit, tables, AGREED), AGREED, least_count=1)
    for wild in (1e308, 1e5, 5.0):
        away = msgspec.structs.replace(fit, coefficients=(wild, -wild, wild))
        back = iteration.step(analysis, away, added(analysis, away, tables, AGREED), AGREED, least_count=1)
        assert back.previous == fit.previous
        assert back.coefficients == pytest.approx([wild / 2, -wild / 2, wild / 2])


def test_a_skewed_column_converges():
    features, labels, site = records(300, seed=4)
    features[:, 2] = np.exp(2 * features[:, 2])
    shown = fitted(Cox(columns=NAMES), at_sites(features, labels, site), AGREED)
    assert shown["status"] == "converged"


@pytest.mark.parametrize(
    ("wrong", "agreed", "words"),
    [
        (Cox(columns=("nobody",)), AGREED, "nobody"),
        (Cox(columns=()), AGREED, "at least one column"),
        (Cox(columns=("age", "age")), AGREED, "each once"),
        (Cox(columns=("age",), iterations=0), AGREED, "iterations"),
        (
            Cox(columns=("age",)),
            DataContract(columns=AGREED.columns, label=Label(name="died")),
            "survival, not binary",
        ),
    ],
)
def test_what_the_study_cannot_give_is_refused(wrong, agreed, words):
    with pytest.raises(CodecError, match=words) as refused:
        several.check((wrong,), agreed)
    assert "analysis 1 (cox)" in str(refused.value)
