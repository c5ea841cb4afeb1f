"""Robust rules: laws that hold for any updates, refusals, and how far hostile ones get."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.aggregation import columns, geometry, robust
from wardround.aggregation.geometry import BLOCK, Geometry
from wardround.aggregation.robust import Rule

RULES = ("median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "centred-clipping", "bulyan")
SEED = bytes(32)


def generator(seed):
    return np.random.default_rng(seed)  # noqa: TID251, the seed is fixed


def updates(count, width, seed):
    return (1.0 + 0.1 * generator(seed).standard_normal((count, width))).astype(np.float32)


def geometry_of(rows):
    return Geometry(geometry.centred_gram(list(rows), np.empty((geometry.scratch_rows(len(rows)), BLOCK))))


def combined(rule, rows, records=None, seed=SEED):
    made = robust.recipe(rule, geometry_of(rows), records or [100] * len(rows), seed)
    out = np.empty(rows.shape[1])
    columns.combine(made, list(rows), out, columns.Workspace())
    return out


# Not Bulyan: of two updates that are each other's nearest, both score the same, and the first by name is taken.
@pytest.mark.parametrize("name", [name for name in RULES if name != "bulyan"])
@given(seed=st.integers(0, 999), extra=st.integers(0, 5))
def test_the_order_of_the_sites_does_not_matter(name, seed, extra):
    rule = Rule(name, hostile=1)
    rows = updates(robust.least_participants(rule) + extra, 30, seed)
    order = generator(seed + 1).permutation(len(rows))
    assert np.allclose(combined(rule, rows), combined(rule, rows[order]), atol=1e-5)


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 999), shift=st.floats(-50, 50))
def test_moving_all_updates_moves_the_aggregate_as_far(name, seed, shift):
    rule = Rule(name, hostile=1)
    rows = updates(9, 30, seed)
    assert np.allclose(combined(rule, rows + np.float32(shift)), combined(rule, rows) + np.float32(shift), atol=1e-3)


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 999), values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2))
def test_whatever_two_of_eleven_send_the_aggregate_stays_near_the_others(name, seed, values):
    rule = Rule(name, hostile=2)
    rows = updates(11, 40, seed)
    honest = rows[2:].astype(np.float64)
    rows[0], rows[1] = values
    spread = np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()
    assert np.linalg.norm(combined(rule, rows) - honest.mean(axis=0)) <= 2 * spread


@given(seed=st.integers(0, 999))
def test_the_mean_goes_wherever_one_of_eleven_sends_it(seed):
    rows = updates(11, 40, seed)
    rows[0] = 1e6
    assert combined(Rule("mean"), rows).min() > 1e4


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "bulyan"])
@given(seed=st.integers(0, 999))
def test_rules_by_column_stay_between_the_honest_values(name, seed):
    rows = updates(11, 40, seed)
    rows[3:5] = generator(seed).choice([-1e30, 1e30], size=(2, 40)).astype(np.float32)
    honest = np.delete(rows, [3, 4], axis=0)
    found = combined(Rule(name, hostile=2), rows)
    assert (found >= honest.min(axis=0) - 1e-6).all()
    assert (found <= honest.max(axis=0) + 1e-6).all()


@given(seed=st.integers(0, 999))
def test_the_geometric_median_has_the_least_sum_of_distances(seed):
    rows = updates(7, 12, seed)
    records = generator(seed).integers(50, 100, 7).tolist()
    found = combined(Rule("geometric-median", hostile=1), rows, records)
    shares = robust.capped_shares(records, 1)

    away = found - rows.astype(np.float64)
    distances = np.linalg.norm(away, axis=1)
    if distances.min() > 1e-6:
        # Where the sum of distances is least, the pulls of all updates cancel.
        assert np.linalg.norm((shares / distances) @ away) < 1e-5


def test_krum_takes_one_update_and_multi_krum_the_mean_of_the_best():
    rows = updates(9, 20, 1)
    rows[4] = -5.0
    assert any(np.array_equal(combined(Rule("krum", hostile=1), rows), row.astype(np.float64)) for row in rows)
    others = np.delete(rows, 4, axis=0).astype(np.float64)
    assert np.allclose(combined(Rule("multi-krum", hostile=1), rows), others.mean(axis=0))


def test_norm_bounding_shortens_what_is_long_and_nothing_else():
    rows = updates(5, 20, 2)
    rows[0] *= 100
    bound = float(np.median(np.linalg.norm(rows, axis=1)))
    short = rows * np.minimum(1.0, bound / np.linalg.norm(rows, axis=1))[:, None]
    assert np.allclose(combined(Rule("norm-bound"), rows), short.mean(axis=0), atol=1e-6)
    assert np.linalg.norm(combined(Rule("norm-bound", bound=0.5), rows)) <= 0.5 + 1e-9


def test_trust_weighs_by_agreement_with_the_reference_and_forgets_its_length():
    rows = updates(6, 20, 3)
    rows[1], rows[2] = -rows[1], 1000 * rows[2]
    found = combined(Rule("trust", reference=0), rows)
    reference = rows[0].astype(np.float64)
    assert np.dot(found, reference) > 0
    assert np.linalg.norm(found) <= np.linalg.norm(reference) * 1.001
    alone = combined(Rule("trust", reference=0), np.vstack([rows[:1], -rows[:1]]))
    assert np.allclose(alone, reference, atol=1e-6)


def test_neighbours_are_the_nearest_and_buckets_follow_from_the_seed():
    rows = updates(7, 20, 4)
    rows[6] = 50.0
    nearest = robust.mixing_rows(Rule(hostile=1, mixing="nearest-neighbours"), geometry_of(rows), 7, SEED)
    assert not nearest[:6, 6].any()
    assert np.allclose(nearest.sum(axis=1), 1.0)
    rule = Rule(mixing="bucketing", bucket_size=3)
    buckets = robust.mixing_rows(rule, None, 7, SEED)
    assert buckets.shape == (3, 7)
    assert np.allclose(buckets.sum(axis=1), 1.0)
    assert ((buckets > 0).sum(axis=0) == 1).all()
    assert np.array_equal(buckets, robust.mixing_rows(rule, None, 7, SEED))
    assert not np.array_equal(buckets, robust.mixing_rows(rule, None, 7, b"\x01" * 32))


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=12), st.data())
def test_nobody_buys_weight_by_claiming_records(records, data):
    hostile = data.draw(st.integers(0, (len(records) - 1) // 2))
    shares = robust.capped_shares(records, hostile)
    assert shares.sum() == pytest.approx(1.0)
    limit = max(1 / 3, hostile / len(records))
    assert np.sort(shares)[::-1][:hostile].sum() <= limit + 1e-9
    order = np.argsort(records, kind="stable")
    assert (np.diff(shares[order]) >= -1e-12).all(), "who has more records never counts for less"


def test_honest_claims_are_the_formulas_weights():
    assert np.allclose(robust.capped_shares([10, 20, 30, 40], 1), [0.1, 0.2, 0.3, 1 / 3], atol=0.05)
    assert np.array_equal(robust.capped_shares([10, 20, 30, 40], 0), np.array([10, 20, 30, 40]) / 100)


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (Rule("mean"), 1),
        (Rule("median", hostile=2), 5),
        (Rule("trimmed-mean", hostile=3), 7),
        (Rule("krum", hostile=2), 7),
        (Rule("multi-krum", hostile=2), 7),
        (Rule("geometric-median", hostile=2), 5),
        (Rule("centred-clipping", hostile=2), 5),
        (Rule("bulyan", hostile=2), 11),
        (Rule("trust"), 2),
        (Rule("median", hostile=2, mixing="bucketing", bucket_size=3), 13),
        (Rule("mean", hostile=2, mixing="nearest-neighbours"), 5),
    ],
)
def test_with_fewer_than_it_needs_a_rule_refuses(rule, least):
    assert robust.least_participants(rule) == least
    rows = updates(max(least - 1, 1), 10, 5)
    if least > 1:
        with pytest.raises(ValueError, match=f"needs {least} updates"):
            combined(rule, rows[: least - 1])


@pytest.mark.parametrize("records", [[0, 0], [-1, 5]])
def test_weights_without_records_are_refused(records):
    with pytest.raises(ValueError, match="record"):
        robust.capped_shares(records, 0)


def test_a_rule_that_needs_distances_says_so():
    with pytest.raises(ValueError, match="distances"):
        robust.recipe(Rule("krum"), None, [1] * 5, SEED)
    with pytest.raises(ValueError, match="reference"):
        combined(Rule("trust"), updates(3, 5, 6))
    with pytest.raises(ValueError, match="no aggregation rule"):
        robust.least_participants(Rule("guess"))


VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "robust.json").read_text())


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: f"{len(case['updates'])} updates")
def test_another_implementation_gives_the_same(case):
    rows = np.array(case["updates"], np.float32)
    for name, expected in case["expected"].items():
        mixing, _, rule = name.rpartition(" ")
        made = Rule(rule, hostile=case["hostile"], mixing=mixing or "none")
        assert np.allclose(combined(made, rows), expected, rtol=1e-4, atol=1e-5), name
