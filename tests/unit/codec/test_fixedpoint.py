import json
import math
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.codec import fixedpoint
from wardround.codec.fixedpoint import Encoding
from wardround.errors import TensorMismatchError

FOLDER = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((FOLDER / "fixedpoint.json").read_text(encoding="utf-8"))
# What the module says of its float64 arithmetic, in steps.
PRECISION = Fraction(1, 2**19)
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


def encoding_of(case):
    return Encoding(case["capacity"], float.fromhex(case["clip"]), case["max_weight"])


def draw_weight(data, encoding):
    return data.draw(st.one_of(st.integers(1, encoding.max_weight), st.just(encoding.max_weight)))


@given(st.data(), ENCODINGS, st.lists(FLOATS, min_size=1, max_size=20))
def test_an_integer_is_the_exact_one_but_for_the_arithmetic(data, encoding, values):
    values += [0.0, -0.0, 1e-45, -1e-45, encoding.clip, -encoding.clip, 3.4e38, -3.4e38]
    weight = draw_weight(data, encoding)
    words = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(values), max_size=len(values)))
    most, clip = encoding.limit, Fraction(encoding.clip)
    found = signed(encoded(values, weight, words, encoding))
    for value, word, whole in zip(values, words, found, strict=True):
        clipped = min(max(Fraction(float(np.float32(value))), -clip), clip)
        exact = most / clip * Fraction(weight, encoding.max_weight) * clipped + Fraction(word, 2**32)
        least, largest = math.floor(exact - PRECISION), math.floor(exact + PRECISION)
        assert max(-most, min(most, least)) <= whole <= max(-most, min(most, largest))
        assert abs(whole) <= most


@given(st.integers(1, 2**30))
def test_capacity_leaves_no_bit_unused(capacity):
    limit = Encoding(capacity, 1.0, 1).limit
    assert capacity * limit < 2**31
    assert limit == 2 ** (31 - math.ceil(math.log2(capacity))) - 1


@given(ENCODINGS.filter(lambda e: e.capacity >= 2), st.data(), st.randoms())
def test_a_sum_in_the_ring_is_the_sum_of_the_integers_in_any_order(encoding, data, rng):
    count = min(encoding.capacity, 12)
    rows = data.draw(st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=count, max_size=count))
    weight = draw_weight(data, encoding)
    vectors = [encoded(row, weight, [rng.getrandbits(32) for _ in row], encoding) for row in rows]
    expected = [sum(column) for column in zip(*map(signed, vectors), strict=True)]
    rng.shuffle(vectors)
    total = np.zeros(3, np.uint32)
    for vector in vectors:
        total += vector
    assert signed(total) == expected
    mean = np.empty(3)
    fixedpoint.decode(total, weight * count, encoding, mean)
    step = Fraction(encoding.clip) / encoding.limit * Fraction(encoding.max_weight, weight * count)
    for value, whole in zip(mean.tolist(), expected, strict=True):
        assert abs(Fraction(value) - whole * step) <= abs(whole * step) * Fraction(1, 2**50)


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


def test_rounding_is_unbiased_at_the_full_width():
    # 27-bit integers, whose steps float32 cannot tell apart. Fails by chance once in 10**6.
    encoding = Encoding(capacity=10, clip=1.0, max_weight=10)
    count = 100_000
    rng = random.Random(7)
    values = np.array([rng.uniform(-1, 1) for _ in range(count)], np.float32)
    words = np.frombuffer(rng.randbytes(4 * count), np.uint32)
    out = np.empty(count, np.uint32)
    fixedpoint.encode(values, 7, words, out, encoding)
    exact = values.astype(np.float64) * (encoding.limit * 0.7)
    errors = out.view(np.int32) - exact
    assert abs(errors.mean()) < 5 * 0.5 / math.sqrt(count)
    # A floor without noise, or noise of half the width, is a quarter of a step off: it would be seen.
    assert abs((np.floor(exact + 0.5 * (words * 2.0**-32)) - exact).mean()) > 5 * 0.5 / math.sqrt(count)


def test_blocks_make_no_difference():
    encoding = Encoding(capacity=5, clip=1.0, max_weight=3)
    rng = random.Random(3)
    count = 2 * 32 * 1024 + 77
    values = np.frombuffer(rng.randbytes(4 * count), np.int32).astype(np.float32) / np.float32(2**30)
    words = np.frombuffer(rng.randbytes(4 * count), np.uint32)
    whole, parts = np.empty(count, np.uint32), np.empty(count, np.uint32)
    fixedpoint.encode(values, 2, words, whole, encoding)
    for start in range(0, count, 1000):
        cut = slice(start, start + 1000)
        fixedpoint.encode(values[cut], 2, words[cut], parts[cut], encoding)
    assert np.array_equal(whole, parts)


def test_the_bound_is_the_clip_itself():
    # The nearest float32 of 0.1 is larger than 0.1: 16 integers more than M w / W here.
    encoding = Encoding(capacity=1, clip=0.1, max_weight=2)
    assert signed(encoded([5.0, -5.0], 1, [0, 0], encoding)) == [2**30 - 1, -(2**30)]
    assert signed(encoded([5.0, -5.0], 1, [0, 0], Encoding(capacity=2, clip=1e300, max_weight=1))) == [0, -1]


def test_what_is_refused():
    encoding = Encoding(capacity=3, clip=1.0, max_weight=10)
    for weight in (0, -1, 11, 10**9):
        with pytest.raises(ValueError, match="weight"):
            encoded([0.0], weight, [0], encoding)
    with pytest.raises(TensorMismatchError):
        encoded([math.nan], 1, [0], encoding)
    # One word for two values would be used twice, without a complaint from numpy.
    for sizes in ((1, 2, 1), (2, 1, 2), (1, 1, 2)):
        values, words, out = (
            np.zeros(n, kind) for n, kind in zip(sizes, (np.float32, np.uint32, np.uint32), strict=True)
        )
        with pytest.raises(ValueError, match="one shape"):
            fixedpoint.encode(values, 1, words, out, encoding)
    for bad in (
        {"capacity": 0},
        {"clip": 0.0},
        {"clip": math.nan},
        {"clip": math.inf},
        {"clip": 5e-324},
        {"max_weight": 0},
        {"capacity": 2**31},
    ):
        with pytest.raises(ValueError, match="encoding"):
            Encoding(**{"capacity": 3, "clip": 1.0, "max_weight": 10} | bad)
    with pytest.raises(ValueError, match="weight"):
        fixedpoint.decode(np.zeros(1, np.uint32), 0, encoding, np.empty(1))
    with pytest.raises(ValueError, match="one shape"):
        fixedpoint.decode(np.zeros(1, np.uint32), 1, encoding, np.empty(2))
    for value in (*map(float.fromhex, VECTORS["refused"]), math.nextafter(2.0**64, 0)):
        with pytest.raises(TensorMismatchError) as caught:
            fixedpoint.encode_sums(np.array([1.0, value]))
        assert str(value) not in str(caught.value)
        assert float(value).hex() not in str(caught.value)
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


@given(st.one_of(st.floats(-math.nextafter(2.0**63, 0), math.nextafter(2.0**63, 0)), st.floats(-1e-18, 1e-18)))
def test_a_number_is_rounded_to_the_nearest_multiple(value):
    found = fixedpoint.decode_sums(fixedpoint.encode_sums(np.array([value])))[0]
    assert abs(found - Fraction(value)) <= Fraction(1, 2**65)
    assert (found * 2**64).denominator == 1
    if abs(found - Fraction(value)) == Fraction(1, 2**65):
        assert found * 2**64 % 2 == 0


@given(st.integers(0, 2**64), st.sampled_from([1, -1]))
def test_digits_of_two_to_the_31_sites_do_not_overflow(mantissa, sign):
    value = sign * min(float(mantissa) / 2, math.nextafter(2.0**63, 0))
    digits = fixedpoint.encode_sums(np.array([value])).view(np.int64).tolist()
    assert all(0 <= digit * sign < 2**32 for digit in digits)
    # 2**31 sites with this same value, added by one multiplication in the ring.
    total = fixedpoint.encode_sums(np.array([value])) * np.uint64(2**31)
    assert fixedpoint.decode_sums(total) == [Fraction(value) * 2**31]


def test_golden_bytes():
    # Computed by hand from the formulas at the top of the module.
    encoding = Encoding(capacity=4, clip=2.0, max_weight=10)
    assert encoding.limit == 2**29 - 1
    out = encoded([1.0, -1.0, 5.0, -5.0], 10, [0, 0, 2**32 - 1, 2**31], encoding)
    assert signed(out) == [268435455, -268435456, 536870911, -536870911]
    assert fixedpoint.encode_sums(np.array([-1.5])).view(np.int64).tolist() == [0, -(2**31), -1, 0]


@pytest.mark.parametrize("case", VECTORS["updates"])
def test_golden_updates(case):
    encoding = encoding_of(case)
    assert encoding.limit == case["limit"]
    values = np.frombuffer(bytes.fromhex(case["values"]), "<f4")
    words = np.frombuffer(bytes.fromhex(case["words"]), "<u4")
    out = np.empty(values.size, "<u4")
    fixedpoint.encode(values, case["weight"], words, out, encoding)
    assert out.tobytes().hex() == case["encoded"]


@pytest.mark.parametrize("case", VECTORS["means"])
def test_golden_means(case):
    total = np.frombuffer(bytes.fromhex(case["total"]), "<u4")
    mean = np.empty(total.size)
    fixedpoint.decode(total, case["total_weight"], encoding_of(case), mean)
    for value, exact in zip(mean.tolist(), map(Fraction, case["means"]), strict=True):
        assert abs(Fraction(value) - exact) <= abs(exact) * Fraction(1, 2**50)


def test_golden_sums():
    values = np.array([float.fromhex(case["value"]) for case in VECTORS["sums"]])
    assert fixedpoint.encode_sums(values).astype("<u8").tobytes().hex() == "".join(
        case["encoded"] for case in VECTORS["sums"]
    )


@pytest.mark.parametrize("case", VECTORS["added"])
def test_golden_totals(case):
    total = np.zeros(fixedpoint.DIGITS, np.uint64)
    for value in case["values"]:
        total += fixedpoint.encode_sums(np.array([float.fromhex(value)]))
    assert total.astype("<u8").tobytes().hex() == case["total"]
    assert fixedpoint.decode_sums(total) == [Fraction(case["sum"])]


def test_the_vectors_are_what_their_maker_makes():
    made = subprocess.run([sys.executable, FOLDER / "make_fixedpoint.py"], capture_output=True, check=True).stdout
    assert json.loads(made) == VECTORS
