import json
import math
import random
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from tests.unit.analysis.test_boosting import (
    COLUMNS,
    NAMES,
    OUTCOMES,
    SMALL,
    advanced,
    contract,
    fitted,
    records,
    shown,
    split,
    table,
)

from wardround.analysis import boosting
from wardround.analysis.boosting import BoostedState, BoostedTrees
from wardround.analysis.trees import Tree
from wardround.clinical.contract import Column, DataContract, Label
from wardround.codec import canonical
from wardround.errors import CodecError


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


def test_a_leaf_of_certain_but_wrong_records_moves_no_farther_than_its_bound():
    analysis, agreed = BoostedTrees(columns=("smoker",), trees=1, depth=1, l2=0.0), contract("binary")
    state = BoostedState(trees=(Tree(),), frontier=(0,), gains=(0.0,), splits=(0,))
    bins = [40 * 2**30, 2**30, 50, -40 * 2**30, 2**30, 50, 0, 0, 0]
    after = boosting.step(analysis, state, list(map(Fraction, [100, 0, *bins])), agreed, least_count=1)
    assert after.trees[0].value == (0.0, -1.0, 1.0)


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
@settings(max_examples=40)
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
