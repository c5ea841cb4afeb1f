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
from wardround.analysis.trees import Tree
from wardround.clinical.contract import Column, DataContract, Label
from wardround.clinical.table import LoadReport, StudyTable
from wardround.codec import canonical, fixedpoint
from wardround.errors import CodecError

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


@pytest.mark.parametrize("outcome", OUTCOMES)
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_however_records_lie_at_sites_the_trees_are_identical(outcome, data):
    count = data.draw(st.integers(1, 120))
    features, labels = records(count, outcome, data.draw(st.integers(0, 50)))
    place = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    least = data.draw(st.integers(1, 8))
    agreed = contract(outcome)
    tables = [table(features[place == site], labels[place == site]) for site in range(5)]
    assert fitted(SMALL, tables, agreed, least) == fitted(SMALL, [table(features, labels)], agreed, least)


@settings(deadline=None, max_examples=30)
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
    features[:, 1] = 138.0
    features[::2, 1] = math.nan
    labels = np.isnan(features[:, 1])
    labels[:10] = ~labels[:10]
    agreed = contract("binary")
    analysis = msgspec.structs.replace(SMALL, columns=("sodium",), trees=1, depth=1, edges=((150.0,),))
    (tree,) = shown(analysis, fitted(analysis, split(features, labels), agreed), agreed)["trees"]
    if tree["below"] is None:
        assert tree["missing"] == "right"
    margins = boosting.predict(analysis, fitted(analysis, split(features, labels), agreed), features, agreed)
    assert margins[np.isnan(features[:, 1])].min() > margins[~np.isnan(features[:, 1])].max()


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


def test_a_site_with_one_class_or_no_records_is_welcome():
    features, labels = records(200, "binary")
    tables = [table(features[labels == value], labels[labels == value]) for value in (0, 1)]
    tables.append(table(np.empty((0, 6)), []))
    agreed = contract("binary")
    assert fitted(SMALL, tables, agreed) == fitted(SMALL, [table(features, labels)], agreed)


def test_a_column_missing_at_one_site_and_a_constant_column_do_no_harm():
    features, labels = records(300, "binary")
    features[200:, 0] = math.nan
    features[:, 1] = 140.0
    tables = [table(features[:200], labels[:200]), table(features[200:], labels[200:])]
    agreed = contract("binary")
    analysis = msgspec.structs.replace(SMALL, trees=10)
    said = shown(analysis, fitted(analysis, tables, agreed), agreed)
    gains = {one["column"]: one["gain"] for one in said["importances"]}
    assert gains["sodium"] == 0.0
    assert gains["age"] > 0.0
    assert sum(one["share"] for one in said["importances"]) == pytest.approx(1.0)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_nothing_but_missing_values_ends_at_the_base(outcome):
    features, labels = records(60, outcome)
    features[:] = math.nan
    agreed = contract(outcome)
    state = fitted(SMALL, [table(features, labels)], agreed)
    assert (state.status, state.trees, len(state.losses)) == ("done", (), 1)
    said = shown(SMALL, state, agreed)
    expected = labels.mean() if outcome == "number" else math.log(labels.mean() / (1 - labels.mean()))
    assert said["base"] == pytest.approx(expected, rel=1e-6)
    assert [one["share"] for one in said["importances"]] == [0.0] * 4


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_ten_records_end_without_a_split_or_with_sound_ones(outcome):
    features, labels = records(10, outcome, 3)
    labels[:2] = 0, 1
    agreed = contract(outcome)
    assert fitted(BoostedTrees(columns=NAMES), [table(features, labels)], agreed).trees == ()
    bold = BoostedTrees(columns=NAMES, min_child_records=1, l2=0.0, learning_rate=1.0)
    state = fitted(bold, [table(features, labels)], agreed)
    assert state.trees
    assert np.isfinite(boosting.predict(bold, state, features, agreed)).all()


@pytest.mark.parametrize("l2", [0.0, 1.0])
def test_separable_classes_give_bounded_leaves(l2):
    features, _ = records(200, "binary")
    features[:, 0] = np.linspace(20, 95, 200)
    labels = features[:, 0] > 60
    agreed = contract("binary")
    analysis = BoostedTrees(columns=("age",), trees=60, depth=2, learning_rate=1.0, l2=l2, min_child_records=1)
    state = fitted(analysis, split(features, labels), agreed)
    values = np.concatenate([tree.value for tree in state.trees])
    assert np.abs(values).max() <= 10.0
    margins = boosting.predict(analysis, state, features, agreed)
    assert np.isfinite(margins).all()
    assert roc_auc_score(labels, margins) > 0.99


@pytest.mark.parametrize(
    ("labels", "least", "status"),
    [
        ([0] * 50, 1, "one class"),
        ([1] * 50, 1, "one class"),
        ([1] * 4 + [0] * 46, 5, "too few records"),
        ([1, 0] * 25, 51, "too few records"),
        ([], 0, "too few records"),
    ],
)
def test_too_few_of_a_class_end_it_before_anything_is_shown(labels, least, status):
    features, _ = records(50, "binary")
    agreed = contract("binary")
    state = fitted(SMALL, [table(features[: len(labels)], labels)], agreed, least)
    said = boosting.result(SMALL, state, agreed, least_count=least)
    assert (state.status, state.trees, said["base"], said["losses"]) == (status, (), None, [])


def test_a_constant_number_ends_it():
    features, _ = records(50, "number")
    state = fitted(SMALL, split(features, np.full(50, 37.3)), contract("number"))
    assert state.status == "constant"


def test_one_label_far_out_and_labels_that_are_no_numbers_do_not_break_it():
    features, labels = records(300, "number")
    labels[0], labels[1], labels[2], labels[3] = 1e11, math.nan, math.inf, 1e30
    agreed = contract("number")
    state = fitted(SMALL, split(features, labels), agreed)
    assert state.records == 297
    assert np.isfinite(boosting.predict(SMALL, state, features, agreed)).all()


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


def test_a_site_that_leaves_between_levels_does_not_stop_the_trees():
    features, labels = records(300, "binary")
    agreed, tables = contract("binary"), split(features, labels)
    state = boosting.start(SMALL, agreed)
    while not state.is_done:
        state = advanced(SMALL, state, tables if state.iteration < 3 else tables[:2], agreed, 5)
    assert (state.status, state.records, len(state.trees)) == ("done", 200, 3)


def test_when_all_but_a_few_leave_it_ends():
    features, labels = records(300, "binary")
    agreed = contract("binary")
    state = boosting.start(SMALL, agreed)
    for _ in range(3):
        state = advanced(SMALL, state, [table(features, labels)], agreed, 10)
    state = advanced(SMALL, state, [table(features[:9], labels[:9])], agreed, 10)
    assert (state.is_done, state.status) == (True, "too few records")
    assert boosting.result(SMALL, state, agreed, least_count=10)["records"] is None


def test_the_length_is_the_same_in_every_round_and_as_reckoned():
    agreed = contract("binary")
    assert boosting.length(SMALL, agreed) == 2 + 4 * 3 * (9 + 9 + 3 + 3)
    smallest = BoostedTrees(columns=("smoker",), trees=1, depth=1)
    for outcome in OUTCOMES:
        features, labels = records(100, outcome)
        state = fitted(smallest, [table(features, labels)], contract(outcome))
        assert state.status == "done"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": ()}, "at least one column"),
        ({"columns": ("age", "age")}, "each once"),
        ({"columns": ("height",)}, "no feature column 'height'"),
        ({"trees": 0}, "at least one tree"),
        ({"trees": 3000}, "nodes"),
        ({"depth": 0}, "depth"),
        ({"depth": 9}, "depth"),
        ({"bins": 1}, "bins"),
        ({"learning_rate": 0.0}, "learning rate"),
        ({"learning_rate": math.nan}, "learning rate"),
        ({"l2": -1.0}, "l2"),
        ({"l2": math.inf}, "l2"),
        ({"min_child_records": 0}, "at least 1 record"),
        ({"edges": ((1.0,),)}, "for each of its columns"),
        ({"columns": ("age",), "edges": ((2.0, 1.0),)}, "rise"),
        ({"columns": ("age",), "edges": ((1.0, 1.0 + 1e-9),)}, "single precision"),
        ({"columns": ("age",), "edges": ((1e39,),)}, "finite"),
        ({"columns": ("age",), "edges": ((math.nan,),)}, "finite"),
        ({"depth": 8, "trees": 10, "bins": 256}, "more than 20,000"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(changes, words):
    assert words in boosting.check_offence(msgspec.structs.replace(SMALL, **changes), contract("binary"))


def test_a_column_without_bounds_needs_edges():
    agreed = contract("binary", (Column(name="free"), Column(name="half", minimum=0.0)))
    for name in ("free", "half"):
        analysis = BoostedTrees(columns=(name,))
        assert "needs edges" in boosting.check_offence(analysis, agreed)
        assert boosting.check_offence(msgspec.structs.replace(analysis, edges=((1.0, 2.0),)), agreed) == ""


def test_other_outcomes_are_refused():
    label = Label(name="t", outcome="survival", event="e")
    assert "binary or number" in boosting.check_offence(SMALL, DataContract(columns=COLUMNS, label=label))


@pytest.mark.parametrize(
    "changes",
    [
        {"base": math.nan},
        {"scale": 0.0},
        {"frontier": (1,)},
        {"frontier": (0, 0, 0, 0, 0)},
        {"trees": (Tree(),) * 4},
        {"trees": (msgspec.structs.replace(Tree(), value=()),)},
        {"trees": (msgspec.structs.replace(Tree(), value=(math.inf,)),)},
        {"trees": (msgspec.structs.replace(Tree(), column=(0,)),), "frontier": ()},
        {"trees": (msgspec.structs.replace(Tree(), column=(7,)),), "frontier": ()},
        {"trees": (Tree(column=(), threshold=(), is_left_default=(), left=(), right=(), value=()),), "frontier": ()},
    ],
)
def test_a_foreign_state_is_refused(changes):
    features, labels = records(30, "binary")
    state = msgspec.structs.replace(BoostedState(trees=(Tree(),), frontier=(0,)), **changes)
    with pytest.raises(CodecError, match="state"):
        boosting.site_sums(SMALL, state, table(features, labels), contract("binary"))


@pytest.mark.parametrize("outcome", OUTCOMES)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([2.0, 2.0**20, 2.0**62]))
def test_sums_that_lie_leave_a_state_of_finite_numbers(outcome, seed, size):
    rng, agreed = random.Random(seed), contract(outcome)
    state = boosting.start(SMALL, agreed)
    while not state.is_done:
        sums = [Fraction(rng.uniform(-size, size)) for _ in range(boosting.length(SMALL, agreed))]
        state = boosting.step(SMALL, state, [Fraction(1000), *sums[1:]], agreed, least_count=5)
        assert canonical.decode(canonical.encode(state), BoostedState) == state
    json.dumps(shown(SMALL, state, agreed), allow_nan=False)


def test_other_sums_and_steps_after_the_end_are_refused():
    agreed = contract("binary")
    with pytest.raises(CodecError, match="sums"):
        boosting.step(SMALL, boosting.start(SMALL, agreed), [], agreed, least_count=1)
    with pytest.raises(ValueError, match="done"):
        boosting.step(SMALL, BoostedState(is_done=True), [], agreed, least_count=1)
