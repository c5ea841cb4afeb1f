"""Which updates are set aside, and that nobody honest is in the usual case."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.aggregation import geometry, screening, staleness
from wardround.aggregation.geometry import BLOCK, Geometry


def geometry_of(rows):
    return Geometry(geometry.centred_gram(list(rows), np.empty((geometry.scratch_rows(len(rows)), BLOCK))))


def updates(count, seed):
    rows = np.random.default_rng(seed).standard_normal((count, 60))  # noqa: TID251, seeded
    return (1.0 + 0.5 * rows).astype(np.float32)


def aside(rows, earlier=(), multiple=5.0, least=-0.3):
    return screening.offences(geometry_of(rows), earlier, multiple=multiple, least=least)


@given(st.integers(3, 12), st.integers(0, 999))
def test_honest_updates_are_not_set_aside(count, seed):
    assert aside(updates(count, seed)) == {}


@given(st.integers(4, 12), st.integers(0, 999), st.floats(20, 1e6))
def test_what_is_long_or_points_away_is(count, seed, factor):
    rows = updates(count, seed)
    rows[0] *= np.float32(factor)
    rows[1] *= -1
    found = aside(rows)
    assert set(found) == {0, 1}
    assert "norm" in found[0]
    assert "points away" in found[1]


def test_what_was_usual_in_earlier_rounds_counts_and_only_the_last_ten():
    rows = updates(5, 1)
    usual = float(np.median(np.linalg.norm(rows, axis=1)))
    assert aside(rows, [usual / 100] * 10, least=-1.0).keys() == {0, 1, 2, 3, 4}
    assert aside(rows, [usual / 100] * 10 + [usual] * 10, least=-1.0) == {}


def test_a_look_that_is_switched_off_sees_nothing():
    rows = updates(5, 2)
    rows[0] *= -1000
    assert aside(rows, multiple=0.0, least=-1.0) == {}
    assert aside(rows, multiple=0.0).keys() == {0}
    assert aside(rows, least=-1.0).keys() == {0}


@pytest.mark.parametrize("rows", [np.zeros((4, 10), np.float32), np.ones((4, 10), np.float32), np.ones((1, 10), "f4")])
def test_zeros_equal_updates_and_one_alone_are_nothing_unusual(rows):
    assert aside(rows) == {}


def test_no_update_has_no_usual_norm():
    with pytest.raises(ValueError, match="no update"):
        screening.norm_estimate([], [])


@given(st.integers(0, 100), st.floats(0.01, 5), st.integers(0, 20))
def test_later_never_weighs_more(late, slope, grace):
    for function in ("constant", "hinge", "polynomial"):
        now, then = (staleness.discount(function, late + by, slope=slope, grace=grace) for by in (0, 1))
        assert 0 < then <= now <= 1
    assert staleness.discount("polynomial", late, slope=0.5) == pytest.approx((1 + late) ** -0.5)
    assert staleness.discount("hinge", grace + 1, slope=slope, grace=grace) == pytest.approx(1 / (slope + 1))


@pytest.mark.parametrize(
    ("function", "late", "slope", "grace"),
    [
        ("polynomial", -1, 0.5, 0),
        ("hinge", 1, 0.0, 0),
        ("hinge", 1, float("nan"), 0),
        ("hinge", 1, 1.0, -1),
        ("x", 1, 1.0, 0),
    ],
)
def test_staleness_from_the_future_and_settings_without_sense_are_refused(function, late, slope, grace):
    with pytest.raises(ValueError, match=r"ahead|slope|function"):
        staleness.discount(function, late, slope=slope, grace=grace)


def test_agreement_runs_from_all_to_nothing():
    assert [staleness.agreement(cosine) for cosine in (1.0, 0.0, -1.0, 1.0001)] == [1.0, 0.5, 0.0, 1.0]
