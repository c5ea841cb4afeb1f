"""Noise that is correlated from step to step: a banded square root of the sums that training really makes.

Where every patient takes part in every pass there is no sampling to lean on, but noise can be made to cancel: what a
model learns is a sum of gradients, so noise that is taken back in the next steps hurts less than fresh noise.

    strategy C      lower triangular, Toeplitz, ``band`` diagonals    c[k] = binom(2k, k) / 4**k
    released        C g + z, with z independent          =>          g + inverse(C) z  is what a step follows
    (`wardround.privacy.noising.BandedSums` does both)

A patient who takes part at most every `band` steps touches columns of C without a common row: `n` participations
have sensitivity ``sqrt(n) * norm(c)`` where one alone has 1. So the whole is `n` Gaussian mechanisms of noise
multiplier ``sigma / norm(c)``.

References:
    Choquette-Choo et al. (Amplified) Banded Matrix Factorization. NeurIPS 2023. arXiv:2306.08153.
    Fichtenberger, Henzinger, Upadhyay. Constant Matters. ICML 2023. arXiv:2202.11205 (the square root's coefficients).
    Kairouz et al. Practical and Private (Deep) Learning without Sampling or Shuffling. ICML 2021. arXiv:2103.00039.
"""

import math

__all__ = ["coefficients", "column_norm"]


def coefficients(band: int) -> tuple[float, ...]:
    """``c[0] .. c[band - 1]``; the first is 1, and one alone is independent noise.

    Raises:
        ValueError: `band` is not positive.
    """
    if band < 1:
        raise ValueError("a band has at least one diagonal")
    found = [1.0]
    for place in range(1, band):
        found.append(found[-1] * (2 * place - 1) / (2 * place))
    return tuple(found)


def column_norm(band: int) -> float:
    """By how much the band raises the sensitivity of one participation."""
    return math.sqrt(sum(value * value for value in coefficients(band)))
