"""Standardization of features by sums that sites can add up.

Each site gives, per feature, how many of its records have a value (``n``), their sum ``s`` and their
sum of squares ``q``, in float64. Added over all sites they say what the pooled records would:

    mean = s / n        std = sqrt(q / n - mean**2)

so that ``mean_and_std(sums of any split of the records) == mean_and_std(sums of all of them)`` up to
rounding. An indicator feature gives zeros, from which follow mean 0 and standard deviation 1: it
passes through unchanged.

Rounding: ``q / n - mean**2`` cancels where a feature's spread is small beside its mean. A spread below
a four-millionth of the mean is taken for zero; records are float32, which cannot resolve that either.

References:
    Chan, Golub, LeVeque. Algorithms for Computing the Sample Variance. The American Statistician, 1983.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["apply", "impute", "mean_and_std", "site_sums"]

_Vector = npt.NDArray[np.float64]

_ROUNDING = 2.0**-44
"""The least variance, as a share of the mean square, that is more than rounding."""

_ROWS = 65_536
"""Records that are widened to float64 at a time, so that a large table is never held twice."""


def site_sums(features: npt.NDArray[np.float32], numeric: Sequence[bool]) -> dict[str, _Vector]:
    """``count``, ``sum`` and ``sum_of_squares`` per feature; NaN is left out, and an indicator gives zeros.

    Args:
        features: ``(records, width)``.
        numeric: For each feature, whether it is a number.

    Raises:
        ValueError: `numeric` has another length than the features' width.
    """
    if features.ndim != 2 or features.shape[1] != len(numeric):
        raise ValueError(f"expected (records, {len(numeric)}) features, got shape {features.shape}")
    keep = np.asarray(numeric, dtype=bool)
    sums = {name: np.zeros(len(numeric)) for name in ("count", "sum", "sum_of_squares")}
    for start in range(0, len(features), _ROWS):
        rows = features[start : start + _ROWS].astype(np.float64)
        present = ~np.isnan(rows) & keep
        rows[~present] = 0.0
        sums["count"] += present.sum(axis=0)
        sums["sum"] += rows.sum(axis=0)
        sums["sum_of_squares"] += np.square(rows).sum(axis=0)
    return sums


def mean_and_std(sums: Mapping[str, npt.NDArray[np.floating]]) -> tuple[_Vector, _Vector]:
    """Mean and (population) standard deviation per feature.

    The mean is 0 where there is no value, the standard deviation 1 where there are fewer than two
    values or they do not vary.

    Raises:
        ValueError: The three vectors differ in length.
    """
    count, total, squares = (np.asarray(sums[name], np.float64) for name in ("count", "sum", "sum_of_squares"))
    if not count.shape == total.shape == squares.shape:
        raise ValueError("count, sum and sum_of_squares must have one length")
    divisor = np.maximum(count, 1.0)
    mean = np.where(count > 0, total / divisor, 0.0)
    mean_square = squares / divisor
    variance = mean_square - np.square(mean)
    varies = (count >= 2) & (variance > _ROUNDING * mean_square)
    return mean, np.sqrt(np.where(varies, variance, 1.0))


def apply(features: npt.NDArray[np.float32], mean: _Vector, std: _Vector) -> npt.NDArray[np.float32]:
    """A standardized copy; NaN becomes 0, which is the mean."""
    scaled = np.empty_like(features)
    for start in range(0, len(features), _ROWS):
        rows = (features[start : start + _ROWS] - mean) / std
        rows[np.isnan(rows)] = 0.0
        scaled[start : start + _ROWS] = rows
    return scaled


def impute(features: npt.NDArray[np.float32], mean: _Vector) -> npt.NDArray[np.float32]:
    """A copy in its own units, with the mean where there was NaN: for studies that do not scale."""
    return np.where(np.isnan(features), mean.astype(np.float32), features)
