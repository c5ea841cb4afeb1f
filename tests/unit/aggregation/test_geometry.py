"""Distances, norms and angles from one pass, beside float64 arithmetic on whole vectors."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.aggregation import geometry, robust
from wardround.aggregation.geometry import BLOCK, Geometry

WIDE = np.float64


def updates(count, columns, seed, *, offset=0.0):
    generator = np.random.default_rng(seed)  # noqa: TID251, seeded
    return (generator.standard_normal((count, columns)) + offset).astype(np.float32)


def measured(rows, dtype=np.float32):
    scratch = np.empty((geometry.scratch_rows(len(rows)), BLOCK), dtype)
    return Geometry(geometry.centred_gram(list(rows), scratch))


def squares(rows):
    wide = np.asarray(rows, WIDE)
    return ((wide[:, None] - wide[None]) ** 2).sum(axis=-1)


@pytest.mark.parametrize("columns", [1, 7, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_norms_and_angles_are_those_of_the_vectors(columns, dtype):
    rows = updates(6, columns, 1, offset=2.0)
    found, wide = measured(rows, dtype), rows.astype(WIDE)
    assert np.allclose(found.squared_distances(), squares(rows), rtol=1e-4, atol=1e-5)
    assert np.allclose(found.norms(), np.linalg.norm(wide, axis=1), rtol=1e-4)
    assert np.allclose(found.dots(), wide @ wide.T, rtol=1e-4, atol=1e-3)
    lengths = np.linalg.norm(wide, axis=1)
    assert np.allclose(found.cosines(), wide @ wide.T / np.outer(lengths, lengths), atol=1e-4)


@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 99))
def test_a_map_of_the_geometry_is_the_geometry_of_the_map(count, made, seed):
    rows = updates(count, 50, seed)
    matrix = np.random.default_rng(seed + 1).standard_normal((made, count))  # noqa: TID251, seeded
    mapped = measured(rows, WIDE).mapped(matrix)
    assert np.allclose(mapped.dots(), matrix @ rows.astype(WIDE) @ rows.T.astype(WIDE) @ matrix.T, atol=1e-8)
    assert np.allclose(mapped.squared_distances(), squares(matrix @ rows.astype(WIDE)), atol=1e-8)


def test_cutting_into_chunks_of_whole_blocks_changes_no_bit():
    rows = updates(5, 4 * BLOCK + 11, 2)
    cuts = [0, 2 * BLOCK, rows.shape[1]]
    parts = [list(rows[:, start:stop]) for start, stop in itertools.pairwise(cuts)]
    whole = [list(rows[:, start : start + 2 * BLOCK]) for start in range(0, rows.shape[1], 2 * BLOCK)]
    assert np.array_equal(
        sum(geometry.centred_gram(part) for part in parts[:1]), sum(geometry.centred_gram(part) for part in whole[:1])
    )


def test_one_update_that_is_huge_hides_nothing_of_the_others():
    rows = updates(7, 3000, 3)
    rows[4] = 1e30
    gram = geometry.centred_gram(list(rows))
    if not geometry.is_resolved(gram):
        gram = geometry.centred_gram(list(rows), np.empty((8, BLOCK)))
    honest = [0, 1, 2, 3, 5, 6]
    found = Geometry(gram).squared_distances()[np.ix_(honest, honest)]
    assert np.allclose(found, squares(rows[honest]), rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_updates_that_are_all_the_same_lie_nowhere_apart(value):
    rows = np.full((5, 1000), value, np.float32)
    found = measured(rows, WIDE)
    assert np.allclose(found.squared_distances(), 0.0, atol=1e-9)
    assert np.allclose(found.norms(), value * np.sqrt(1000))
    assert np.isfinite(found.cosines()).all()


def test_usual_updates_are_resolved_and_what_float32_cannot_tell_is_not():
    rows = updates(9, 5000, 4)
    assert geometry.is_resolved(geometry.centred_gram(list(rows)))
    assert geometry.is_resolved(geometry.centred_gram(list(rows + 100))), "a common part is centred away"
    split = np.repeat([[1.0], [-1.0]], [5, 4], axis=0) + 1e-7 * rows
    assert not geometry.is_resolved(geometry.centred_gram(list(split.astype(np.float32))))
    huge = rows.copy()
    huge[0] = 1e30
    assert not geometry.is_resolved(geometry.centred_gram(list(huge))), "products overflow"


def test_without_centring_float32_distances_let_attackers_in():
    """The mistake of measuring whole models: updates are 3e-4 of the weights, and their differences drown."""
    generator = np.random.default_rng(5)  # noqa: TID251, seeded
    weights = generator.standard_normal(100_000)
    step = 3e-4
    honest = [step * generator.standard_normal(weights.size) for _ in range(8)]
    hostile = [1.5 * step * generator.standard_normal(weights.size) for _ in range(3)]
    models = [(weights + update).astype(np.float32) for update in (*honest, *hostile)]
    stacked = np.stack(models)
    gram = stacked @ stacked.T
    naive = np.diag(gram)[:, None] + np.diag(gram)[None] - 2 * gram
    exact = squares([model[:2000] for model in models])
    assert exact[0, 9] > 1.3 * exact[0, 1], "the hostile ones lie farther out"
    error = np.abs(naive[:8, :8][np.triu_indices(8, 1)] - 2 * weights.size * step**2).max()
    assert error > weights.size * step**2, "and uncentred float32 is wrong by as much as they differ"
    found = measured(stacked)
    rule = robust.Rule("multi-krum", hostile=3)
    chosen = np.flatnonzero(robust.recipe(rule, found, [1] * 11, bytes(32)).rows[0])
    assert set(chosen) == set(range(8))


@pytest.mark.parametrize("chunks", [[], [np.zeros(3, np.float32), np.zeros(4, np.float32)]])
def test_no_updates_or_unequal_ones_are_refused(chunks):
    with pytest.raises(ValueError, match="one length"):
        geometry.centred_gram(chunks)
