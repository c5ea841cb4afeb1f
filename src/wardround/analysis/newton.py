"""Newton's method over sums: one accepted point, one trial point, and a halving whenever the trial is worse.

The sites' sums at the trial point are its deviance D, score g and information I. Then

    D rose          ──▶ next trial: half-way back to the accepted point; this costs a round
    D did not rise  ──▶ accept it; next trial: the point + I^-1 g, unless that step is negligible: converged

I is scaled to a unit diagonal before it is factored, so that units of columns do not matter; a pivot of
the Cholesky factor is then the share of a column that earlier columns (the intercept first) do not explain.
Where that is nothing in the first round, columns are linearly dependent: singular.

A likelihood without a maximum is told by three signs (Albert and Anderson's complete and quasi-complete
separation): D below 2 log 2, where a record on the wrong side of the boundary alone would cost as much;
a deviance that stands still while steps do not shrink; an information that was regular and is no longer.

Hazard: a column whose mean is some 10^5 of its standard deviations looks constant, and one whose squares are below
the 2^-64 of the sums' encoding looks empty. Sums of 2^62 and more count as overflow.

References:
    Albert, Anderson. On the Existence of Maximum Likelihood Estimates in Logistic Regression Models. Biometrika, 1984.
    Heinze, Schemper. A Solution to the Problem of Monotone Likelihood in Cox Regression. Biometrics, 2001.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.analysis.terms import Fit, Status

__all__ = [
    "OVERLAP",
    "Z_95",
    "Point",
    "bounded",
    "chi_square_tail",
    "explain",
    "finish",
    "is_too_large",
    "score_and_information",
    "step",
    "upper_triangle",
    "wald_table",
]

Z_95 = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""

_Vector = npt.NDArray[np.float64]
_LIMIT = 2.0**62
_LEAST_PIVOT = 1e-11
_SMALL_STEP = 1e-9
_SHARE = 1e-6
_LATE = 8
_LARGEST_EXPONENT = 700.0
_WORDS: dict[Status, str] = {
    "running": "The analysis is not finished.",
    "converged": "The fit has converged.",
    "separated": "The columns separate the outcomes: the likelihood has no maximum, and no estimate exists.",
    "singular": "Columns are constant or depend linearly on one another.",
    "not converged": "The fit did not converge within its rounds.",
    "too few records": "There are too few records, or too few of a kind, to show a result.",
    "no events": "No event was seen.",
    "done": "The curves are complete.",
}


OVERLAP = 2.0 * math.log(2.0)
"""What one record on the wrong side, or at the boundary, adds at least to a deviance of choices."""


@dataclass(frozen=True, slots=True)
class Point:
    """What the sums say at the trial point.

    Attributes:
        deviance: None: not known.
        score: float64 ``(p,)``.
        information: float64 ``(p, p)``.
        scales: float64 ``(p,)``: how far the linear predictor moves per unit of a coefficient, roughly.
    """

    deviance: float | None
    score: _Vector
    information: _Vector
    scales: _Vector


def bounded(sums: _Vector) -> _Vector:
    """Sums that can be added: what overflowed is at a limit that `is_too_large` knows."""
    return np.clip(np.nan_to_num(sums, nan=_LIMIT, posinf=_LIMIT, neginf=-_LIMIT), -_LIMIT, _LIMIT)


def is_too_large(sums: Sequence[Fraction]) -> bool:
    """Whether some site's sums overflowed."""
    return any(abs(value) >= _LIMIT for value in sums)


def score_and_information(sums: Sequence[Fraction], size: int) -> tuple[_Vector, _Vector]:
    """Read score ``(p,)`` and information ``(p, p)``, whose upper triangle follows the score in `sums`."""
    numbers = [float(value) for value in sums]
    return np.array(numbers[:size]), _matrix(numbers[size:], size)


def upper_triangle(matrix: _Vector) -> _Vector:
    """The part on and above the diagonal, by rows."""
    return matrix[np.triu_indices(len(matrix))]


def finish(fit: Fit, status: Status) -> Fit:
    """End without an estimate; only how many took part stays, and not that where they are too few."""
    kept = Fit(iteration=fit.iteration + 1, is_done=True, status=status)
    if status == "too few records":
        return kept
    return msgspec.structs.replace(kept, records=fit.records, total=fit.total)


def step(fit: Fit, here: Point | None, names: Sequence[str], *, iterations: int, least_deviance: float | None) -> Fit:
    """Take in the sums at ``fit.coefficients`` and choose the next point, or end.

    Args:
        fit: The state so far.
        here: What the sums say; None: they overflowed.
        names: Of the coefficients.
        iterations: The most rounds.
        least_deviance: A deviance below this proves separation (0.0: none does); None: there always is a maximum.
    """
    if here is None:
        return _halved(fit, iterations) if fit.scales else finish(fit, "not converged")
    if here.deviance is not None and fit.deviance is not None and _has_risen(fit, here.deviance, fit.deviance):
        return _halved(fit, iterations)
    newton = _solved(here)
    if newton is None:
        if fit.scales and least_deviance is not None:
            return finish(fit, "separated")
        return msgspec.structs.replace(finish(fit, "singular"), columns=_dependent(here.information, names))
    return _accepted(fit, here, newton, iterations=iterations, least_deviance=least_deviance)


def wald_table(
    names: Sequence[str], fit: Fit, *, dispersion: float = 1.0, with_ratio: bool = True
) -> list[dict[str, object]]:
    """Per coefficient: estimate, standard error, Wald interval, z and two-sided p, and their exponentials.

    Everything but the names is None when the fit has not converged.
    """
    keys = ["coefficient", "standard_error", "lower", "upper", "z", "p"]
    keys += ["ratio", "ratio_lower", "ratio_upper"] if with_ratio else []
    if fit.status != "converged":
        return [{"name": name} | dict.fromkeys(keys) for name in names]
    errors = np.sqrt(dispersion * _inverse_diagonal(_matrix(fit.information, len(names)))).tolist()
    rows: list[dict[str, object]] = []
    for name, value, error in zip(names, fit.coefficients, errors, strict=True):
        low, high = value - Z_95 * error, value + Z_95 * error
        z = value / error if error > 0 else None
        p = None if z is None else math.erfc(abs(z) / math.sqrt(2.0))
        numbers = [value, error, low, high, z, p, *([_exp(value), _exp(low), _exp(high)] if with_ratio else [])]
        rows.append({"name": name} | dict(zip(keys, map(_finite, numbers), strict=True)))
    return rows


def explain(fit: Fit) -> str:
    """The status as a sentence, with the columns at fault."""
    named = f" See: {', '.join(fit.columns)}." if fit.columns else ""
    return _WORDS[fit.status] + named


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Probability that a chi-square variable with `degrees` degrees of freedom exceeds `statistic`.

    The finite sums of Abramowitz and Stegun, 26.4.4 and 26.4.5.

    Raises:
        ValueError: There is no degree of freedom.
    """
    if degrees < 1:
        raise ValueError(f"degrees must be >= 1, got {degrees}")
    half = max(statistic, 0.0) / 2.0
    if half == 0.0:
        return 1.0
    odd = degrees % 2
    tail = math.erfc(math.sqrt(half)) if odd else 0.0
    powers = (place + odd / 2.0 for place in range((degrees - odd) // 2))
    # Each term is half**power * exp(-half) / Gamma(power + 1).
    tail += sum(math.exp(power * math.log(half) - half - math.lgamma(power + 1.0)) for power in powers)
    return min(tail, 1.0)


def _matrix(numbers: Sequence[float], size: int) -> _Vector:
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = numbers
    return matrix + np.triu(matrix, 1).T


def _noise(fit: Fit) -> float:
    # Where the fit is exact, the deviance is rounding of the labels' squares and never settles.
    return 1e-20 * ((fit.null_deviance or 0.0) + fit.total**2 / max(fit.records, 1))


def _has_risen(fit: Fit, now: float, before: float) -> bool:
    return now > before + 1e-12 * abs(before) + _noise(fit)


def _halved(fit: Fit, iterations: int) -> Fit:
    if fit.iteration + 1 >= iterations:
        return finish(fit, "not converged")
    middle = tuple((old + new) / 2.0 for old, new in zip(fit.previous, fit.coefficients, strict=True))
    return msgspec.structs.replace(fit, iteration=fit.iteration + 1, coefficients=middle)


def _accepted(fit: Fit, here: Point, newton: _Vector, *, iterations: int, least_deviance: float | None) -> Fit:
    at = np.array(fit.coefficients)
    scales = np.array(fit.scales) if fit.scales else here.scales
    change = float(np.max(np.abs(newton) * scales))
    moved = float(np.max(np.abs(at - np.array(fit.previous or fit.coefficients)) * scales))
    is_last = fit.iteration + 1 >= iterations
    if least_deviance is not None and here.deviance is not None:
        keeps_its_pace = _keeps_its_pace(fit, here.deviance, change, moved, is_last=is_last)
        if here.deviance < least_deviance or keeps_its_pace:
            return finish(fit, "separated")
    accepted = msgspec.structs.replace(
        fit,
        iteration=fit.iteration + 1,
        previous=fit.coefficients,
        deviance=here.deviance,
        scales=tuple(scales.tolist()),
        information=tuple(upper_triangle(here.information).tolist()),
    )
    following = at + newton
    is_converged = _is_converged(fit, here, newton, change)
    if not np.isfinite(following).all() or (is_last and not is_converged):
        return finish(fit, "not converged")
    # The last, negligible step is taken too: it costs nothing and squares the error.
    accepted = msgspec.structs.replace(accepted, coefficients=tuple(following.tolist()))
    return msgspec.structs.replace(accepted, is_done=True, status="converged") if is_converged else accepted


def _is_converged(fit: Fit, here: Point, newton: _Vector, change: float) -> bool:
    if here.deviance is None:
        return False
    if (np.abs(newton) <= _SMALL_STEP * np.abs(np.array(fit.coefficients))).all():
        return True
    # A coefficient of nearly zero never settles relative to itself; then the deviance tells.
    noise = 1e-12 * abs(here.deviance) + _noise(fit)
    is_still = fit.deviance is not None and abs(here.deviance - fit.deviance) <= noise
    return is_still and change <= 1e-6 * max(1.0, math.sqrt(abs(here.deviance) / max(fit.records, 1)))


def _keeps_its_pace(fit: Fit, deviance: float, change: float, moved: float, *, is_last: bool) -> bool:
    # Newton's steps shrink by squares near a maximum; towards one at infinity they stay as they are.
    if fit.deviance is None or moved < 1e-6 or change < moved / 2.0:
        return False
    is_still = fit.deviance - deviance <= 1e-8 * abs(deviance)
    return is_still or (is_last and fit.iteration >= _LATE)


def _factor(information: _Vector) -> tuple[_Vector, _Vector] | None:
    # Scales to a unit diagonal; the squares of the factor's diagonal are then shares left unexplained.
    diagonal = np.diag(information)
    if not np.isfinite(information).all() or (diagonal <= 0).any():
        return None
    scales: _Vector = np.sqrt(diagonal)
    try:
        lower = np.linalg.cholesky(information / scales / scales[:, None]).astype(np.float64)
    except np.linalg.LinAlgError:
        return None
    return None if (np.diag(lower) ** 2 < _LEAST_PIVOT).any() else (lower, scales)


def _solved(here: Point) -> _Vector | None:
    factor = _factor(here.information)
    if factor is None:
        return None
    lower, scales = factor
    newton: _Vector = np.linalg.solve(lower.T, np.linalg.solve(lower, here.score / scales)) / scales
    return newton


def _inverse_diagonal(information: _Vector) -> _Vector:
    factor = _factor(information)
    if factor is None:
        raise ValueError("the information of a fit that has converged is regular")
    lower, scales = factor
    inverse = np.linalg.inv(lower)
    return np.asarray(np.square(inverse).sum(axis=0) / np.square(scales))


def _dependent(information: _Vector, names: Sequence[str]) -> tuple[str, ...]:
    diagonal = np.sqrt(np.clip(np.diag(information), 0.0, None))
    scaled = information / np.outer(*[np.where(diagonal > 0, diagonal, 1.0)] * 2)
    kept: list[int] = []
    found: set[int] = set()
    for place in range(len(names)):
        weights = np.linalg.solve(scaled[np.ix_(kept, kept)], scaled[kept, place])
        if scaled[place, place] - scaled[kept, place] @ weights >= _LEAST_PIVOT:
            kept.append(place)
            continue
        found |= {place, *(earlier for earlier, weight in zip(kept, weights, strict=True) if abs(weight) > _SHARE)}
    return tuple(names[place] for place in sorted(found) if names[place] != "intercept")


def _exp(value: float) -> float | None:
    return math.exp(value) if value < _LARGEST_EXPONENT else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
