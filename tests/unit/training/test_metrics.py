# ruff: noqa: TID251, every generator here has a fixed seed
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from scipy.optimize import brentq
from sklearn import metrics as oracle
from sklearn.linear_model import LogisticRegression

from wardround.training import metrics

coarse = st.integers(-8, 8).map(lambda number: number / 4)
binary = st.lists(st.tuples(st.integers(0, 1), coarse), min_size=1, max_size=60)
survival = st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(-3, 3)), min_size=1, max_size=60)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@given(records=binary)
def test_binary_metrics_are_scikit_learns(records):
    labels, logits = np.array(records, float).T
    found = metrics.evaluate("binary", labels, logits)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(labels, sigmoid(logits) >= 0.5))
    assert found["brier"] == pytest.approx(np.mean((sigmoid(logits) - labels) ** 2))
    assert found["log_loss"] == pytest.approx(oracle.log_loss(labels, sigmoid(logits), labels=[0, 1]))
    if 0 < labels.sum() < len(labels):
        assert found["auc"] == pytest.approx(oracle.roc_auc_score(labels, logits))
    else:
        assert found["auc"] is found["calibration_slope"] is found["calibration_intercept"] is None


@given(records=survival)
def test_c_index_is_lifelines(records):
    times, events, risks = np.array(records, float).T
    labels = np.column_stack([times, events])
    try:
        expected = concordance_index(times, -risks, events)
    except ZeroDivisionError:
        expected = None
    found = metrics.evaluate("survival", labels, risks)["c_index"]
    assert found == (expected if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("seed", range(5))
def test_calibration_is_logistic_recalibration(seed):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0.5, 2.0, 400)
    labels = (generator.random(400) < sigmoid(0.4 + 0.6 * logits)).astype(float)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
    in_the_large = brentq(lambda a: float(np.sum(sigmoid(a + logits) - labels)), -10, 10, xtol=1e-12)
    assert metrics.calibration_slope(labels, logits) == pytest.approx(fitted.coef_[0, 0], rel=1e-4)
    assert metrics.calibration_intercept(labels, logits) == pytest.approx(in_the_large, abs=1e-8)


@given(shift=st.floats(-1000, 1000), stretch=st.floats(0.01, 100))
def test_calibration_undoes_a_known_distortion(shift, stretch):
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1, 200)
    labels = (generator.random(200) < sigmoid(logits)).astype(float)
    slope = metrics.calibration_slope(labels, logits)
    assert metrics.calibration_slope(labels, shift + stretch * logits) == pytest.approx(slope / stretch, rel=1e-5)
    intercept = metrics.calibration_intercept(labels, logits)
    assert metrics.calibration_intercept(labels, logits + shift) == pytest.approx(intercept - shift, abs=1e-6)


def test_a_separated_or_constant_score_has_no_calibration_slope():
    labels = np.array([0.0, 0, 1, 1])
    for logits in ([-2, -1, 1, 2], [2, 1, -1, -2], [0, 1, 1, 2], [3, 3, 3, 3]):
        assert metrics.calibration_slope(labels, np.array(logits, float)) is None


def test_multiclass_metrics_are_scikit_learns():
    generator = np.random.default_rng(3)
    logits, labels = generator.normal(0, 3, (200, 4)), generator.integers(0, 4, 200).astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = metrics.evaluate("multiclass", labels, logits)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(labels, shares.argmax(axis=1)))
    assert found["log_loss"] == pytest.approx(oracle.log_loss(labels, shares, labels=range(4)))


def test_number_metrics_are_scikit_learns():
    generator = np.random.default_rng(4)
    labels, predictions = generator.normal(5, 2, 100), generator.normal(5, 2, 100)
    found = metrics.evaluate("number", labels, predictions)
    assert found["rmse"] == pytest.approx(math.sqrt(oracle.mean_squared_error(labels, predictions)))
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(labels, predictions))
    assert found["r2"] == pytest.approx(oracle.r2_score(labels, predictions))
    assert metrics.r2(np.full(3, 0.1), np.zeros(3)) is None


@pytest.mark.parametrize("outcome", sorted(metrics.NAMES))
def test_undefined_is_none_and_never_a_number(outcome):
    wide = {"survival": (0, 2)}.get(outcome, (0,))
    nothing = metrics.evaluate(outcome, np.zeros(wide), np.zeros(0))
    assert set(nothing) == metrics.NAMES[outcome]
    assert set(nothing.values()) == {None}
    labels = np.array([[1.0, 1.0], [2.0, 0.0]]) if outcome == "survival" else np.array([0.0, 1.0])
    shape = (2, 2) if outcome == "multiclass" else (2,)
    broken = np.zeros(shape)
    broken[0] = np.nan
    assert set(metrics.evaluate(outcome, labels, broken).values()) == {None}
    broken[0] = np.inf
    assert all(value is None or math.isfinite(value) for value in metrics.evaluate(outcome, labels, broken).values())


def test_extreme_logits_do_not_overflow():
    labels, logits = np.array([0.0, 1.0, 1.0]), np.array([-5000.0, 4000.0, -3000.0])
    assert metrics.log_loss(labels, logits) == pytest.approx(1000.0)
    assert metrics.brier(labels, logits) == pytest.approx(1 / 3)


def test_many_records_are_ranked_quickly():
    generator = np.random.default_rng(5)
    times, risks = generator.integers(0, 500, 20_000).astype(float), generator.integers(0, 300, 20_000).astype(float)
    events = generator.random(20_000) < 0.4
    labels = np.column_stack([times, events])
    assert metrics.c_index(labels, risks) == pytest.approx(concordance_index(times, -risks, events), rel=1e-12)


def test_the_bootstrap_interval_covers_and_repeats():
    generator = np.random.default_rng(6)
    covered = 0
    for trial in range(100):
        labels = generator.normal(0, 1, 80)
        interval = metrics.bootstrap_interval(metrics.mae, labels, np.zeros(80), trial, resamples=200)
        assert interval == metrics.bootstrap_interval(metrics.mae, labels, np.zeros(80), trial, resamples=200)
        covered += interval[0] <= math.sqrt(2 / math.pi) <= interval[1]
    assert 85 <= covered <= 99  # 95 % nominal; the seed is fixed


def test_an_undefined_metric_has_no_interval():
    assert metrics.bootstrap_interval(metrics.auc, np.ones(5), np.arange(5.0), 1) is None
    rare = np.array([1.0, 0.0])
    assert metrics.bootstrap_interval(metrics.auc, rare, np.arange(2.0), 1, resamples=0) is None
