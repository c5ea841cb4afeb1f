import math
from fractions import Fraction

import numpy as np
import pytest
from tests.unit.analysis.test_glm import (
    ALL_NAMES,
    FAMILIES,
    NAMES,
    added,
    contract,
    fitted,
    numbers,
    plain,
    records,
    split,
    table,
)

from wardround.analysis import iteration, several
from wardround.analysis.terms import Fit, Glm
from wardround.errors import CodecError


@pytest.mark.parametrize("family", FAMILIES)
def test_a_constant_column_is_named(family):
    features, labels = records(100, family)
    features[:, 1] = 0.1
    shown = fitted(Glm(family=family, columns=("age", "sodium")), split(features, labels), contract(family))
    assert shown["status"] == "singular"
    assert shown["detail"].endswith("See: sodium.")
    assert numbers(shown, "coefficient") == [None] * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_columns_that_add_up_are_named(family):
    features, labels = records(100, family)
    shown = fitted(Glm(family=family, columns=ALL_NAMES), split(features, labels), contract(family))
    assert shown["status"] == "singular"
    assert shown["detail"].endswith("See: ward=icu, ward=er, ward=gp.")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_column_of_zeros_is_named(family):
    features, labels = records(100, family)
    features[:, 2] = 0
    shown = fitted(Glm(family=family, columns=NAMES), split(features, labels), contract(family))
    assert (shown["status"], shown["detail"][-12:]) == ("singular", "See: smoker.")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_column_entirely_missing_leaves_too_few_records(family):
    features, labels = records(100, family)
    features[:, 0] = math.nan
    shown = fitted(Glm(family=family, columns=NAMES), split(features, labels), contract(family))
    assert shown["status"] == "too few records"
    assert shown["records"] is None


def test_a_column_missing_at_one_site_leaves_that_site_out():
    features, labels = records(90, "gaussian")
    features[0::3, 0] = math.nan
    shown = fitted(Glm(family="gaussian", columns=("age",)), split(features, labels), contract("gaussian"))
    assert (shown["status"], shown["records"]) == ("converged", 60)


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_records(family):
    features, labels = records(10, family, seed=3)
    shown = fitted(Glm(family=family, columns=("age",)), split(features, labels), contract(family))
    assert shown["status"] == "converged"
    assert fitted(Glm(family=family, columns=("age",)), split(features, labels), contract(family), least_count=11)[
        "status"
    ] == ("too few records")
    too_many = fitted(
        Glm(family=family, columns=tuple(f"x{place}" for place in range(9))),
        [table(np.eye(10, 9), labels)],
        contract(family, plain(9)),
    )
    assert too_many["status"] == "too few records"


@pytest.mark.parametrize("iterations", [12, 25, 100])
def test_perfect_separation_is_told(iterations):
    ages = np.arange(20, 60, dtype=np.float32)
    features = np.column_stack([ages] + [np.zeros(40)] * 5)
    analysis = Glm(family="binomial", columns=("age",), iterations=iterations)
    shown = fitted(analysis, split(features, ages > 45), contract("binomial"))
    assert shown["status"] == "separated"
    assert shown["deviance"] is None
    assert all(value is None for term in shown["terms"] for key, value in term.items() if key != "name")


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("iterations", [15, 25, 100])
@pytest.mark.parametrize("count", [60, 2000])
def test_a_group_without_events_is_told(family, iterations, count):
    features, labels = records(count, family)
    labels[features[:, 2] == 1] = 0
    analysis = Glm(family=family, columns=("age", "smoker"), iterations=iterations)
    assert fitted(analysis, split(features, labels), contract(family))["status"] == "separated"


def test_a_strong_but_finite_effect_is_no_separation():
    # One event among 3000 unexposed: a coefficient of about 8, and an estimate.
    exposed = np.arange(6000) % 2
    labels = np.where(exposed == 1, np.arange(6000) % 4 == 1, np.arange(6000) == 0)
    features = np.column_stack([np.zeros(6000), np.zeros(6000), exposed] + [np.zeros(6000)] * 3)
    shown = fitted(Glm(family="binomial", columns=("smoker",)), split(features, labels), contract("binomial"))
    assert shown["status"] == "converged"
    assert numbers(shown, "coefficient") == pytest.approx([-math.log(2999), math.log(2999)], rel=1e-9)


@pytest.mark.parametrize(
    ("family", "value", "status"),
    [("binomial", 0, "no events"), ("binomial", 1, "separated"), ("poisson", 0, "no events")],
)
def test_one_outcome_alone_has_no_estimate(family, value, status):
    features, _ = records(50, family)
    shown = fitted(Glm(family=family, columns=("age",)), split(features, [value] * 50), contract(family))
    assert shown["status"] == status
    assert numbers(shown, "coefficient") == [None, None]


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_outcome_has_no_spread_and_no_z(value):
    features, _ = records(50, "gaussian")
    shown = fitted(Glm(family="gaussian", columns=("age",)), split(features, [value] * 50), contract("gaussian"))
    assert shown["status"] == "converged"
    assert numbers(shown, "coefficient") == pytest.approx([float(np.float32(value)), 0.0], abs=1e-9 * (1 + value))


def test_an_exact_line_is_found():
    features, _ = records(50, "gaussian")
    labels = np.round(features[:, 0]) * 3 + 2
    features[:, 0] = np.round(features[:, 0])
    shown = fitted(Glm(family="gaussian", columns=("age", "sodium")), split(features, labels), contract("gaussian"))
    assert shown["status"] == "converged"
    assert numbers(shown, "coefficient") == pytest.approx([2.0, 3.0, 0.0], abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_that_overflow_end_the_fit(family):
    features, labels = records(50, family)
    features[:, 0] *= 1e30
    shown = fitted(Glm(family=family, columns=("age",)), split(features, labels), contract(family))
    assert shown["status"] == "not converged"


def test_few_of_a_class_or_of_a_group_are_not_shown():
    features, labels = records(100, "binomial")
    agreed = contract("binomial")
    few = np.arange(100) < 3
    for wrong in (few, ~few):
        shown = fitted(Glm(family="binomial", columns=("age",)), split(features, wrong), agreed, least_count=5)
        assert (shown["status"], shown["records"], shown["events"]) == ("too few records", None, None)
    features[:, 2] = few
    analysis = Glm(family="binomial", columns=("age", "smoker"))
    fit = iteration.start(analysis, agreed)
    fit = iteration.step(analysis, fit, added(analysis, fit, split(features, labels), agreed), agreed, least_count=5)
    assert fit == Fit(iteration=1, is_done=True, status="too few records")


def test_too_few_rounds_do_not_converge():
    features, labels = records(100, "binomial")
    for iterations in (1, 2, 3):
        analysis = Glm(family="binomial", columns=("age",), iterations=iterations)
        assert fitted(analysis, split(features, labels), contract("binomial"))["status"] == "not converged"


@pytest.mark.parametrize(
    ("wrong", "family", "words"),
    [
        (Glm(family="binomial", columns=("nobody",)), "binomial", "nobody"),
        (Glm(family="binomial", columns=("ward",)), "binomial", "ward"),
        (Glm(family="binomial", columns=()), "binomial", "at least one column"),
        (Glm(family="binomial", columns=("age", "age")), "binomial", "each once"),
        (Glm(family="binomial", columns=("age",)), "gaussian", "binary"),
        (Glm(family="gaussian", columns=("age",)), "binomial", "number"),
        (Glm(family="poisson", columns=("age",)), "binomial", "number"),
        (Glm(family="gaussian", columns=("age",), iterations=0), "gaussian", "iterations"),
        (Glm(family="gaussian", columns=("age",), iterations=101), "gaussian", "iterations"),
    ],
)
def test_what_the_study_cannot_give_is_refused(wrong, family, words):
    with pytest.raises(CodecError, match=words) as refused:
        several.check((Glm(family=family, columns=("age",)), wrong), contract(family))
    assert "analysis 2 (glm)" in str(refused.value)


def test_too_many_numbers_are_refused():
    agreed = contract("gaussian", plain(198))
    wide = Glm(family="gaussian", columns=tuple(column.name for column in agreed.columns))
    with pytest.raises(CodecError, match="20,000"):
        several.check((wide,), agreed)


def test_sums_and_states_of_another_analysis_are_refused():
    agreed = contract("gaussian")
    analysis = Glm(family="gaussian", columns=("age",))
    fit = iteration.start(analysis, agreed)
    with pytest.raises(CodecError, match="10 sums, not 3"):
        iteration.step(analysis, fit, [Fraction(0)] * 3, agreed, least_count=1)
    with pytest.raises(CodecError, match="finite coefficient"):
        iteration.site_sums(analysis, Fit(), table(np.empty((0, 6)), []), agreed)
    with pytest.raises(ValueError, match="done"):
        iteration.step(analysis, Fit(is_done=True), [Fraction(0)] * 10, agreed, least_count=1)
