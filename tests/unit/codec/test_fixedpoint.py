import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.codec import fixedpoint
from wardround.codec.fixedpoint import Encoding
from wardround.errors import TensorMismatchError

ENCODINGS = st.builds(
    Encoding,
    capacity=st.one_of(st.integers(1, 1024), st.sampled_from([2**k + d for k in range(1, 10) for d in (-1, 0, 1)])),
    clip=st.floats(1e-3, 1e4),
    max_weight=st.integers(1, 10**9),
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
EXACT = st.integers(-(2**80), 2**80).map(lambda whole: float(Fraction(whole, 2**64)))


def encoded(values, weight, words, encoding):
    out = np.empty(len(values), np.uint32)
    fixedpoint.encode(np.array(values, np.float32), weight, np.array(words, np.uint32), out, encoding)
    return out


def signed(vector):
    return [int(value) for value in vector.view(np.int32)]


@given(st.data(), ENCODINGS, st.lists(FLOATS, min_size=1, max_size=20))
def test_an_integer_is_never_beyond_the_limit_and_near_the_value(data, encoding, values):
    weight = data.draw(st.integers(1, encoding.max_weight))
    words = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(values), max_size=len(values)))
    for value, whole in zip(values, signed(encoded(values, weight, words, encoding)), strict=True):
        clipped = min(max(Fraction(float(np.float32(value))), -Fraction(encoding.clip)), Fraction(encoding.clip))
        exact = Fraction(encoding.limit) / Fraction(encoding.clip) * Fraction(weight, encoding.max_weight) * clipped
        assert abs(whole) <= encoding.limit
        assert abs(whole - exact) <= 1 + abs(exact) * Fraction(1, 2**22)


@given(ENCODINGS)
def test_a_full_house_of_extreme_values_does_not_overflow(encoding):
    assert encoding.capacity * encoding.limit < 2**31
    for value in (math.inf, -math.inf):
        with pytest.raises(TensorMismatchError):
            encoded([value], 1, [0], encoding)
    for value, sign in ((3.4e38, 1), (-3.4e38, -1)):
        whole = signed(encoded([value], encoding.max_weight, [2**32 - 1], encoding))[0]
        total = encoding.capacity * whole
        assert -(2**31) < total < 2**31
        assert total * sign >= 0


@settings(max_examples=30)
@given(ENCODINGS.filter(lambda e: e.capacity >= 2), st.data())
def test_the_decoded_sum_is_the_weighted_mean(encoding, data):
    count = data.draw(st.integers(2, min(encoding.capacity, 12)))
    weights = data.draw(st.lists(st.integers(1, encoding.max_weight), min_size=count, max_size=count))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    values = np.array([[rng.uniform(-encoding.clip, encoding.clip) for _ in range(5)] for _ in range(count)])
    values = values.astype(np.float32)
    total = np.zeros(5, np.uint32)
    for row, weight in zip(values, weights, strict=True):
        total += encoded(row, weight, [rng.getrandbits(32) for _ in range(5)], encoding)
    mean = np.empty(5)
    fixedpoint.decode(total, sum(weights), encoding, mean)
    step = encoding.clip / encoding.limit * encoding.max_weight / sum(weights)
    exact = np.average(np.clip(values.astype(float), -encoding.clip, encoding.clip), axis=0, weights=weights)
    assert np.abs(mean - exact).max() <= count * step + 1e-6 * encoding.clip


def test_rounding_is_unbiased():
    encoding = Encoding(capacity=4, clip=1.0, max_weight=2**29)
    values = np.full(200_000, 0.3, np.float32)
    out = np.empty(values.size, np.uint32)
    # The weight makes each true integer about 0.3, so rounding decides everything.
    words = np.frombuffer(random.Random(42).randbytes(4 * values.size), np.uint32)
    fixedpoint.encode(values, 1, words, out, encoding)
    exact = encoding.limit * float(np.float32(0.3)) / 2**29
    assert abs(out.mean() - exact) < 5 * math.sqrt(exact * (1 - exact) / values.size)


def test_what_is_refused():
    encoding = Encoding(capacity=3, clip=1.0, max_weight=10)
    for weight in (0, -1, 11, 10**9):
        with pytest.raises(ValueError, match="weight"):
            encoded([0.0], weight, [0], encoding)
    with pytest.raises(TensorMismatchError):
        encoded([math.nan], 1, [0], encoding)
    with pytest.raises(ValueError, match="shape"):
        encoded([0.0], 1, [0, 0], encoding)
    for bad in ({"capacity": 0}, {"clip": 0.0}, {"max_weight": 0}, {"capacity": 2**31}):
        with pytest.raises(ValueError, match="encoding"):
            Encoding(**{"capacity": 3, "clip": 1.0, "max_weight": 10} | bad)
    with pytest.raises(ValueError, match="weight"):
        fixedpoint.decode(np.zeros(1, np.uint32), 0, encoding, np.empty(1))
    for value in (math.nan, math.inf, 2.0**63, -(2.0**64)):
        with pytest.raises(TensorMismatchError):
            fixedpoint.encode_sums(np.array([value]))
    with pytest.raises(ValueError, match="digits"):
        fixedpoint.decode_sums(np.zeros(3, np.uint64))


@given(st.lists(st.lists(EXACT, min_size=3, max_size=3), min_size=1, max_size=20), st.randoms())
def test_sums_are_exact_in_any_order(rows, rng):
    total = np.zeros(3 * fixedpoint.DIGITS, np.uint64)
    rng.shuffle(rows)
    for row in rows:
        total += fixedpoint.encode_sums(np.array(row))
    sums = fixedpoint.decode_sums(total)
    assert sums == [sum(map(Fraction, column)) for column in zip(*rows, strict=True)]
    assert [float(value) for value in sums] == [math.fsum(column) for column in zip(*rows, strict=True)]


@given(st.floats(-1e15, 1e15))
def test_a_number_is_rounded_to_the_nearest_multiple(value):
    found = fixedpoint.decode_sums(fixedpoint.encode_sums(np.array([value])))[0]
    assert abs(found - Fraction(value)) <= Fraction(1, 2**65)


def test_golden_bytes():
    # Computed by hand from the formulas at the top of the module.
    encoding = Encoding(capacity=4, clip=2.0, max_weight=10)
    assert encoding.limit == 2**29 - 1
    out = encoded([1.0, -1.0, 5.0, -5.0], 10, [0, 0, 2**32 - 1, 2**31], encoding)
    assert signed(out) == [268435455, -268435456, 536870911, -536870911]
    assert fixedpoint.encode_sums(np.array([-1.5])).view(np.int64).tolist() == [0, -(2**31), -1, 0]
