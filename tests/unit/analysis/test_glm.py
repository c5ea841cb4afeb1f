import json
import math
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression

from wardround.analysis import iteration, newton, several, terms
from wardround.analysis.terms import Fit, Glm
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import fixedpoint

FAMILIES = ("gaussian", "binomial", "poisson")
COLUMNS = (
    Column(name="age", unit="a"),
    Column(name="sodium", unit="mmol/L"),
    Column(name="smoker", kind="boolean"),
    Column(name="ward", kind="category", categories=("icu", "er", "gp")),
)
NAMES = ("age", "sodium", "smoker", "ward=icu", "ward=er")
ALL_NAMES = ("age", "sodium", "smoker", "ward=icu", "ward=er", "ward=gp")


def contract(family, columns=COLUMNS):
    return DataContract(columns=columns, label=Label(name="y", outcome="binary" if family == "binomial" else "number"))


def plain(width):
    return tuple(Column(name=f"x{place}") for place in range(width))


def table(features, labels, held_out=None):
    count = len(labels)
    held = np.zeros(count, bool) if held_out is None else held_out
    return StudyTable(np.array(features, np.float32), np.array(labels, np.float32), held, LoadReport(count, count, 0))


def records(count, family, seed=0):
    rng = random.Random(f"{seed} {family}")
    rows, labels = [], []
    for _ in range(count):
        ward = rng.randrange(3)
        age, sodium, smoker = rng.uniform(20, 95), rng.gauss(138, 5), rng.random() < 0.4
        linear = -2 + 0.03 * age + 0.02 * (sodium - 138) + 0.5 * smoker - 0.3 * (ward == 0)
        rows.append([age, sodium, smoker, *(ward == place for place in range(3))])
        if family == "binomial":
            labels.append(rng.random() < 1 / (1 + math.exp(-linear)))
        elif family == "poisson":
            labels.append(sum(rng.random() < math.exp(linear) / 50 for _ in range(50)))
        else:
            labels.append(linear + rng.gauss(0, 1))
    return np.array(rows, np.float32), np.array(labels, np.float32)


def split(features, labels, sites=3):
    return [table(features[site::sites], labels[site::sites]) for site in range(sites)]


def added(analysis, fit, tables, agreed):
    total = np.zeros(fixedpoint.DIGITS * terms.length(analysis, agreed), np.uint64)
    for one in tables:
        vector = iteration.site_sums(analysis, fit, one, agreed)
        assert vector.dtype == np.float64
        assert np.isfinite(vector).all()
        assert vector.size == terms.length(analysis, agreed)
        total += fixedpoint.encode_sums(vector)
    return fixedpoint.decode_sums(total)


def fitted(analysis, tables, agreed, least_count=1):
    several.check((analysis,), agreed)
    fit = iteration.start(analysis, agreed)
    while not fit.is_done:
        assert fit.iteration < analysis.iterations
        sums = added(analysis, fit, tables, agreed)
        fit = iteration.step(analysis, fit, sums, agreed, least_count=least_count)
        fit = msgspec.json.decode(msgspec.json.encode(fit), type=Fit)
    shown = iteration.result(analysis, fit, agreed, least_count=least_count)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    return shown


def numbers(shown, key):
    return [term[key] for term in shown["terms"]]


def pooled(family, features, labels):
    """Newton's method on all records together, in float64: coefficients, standard errors, deviance."""
    design = np.column_stack([np.ones(len(labels)), features.astype(float)])
    y = labels.astype(float)
    means, spreads = design.mean(axis=0), design.std(axis=0)
    means[0], spreads[0] = 0.0, 1.0
    scaled = (design - means) / spreads
    beta = np.zeros(design.shape[1])
    if family == "poisson":
        beta[0] = math.log(y.mean())
    for _ in range(60):
        linear = scaled @ beta
        mean = {
            "gaussian": lambda at: at,
            "binomial": lambda at: 1 / (1 + np.exp(-at)),
            "poisson": np.exp,
        }[family](linear)
        weight = {"gaussian": np.ones_like(mean), "binomial": mean * (1 - mean), "poisson": mean}[family]
        information = (scaled.T * weight) @ scaled
        beta = beta + np.linalg.solve(information, scaled.T @ (y - mean))
    back = np.diag(1 / spreads)
    back[0] -= means / spreads
    back[0, 0] = 1.0
    covariance = back @ np.linalg.inv(information) @ back.T
    with np.errstate(divide="ignore", invalid="ignore"):
        deviance = {
            "gaussian": np.square(y - mean).sum(),
            "binomial": -2 * np.log(np.where(y > 0, mean, 1 - mean)).sum(),
            "poisson": 2 * (np.where(y > 0, y * np.log(y / mean), 0) - (y - mean)).sum(),
        }[family]
    dispersion = deviance / (len(y) - len(beta)) if family == "gaussian" else 1.0
    return back @ beta, np.sqrt(dispersion * np.diag(covariance)), deviance


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fit_over_sites_is_the_pooled_fit(family):
    features, labels = records(300, family)
    shown = fitted(Glm(family=family, columns=NAMES), split(features, labels), contract(family))
    beta, errors, deviance = pooled(family, features[:, :5], labels)
    assert shown["status"] == "converged"
    assert numbers(shown, "name") == ["intercept", *NAMES]
    assert numbers(shown, "coefficient") == pytest.approx(beta, rel=1e-9)
    assert numbers(shown, "standard_error") == pytest.approx(errors, rel=1e-9)
    assert shown["deviance"] == pytest.approx(deviance, rel=1e-9)
    assert shown["records"] == 300
    assert shown["iterations"] <= 8


@pytest.mark.parametrize("family", FAMILIES)
def test_the_null_deviance_is_that_of_the_pooled_mean(family):
    features, labels = records(200, family)
    shown = fitted(Glm(family=family, columns=("age",)), split(features, labels), contract(family))
    _, _, deviance = pooled(family, np.empty((200, 0)), labels)
    assert shown["null_deviance"] == pytest.approx(deviance, rel=1e-10)


def test_real_records_agree_with_least_squares():
    data = load_diabetes(scaled=False)
    agreed = contract("gaussian", plain(10))
    features, labels = data.data.astype(np.float32), data.target
    names = tuple(column.name for column in agreed.columns)
    shown = fitted(Glm(family="gaussian", columns=names), split(features, labels, 4), agreed)
    design = np.column_stack([np.ones(len(labels)), features.astype(float)])
    beta, squares, *_ = np.linalg.lstsq(design, labels, rcond=None)
    errors = np.sqrt(squares / (len(labels) - 11) * np.diag(np.linalg.inv(design.T @ design)))
    assert numbers(shown, "coefficient") == pytest.approx(beta, rel=1e-7)
    assert numbers(shown, "standard_error") == pytest.approx(errors, rel=1e-6)
    assert shown["iterations"] <= 4


def test_real_records_agree_with_sklearn():
    data = load_breast_cancer()
    agreed = contract("binomial", plain(4))
    features, labels = data.data[:, [0, 1, 4, 8]].astype(np.float32), data.target
    shown = fitted(Glm(family="binomial", columns=("x0", "x1", "x2", "x3")), split(features, labels, 5), agreed)
    spread = features.astype(float).std(axis=0)
    model = LogisticRegression(C=math.inf, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    model.fit(features / spread, labels)
    assert numbers(shown, "coefficient")[1:] == pytest.approx((model.coef_[0] / spread).tolist(), rel=1e-6)
    beta, errors, _ = pooled("binomial", features, labels)
    assert numbers(shown, "coefficient") == pytest.approx(beta, rel=1e-8)
    assert numbers(shown, "standard_error") == pytest.approx(errors, rel=1e-8)
    assert shown["ratio"] == "odds ratio"
    assert numbers(shown, "ratio") == pytest.approx(np.exp(beta), rel=1e-6)


def test_intervals_and_p_values_are_walds():
    features, labels = records(300, "binomial")
    shown = fitted(Glm(family="binomial", columns=("age",)), split(features, labels), contract("binomial"))
    term = shown["terms"][1]
    value, error = term["coefficient"], term["standard_error"]
    assert term["z"] == pytest.approx(value / error)
    assert (term["lower"], term["upper"]) == pytest.approx((value - 1.959964 * error, value + 1.959964 * error))
    assert term["p"] == pytest.approx(math.erfc(abs(value / error) / math.sqrt(2)))
    assert term["ratio_lower"] == pytest.approx(math.exp(term["lower"]))


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15)
@given(data=st.data())
def test_however_records_lie_at_sites_the_fit_is_the_same(family, data):
    features, labels = records(120, family)
    place = np.array(data.draw(st.lists(st.integers(0, 4), min_size=120, max_size=120)))
    analysis = Glm(family=family, columns=("age", "smoker", "ward=icu"))
    tables = [table(features[place == site], labels[place == site]) for site in range(5)]
    shown = fitted(analysis, tables, contract(family))
    alone = fitted(analysis, [table(features, labels)], contract(family))
    assert shown["status"] == "converged"
    for key in ("coefficient", "standard_error", "p"):
        assert numbers(shown, key) == pytest.approx(numbers(alone, key), rel=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_units_do_not_matter(family):
    features, labels = records(200, family)
    scaled = features.copy()
    scaled[:, 0] *= 2.0**20
    scaled[:, 1] *= 2.0**-10
    analysis = Glm(family=family, columns=("age", "sodium"))
    first = fitted(analysis, split(features, labels), contract(family))
    other = fitted(analysis, split(scaled, labels), contract(family))
    assert numbers(other, "z") == pytest.approx(numbers(first, "z"), rel=1e-6)


def test_incomplete_records_take_no_part_and_held_out_ones_do():
    features, labels = records(200, "gaussian")
    held = np.arange(200) % 4 == 0
    features[1::4, 0] = math.nan
    shown = fitted(Glm(family="gaussian", columns=("age",)), [table(features, labels, held)], contract("gaussian"))
    kept = np.arange(200) % 4 != 1
    beta, _, _ = pooled("gaussian", features[kept][:, :1], labels[kept])
    assert shown["records"] == 150
    assert numbers(shown, "coefficient") == pytest.approx(beta, rel=1e-9)


def test_a_site_with_one_class_or_no_records_is_welcome():
    features, labels = records(200, "binomial")
    tables = [table(features[labels == 1], labels[labels == 1]), table(features[labels == 0], labels[labels == 0])]
    tables.append(table(np.empty((0, 6)), []))
    shown = fitted(Glm(family="binomial", columns=("age",)), tables, contract("binomial"))
    assert numbers(shown, "coefficient") == pytest.approx(pooled("binomial", features[:, :1], labels)[0], rel=1e-9)


def test_large_counts_converge():
    features, labels = records(200, "poisson")
    labels = labels * 1000 + 7
    shown = fitted(Glm(family="poisson", columns=("age", "smoker")), split(features, labels), contract("poisson"))
    beta, errors, _ = pooled("poisson", features[:, [0, 2]], labels)
    assert numbers(shown, "coefficient") == pytest.approx(beta, rel=1e-9)
    assert numbers(shown, "standard_error") == pytest.approx(errors, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_at_a_wild_point_are_finite_and_the_step_is_halved(family):
    features, labels = records(100, family)
    agreed, tables = contract(family), split(features, labels)
    analysis = Glm(family=family, columns=("age",))
    fit = iteration.start(analysis, agreed)
    for _ in range(2):
        fit = iteration.step(analysis, fit, added(analysis, fit, tables, agreed), agreed, least_count=1)
    wild = msgspec.structs.replace(fit, is_done=False, status="running", coefficients=(1e300, -1e308))
    back = iteration.step(analysis, wild, added(analysis, wild, tables, agreed), agreed, least_count=1)
    assert back.previous == fit.previous
    assert back.coefficients[1] == pytest.approx(-5e307)


@pytest.mark.parametrize(("family", "start"), [("gaussian", 50.0), ("binomial", 6.0), ("poisson", -5.0)])
def test_from_a_bad_point_halved_steps_lead_to_the_fit(family, start):
    features, labels = records(100, family)
    agreed, tables = contract(family), split(features, labels)
    analysis = Glm(family=family, columns=("age",), iterations=60)
    fit = iteration.start(analysis, agreed)
    fit = iteration.step(analysis, fit, added(analysis, fit, tables, agreed), agreed, least_count=1)
    fit = msgspec.structs.replace(fit, coefficients=(start, 0.0))
    accepted = set()
    while not fit.is_done:
        fit = iteration.step(analysis, fit, added(analysis, fit, tables, agreed), agreed, least_count=1)
        accepted.add(fit.previous)
    assert fit.status == "converged"
    assert family == "gaussian" or len(accepted) < fit.iteration - 1
    assert fit.coefficients == pytest.approx(pooled(family, features[:, :1], labels)[0], rel=1e-8)


def test_a_site_that_leaves_between_rounds_does_not_stop_the_fit():
    features, labels = records(300, "binomial")
    agreed, tables = contract("binomial"), split(features, labels)
    analysis = Glm(family="binomial", columns=("age",))
    fit = iteration.start(analysis, agreed)
    while not fit.is_done:
        present = tables if fit.iteration < 3 else tables[:2]
        fit = iteration.step(analysis, fit, added(analysis, fit, present, agreed), agreed, least_count=1)
    kept = np.arange(300) % 3 < 2
    assert (fit.status, fit.records) == ("converged", 200)
    assert fit.coefficients == pytest.approx(pooled("binomial", features[kept, :1], labels[kept])[0], rel=1e-8)


@pytest.mark.parametrize(
    ("statistic", "degrees", "tail"),
    # qchisq(c(.95, .95, .95, .999), c(1, 2, 5, 10)) of R.
    [
        (3.841458820694124, 1, 0.05),
        (5.991464547107979, 2, 0.05),
        (11.07049769351635, 5, 0.05),
        (29.58829844507442, 10, 0.001),
    ],
)
def test_the_chi_square_tail_is_the_tables(statistic, degrees, tail):
    assert newton.chi_square_tail(statistic, degrees) == pytest.approx(tail, rel=1e-10)


def test_a_chi_square_of_zero_is_no_surprise_and_needs_a_degree_of_freedom():
    assert newton.chi_square_tail(0.0, 3) == 1.0
    with pytest.raises(ValueError, match="degrees"):
        newton.chi_square_tail(1.0, 0)
