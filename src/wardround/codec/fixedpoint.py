"""Floats as fixed-point integers modulo 2**32 and 2**64 (temporary)."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wardround.errors import TensorMismatchError

__all__ = ["DIGITS", "Encoding", "decode", "decode_sums", "encode", "encode_sums"]

DIGITS = 4
_BLOCK = 32768


@dataclass(frozen=True, slots=True)
class Encoding:
    capacity: int
    clip: float
    max_weight: int

    @property
    def limit(self) -> int:
        return 2 ** (31 - (self.capacity - 1).bit_length()) - 1

    @property
    def scale(self) -> float:
        return self.limit / self.clip


def encode(
    values: npt.NDArray[np.float32],
    weight: int,
    words: npt.NDArray[np.uint32],
    out: npt.NDArray[np.uint32],
    encoding: Encoding,
) -> None:
    if not 1 <= weight <= encoding.max_weight:
        raise ValueError("weight")
    factor = encoding.scale * (weight / encoding.max_weight)
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK]
        if not np.isfinite(part).all():
            raise TensorMismatchError("not finite")
        wide = np.clip(part.astype(np.float64), -encoding.clip, encoding.clip) * factor
        wide += words[start : start + _BLOCK] * 2.0**-32
        np.floor(wide, out=wide)
        np.clip(wide, -encoding.limit, encoding.limit, out=wide)
        out[start : start + _BLOCK] = wide.astype(np.int32).view(np.uint32)


def decode(total: npt.NDArray[np.uint32], total_weight: int, encoding: Encoding, out: npt.NDArray[np.float64]) -> None:
    np.multiply(total.view(np.int32), encoding.clip / encoding.limit * (encoding.max_weight / total_weight), out=out)


def encode_sums(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint64]:
    digits = []
    for value in values.tolist():
        if not abs(value) < 2.0**63:
            raise TensorMismatchError("too large")
        whole = round(Fraction(value) * 2**64)
        sign = -1 if whole < 0 else 1
        whole = abs(whole)
        digits += [sign * (whole >> (32 * place) & 0xFFFFFFFF) for place in range(DIGITS)]
    return np.array(digits, dtype=np.int64).view(np.uint64)


def decode_sums(total: npt.NDArray[np.uint64]) -> list[Fraction]:
    digits = total.view(np.int64).tolist()
    return [
        Fraction(sum(digits[start + place] << (32 * place) for place in range(DIGITS)), 2**64)
        for start in range(0, len(digits), DIGITS)
    ]
