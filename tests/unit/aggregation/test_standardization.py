# ruff: noqa: TID251, every generator here has a fixed seed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import StandardScaler

from wardround.aggregation import standardization

values = st.floats(-1e6, 1e6, width=32) | st.just(np.nan)
tables = hnp.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(4)), elements=values)
numeric = (True, True, False, True)


@given(table=tables, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_sums_over_any_split_give_the_pooled_mean_and_std(table, cuts):
    parts = np.split(table, sorted(min(cut, len(table)) for cut in cuts))
    each = [standardization.site_sums(part, numeric) for part in parts]
    added = {name: np.sum([sums[name] for sums in each], axis=0) for name in each[0]}
    mean, std = standardization.mean_and_std(added)
    for column in range(4):
        present = table[:, column].astype(np.float64)
        present = present[~np.isnan(present)] if numeric[column] else present[:0]
        # An oracle in two passes: it does not cancel.
        spread = present.std() if len(present) > 1 else 0.0
        size = np.abs(present).max(initial=0.0)
        assert mean[column] == pytest.approx(present.mean() if len(present) else 0.0, rel=1e-9, abs=1e-9 * size)
        if spread > 1e-5 * size:
            assert std[column] == pytest.approx(spread, rel=1e-4)
        elif spread == 0.0:
            assert std[column] == 1.0


def test_it_is_what_scikit_learn_does():
    table = np.random.default_rng(1).normal([5, -2, 0, 1e3], [1, 10, 1, 50], (500, 4)).astype(np.float32)
    table[::7, 1] = np.nan
    mean, std = standardization.mean_and_std(standardization.site_sums(table, (True,) * 4))
    scaled = standardization.apply(table, mean, std)
    expected = StandardScaler().fit_transform(table.astype(np.float64))
    np.testing.assert_allclose(scaled, np.nan_to_num(expected), rtol=1e-4, atol=1e-5)


def test_indicators_pass_through_and_their_gaps_become_zero():
    table = np.array([[1, 10], [0, 20], [np.nan, np.nan]], np.float32)
    mean, std = standardization.mean_and_std(standardization.site_sums(table, (False, True)))
    assert (mean[0], std[0]) == (0.0, 1.0)
    np.testing.assert_array_equal(standardization.apply(table, mean, std), np.array([[1, -1], [0, 1], [0, 0]]))


@pytest.mark.parametrize("column", [[], [7.0], [np.nan, np.nan], [0.1] * 9, [16_777_217.0] * 1000])
def test_std_is_one_where_there_is_nothing_to_scale_by(column):
    table = np.array(column, np.float32).reshape(-1, 1)
    _, std = standardization.mean_and_std(standardization.site_sums(table, (True,)))
    assert std[0] == 1.0


def test_rounding_is_not_taken_for_a_spread():
    # Some of these sums come out above what the mean says, though nothing varies.
    cancelled = 0
    for count in range(1000, 40_000, 997):
        sums = standardization.site_sums(np.full((count, 1), 636.9617, np.float32), (True,))
        cancelled += (sums["sum_of_squares"] / count > np.square(sums["sum"] / count)).item()
        assert standardization.mean_and_std(sums)[1][0] == 1.0
    assert cancelled, "this test has met what it is about"


def test_large_tables_are_summed_piece_by_piece():
    table = np.arange(200_000, dtype=np.float32).reshape(-1, 1)
    sums = standardization.site_sums(table, (True,))
    assert sums["count"][0] == 200_000
    assert sums["sum"][0] == 199_999 * 100_000
    mean, std = standardization.mean_and_std(sums)
    scaled = standardization.apply(table, mean, std)
    assert scaled.dtype == np.float32
    assert abs(float(scaled.mean(dtype=np.float64))) < 1e-6
    assert float(scaled.std(dtype=np.float64)) == pytest.approx(1.0, rel=1e-5)


def test_impute_keeps_the_units():
    table = np.array([[1.5], [np.nan]], np.float32)
    np.testing.assert_array_equal(standardization.impute(table, np.array([4.0])), np.array([[1.5], [4.0]], np.float32))


def test_shapes_that_do_not_fit_are_our_callers_mistake():
    with pytest.raises(ValueError, match="features"):
        standardization.site_sums(np.zeros((2, 3), np.float32), (True,))
    with pytest.raises(ValueError, match="one length"):
        standardization.mean_and_std({"count": np.ones(2), "sum": np.ones(3), "sum_of_squares": np.ones(2)})
