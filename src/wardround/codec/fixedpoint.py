"""Floats as integers modulo 2**32 and 2**64, so that sums are exact and the order of adding does not matter.

Updates, modulo 2**32 (`encode`, `decode`). With N the most sites whose values are ever added, C the clip,
W the largest weight and M = 2**(31 - ceil(log2 N)) - 1:

    q = floor(M / C * (w / W) * clip(x, -C, C) + u)      u uniform in [0, 1): stochastic rounding, unbiased
    mean = sum(q) * C / M * W / sum(w)

``|q| <= M`` and ``N * M < 2**31``: the signed sum never overflows. One step of q is ``C / M * W / w`` of x: with
N = 10, C = 8 and w = W / 10 that is 6e-7. Computed in float64, because float32 has fewer bits than M: what is
floored is then off by less than 2**-19, and E[q] with it (five roundings of a number below 2**31).

Statistics, modulo 2**64 (`encode_sums`, `decode_sums`): a float64 is a multiple of 2**-64 below 2**63 in absolute
value, cut into four digits of 32 bits that carry its sign, one digit to a ring element. Digits of
2**31 sites add up without overflow, and the sum is exact: for values that are multiples of 2**-64,
which floats from 2**-12 up are, it equals `math.fsum`.

Hazard: a clip far above the updates wastes bits, and one below them bends the mean; nothing here tells.
Sums wrap around silently when more than N vectors are added. Both encodings are part of wire version 1: changing
them breaks ``tests/vectors/fixedpoint.json``, on purpose.

References:
    Bonawitz et al. Federated Learning with Autotuned Communication-Efficient Secure Aggregation. 2019.
    arXiv:1912.00131 (clipping and rounding for modular sums).
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wardround.codec import tensors
from wardround.errors import TensorMismatchError

__all__ = ["DIGITS", "Encoding", "decode", "decode_sums", "encode", "encode_sums"]

DIGITS = 4
"""Ring elements per exact number."""
_DIGIT_BITS = 32
_FRACTION_BITS = 64
_LARGEST = 2.0**63
_BLOCK = 32 * 1024
"""Elements whose temporaries stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How updates become integers; see the top of this module.

    `capacity` is the most sites whose values are ever added, each coordinate is clipped to ``[-clip, clip]``,
    and a site weighs 1 to `max_weight`.

    Raises:
        ValueError: There is no room for that many sites, or a bound is not positive, or the clip is infinite
            or so small that the scale would be.
    """

    capacity: int
    clip: float
    max_weight: int

    def __post_init__(self) -> None:
        """Refuse what could overflow."""
        if not (self.capacity >= 1 and self.clip > 0 and self.max_weight >= 1 and self.limit >= 1):
            raise ValueError("an encoding needs a positive clip and weight, and room for its sites")
        # Zero times an infinite scale is NaN, and NaN as an integer is anything, beyond the limit too.
        if not (math.isfinite(self.clip) and math.isfinite(self.scale)):
            raise ValueError("an encoding needs a finite clip, and a finite scale")
        if self.capacity * self.limit >= 2**31:
            raise ValueError("this many values could overflow")

    @property
    def limit(self) -> int:
        """The largest integer that stands for a coordinate, M."""
        bits: int = (self.capacity - 1).bit_length()
        return (1 << (31 - bits)) - 1 if bits < 31 else 0

    @property
    def scale(self) -> float:
        """Integers per unit of a coordinate at the largest weight, M / C."""
        return self.limit / self.clip


def encode(
    values: npt.NDArray[np.float32],
    weight: int,
    words: npt.NDArray[np.uint32],
    out: npt.NDArray[np.uint32],
    encoding: Encoding,
) -> None:
    """Write the weighted, clipped, stochastically rounded values to `out`, as two's complement.

    Args:
        values: float32, shape=(n,).
        weight: This site's, 1 to `max_weight`.
        words: uint32, shape=(n,): uniform, and not used for anything else.
        out: uint32, shape=(n,).
        encoding: The same at every site.

    Raises:
        TensorMismatchError: A value is not finite; `out` is then partly written.
        ValueError: The weight is out of bounds, or lengths differ.
    """
    if not 1 <= weight <= encoding.max_weight:
        raise ValueError(f"a weight lies between 1 and {encoding.max_weight}")
    if not values.shape == words.shape == out.shape:
        raise ValueError("values, words and out must have one shape")
    factor = encoding.scale * (weight / encoding.max_weight)
    wide, noise = (np.empty(min(_BLOCK, values.size)) for _ in range(2))
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK]
        tensors.check_finite(part)
        scaled, unit = wide[: part.size], noise[: part.size]
        # float32 is widened by a copy of its own: clipping in one step would round the bound to float32.
        np.copyto(scaled, part)
        np.clip(scaled, -encoding.clip, encoding.clip, out=scaled)
        np.multiply(scaled, factor, out=scaled)
        np.multiply(words[start : start + _BLOCK], 2.0**-32, out=unit)
        np.add(scaled, unit, out=scaled)
        np.floor(scaled, out=scaled)
        np.clip(scaled, -encoding.limit, encoding.limit, out=scaled)
        out[start : start + _BLOCK].view(np.int32)[...] = scaled


def decode(total: npt.NDArray[np.uint32], total_weight: int, encoding: Encoding, out: npt.NDArray[np.float64]) -> None:
    """Write the weighted mean that a sum of encoded vectors stands for to `out`.

    Args:
        total: uint32, shape=(n,): the sum modulo 2**32 of at most `capacity` encoded vectors.
        total_weight: The sum of their weights.
        encoding: The one that they were encoded with.
        out: float64, shape=(n,).

    Raises:
        ValueError: There is no weight, or lengths differ.
    """
    if total_weight < 1:
        raise ValueError("a mean needs a positive total weight")
    if total.shape != out.shape:
        raise ValueError("total and out must have one shape")
    step = encoding.clip / encoding.limit * (encoding.max_weight / total_weight)
    np.multiply(total.view(np.int32), step, out=out)


def encode_sums(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    """Cut numbers into digits that can be added exactly.

    Args:
        values: float64, shape=(n,), each below 2**63 in absolute value; rounded to multiples of 2**-64, ties to even.

    Returns:
        uint64, shape=(4 n,): lowest digit first.

    Raises:
        TensorMismatchError: A value is not finite, or too large.
    """
    digits: list[int] = []
    for value in values.tolist():
        if not abs(value) < _LARGEST:
            raise TensorMismatchError("a number to be added in secret is not finite, or not below 2**63")
        whole = round(Fraction(value) * 2**_FRACTION_BITS)
        sign, whole = (-1 if whole < 0 else 1), abs(whole)
        digits += [sign * (whole >> (_DIGIT_BITS * place) & 0xFFFF_FFFF) for place in range(DIGITS)]
    return np.array(digits, dtype=np.int64).view(np.uint64)


def decode_sums(total: npt.NDArray[np.uint64]) -> list[Fraction]:
    """The exact numbers that a sum of encoded vectors stands for.

    Args:
        total: uint64, shape=(4 n,): the sum modulo 2**64 of at most 2**31 encoded vectors.

    Raises:
        ValueError: The length is no multiple of four.
    """
    if total.size % DIGITS:
        raise ValueError(f"exact numbers have {DIGITS} digits each")
    digits = total.view(np.int64).tolist()
    return [
        Fraction(sum(digits[start + place] << (_DIGIT_BITS * place) for place in range(DIGITS)), 2**_FRACTION_BITS)
        for start in range(0, len(digits), DIGITS)
    ]
