"""Sums of bounded contributions with noise, in whole numbers; and who takes part in a step.

A contribution of norm at most `clip` is multiplied by ``scale = 2**28 / (noise multiplier * clip)`` and rounded to
whole numbers, sums are of whole numbers, and the noise is a discrete Gaussian (or Laplace) of standard deviation (or
scale) 2**28. So nothing of the noise hangs on how floating-point numbers are rounded (Mironov), and the noise
multiplier is met exactly.

What a sum can gain from one contribution beyond its norm, by rounding to the grid and by the order in which
floating-point numbers are added within a piece, is taken off the norm beforehand: contributions are clipped to `bound`,
a thousandth and ``sqrt(columns) * pieces`` units of the grid below `clip`. The thousandth covers pieces of up to 128
contributions added in float32 in whatever order (``128**2 * 2**-24``); that the gradient itself of one patient
may differ in its last bits with who else is in the batch is far below it, and not proved.

    seed ──derive──▶ who takes part         `sampled`: a coin each, 64 random bits below rate * 2**64; or `dealt`
         ──derive──▶ noise                  `NoisySum.release`, and `BandedSums.release` where it is correlated

References:
    Mironov. On Significance of the Least Significant Bits for Differential Privacy. CCS 2012.
    Casacuberta et al. Widespread Underestimation of Sensitivity in Differentially Private Libraries. CCS 2022.
    Canonne, Kamath, Steinke. The Discrete Gaussian for Differential Privacy. NeurIPS 2020. arXiv:2004.00010.
"""

import hmac
import math
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from wardround.crypto import noise
from wardround.crypto.noise import NoiseStream, Sampler

__all__ = ["PIECE", "BandedSums", "Distribution", "Grid", "NoisySum", "dealt", "derive", "sampled"]

Distribution: TypeAlias = Literal["gaussian", "laplace"]

PIECE = 128
"""The most contributions that are added as floating-point numbers before they become whole ones."""

_DEVIATION = 2**28
_FLOAT_SHARE = 2.0**-10
_WORDS = 16_384
_BLOCK = 1 << 18


def derive(seed: bytes, *labels: str | int) -> bytes:
    """32 bytes that nobody without `seed` can tell from chance; other labels, other bytes.

    Raises:
        ValueError: The seed is empty: nobody paid for this, and everybody knows what follows from nothing.
    """
    if not seed:
        raise ValueError("nothing private follows from an empty seed")
    text = "\n".join(["wardround noise 1", *map(str, labels)]).encode()
    return hmac.digest(seed, text, "sha256")


def sampled(count: int, rate: float, seed: bytes) -> npt.NDArray[np.bool_]:
    """Which of `count` take part: each by a coin of its own, of `rate` or less than 2**-64 below.

    Returns:
        bool, shape=(count,).
    """
    threshold = int(Fraction(rate) * 2**64)
    if threshold >= 2**64:
        return np.ones(count, np.bool_)
    stream, chosen = NoiseStream(seed), np.empty(count, np.bool_)
    for start in range(0, count, _WORDS):
        part = chosen[start : start + _WORDS]
        np.less(stream.words(len(part), np.dtype(np.uint64)), np.uint64(threshold), out=part)
    return chosen


def dealt(count: int, batches: int, seed: bytes) -> npt.NDArray[np.intp]:
    """The batch of each of `count`, in an order that the seed shuffles: int, shape=(count,), 0 to ``batches - 1``."""
    stream = NoiseStream(seed)
    keys = [stream.words(min(_WORDS, count - start), np.dtype(np.uint64)).copy() for start in range(0, count, _WORDS)]
    order = np.argsort(np.concatenate(keys)) if keys else np.empty(0, np.intp)
    batch = np.empty(count, np.intp)
    batch[order] = np.arange(count) % batches
    return batch


class Grid:
    """Whole numbers for contributions of norm at most `clip`, and the noise that goes with them.

    Args:
        clip: The norm (the second for Gaussian noise, the first for Laplace).
        noise_multiplier: Standard deviation of the noise, or its scale, over `clip`.
        columns: How long a contribution is.
        pieces: How many sums are rounded to whole numbers before they are added.

    Raises:
        ValueError: A number is not finite and positive, or there are so many columns that nothing is left of the norm.
    """

    def __init__(
        self,
        clip: float,
        noise_multiplier: float,
        columns: int,
        *,
        pieces: int = 1,
        distribution: Distribution = "gaussian",
    ) -> None:
        if not (0 < clip < math.inf and 0 < noise_multiplier < math.inf):
            raise ValueError("a clipping norm and a noise multiplier are finite and above 0")
        self.scale = _DEVIATION / (noise_multiplier * clip)
        self.columns, self.distribution = columns, distribution
        lost = (math.sqrt(columns) if distribution == "gaussian" else columns) * (pieces + 2) / self.scale
        self.bound = clip * (1 - _FLOAT_SHARE) - lost
        if not (math.isfinite(self.scale) and self.bound > clip / 2):
            raise ValueError("so much noise on so many columns leaves nothing of a contribution: lower either")


class NoisySum:
    """Adds contributions, or one stretch of their columns, and gives their sum away once, with noise."""

    def __init__(self, grid: Grid, columns: int | None = None) -> None:
        self._grid = grid
        self.total = np.zeros(grid.columns if columns is None else columns, np.int64)

    def add(self, piece: npt.NDArray[np.floating]) -> None:
        """Add contributions, or the sum of up to `PIECE` of them.

        Args:
            piece: float, shape=(columns,), finite; each contribution in it of norm at most the grid's `bound`.
        """
        for start in range(0, len(self.total), _BLOCK):
            part = np.multiply(piece[start : start + _BLOCK], self._grid.scale, dtype=np.float64)
            self.total[start : start + _BLOCK] += np.rint(part, out=part).astype(np.int64)

    def release(self, seed: bytes) -> npt.NDArray[np.float64]:
        """The noisy sum.

        Args:
            seed: 32 bytes, used for nothing else and known to nobody else.

        Returns:
            float64, shape=(columns,).
        """
        return _noisy(self.total, self._grid, seed)


class BandedSums:
    """Sums of one step after another with noise that is correlated: see `wardround.privacy.factorization`.

    Released is ``C g + noise`` in whole numbers, and only from that ``inverse(C)`` of it is made. What earlier steps
    gave is kept: twice ``band - 1`` vectors.
    """

    def __init__(self, grid: Grid, factors: Sequence[float]) -> None:
        self._grid, self._factors = grid, factors[1:]
        self._sums: deque[npt.NDArray[np.int64]] = deque(maxlen=len(self._factors))
        self._answers: deque[npt.NDArray[np.float64]] = deque(maxlen=len(self._factors))

    def release(self, step: NoisySum, seed: bytes) -> npt.NDArray[np.float64]:
        """The noisy sum of the next step; seeds as for `NoisySum.release`, another for each step."""
        mixed = step.total.astype(np.float64)
        for factor, past in zip(self._factors, reversed(self._sums), strict=False):
            mixed += factor * past
        answer = _noisy(np.rint(mixed).astype(np.int64), self._grid, seed)
        for factor, before in zip(self._factors, reversed(self._answers), strict=False):
            answer -= factor * before
        self._sums.append(step.total)
        self._answers.append(answer)
        return answer


def _noisy(total: npt.NDArray[np.int64], grid: Grid, seed: bytes) -> npt.NDArray[np.float64]:
    answer = np.empty(len(total))
    drawn, stream = np.empty(min(_BLOCK, len(total)), np.int64), NoiseStream(seed)
    sampler = _sampler(grid.distribution)
    for start in range(0, len(total), _BLOCK):
        part = total[start : start + _BLOCK]
        noise_ = drawn[: len(part)]
        sampler.draw(stream, noise_)
        noise_ += part
        np.divide(noise_, grid.scale, out=answer[start : start + _BLOCK])
    return answer


@cache
def _sampler(distribution: Distribution) -> Sampler:
    if distribution == "gaussian":
        return noise.gaussian(Fraction(_DEVIATION) ** 2)
    return noise.laplace(Fraction(_DEVIATION))
