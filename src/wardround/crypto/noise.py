"""Noise of differential privacy: the discrete Gaussian and the discrete Laplace, exactly, from a 32-byte seed.

    gaussian: P(x) ~ exp(-x**2 / (2 * variance))        laplace: P(x) ~ exp(-|x| / scale)        x a whole number

Write f(x) for the right-hand side. The whole numbers are cut into bins of m = 2**k neighbours, and a number C is
fixed. A bin holds a whole number F of words and V more, so that F <= C * m * f(x) <= F + V for each x in it.
All F and V and the tail's V together are at most the number of words there are.

1. A uniform word belongs to a bin for F of its values; the words of no bin are *slow*. An alias table says
   which, by one comparison of whole numbers. The word's spare bits choose x in the bin. So x has weight F / m.
2. A slow word draws a bin, with weight V, and an x in it, and U in [0, 1). It answers x if U * V + F < C * m * f(x).
   So x gains the weight C * f(x) - F / m.
3. The tail beyond the last bin is one more slow bin, endless: blocks of L numbers, each drawn half as often as the one
   before it, where f falls by more than that. It answers x by the same comparison, with F = 0.
4. Else all starts again, with a fresh word.

Every x ends with the weight C * f(x): no distance from the distribution is left to account for. Only whole numbers
are compared: bounds enclose the exponential, and a comparison takes further bits of U and tighter bounds until it is
decided. A short word or table only makes more words slow. What is believed is that AES-256-CTR looks random.

    words = AES-256-CTR(seed, counter block = 0); slow bits = AES-256-CTR(seed, counter block = 2**127), in order

Sample i takes the i-th word, and slow samples take their bits in order, so how an array is cut changes nothing.

Hazards: a seed known to anyone else is no noise at all: draw it from the system, use it once, forget it. The time
taken depends on what is drawn, through the slow samples and the cache: never let an adversary time single samples.

References:
    Canonne, Kamath, Steinke. The Discrete Gaussian for Differential Privacy. NeurIPS 2020 (arXiv:2004.00010).
    Walker. An Efficient Method for Generating Discrete Random Variables with General Distributions. ACM TOMS 1977.
    Vose. A Linear Algorithm for Generating Random Numbers with a Given Distribution. IEEE TSE 1991.
    Mironov. On Significance of the Least Significant Bits for Differential Privacy. CCS 2012: why not floats.
"""

from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from math import isqrt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from wardround.errors import CryptoError

__all__ = ["LARGEST_DEVIATION", "SEED_BYTES", "NoiseStream", "Sampler", "gaussian", "laplace"]

SEED_BYTES = 32
LARGEST_DEVIATION = 2**32
"""The largest standard deviation of `gaussian`, and the largest scale of `laplace`."""

_Words: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

_AES_BLOCK_BYTES = 16
# A block's words, limits, cells and samples stay in the second-level cache, beside the table.
_BLOCK_WORDS = 16 * 1024
_ZEROS = memoryview(bytes(_BLOCK_WORDS * 8))
_SLOW_BYTES = 4096
# The table ends where a sample in 10**8 or so is beyond it: further out costs cache, nearer costs slow samples.
_GAUSSIAN_REACH, _LAPLACE_REACH = 6, 20
_MOST_CELL_BITS = 16
# Of the bounds that the table is made from, after the binary point.
_TABLE_BITS = 192
_SLOW = np.iinfo(np.int64).min


class NoiseStream:
    """The keystreams of one seed. It belongs to one thread; the samplers that draw from it may be shared."""

    __slots__ = ("_bits", "_buffer", "_position", "_slow_bytes", "_words")

    def __init__(self, seed: bytes) -> None:
        """Begin the streams of `seed`.

        Args:
            seed: 32 bytes from the system's own generator, used for nothing else and never twice.

        Raises:
            CryptoError: The seed has not 32 bytes.
        """
        if len(seed) != SEED_BYTES:
            raise CryptoError(f"a noise seed has {SEED_BYTES} bytes, this has {len(seed)}")
        self._words = _encryptor(seed, 0)
        # The words would have to be 2**127 blocks long to meet it.
        self._bits = _encryptor(seed, 2**127)
        # `update_into` asks for one cipher block of room beyond what it writes.
        self._buffer = bytearray(len(_ZEROS) + _AES_BLOCK_BYTES - 1)
        self._slow_bytes, self._position = b"", 0

    def words(self, count: int, dtype: np.dtype[Any]) -> _Words:
        """The next words, little-endian.

        Args:
            count: At most 16,384.
            dtype: Unsigned, of 1, 2, 4 or 8 bytes.

        Returns:
            (count,) of `dtype`, valid until the next call.
        """
        self._words.update_into(_ZEROS[: count * dtype.itemsize], self._buffer)
        return np.frombuffer(self._buffer, dtype=dtype.newbyteorder("<"), count=count)

    def bits(self, count: int) -> int:
        """The next slow bits, as a number in 0 .. 2**count - 1. Whole bytes are used up."""
        size = (count + 7) // 8
        while len(self._slow_bytes) - self._position < size:
            more = self._bits.update(_ZEROS[:_SLOW_BYTES])
            self._slow_bytes, self._position = self._slow_bytes[self._position :] + more, 0
        taken = self._slow_bytes[self._position : self._position + size]
        self._position += size
        return int.from_bytes(taken, "little") >> (8 * size - count)

    def below(self, bound: int) -> int:
        """A number from the slow bits, uniform in 0 .. bound - 1."""
        count = (bound - 1).bit_length()
        while (drawn := self.bits(count)) >= bound:
            pass
        return drawn


@dataclass(frozen=True, slots=True)
class _Curve:
    """f(x) = exp(-(square * x**2 + linear * abs(x)) / divisor), all three of them whole numbers."""

    square: int
    linear: int
    divisor: int

    def bounds(self, distance: int, bits: int) -> tuple[int, int]:
        """Whole numbers around 2**bits * f(distance)."""
        return _exponential((self.square * distance + self.linear) * distance, self.divisor, bits)

    def multiples(self, step: int, count: int) -> list[tuple[int, int]]:
        """Whole numbers around 2**192 * f(j * step) for j = 0 .. count."""
        low = high = 1 << _TABLE_BITS
        low_ratio, high_ratio = self.bounds(step, _TABLE_BITS)
        low_change, high_change = _exponential(2 * self.square * step * step, self.divisor, _TABLE_BITS)
        made = [(low, high)]
        # Of neighbours f(j * step), the ratio itself changes by a constant factor: only products are needed.
        for _ in range(count):
            low, high = low * low_ratio >> _TABLE_BITS, (high * high_ratio >> _TABLE_BITS) + 1
            low_ratio = low_ratio * low_change >> _TABLE_BITS
            high_ratio = (high_ratio * high_change >> _TABLE_BITS) + 1
            made.append((low, high))
        return made

    def block(self, start: int) -> int:
        """Numbers after which f has fallen below one half, anywhere from `start` on: it falls as exp(-slope) here."""
        return -(-self.divisor // (2 * self.square * start + self.linear))


@dataclass(frozen=True, slots=True)
class _Shape:
    """How words are read: highest bits for the cell, then the comparison's, lowest `fine_bits` for x in the bin."""

    word_bits: int
    cell_bits: int
    fine_bits: int
    half_bins: int  # On either side of zero.


class Sampler:
    """Exact samples of one distribution; made by `gaussian` and `laplace`. It never changes: threads may share it."""

    __slots__ = ("_curve", "_dtype", "_limits", "_shape", "_slow", "_values")

    def __init__(self, curve: _Curve, shape: _Shape) -> None:
        """Make the table; a tenth of a second for the largest."""
        self._curve, self._shape = curve, shape
        self._dtype = np.dtype(f"u{shape.word_bits // 8}")
        self._slow = _Slow(curve, shape)
        weights = [*self._slow.fast, self._slow.words]
        starts = [one << shape.fine_bits for one in range(-shape.half_bins, shape.half_bins)]
        starts += [_SLOW] * ((1 << shape.cell_bits) - len(starts))
        capacity = 1 << (shape.word_bits - shape.fine_bits - shape.cell_bits)
        own, alias = _alias(weights, capacity, 1 << shape.cell_bits)
        limits = [(cell * capacity + part) << shape.fine_bits for cell, part in enumerate(own)]
        self._limits = np.array(limits, dtype=self._dtype)
        # The value of cell c is at 2 * c for words from its limit on, and at 2 * c + 1 for words below it.
        self._values = np.array([starts[one] for pair in enumerate(alias) for one in reversed(pair)], dtype=np.int64)

    def draw(self, stream: NoiseStream, out: npt.NDArray[np.int64]) -> None:
        """Fill `out` with independent samples: the stream's next ones. Memory is constant, about 0.5 MB.

        Args:
            stream: Where words and bits come from.
            out: (n,) int64, contiguous and writable; any n.

        Raises:
            ValueError: `out` is none of that.
        """
        if out.dtype != np.dtype(np.int64) or out.ndim != 1:
            raise ValueError(f"expected one axis of int64, got {out.ndim} of {out.dtype}")
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError("noise is drawn in place: the array must be contiguous and writable")
        size = min(len(out), _BLOCK_WORDS)
        cells, limits, is_own = np.empty(size, np.intp), np.empty(size, self._dtype), np.empty(size, np.bool_)
        for begin in range(0, len(out), _BLOCK_WORDS):
            block = out[begin : begin + _BLOCK_WORDS]
            count = len(block)
            words = stream.words(count, self._dtype)
            self._look_up(words, block, cells[:count], limits[:count], is_own[:count])
            slow = np.flatnonzero(block == _SLOW) if block.min() == _SLOW else ()
            if self._shape.fine_bits:
                np.bitwise_and(words, (1 << self._shape.fine_bits) - 1, out=cells[:count], casting="unsafe")
                block += cells[:count]
            for index in slow:
                block[index] = self._sample(stream)

    def _look_up(
        self,
        words: _Words,
        block: npt.NDArray[np.int64],
        cells: npt.NDArray[np.intp],
        limits: _Words,
        is_own: npt.NDArray[np.bool_],
    ) -> None:
        # Every take is told to clip because numpy then needs no copy; no index is ever out of range.
        np.right_shift(words, self._shape.word_bits - self._shape.cell_bits, out=cells, casting="unsafe")
        np.take(self._limits, cells, out=limits, mode="clip")
        # The limits end in zeros where words have their fine bits, so those do not count.
        np.less(words, limits, out=is_own)
        np.add(cells, cells, out=cells)
        np.add(cells, is_own, out=cells)
        np.take(self._values, cells, out=block, mode="clip")

    def _sample(self, stream: NoiseStream) -> int:
        """One sample, given that its word was slow."""
        shape = self._shape
        while (sample := self._slow.sample(stream)) is None:
            word = stream.bits(shape.word_bits)
            cell = word >> (shape.word_bits - shape.cell_bits)
            start = int(self._values[2 * cell + (word < int(self._limits[cell]))])
            if start != _SLOW:
                return start + word % (1 << shape.fine_bits)
        return sample


class _Slow:
    """The share of every number that whole words cannot give: steps 2 and 3."""

    __slots__ = ("_block", "_curve", "_ends", "_half", "_scale", "_shape", "_tail", "_weights", "fast", "words")

    def __init__(self, curve: _Curve, shape: _Shape) -> None:
        self._curve, self._shape = curve, shape
        half, size, total = shape.half_bins, 1 << shape.fine_bits, 1 << (shape.word_bits - shape.fine_bits)
        around = curve.multiples(size, half)
        # Multiples of m, in units of m, that are no further from zero than the bin, and no nearer.
        if size == 1:
            near = far = [*range(half, 0, -1), *range(half)]
        else:
            near = [*range(half - 1, -1, -1), *range(half)]
            far = [one + 1 for one in near]
        self._block = curve.block(half * size)
        beyond = -(-4 * self._block * around[half][1] // size)
        # This is C * m. What is taken off makes room for each of the roundings up.
        self._scale = (total - 2 * half - 1 << _TABLE_BITS) // (sum(around[one][1] for one in near) + beyond)
        if self._scale < 1:
            raise ValueError("the words are too short for so many bins")
        tops = [-(-self._scale * around[one][1] >> _TABLE_BITS) for one in near]
        self.fast = [self._scale * around[one][0] >> _TABLE_BITS for one in far]
        self.words = total - sum(self.fast)
        self._tail = -(-self._scale * beyond >> _TABLE_BITS)
        self._weights = [top - fast for top, fast in zip(tops, self.fast, strict=True)]
        self._ends = list(accumulate([*self._weights, self._tail]))

    def sample(self, stream: NoiseStream) -> int | None:
        """One attempt; None says to start again."""
        bin_number = bisect_right(self._ends, stream.below(self.words))
        if bin_number > len(self._weights):
            return None
        if bin_number == len(self._weights):
            return self._sample_tail(stream)
        start = bin_number - self._shape.half_bins << self._shape.fine_bits
        drawn = start + stream.bits(self._shape.fine_bits)
        fast, weight = self.fast[bin_number], self._weights[bin_number]
        return drawn if self._is_below(stream, weight, fast, self._scale, abs(drawn)) else None

    def _sample_tail(self, stream: NoiseStream) -> int | None:
        block = 0
        while stream.bits(1):
            block += 1
        beyond = block * self._block + stream.below(self._block)
        first = self._shape.half_bins << self._shape.fine_bits
        # Bins end at first - 1 above zero, and at -first below it.
        drawn = -1 - first - beyond if stream.bits(1) else first + beyond
        # It was drawn with weight tail / (2 * L * 2**(block + 1)), and tail >= 4 * C * L * f(first).
        weight, scale = self._tail << self._shape.fine_bits, self._scale * self._block << block + 2
        return drawn if self._is_below(stream, weight, 0, scale, abs(drawn)) else None

    def _is_below(self, stream: NoiseStream, weight: int, offset: int, scale: int, distance: int) -> bool:
        """Whether U * weight + offset < scale * f(distance), for a fresh U in [0, 1) of as many bits as that takes."""
        bits, drawn = 64, stream.bits(64)
        while True:
            low, high = self._curve.bounds(distance, bits)
            left = drawn * weight + (offset << bits)
            if left + weight <= scale * low:
                return True
            if left >= scale * high:
                return False
            bits, drawn = bits + 64, drawn << 64 | stream.bits(64)


def gaussian(variance: Fraction) -> Sampler:
    """The discrete Gaussian of mean 0: P(x) ~ exp(-x**2 / (2 * variance)). Its variance is that or slightly less.

    Args:
        variance: In squares of the unit that is counted; a rational, so that the distribution is named exactly.

    Raises:
        ValueError: The variance is no number, not positive, or above 2**64.
    """
    exact = _positive(variance, LARGEST_DEVIATION**2, "variance")
    reach = isqrt(_GAUSSIAN_REACH**2 * exact.numerator // exact.denominator) + 1
    return Sampler(_Curve(exact.denominator, 0, 2 * exact.numerator), _shape(reach))


def laplace(scale: Fraction) -> Sampler:
    """The discrete Laplace of mean 0: P(x) ~ exp(-abs(x) / scale); two-sided geometric, by another name.

    Args:
        scale: In the unit that is counted; a rational, so that the distribution is named exactly.

    Raises:
        ValueError: The scale is no number, not positive, or above 2**32.
    """
    exact = _positive(scale, LARGEST_DEVIATION, "scale")
    reach = _LAPLACE_REACH * exact.numerator // exact.denominator + 1
    return Sampler(_Curve(0, exact.denominator, exact.numerator), _shape(reach))


def _positive(value: Fraction, most: int, name: str) -> Fraction:
    try:
        exact = Fraction(value)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"{name} must be a finite number, got {value!r}") from None
    if not 0 < exact <= most:
        raise ValueError(f"{name} must be in (0, {most}], got {value}")
    return exact


def _shape(reach: int) -> _Shape:
    fine_bits = 0
    while 2 * -(-reach >> fine_bits) + 1 > 1 << _MOST_CELL_BITS:
        fine_bits += 1
    half_bins = -(-reach >> fine_bits)
    # One cell for each bin, and one for the slow words.
    cell_bits = (2 * half_bins).bit_length()
    # Words of 32 bits halve the work of the cipher; at most one in 30,000 is slow.
    return _Shape(64 if fine_bits else 32, cell_bits, fine_bits, half_bins)


def _alias(weights: list[int], capacity: int, cells: int) -> tuple[list[int], list[int]]:
    """How much of each cell is its own, and whose the rest is. The weights add up to ``capacity * cells``."""
    own = [*weights, *[0] * (cells - len(weights))]
    alias = list(range(cells))
    small = [cell for cell, weight in enumerate(own) if weight < capacity]
    large = [cell for cell, weight in enumerate(own) if weight > capacity]
    while small:
        cell, giver = small.pop(), large[-1]
        alias[cell] = giver
        own[giver] -= capacity - own[cell]
        if own[giver] <= capacity:
            large.pop()
            if own[giver] < capacity:
                small.append(giver)
    # A cell that is all its own is its own alias too: the limit beyond its last word need not fit a word.
    return [0 if weight == capacity else weight for weight in own], alias


def _exponential(numerator: int, divisor: int, bits: int) -> tuple[int, int]:
    """Whole numbers around 2**bits * exp(-numerator / divisor), at most 3 apart, for a ratio >= 0."""
    if numerator == 0:
        return 1 << bits, 1 << bits
    if numerator > bits * divisor:
        return 0, 1
    # exp(-y) = exp(-y / 2**halvings) ** 2**halvings, with y / 2**halvings < 2**-6. Squaring doubles the error.
    halvings = (numerator // divisor).bit_length() + 6
    places = bits + halvings + 8
    one, small = 1 << places, (numerator << places - halvings) // divisor
    term = value = one
    count = 0
    while term:
        count += 1
        term = term * small // (count << places)
        value += -term if count % 2 else term
    # In units of the last place: the argument is cut by less than 1, term i is short by less than 2, and the rest of
    # the alternating sum is below the first term left out.
    error = 2 * count + 2
    for _ in range(halvings):
        value = value * value >> places
        error = 2 * error + 2
    extra = halvings + 8
    return max(0, value - error >> extra), min(1 << bits, (value + error >> extra) + 1)


def _encryptor(seed: bytes, counter: int) -> CipherContext:
    return Cipher(algorithms.AES256(seed), modes.CTR(counter.to_bytes(_AES_BLOCK_BYTES, "big"))).encryptor()
