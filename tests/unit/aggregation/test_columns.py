"""What is done with each column, beside numpy's sorting, however the columns are cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.aggregation import columns
from wardround.aggregation.robust import Recipe

SPACE = columns.Workspace()


def made(recipe, rows):
    out = np.full(rows.shape[1], np.nan)
    columns.combine(recipe, list(rows), out, SPACE)
    return out


def rows_of(count, width, seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(dtype)  # noqa: TID251, seeded


def closest(rows, keep):
    """The mean of the values nearest to the median of each column."""
    middle = np.median(rows, axis=0)
    order = np.argsort(np.abs(rows - middle), axis=0, kind="stable")[:keep]
    return np.take_along_axis(rows, order, axis=0).mean(axis=0)


@given(st.integers(1, 15), st.integers(0, 99), st.sampled_from([np.float32, np.float64]))
def test_median_trimmed_and_closest_are_those_of_sorted_columns(count, seed, dtype):
    rows = rows_of(count, 33, seed, dtype)
    wide = rows.astype(np.float64)
    assert np.allclose(made(Recipe(None, "median"), rows), np.median(wide, axis=0), atol=1e-6)
    keep = count - 2 * ((count - 1) // 3)
    trim = (count - keep) // 2
    expected = np.sort(wide, axis=0)[trim : count - trim].mean(axis=0)
    assert np.allclose(made(Recipe(None, "trimmed", keep), rows), expected, atol=1e-6)
    assert np.allclose(made(Recipe(None, "closest", keep), rows), closest(wide, keep), atol=1e-6)


def test_mixing_comes_first():
    rows = rows_of(5, 40, 1)
    matrix = np.random.default_rng(2).random((3, 5))  # noqa: TID251, seeded
    mixed = matrix @ rows.astype(np.float64)
    assert np.allclose(made(Recipe(matrix, "median"), rows), np.median(mixed, axis=0))
    assert np.allclose(made(Recipe(matrix[:1], "sum"), rows), mixed[0])


@pytest.mark.parametrize("kernel", ["sum", "median", "trimmed", "closest"])
def test_cutting_at_blocks_changes_no_bit(kernel):
    rows = rows_of(5, 2 * columns.BLOCK + 7, 3)
    recipe = Recipe(np.full((1, 5), 0.2) if kernel == "sum" else None, kernel, 3)
    parts = [made(recipe, rows[:, : columns.BLOCK]), made(recipe, rows[:, columns.BLOCK :])]
    assert np.array_equal(made(recipe, rows), np.concatenate(parts))


def test_coefficients_of_zero_are_not_touched_by_what_they_multiply():
    rows = rows_of(3, 10, 4)
    rows[1] = np.float32(3e38)
    found = made(Recipe(np.array([[0.5, 0.0, 0.5]]), "sum"), rows)
    assert np.allclose(found, (rows[0] + rows[2]) / 2)
    assert not made(Recipe(np.zeros((1, 3)), "sum"), rows).any()


@pytest.mark.parametrize(
    ("recipe", "rows"),
    [
        (Recipe(None, "median"), np.zeros((0, 4))),
        (Recipe(np.ones((1, 2)), "sum"), np.zeros((3, 4))),
        (Recipe(None, "sum"), np.zeros((3, 4))),
        (Recipe(np.ones((2, 3)), "sum"), np.zeros((3, 4))),
    ],
)
def test_recipes_that_do_not_fit_are_refused(recipe, rows):
    with pytest.raises(ValueError, match=r"shape|recipe|row"):
        made(recipe, rows)
