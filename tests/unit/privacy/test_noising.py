import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.privacy import factorization, noising
from wardround.privacy.noising import BandedSums, Grid, NoisySum

SEEDS = [noising.derive(bytes(32), "test", number) for number in range(400)]


def released(grid, seed, piece=None):
    summed = NoisySum(grid)
    if piece is not None:
        summed.add(piece)
    return summed.release(seed)


def test_the_noise_has_the_deviation_that_is_said_and_the_shape():
    drawn = released(Grid(0.5, 3.0, 200_000), SEEDS[0])
    # A sample variance of n normals is off by sqrt(2 / n) of itself.
    assert drawn.std() == pytest.approx(1.5, rel=5 * math.sqrt(0.5 / 200_000))
    assert abs(drawn.mean()) < 5 * 1.5 / math.sqrt(200_000)
    inside = [(np.abs(drawn) < 1.5 * bound).mean() for bound in (1, 2, 3)]
    assert inside == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.006)


def test_laplace_noise_has_the_scale_that_is_said():
    drawn = released(Grid(2.0, 1.5, 200_000, distribution="laplace"), SEEDS[0])
    assert np.abs(drawn).mean() == pytest.approx(3.0, rel=0.02)
    assert (np.abs(drawn) > 3.0 * math.log(10)).mean() == pytest.approx(0.1, abs=0.005)


def test_what_is_released_lies_on_the_grid_whatever_the_floats_were():
    grid = Grid(1.0, 1.0, 1000)
    steps = released(grid, SEEDS[1], np.full(1000, 0.1, np.float32)) * grid.scale
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert np.rint(steps).astype(np.int64).std() > 1e7


def test_the_same_seed_draws_the_same_noise_and_another_other():
    grid = Grid(1.0, 1.0, 100)
    assert (released(grid, SEEDS[0]) == released(grid, SEEDS[0])).all()
    assert not (released(grid, SEEDS[0]) == released(grid, SEEDS[1])).any()


@given(st.lists(st.floats(-1, 1, width=32), min_size=5, max_size=5), st.integers(1, 60))
def test_a_sum_is_what_was_added_and_the_noise_apart_from_it(values, times):
    grid = Grid(3.0, 2.0, 5)
    summed = NoisySum(grid)
    for _ in range(times):
        summed.add(np.array(values, np.float32))
    noise = released(grid, SEEDS[2])
    assert summed.release(SEEDS[2]) - noise == pytest.approx(np.array(values) * times, abs=times * 2.0**-24)


@given(
    st.floats(1e-6, 1e6), st.floats(0.01, 1000), st.integers(1, 1_000_000), st.integers(1, 50),
    st.sampled_from(["gaussian", "laplace"]),
)  # fmt: skip
def test_what_rounding_can_add_is_taken_off_the_norm(clip, noise, columns, pieces, distribution):
    try:
        grid = Grid(clip, noise, columns, pieces=pieces, distribution=distribution)
    except ValueError:
        return
    rounding = (math.sqrt(columns) if distribution == "gaussian" else columns) * pieces / grid.scale
    assert grid.bound + rounding <= clip * (1 - 2.0**-11)
    assert grid.scale * noise * clip == pytest.approx(2**28)


@pytest.mark.parametrize("figure", [0.0, -1.0, math.nan, math.inf])
def test_a_norm_or_noise_that_cannot_be_is_refused(figure):
    with pytest.raises(ValueError, match="finite and above 0"):
        Grid(figure, 1.0, 3)
    with pytest.raises(ValueError, match="finite and above 0"):
        Grid(1.0, figure, 3)


def test_so_much_noise_on_so_many_columns_that_nothing_is_left_is_refused():
    with pytest.raises(ValueError, match="leaves nothing"):
        Grid(1.0, 9000.0, 10_000_000, distribution="laplace")


@pytest.mark.parametrize("rate", [0.001, 0.04, 0.5, 1 - 1e-9])
def test_everybody_is_drawn_by_an_own_coin(rate):
    drawn = np.array([noising.sampled(5000, rate, seed) for seed in SEEDS])
    assert drawn.mean() == pytest.approx(rate, abs=6 * math.sqrt(rate * (1 - rate) / drawn.size))
    # How many take part varies as coins do: a shuffle would draw the same number each time.
    assert drawn.sum(axis=1).var() == pytest.approx(5000 * rate * (1 - rate), rel=0.5, abs=1e-3)


def test_at_rate_one_all_take_part_and_of_nobody_nobody():
    assert noising.sampled(1000, 1.0, SEEDS[0]).all()
    assert noising.sampled(0, 0.5, SEEDS[0]).size == 0
    assert noising.dealt(0, 3, SEEDS[0]).size == 0


@given(st.integers(1, 50_000), st.integers(1, 40))
def test_patients_are_dealt_into_batches_of_one_size(count, batches):
    sizes = np.bincount(noising.dealt(count, batches, SEEDS[3]), minlength=batches)
    assert sizes.sum() == count
    assert sizes.max() - sizes.min() <= 1


def test_another_seed_deals_them_otherwise():
    assert (noising.dealt(1000, 10, SEEDS[0]) != noising.dealt(1000, 10, SEEDS[1])).mean() > 0.8


def test_labels_keep_seeds_apart():
    made = {noising.derive(bytes(32), *labels) for labels in [("a",), ("a", 1), ("a", 2), ("b", 1), ("a\n1",)][:4]}
    assert len(made) == 4
    assert noising.derive(bytes(32), "a") != noising.derive(bytes([1] * 32), "a")


def test_a_band_is_the_square_root_of_sums():
    factors = factorization.coefficients(6)
    assert factors == pytest.approx([math.comb(2 * k, k) / 4**k for k in range(6)])
    # The square of the whole root is the matrix of sums: ones everywhere below the diagonal.
    size = 12
    root = np.array(
        [[factorization.coefficients(size)[i - j] if i >= j else 0.0 for j in range(size)] for i in range(size)]
    )
    assert root @ root == pytest.approx(np.tril(np.ones((size, size))))
    assert factorization.column_norm(1) == 1.0
    with pytest.raises(ValueError, match="one diagonal"):
        factorization.coefficients(0)


@pytest.mark.parametrize("band", [1, 3, 7])
def test_banded_sums_are_the_sums_with_the_noise_of_the_inverse(band):
    steps, columns = 9, 4
    grid, factors = Grid(1.0, 1.0, columns), factorization.coefficients(band)
    values = np.random.default_rng(0).normal(size=(steps, columns))  # noqa: TID251, a test's own
    banded, found, noise = BandedSums(grid, factors), [], []
    for step in range(steps):
        summed = NoisySum(grid)
        summed.add(values[step])
        found.append(banded.release(summed, SEEDS[step]))
        noise.append(released(grid, SEEDS[step]))
    strategy = np.array([[factors[i - j] if 0 <= i - j < band else 0.0 for j in range(steps)] for i in range(steps)])
    assert np.array(found) == pytest.approx(values + np.linalg.solve(strategy, np.array(noise)), abs=1e-6)


def test_correlated_noise_hurts_a_sum_less_at_the_same_privacy():
    steps = batches = 16
    factors, norm = factorization.coefficients(batches), factorization.column_norm(batches)
    strategy = np.array([[factors[i - j] if i >= j else 0.0 for j in range(steps)] for i in range(steps)])
    last_sums = np.tril(np.ones((steps, steps))) @ np.linalg.inv(strategy)
    correlated = norm * math.sqrt((last_sums**2).sum() / steps)
    independent = math.sqrt((np.tril(np.ones((steps, steps))) ** 2).sum() / steps)
    assert correlated < 0.8 * independent
