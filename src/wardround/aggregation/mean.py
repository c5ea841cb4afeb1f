"""Weighted means and sums of the sites' vectors, the same to the bit every time.

    mean = sum_i w_i * u_i      w_i = n_i / sum_j n_j      n_i: records that site i trained on

A model's chunks are float32 and accumulate in float64 in the order given; the caller fixes that order
(sites by name). Every operation is elementwise and IEEE 754 exact-rounded, so the result does not
depend on how the vector is cut into chunks, on the processor's vector width or on the number of threads.

Statistics are short and float64: each sum there is the exact sum, rounded once, whatever the order.

References:
    McMahan et al. Communication-Efficient Learning of Deep Networks from Decentralized Data.
    AISTATS 2017, Algorithm 1.
    Shewchuk. Adaptive Precision Floating-Point Arithmetic. 1997 (`math.fsum`).
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wardround.codec import tensors
from wardround.errors import TensorMismatchError

__all__ = ["sum_vectors", "weighted_sum", "weights"]

_BLOCK = 64 * 1024
"""Columns at a time, so that sum and term stay in a cache near the core."""


def weights(records: Sequence[int]) -> list[float]:
    """Each site's share of all records, ``n_i / N``, rounded once.

    Raises:
        ValueError: There is no record, or a negative number of them.
    """
    total = sum(records)
    if total <= 0 or min(records) < 0:
        raise ValueError("weights need at least one record in all, and no negative number of records")
    return [count / total for count in records]


def weighted_sum(
    chunks: Sequence[npt.NDArray[np.float32]],
    weights: Sequence[float],
    out: npt.NDArray[np.float64],
    scratch: npt.NDArray[np.float64] | None = None,
) -> None:
    """Write ``sum_i weights[i] * chunks[i]`` to `out`, in the order given.

    Args:
        chunks: float32, shape=(n,), one per site.
        weights: One per site.
        out: float64, shape=(n,); what it held does not matter.
        scratch: float64, shape=(n,), other memory than `out`; overwritten. Without it, one is allocated.

    Raises:
        ValueError: There is no chunk, or the numbers of chunks and weights or the lengths differ.
    """
    if not chunks or len(chunks) != len(weights):
        raise ValueError(f"expected as many weights as chunks and at least one, got {len(weights)} and {len(chunks)}")
    if scratch is None:
        scratch = np.empty_like(out)
    if any(chunk.shape != out.shape for chunk in chunks) or scratch.shape != out.shape:
        raise ValueError("chunks, out and scratch must have one shape")
    # float32 is widened by a copy of its own: multiplying in one step would round in float32.
    for start in range(0, out.size, _BLOCK):
        total, term = out[start : start + _BLOCK], scratch[start : start + _BLOCK]
        np.copyto(total, chunks[0][start : start + _BLOCK])
        np.multiply(total, weights[0], out=total)
        for chunk, weight in zip(chunks[1:], weights[1:], strict=True):
            np.copyto(term, chunk[start : start + _BLOCK])
            np.multiply(term, weight, out=term)
            np.add(total, term, out=total)


def sum_vectors(vectors: Sequence[npt.NDArray[np.floating]]) -> npt.NDArray[np.float64]:
    """The sum, element by element, exact and rounded once: the order of `vectors` does not matter.

    Args:
        vectors: All of one shape, one per site; meant for statistics, thousands of elements at most.

    Returns:
        float64, of the same shape.

    Raises:
        ValueError: There is no vector, or shapes differ.
        TensorMismatchError: A value, or a sum, is not finite in float64.
    """
    if not vectors or any(vector.shape != vectors[0].shape for vector in vectors):
        raise ValueError("expected at least one vector, all of one shape")
    for vector in vectors:
        tensors.check_finite(vector)
    columns = zip(*(vector.ravel().tolist() for vector in vectors), strict=True)
    sums = [_exact_sum(column) for column in columns]
    return np.array(sums, dtype=np.float64).reshape(vectors[0].shape)


def _exact_sum(values: Sequence[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        pass
    # fsum also gives up where only an intermediate sum overflows, which depends on the order.
    try:
        return float(sum(map(Fraction, values)))
    except OverflowError:
        raise TensorMismatchError("the sum of the sites' values is too large for float64") from None
