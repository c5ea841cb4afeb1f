import json
import math
import random
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score

from wardround.analysis import boosting
from wardround.analysis.boosting import BoostedState, BoostedTrees
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import canonical, fixedpoint

COLUMNS = (
    Column(name="age", unit="a", minimum=0.0, maximum=120.0, missing="mean"),
    Column(name="sodium", unit="mmol/L", minimum=100.0, maximum=180.0, missing="mean"),
    Column(name="smoker", kind="boolean", missing="mean"),
    Column(name="ward", kind="category", categories=("icu", "er", "gp")),
)
NAMES = ("age", "sodium", "smoker", "ward=icu")
OUTCOMES = ("binary", "number")
SMALL = BoostedTrees(columns=NAMES, trees=3, depth=3, bins=8, min_child_records=5)


def contract(outcome, columns=COLUMNS):
    return DataContract(columns=columns, label=Label(name="y", outcome=outcome))


def table(features, labels, held_out=None):
    count = len(labels)
    held = np.zeros(count, bool) if held_out is None else held_out
    return StudyTable(np.array(features, np.float32), np.array(labels, np.float32), held, LoadReport(count, count, 0))


def records(count, outcome, seed=0):
    rng = random.Random(f"boosting {seed} {outcome}")
    rows, labels = [], []
    for _ in range(count):
        ward = rng.randrange(3)
        age, sodium, smoker = rng.uniform(20, 95), rng.gauss(138, 5), rng.random() < 0.4
        linear = -3 + 0.06 * age + 1.5 * (abs(sodium - 138) > 5) + 0.8 * smoker * (age > 60) - 0.5 * (ward == 0)
        row = [age, sodium, smoker, *(ward == place for place in range(3))]
        for place in range(3):
            if rng.random() < 0.1:
                row[place] = math.nan
        rows.append(row)
        labels.append(
            rng.random() < 1 / (1 + math.exp(-linear)) if outcome == "binary" else 100 * linear + rng.gauss(0, 50)
        )
    return np.array(rows, np.float32), np.array(labels, np.float32)


def split(features, labels, sites=3):
    return [table(features[site::sites], labels[site::sites]) for site in range(sites)]


def added(analysis, state, tables, agreed):
    vectors = [boosting.site_sums(analysis, state, one, agreed) for one in tables]
    for vector in vectors:
        assert vector.dtype == np.float64
        assert np.isfinite(vector).all()
        assert vector.size == boosting.length(analysis, agreed)
    if state.trees:
        # Whole numbers below 2**53 add up without rounding, and without an encoding that takes its time.
        assert all((vector == np.rint(vector)).all() for vector in vectors)
        assert np.abs(vectors).sum(axis=0).max() < 2**53
        return [Fraction(int(number)) for number in np.sum(vectors, axis=0).tolist()]
    return fixedpoint.decode_sums(np.sum([fixedpoint.encode_sums(vector) for vector in vectors], axis=0))


def advanced(analysis, state, tables, agreed, least_count=1):
    sums = added(analysis, state, tables, agreed)
    state = boosting.step(analysis, state, sums, agreed, least_count=least_count)
    assert canonical.decode(canonical.encode(state), BoostedState) == state
    return state


def fitted(analysis, tables, agreed, least_count=1):
    assert boosting.check_offence(analysis, agreed) == ""
    state = boosting.start(analysis, agreed)
    while not state.is_done:
        assert state.iteration < boosting.rounds(analysis)
        state = advanced(analysis, state, tables, agreed, least_count)
    shown = boosting.result(analysis, state, agreed, least_count=least_count)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    return state


def shown(analysis, state, agreed):
    return boosting.result(analysis, state, agreed, least_count=1)


def obvious(analysis, agreed, features, labels, all_cuts):
    """XGBoost's algorithm, record by record and in plain floats: trees as nested tuples, and final margins."""
    is_binary = agreed.label.outcome == "binary"
    y = labels.astype(float)
    base = math.log(y.sum() / (len(y) - y.sum())) if is_binary else y.mean()
    margins, found = np.full(len(y), base), []

    def leaf(rows, g, h):
        return -analysis.learning_rate * g[rows].sum() / (h[rows].sum() + analysis.l2)

    def score(rows, g, h):
        return g[rows].sum() ** 2 / (h[rows].sum() + analysis.l2)

    def grow(rows, depth, g, h):
        best, best_gain = None, 1e-6 * (1 if is_binary else np.abs(y - base).mean() ** 2)
        for column, cuts in enumerate(all_cuts) if depth else ():
            x = features[:, column]
            for default in (False, True):
                for cut in (*cuts, math.inf):
                    left = rows & ((x < cut) | (np.isnan(x) & default))
                    right = rows & ~left
                    if min(left.sum(), right.sum()) < analysis.min_child_records:
                        continue
                    gain = score(left, g, h) + score(right, g, h) - score(rows, g, h)
                    if gain > best_gain * (1 + 1e-7):
                        best, best_gain = (column, cut, left, right), gain
        if best is None:
            margins[rows] += leaf(rows, g, h)
            return (round(leaf(rows, g, h), 4),)
        column, cut, left, right = best
        return analysis.columns[column], cut, grow(left, depth - 1, g, h), grow(right, depth - 1, g, h)

    for _ in range(analysis.trees):
        p = 1 / (1 + np.exp(-margins))
        g, h = (p - y, p * (1 - p)) if is_binary else (margins - y, np.ones(len(y)))
        found.append(grow(np.ones(len(y), bool), analysis.depth, g, h))
    return found, margins


def nested(tree):
    if "value" in tree:
        return (round(tree["value"], 4),)
    below = math.inf if tree["below"] is None else tree["below"]
    return tree["column"], below, nested(tree["left"]), nested(tree["right"])


CUTS = [np.arange(1, 8) * 15.0, 100 + np.arange(1, 8) * 10.0, [0.5], [0.5]]


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("seed", range(3))
def test_the_trees_are_those_of_the_obvious_algorithm_on_all_records(outcome, seed):
    features, labels = records(400, outcome, seed)
    agreed = contract(outcome)
    state = fitted(SMALL, split(features, labels), agreed)
    expected, margins = obvious(SMALL, agreed, features, labels, CUTS)
    assert [nested(tree) for tree in shown(SMALL, state, agreed)["trees"]] == expected
    assert boosting.predict(SMALL, state, features, agreed) == pytest.approx(margins, rel=1e-6)


def test_values_on_a_threshold_go_right_in_sums_as_in_predictions():
    features, labels = records(400, "number")
    features[:, :2] = np.floor(features[:, :2] / 5) * 5
    agreed = contract("number")
    state = fitted(SMALL, split(features, labels), agreed)
    expected, margins = obvious(SMALL, agreed, features, labels, CUTS)
    assert [nested(tree) for tree in shown(SMALL, state, agreed)["trees"]] == expected
    assert boosting.predict(SMALL, state, features, agreed) == pytest.approx(margins, rel=1e-6)


def test_a_node_is_split_down_to_exactly_the_least_count():
    features, _ = records(20, "number")
    features[:, 0] = np.repeat([20.0, 40.0, 70.0, 90.0], 5)
    labels = np.repeat([1.0, 2.0, 10.0, 13.0], 5)
    analysis = BoostedTrees(columns=("age",), trees=1, depth=2, learning_rate=1.0, bins=8, l2=0.0, min_child_records=5)
    agreed = contract("number")
    state = fitted(analysis, split(features, labels), agreed)
    assert boosting.predict(analysis, state, features, agreed) == pytest.approx(labels, rel=1e-6)


@pytest.mark.parametrize("outcome", OUTCOMES)
@settings(max_examples=20)
@given(data=st.data())
def test_however_records_lie_at_sites_the_trees_are_identical(outcome, data):
    count = data.draw(st.integers(1, 120))
    features, labels = records(count, outcome, data.draw(st.integers(0, 50)))
    place = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    least = data.draw(st.integers(1, 8))
    agreed = contract(outcome)
    tables = [table(features[place == site], labels[place == site]) for site in range(5)]
    assert fitted(SMALL, tables, agreed, least) == fitted(SMALL, [table(features, labels)], agreed, least)


@settings(max_examples=30)
@given(labels=st.lists(st.floats(-1e9, 1e9, width=32), min_size=20, max_size=60), seed=st.integers(0, 100))
def test_whatever_the_numbers_the_split_into_sites_does_not_matter(labels, seed):
    features, _ = records(len(labels), "number", seed)
    agreed = contract("number")
    tables = split(features, np.array(labels, np.float32), 4)
    assert fitted(SMALL, tables, agreed) == fitted(SMALL, [table(features, labels)], agreed)


def quality(analysis, features, labels, columns, seed=0):
    """AUC on a quarter held out: by sites, and by scikit-learn on all records."""
    rng = random.Random(seed)
    held = np.array([rng.random() < 0.25 for _ in labels])
    agreed = contract("binary", columns)
    tables = [table(features[site::2], labels[site::2], held[site::2]) for site in range(2)]
    state = fitted(analysis, tables, agreed, 5)
    model = HistGradientBoostingClassifier(
        max_iter=analysis.trees,
        max_depth=analysis.depth,
        learning_rate=analysis.learning_rate,
        min_samples_leaf=analysis.min_child_records,
        l2_regularization=analysis.l2,
        early_stopping=False,
        max_leaf_nodes=None,
    ).fit(features[~held], labels[~held])
    own = roc_auc_score(labels[held], boosting.predict(analysis, state, features[held], agreed))
    other = roc_auc_score(labels[held], model.decision_function(features[held]))
    return own, other


@pytest.mark.parametrize("seed", range(2))
def test_breast_cancer_is_told_as_well_as_by_scikit_learn(seed):
    data = load_breast_cancer()
    features = data.data.astype(np.float32)
    bounds = zip(features.min(axis=0), features.max(axis=0), strict=True)
    columns = tuple(
        Column(name=f"x{place}", minimum=float(low), maximum=float(high)) for place, (low, high) in enumerate(bounds)
    )
    analysis = BoostedTrees(columns=tuple(column.name for column in columns))
    own, other = quality(analysis, features, data.target, columns, seed)
    assert own > 0.97
    assert own > other - 0.01


def test_interactions_and_missing_values_are_learned_as_well_as_by_scikit_learn():
    rng = np.random.RandomState(1)  # noqa: TID251 - quicker than `random`, and only a test
    features = rng.normal(size=(6000, 6)).astype(np.float32)
    linear = 2 * features[:, 0] * (features[:, 1] > 0) + np.abs(features[:, 2]) - 0.8
    is_missing = rng.random_sample((6000, 6)) < 0.15
    linear = linear + 1.5 * is_missing[:, 3]
    features[is_missing] = math.nan
    labels = (rng.random_sample(6000) < 1 / (1 + np.exp(-linear))).astype(np.float32)
    columns = tuple(Column(name=f"x{place}", minimum=-4.0, maximum=4.0, missing="mean") for place in range(6))
    analysis = BoostedTrees(columns=tuple(column.name for column in columns), depth=4, trees=40, bins=32)
    own, other = quality(analysis, features, labels, columns)
    assert own > 0.72
    assert abs(own - other) < 0.01


def test_a_number_is_predicted_as_well_as_by_scikit_learn():
    data = load_diabetes(scaled=False)
    features, labels = data.data.astype(np.float32), data.target.astype(np.float32)
    columns = tuple(Column(name=f"x{place}") for place in range(10))
    edges = tuple(tuple(np.unique(np.quantile(one, np.arange(1, 32) / 32)).tolist()) for one in features.T)
    analysis = BoostedTrees(columns=tuple(column.name for column in columns), edges=edges, l2=0.0)
    agreed = contract("number", columns)
    held = np.arange(len(labels)) % 4 == 0
    state = fitted(analysis, [table(features, labels, held)], agreed, 5)
    model = HistGradientBoostingRegressor(
        max_iter=50, max_depth=3, min_samples_leaf=20, early_stopping=False, max_leaf_nodes=None
    ).fit(features[~held], labels[~held])
    errors = [
        np.square(predicted - labels[held]).mean()
        for predicted in (boosting.predict(analysis, state, features[held], agreed), model.predict(features[held]))
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    assert errors[0] < 0.65 * labels[held].var()


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_losses_are_those_of_the_trees_so_far_and_fall(outcome):
    features, labels = records(400, outcome)
    agreed = contract(outcome)
    analysis = msgspec.structs.replace(SMALL, trees=8)
    state = fitted(analysis, split(features, labels), agreed)
    assert len(state.losses) == 9
    for count, loss in enumerate(state.losses):
        partial = msgspec.structs.replace(state, trees=state.trees[:count])
        margins = boosting.predict(analysis, partial, features, agreed)
        expected = np.logaddexp(0, np.where(labels > 0, -margins, margins))
        if outcome == "number":
            expected = np.square(margins - labels)
        assert loss == pytest.approx(expected.mean(), rel=1e-5)
    assert list(state.losses) == sorted(state.losses, reverse=True)
    assert state.iteration <= 2 + 8 * 3 + (outcome == "number")


@pytest.mark.parametrize("least", [1, 30, 80])
def test_no_split_keeps_fewer_than_the_least_count_on_a_side(least):
    features, labels = records(500, "binary")
    agreed = contract("binary")
    state = fitted(SMALL, split(features, labels), agreed, least)
    columns = features[:, [0, 1, 2, 3]].T
    for tree in state.trees:
        ends = boosting.trees.leaves(tree, columns)
        assert np.bincount(ends)[np.unique(ends)].min() >= max(least, 5)
        assert set(ends) == {node for node, column in enumerate(tree.column) if column < 0}


def test_whether_a_value_is_there_can_be_a_split_of_its_own():
    features, _ = records(300, "binary")
    features[:, 2] = [math.nan if place % 2 else place % 4 // 2 for place in range(300)]
    labels = np.isnan(features[:, 2])
    labels[:12] = ~labels[:12]
    agreed = contract("binary")
    analysis = msgspec.structs.replace(SMALL, columns=("smoker",), trees=1, depth=1)
    state = fitted(analysis, split(features, labels), agreed)
    (tree,) = shown(analysis, state, agreed)["trees"]
    assert (tree["below"], tree["missing"]) == (None, "right")
    assert tree["right"]["value"] > 0.0 > tree["left"]["value"]
    margins = boosting.predict(analysis, state, features, agreed)
    assert margins[np.isnan(features[:, 2])].min() > margins[~np.isnan(features[:, 2])].max()


def test_where_no_missing_value_was_seen_one_goes_with_the_more_records():
    features, _ = records(300, "number")
    features[:, 0] = [80.0 if place % 4 else 20.0 for place in range(300)]
    labels = (features[:, 0] > 50).astype(np.float32)
    analysis = msgspec.structs.replace(SMALL, columns=("age",), trees=1, depth=1)
    agreed = contract("number")
    state = fitted(analysis, [table(features, labels)], agreed)
    asked = np.array([[math.nan] + [0] * 5, [80.0] + [0] * 5, [math.inf] + [0] * 5], np.float32)
    missing, large, infinite = boosting.predict(analysis, state, asked, agreed)
    assert missing == large == infinite


def test_held_out_records_take_no_part():
    features, labels = records(200, "binary")
    held = np.arange(200) % 4 == 0
    odd = labels.copy()
    odd[held] = math.nan
    agreed = contract("binary")
    alone = fitted(SMALL, [table(features[~held], labels[~held])], agreed)
    assert fitted(SMALL, [table(features, odd, held)], agreed) == alone


def test_units_of_a_number_do_not_matter():
    features, labels = records(300, "number")
    agreed = contract("number")
    one, other = (fitted(SMALL, split(features, labels * factor), agreed) for factor in (1.0, 2.0**20))
    assert [tree.threshold for tree in one.trees] == [tree.threshold for tree in other.trees]
    margins = boosting.predict(SMALL, one, features, agreed)
    assert boosting.predict(SMALL, other, features, agreed) / 2.0**20 == pytest.approx(margins, rel=1e-9)


def test_the_length_is_the_same_in_every_round_and_as_reckoned():
    agreed = contract("binary")
    assert boosting.length(SMALL, agreed) == 2 + 4 * 3 * (9 + 9 + 3 + 3)
    smallest = BoostedTrees(columns=("smoker",), trees=1, depth=1)
    for outcome in OUTCOMES:
        features, labels = records(100, outcome)
        state = fitted(smallest, [table(features, labels)], contract(outcome))
        assert state.status == "done"
