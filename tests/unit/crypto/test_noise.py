import hashlib
from decimal import Decimal, localcontext
from fractions import Fraction
from math import exp, pi, sqrt

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from wardround.crypto import noise
from wardround.errors import CryptoError

FOUR = noise._Curve(1, 0, 8)  # The Gaussian of variance 4.
SLOPE = noise._Curve(0, 2, 5)  # The Laplace of scale 5/2.
# So few words that about every second one is slow, and bins so few that the tail is no rarity.
TINY = {
    "one": (FOUR, noise._Shape(8, 3, 0, 3)),
    "two": (FOUR, noise._Shape(8, 2, 1, 1)),
    "four": (FOUR, noise._Shape(8, 2, 2, 1)),
    "laplace": (SLOPE, noise._Shape(8, 4, 0, 5)),
    "laplace-two": (SLOPE, noise._Shape(16, 3, 1, 3)),
}
tiny = pytest.mark.parametrize(("curve", "shape"), TINY.values(), ids=TINY.keys())


class Told:
    """A stream that says what it is told, and after that one bit for ever."""

    def __init__(self, *said, then=0):
        self.said, self.then, self.next = list(said), then, 0

    def words(self, count, dtype):
        self.next += count
        return np.arange(self.next - count, self.next).astype(dtype)

    def bits(self, count):
        return self.said.pop(0) if self.said else self.then * (2**count - 1)

    def below(self, bound):
        return self.bits(bound.bit_length())


def seed(number):
    return hashlib.sha256(str(number).encode()).digest()


def drawn(sampler, count, number=1):
    out = np.empty(count, np.int64)
    sampler.draw(noise.NoiseStream(seed(number)), out)
    return out


def exact(curve, x):
    with localcontext(prec=80):
        return (-Decimal(curve.square * x * x + curve.linear * abs(x)) / curve.divisor).exp()


def too_far(observed, expected):
    """Standard deviations by which chi-square exceeds what chance gives, over classes with something to expect."""
    order = np.argsort(expected)
    # Rare classes are pooled until they hold ten.
    pooled = np.searchsorted(np.cumsum(expected[order]), 10) + 1
    o = np.append(observed[order][pooled:], observed[order][:pooled].sum())
    e = np.append(expected[order][pooled:], expected[order][:pooled].sum())
    return (((o - e) ** 2 / e).sum() - len(e) + 1) / sqrt(2 * (len(e) - 1))


def fits(samples, curve, reach, width=1):
    """Whether `samples` have the curve's distribution, by classes of `width` numbers between -reach and reach."""
    x = np.arange(-reach, reach + 1, dtype=np.float64)
    density = np.exp(-(curve.square * x * x + curve.linear * np.abs(x)) / curve.divisor)
    classes = (np.arange(2 * reach + 1) // width).astype(np.int64)
    expected = np.bincount(classes, density / density.sum()) * len(samples)
    assert np.abs(samples).max() <= reach
    return too_far(np.bincount((samples + reach) // width, minlength=len(expected)), expected) < 4


@given(ratio=st.fractions(0, 90), bits=st.integers(8, 300))
def test_bounds_enclose_the_exponential_and_are_close(ratio, bits):
    low, high = noise._exponential(ratio.numerator, ratio.denominator, bits)
    with localcontext(prec=140):
        true = (-Decimal(ratio.numerator) / ratio.denominator).exp() * 2**bits
        assert 0 <= low <= true <= high <= 2**bits
    assert high - low <= 3


@pytest.mark.parametrize("numerator", [10**9, 10**40])
def test_an_exponential_below_the_last_place_is_still_above_zero(numerator):
    assert noise._exponential(numerator, 1, 64) == (0, 1)


@pytest.mark.parametrize("curve", [FOUR, SLOPE, noise._Curve(1, 0, 2 * 10**12), noise._Curve(3, 7, 10**6)])
@pytest.mark.parametrize("step", [1, 2, 64])
def test_multiples_are_bounds_at_equal_steps(curve, step):
    for index, (low, high) in enumerate(curve.multiples(step, 40)):
        with localcontext(prec=80):
            assert low <= exact(curve, index * step) * 2**192 <= high
        assert high - low < 2**20


@given(st.data())
def test_an_alias_table_gives_each_its_weight(data):
    cells = data.draw(st.sampled_from([1, 2, 8, 16]))
    capacity = data.draw(st.integers(1, 9))
    cuts = sorted(data.draw(st.lists(st.integers(0, cells * capacity), max_size=cells - 1)))
    weights = [b - a for a, b in zip([0, *cuts], [*cuts, cells * capacity], strict=True)]
    own, alias = noise._alias(weights, capacity, cells)
    given_to = [0] * cells
    for cell, part in enumerate(own):
        assert 0 <= part < capacity
        given_to[cell] += part
        given_to[alias[cell]] += capacity - part
    assert given_to == [*weights, *[0] * (cells - len(weights))]


@tiny
def test_all_words_together_give_each_number_its_whole_weight(curve, shape, monkeypatch):
    monkeypatch.setattr(noise.Sampler, "_sample", lambda *_: 10**6)
    sampler = noise.Sampler(curve, shape)
    out = np.empty(2**shape.word_bits, np.int64)
    sampler.draw(Told(), out)
    counts = dict(zip(*np.unique(out, return_counts=True), strict=True))
    size = 1 << shape.fine_bits
    assert counts.pop(10**6) == sampler._slow.words * size
    first = -shape.half_bins * size
    assert counts == {
        first + q * size + r: fast for q, fast in enumerate(sampler._slow.fast) for r in range(size) if fast
    }


@tiny
def test_a_slow_word_is_looked_up_again_just_as_the_arrays_are(curve, shape, monkeypatch):
    sampler = noise.Sampler(curve, shape)
    words = 2**shape.word_bits
    monkeypatch.setattr(noise._Slow, "sample", lambda _, stream: 10**6 if not stream.said else None)
    # The first attempt finds nothing, the word is looked up, and a slow one asks once more.
    one_by_one = [sampler._sample(Told(word)) for word in range(words)]
    monkeypatch.setattr(noise.Sampler, "_sample", lambda *_: 10**6)
    out = np.empty(words, np.int64)
    sampler.draw(Told(), out)
    assert one_by_one == out.tolist()


def limit(accepts):
    """The least 64-bit word that is refused, whatever bits follow; accepting is monotone in the word."""
    low, high = 0, 2**64
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if accepts(Told(middle, then=1)) else (low, middle)
    return low


@tiny
def test_each_number_has_its_exact_weight(curve, shape):
    slow = noise.Sampler(curve, shape)._slow
    size = 1 << shape.fine_bits
    assert sum(slow.fast) + sum(slow._weights) + slow._tail <= 2 ** (shape.word_bits - shape.fine_bits)
    for q, (fast, weight) in enumerate(zip(slow.fast, slow._weights, strict=True)):
        for r in range(size):
            x = (q - shape.half_bins) * size + r
            share = limit(lambda stream: slow._is_below(stream, weight, fast, slow._scale, abs(x)))  # noqa: B023
            true = slow._scale * exact(curve, x)
            assert fast <= true <= fast + weight
            assert abs(fast + Decimal(weight) * share / 2**64 - true) <= Decimal(weight) / 2**63


@tiny
@pytest.mark.parametrize("block", range(5))
def test_each_number_of_the_tail_has_its_exact_weight(curve, shape, block):
    slow = noise.Sampler(curve, shape)._slow
    size = 1 << shape.fine_bits
    for r in range(slow._block):
        for sign in (0, 1):
            said = [*[1] * block, 0, r, sign]
            x = slow._sample_tail(Told(*said, 0))
            first = shape.half_bins * size
            assert x == (-1 - first - block * slow._block - r if sign else first + block * slow._block + r)
            share = limit(lambda stream: slow._sample_tail(Told(*said, *stream.said, then=1)) is not None)  # noqa: B023
            drawn_with = Decimal(slow._tail) / (2 * slow._block * 2 ** (block + 1))
            true = slow._scale * exact(curve, x) / size
            assert 0 <= true <= drawn_with
            assert abs(drawn_with * share / 2**64 - true) <= drawn_with / 2**63


@given(
    curve=st.sampled_from([FOUR, SLOPE]),
    distance=st.integers(1, 40),
    scale=st.integers(1, 2**70),
    part=st.fractions(0, 1),
    spare=st.integers(0, 2**40),
)
def test_a_tie_is_decided_by_the_bits_that_follow(curve, distance, scale, part, spare):
    slow = noise._Slow(curve, noise._Shape(8, 3, 0, 3))
    with localcontext(prec=140):
        true = scale * exact(curve, distance)
        offset = int(true * part.numerator / part.denominator)
        weight = int(true - offset) + 1 + spare
        share = (true - offset) / weight * 2**64
        tie, following = int(share), int((share - int(share)) * 2**64)
    assert slow._is_below(Told(tie, max(following - 1, 0)), weight, offset, scale, distance)
    assert not slow._is_below(Told(tie, following + 1), weight, offset, scale, distance)


@tiny
def test_samplers_of_few_words_are_exact_too(curve, shape):
    samples = drawn(noise.Sampler(curve, shape), 200_000)
    beyond = shape.half_bins << shape.fine_bits
    assert (samples >= beyond).any()
    assert (samples < -beyond).any()
    assert fits(samples, curve, 60)


@pytest.mark.parametrize(
    ("deviation", "reach", "width"),
    [("0.3", 3, 1), ("1", 8, 1), ("3.5", 30, 1), ("50", 400, 1), ("2000", 14000, 40), ("30000", 200_000, 500),
     ("1000000", 7_000_000, 14_000)],
)  # fmt: skip
def test_gaussian_samples_have_the_distribution(deviation, reach, width):
    variance = Fraction(deviation) ** 2
    samples = drawn(noise.gaussian(variance), 1_000_000)
    curve = noise._Curve(variance.denominator, 0, 2 * variance.numerator)
    assert fits(samples, curve, reach, width)
    # Neighbours within a bin, too: their last digits would show a bin's steps.
    if width > 1:
        assert too_far(np.bincount(samples % 64, minlength=64), np.full(64, len(samples) / 64)) < 4


@pytest.mark.parametrize(("scale", "reach", "width"), [("0.4", 9, 1), ("7/3", 60, 1), ("20000", 400_000, 500)])
def test_laplace_samples_have_the_distribution(scale, reach, width):
    exactly = Fraction(scale)
    samples = drawn(noise.laplace(exactly), 1_000_000)
    assert fits(samples, noise._Curve(0, exactly.denominator, exactly.numerator), reach, width)


@pytest.mark.parametrize("deviation", ["0.5", "2", "40", "100000"])
def test_moments_are_those_of_the_gaussian(deviation):
    variance = Fraction(deviation) ** 2
    samples = drawn(noise.gaussian(variance), 1_000_000).astype(np.float64)
    if variance < 1:
        weights = [exp(-x * x / (2 * float(variance))) for x in range(10)]
        second, fourth = (2 * sum(w * x**k for x, w in enumerate(weights)) / (2 * sum(weights) - 1) for k in (2, 4))
    else:
        second, fourth = float(variance), 3 * float(variance) ** 2
    n = len(samples)
    assert abs(samples.mean()) < 4 * sqrt(second / n)
    assert abs((samples**2).mean() - second) < 4 * sqrt((fourth - second**2) / n)
    assert abs((samples**3).mean()) < 4 * sqrt(15 * max(second, 1) ** 3 / n)
    assert abs((samples[1:] * samples[:-1]).mean()) < 4 * second / sqrt(n)


@pytest.mark.parametrize("sampler", [noise.gaussian(Fraction(20)), noise.laplace(Fraction(3))])
def test_both_signs_are_alike(sampler):
    samples = drawn(sampler, 1_000_000)
    counts = np.bincount(samples + 100, minlength=201)
    above, below = counts[101:], counts[99::-1]
    both = above + below
    many = both > 20
    assert ((above - below)[many] ** 2 / both[many]).sum() < many.sum() + 4 * sqrt(2 * many.sum())


@pytest.mark.parametrize("deviation", [1, 5, 900, 10**6])
@pytest.mark.parametrize("sampler", [lambda one: noise.gaussian(Fraction(one) ** 2), noise.laplace])
def test_few_words_are_slow(sampler, deviation):
    made = sampler(Fraction(deviation))
    words = 2 ** (made._shape.word_bits - made._shape.fine_bits)
    assert made._slow.words / words < 0.002
    assert made._slow.words - sum(made._slow._weights) - made._slow._tail < 2**20


@pytest.mark.parametrize("variance", [Fraction(1, 10**30), Fraction(1, 50)])
def test_tiny_noise_is_no_noise_at_all(variance):
    assert not drawn(noise.gaussian(variance), 10_000).any()


def test_the_largest_deviation_is_served():
    for sampler in (noise.gaussian(Fraction(2**64)), noise.laplace(Fraction(2**32))):
        samples = np.abs(drawn(sampler, 100_000).astype(np.float64)) / 2**32
        expected = sqrt(2 / pi) if sampler._curve.square else 1
        assert abs(samples.mean() - expected) < 0.02


def test_a_seed_gives_its_samples_and_no_others():
    sampler = noise.gaussian(Fraction(100))
    assert np.array_equal(drawn(sampler, 1000, 1), drawn(sampler, 1000, 1))
    same = (drawn(sampler, 1000, 1) == drawn(sampler, 1000, 2)).mean()
    assert same < 0.1


@pytest.mark.parametrize("which", ["small", "large", "slow"])
@given(cuts=st.lists(st.integers(0, 40_000), max_size=6))
def test_an_array_may_be_cut_anywhere(which, cuts):
    sampler, whole = WHOLE[which]
    pieces, stream = np.empty(40_000, np.int64), noise.NoiseStream(seed(1))
    for piece in np.split(pieces, sorted(cuts)):
        sampler.draw(stream, piece)
    assert np.array_equal(pieces, whole)


# The last has a slow sample among twenty, or so.
WHOLE = {
    name: (sampler, drawn(sampler, 40_000))
    for name, sampler in {
        "small": noise.gaussian(Fraction(9)),
        "large": noise.gaussian(Fraction(10**10)),
        "slow": noise.Sampler(FOUR, noise._Shape(16, 4, 0, 4)),
    }.items()
}


def test_the_streams_are_those_of_the_cipher():
    def keystream(counter, size):
        mode = modes.CTR(counter.to_bytes(16, "big"))
        return Cipher(algorithms.AES256(seed(1)), mode).encryptor().update(bytes(size))

    stream = noise.NoiseStream(seed(1))
    taken = [*stream.words(3, np.dtype(np.uint32)).tolist(), *stream.words(900, np.dtype(np.uint32)).tolist()]
    assert taken == np.frombuffer(keystream(0, 903 * 4), "<u4").tolist()
    assert stream.bits(800) == int.from_bytes(keystream(2**127, 100), "little")


def test_slow_bits_are_used_in_whole_bytes_and_in_order():
    one, other = noise.NoiseStream(seed(1)), noise.NoiseStream(seed(1))
    whole = other.bits(8 * 9000)
    for at in range(1000):
        assert one.bits(72) == whole >> 72 * at & 2**72 - 1
    assert one.bits(0) == 0
    assert one.bits(3) == other.bits(8) >> 5


def test_numbers_below_a_bound_are_uniform():
    stream = noise.NoiseStream(seed(1))
    counts = np.bincount([stream.below(5) for _ in range(20_000)], minlength=5)
    assert too_far(counts, np.full(5, 4000.0)) < 4
    assert stream.below(1) == 0


@pytest.mark.parametrize("make", [noise.gaussian, noise.laplace])
@pytest.mark.parametrize(
    "value", [Fraction(0), Fraction(-1), float("nan"), float("inf"), None, "x", Fraction(2**64) + Fraction(1, 3)]
)
def test_what_is_no_variance_is_refused(make, value):
    with pytest.raises(ValueError):
        make(value)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_of_another_size_is_refused(size):
    with pytest.raises(CryptoError, match="32 bytes"):
        noise.NoiseStream(bytes(size))


@pytest.mark.parametrize(
    "out", [np.empty(4, np.int32), np.empty((2, 2), np.int64), np.empty(8, np.int64)[::2], np.empty(4)]
)
def test_an_array_that_cannot_be_filled_is_refused(out):
    with pytest.raises(ValueError, match=r"expected one axis|in place"):
        noise.gaussian(Fraction(1)).draw(noise.NoiseStream(seed(1)), out)


def test_an_array_that_is_read_only_is_refused():
    out = np.empty(4, np.int64)
    out.setflags(write=False)
    with pytest.raises(ValueError, match="writable"):
        noise.gaussian(Fraction(1)).draw(noise.NoiseStream(seed(1)), out)


def test_an_empty_array_takes_nothing():
    assert len(drawn(noise.gaussian(Fraction(1)), 0)) == 0


def test_words_too_short_for_the_bins_are_refused():
    with pytest.raises(ValueError, match="too short"):
        noise.Sampler(FOUR, noise._Shape(8, 8, 0, 127))


def test_the_samples_are_like_those_of_opendp():
    opendp = pytest.importorskip("opendp.prelude")
    opendp.enable_features("contrib")
    measure = opendp.m.make_gaussian(opendp.vector_domain(opendp.atom_domain(T=int)), opendp.l2_distance(T=int), 3.0)
    theirs = np.array(measure([0] * 100_000))
    assert fits(theirs, noise._Curve(1, 0, 18), 30)
