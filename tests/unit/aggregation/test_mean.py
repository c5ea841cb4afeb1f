import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from wardround.aggregation import mean
from wardround.errors import TensorMismatchError

floats32 = st.floats(-1e6, 1e6, width=32)
floats64 = st.floats(allow_nan=False, allow_infinity=False)
counts = st.lists(st.integers(0, 10**9), min_size=1, max_size=30).filter(any)


def chunks(sites, columns):
    return npst.arrays(np.float32, (sites, columns), elements=floats32)


def weighted(parts, weights, scratch=None):
    out = np.full(parts[0].shape, np.nan)
    mean.weighted_sum(parts, weights, out, scratch)
    return out


@given(records=counts)
def test_weights_are_the_shares_of_all_records(records):
    weights = mean.weights(records)
    assert math.isclose(math.fsum(weights), 1.0, rel_tol=1e-15)
    assert [Fraction(weight) for weight in weights] == [
        Fraction(float(Fraction(count, sum(records)))) for count in records
    ]


def test_one_site_has_all_the_weight():
    assert mean.weights([17]) == [1.0]


@pytest.mark.parametrize("records", [[], [0], [0, 0], [-1, 3], [5, -5]])
def test_weights_need_records(records):
    with pytest.raises(ValueError):
        mean.weights(records)


@given(data=st.data(), sites=st.integers(1, 6), columns=st.integers(1, 20))
def test_a_weighted_sum_is_the_textbooks(data, sites, columns):
    parts = data.draw(chunks(sites, columns))
    weights = mean.weights(data.draw(st.lists(st.integers(1, 10**6), min_size=sites, max_size=sites)))
    exact = [
        float(
            sum(Fraction(weight) * Fraction(float(part[column])) for part, weight in zip(parts, weights, strict=True))
        )
        for column in range(columns)
    ]
    # Absolute: within a few rounding errors of the largest term; float32 arithmetic would be 10**8 times worse.
    np.testing.assert_allclose(weighted(list(parts), weights), exact, rtol=0, atol=1e-15 * sites * 1e6)


def test_it_is_summed_in_float64():
    # In float32, 1/3 of 1 + 1/3 of 1e-9 loses the second term.
    result = weighted([np.array([1], np.float32), np.array([1e-9], np.float32)], [1 / 3, 1 / 3])
    assert result[0] == 1 / 3 + float(np.float32(1e-9)) * (1 / 3)


@given(data=st.data(), sites=st.integers(1, 5), columns=st.integers(1, 40))
def test_any_cutting_into_chunks_gives_the_same_bytes(data, sites, columns):
    parts = list(data.draw(chunks(sites, columns)))
    weights = mean.weights(list(range(1, sites + 1)))
    cuts = sorted(data.draw(st.sets(st.integers(1, columns))) | {0, columns})
    pieces = [weighted([part[a:b] for part in parts], weights) for a, b in pairwise(cuts)]
    assert np.concatenate(pieces).tobytes() == weighted(parts, weights).tobytes()


def test_large_chunks_are_the_same_to_the_bit_as_single_columns():
    generator = np.random.Generator(np.random.PCG64(1))  # noqa: TID251
    parts = [generator.standard_normal(20_000, dtype=np.float32) for _ in range(7)]
    weights = mean.weights([3, 1, 4, 1, 5, 9, 2])
    whole = weighted(parts, weights)
    for column in (0, 1, 8_191, 8_192, 8_193, 19_999):
        alone = 0.0
        for index, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            term = float(part[column]) * weight
            alone = term if index == 0 else alone + term
        assert whole[column] == alone


@given(data=st.data())
def test_scratch_changes_nothing_and_the_updates_stay_as_they_are(data):
    parts = data.draw(chunks(3, 10))
    before = parts.copy()
    weights = [0.2, 0.3, 0.5]
    assert weighted(list(parts), weights, np.full(10, np.nan)).tobytes() == weighted(list(parts), weights).tobytes()
    assert parts.tobytes() == before.tobytes()


def test_read_only_and_unaligned_chunks_will_do():
    data = b"\x00" + np.arange(5, dtype="<f4").tobytes()
    part = np.frombuffer(data, "<f4", offset=1)
    assert weighted([part, part], [0.5, 0.5]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("parts", "weights"),
    [
        ([], []),
        ([np.zeros(2, np.float32)], []),
        ([np.zeros(3, np.float32)], [1.0]),
        ([np.zeros((), np.float32)], [1.0]),
    ],
)
def test_chunks_weights_and_out_must_fit(parts, weights):
    with pytest.raises(ValueError):
        mean.weighted_sum(parts, weights, np.zeros(2))


def test_scratch_must_fit():
    with pytest.raises(ValueError):
        mean.weighted_sum([np.zeros(2, np.float32)], [1.0], np.zeros(2), np.zeros(3))


@given(data=st.data(), sites=st.integers(1, 6), columns=st.integers(0, 5))
def test_sums_are_exact_whatever_the_order(data, sites, columns):
    vectors = list(data.draw(npst.arrays(np.float64, (sites, columns), elements=st.floats(-1e300, 1e300))))
    result = mean.sum_vectors(vectors)
    shuffled = data.draw(st.permutations(vectors))
    assert result.tobytes() == mean.sum_vectors(shuffled).tobytes()
    assert result.dtype == np.float64
    for column in range(columns):
        assert result[column] == float(sum(Fraction(float(vector[column])) for vector in vectors))


def test_small_numbers_are_not_lost_among_large_ones():
    assert mean.sum_vectors([np.array([value]) for value in (1e16, 1.0, -1e16, 1.0)]).tolist() == [2.0]


@given(order=st.permutations([1.7e308, 1.7e308, -1.7e308, 1.0]))
def test_an_overflow_on_the_way_does_not_depend_on_the_order(order):
    assert mean.sum_vectors([np.array([value]) for value in order]).tolist() == [1.7e308]


@given(order=st.permutations([1.7e308, 1.7e308, -1.0]))
def test_a_sum_too_large_is_refused(order):
    with pytest.raises(TensorMismatchError, match="too large"):
        mean.sum_vectors([np.array([value]) for value in order])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(TensorMismatchError):
        mean.sum_vectors([np.array([1.0, 2.0]), np.array([bad, 2.0])])


def test_shape_is_kept_and_must_be_one():
    assert mean.sum_vectors([np.ones((2, 3)), np.ones((2, 3))]).tolist() == [[2.0] * 3] * 2
    for other in (np.ones(6), np.ones((3, 2)), np.ones((2, 4))):
        with pytest.raises(ValueError):
            mean.sum_vectors([np.ones((2, 3)), other])
    with pytest.raises(ValueError):
        mean.sum_vectors([])
