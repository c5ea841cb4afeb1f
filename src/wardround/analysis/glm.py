"""A generalized linear model by Fisher scoring over sums: the fit of all records together, to rounding.

A site's numbers, with mu the mean and w the variance of the family at the trial point:

    records, sum y, saturated term, deviance | per column: values other than 0 | X'(y - mu) | X'WX, upper triangle

The saturated term (sum of y^2; of y log y) gives the deviance of the model without columns. In the first
round mu is taken from the labels themselves, as glm.fit of R does, and the score is X'Wz with the
working response z: one weighted least squares, from where Newton's method rarely has to halve a step.

Limits of what is shown: fewer records than the least count or than coefficients and one, fewer of one
class of a binary label, or fewer ones or zeros in an indicator column, and nothing is.

Hazard: the intervals and p-values are those of the normal distribution, for the gaussian family too,
where few records want Student's t.

References:
    McCullagh, Nelder. Generalized Linear Models. 1989, chapters 2 and 4.
    Wolfson et al. DataSHIELD: resolving a conflict in contemporary bioscience. Int J Epidemiol, 2010 (GLM by sums).
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.analysis import newton
from wardround.analysis.newton import Point
from wardround.analysis.terms import Fit, Glm, is_indicator, terms_of, usable_records
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable

__all__ = ["result", "site_sums", "start", "step"]

_Vector = npt.NDArray[np.float64]
_LARGEST_RATE = 30.0
_HEAD = 4
_LEAST_DEVIANCE = {"gaussian": None, "binomial": newton.OVERLAP, "poisson": 0.0}
_RATIOS = {"gaussian": None, "binomial": "odds ratio", "poisson": "rate ratio"}


def start(analysis: Glm) -> Fit:
    """The state before the first round."""
    return Fit(coefficients=(0.0,) * (1 + len(analysis.columns)))


def site_sums(analysis: Glm, fit: Fit, table: StudyTable, contract: DataContract) -> _Vector:
    """One site's numbers at ``fit.coefficients``: float64, always finite."""
    values, labels = usable_records(analysis.columns, table, contract)
    design = np.column_stack([np.ones(len(values)), values])
    outcome = labels.astype(np.float64)
    if analysis.family == "poisson":
        design, outcome = design[outcome >= 0], outcome[outcome >= 0]
    with np.errstate(all="ignore"):
        deviance, residual, weight = _at(analysis, fit, design, outcome)
        saturated = {"gaussian": np.square(outcome).sum(), "binomial": 0.0, "poisson": _y_log(outcome, outcome).sum()}
        head = [len(outcome), outcome.sum(), saturated[analysis.family], deviance]
        others = (design[:, 1:] != 0).sum(axis=0)
        information = (design * weight[:, None]).T @ design
        sums = np.concatenate([head, others, design.T @ residual, newton.upper_triangle(information)])
    return newton.bounded(sums)


def step(analysis: Glm, fit: Fit, sums: Sequence[Fraction], contract: DataContract, *, least_count: int) -> Fit:
    """The next state, from the sums over all sites."""
    names = terms_of(analysis)
    if _are_too_few(analysis, sums, contract, least_count):
        return newton.finish(fit, "too few records")
    is_first = fit.iteration == 0
    # Where other sites answered than in the last round, deviances are of different records and tell nothing.
    known = fit.deviance if sums[0] == fit.records else None
    fit = msgspec.structs.replace(
        fit,
        records=int(sums[0]),
        total=float(sums[1]),
        deviance=known,
        null_deviance=_null_deviance(analysis, sums),
    )
    if analysis.family != "gaussian" and sums[1] == 0:
        return newton.finish(fit, "no events")
    if analysis.family == "binomial" and sums[1] == sums[0]:
        return newton.finish(fit, "separated")
    here = None
    if not newton.is_too_large(sums):
        score, information = newton.score_and_information(sums[_HEAD + len(analysis.columns) :], len(names))
        here = Point(None if is_first else float(sums[3]), score, information, _scales(information))
    return newton.step(
        fit, here, names, iterations=analysis.iterations, least_deviance=_LEAST_DEVIANCE[analysis.family]
    )


def result(analysis: Glm, fit: Fit, *, least_count: int) -> dict[str, object]:
    """What the fit says; estimates are None unless it has converged."""
    is_fitted = fit.status == "converged"
    free = fit.records - 1 - len(analysis.columns)
    deviance = fit.deviance if is_fitted else None
    dispersion = None if deviance is None else 1.0
    if deviance is not None and analysis.family == "gaussian":
        dispersion = deviance / free
    ratio = _RATIOS[analysis.family]
    return {
        "kind": "glm",
        "family": analysis.family,
        "status": fit.status,
        "detail": newton.explain(fit),
        "iterations": fit.iteration,
        "records": fit.records if fit.records >= least_count else None,
        "events": _events(analysis, fit, least_count),
        "deviance": deviance,
        "null_deviance": fit.null_deviance if is_fitted else None,
        "dispersion": dispersion,
        "ratio": ratio,
        "terms": newton.wald_table(terms_of(analysis), fit, dispersion=dispersion or 0.0, with_ratio=ratio is not None),
    }


def _at(analysis: Glm, fit: Fit, design: _Vector, outcome: _Vector) -> tuple[float, _Vector, _Vector]:
    # Deviance, residual and weight at the point; in the first round 0, weighted response and weight.
    if fit.iteration == 0:
        return 0.0, *_first(analysis, outcome)
    linear = design @ np.array(fit.coefficients)
    if analysis.family == "gaussian":
        return float(np.square(outcome - linear).sum()), outcome - linear, np.ones(len(outcome))
    # A rate beyond this is no fit's; it only would overflow.
    linear = np.clip(linear, -_LARGEST_RATE, _LARGEST_RATE)
    if analysis.family == "binomial":
        mean = 1.0 / (1.0 + np.exp(-linear))
        deviance = 2.0 * np.logaddexp(0.0, np.where(outcome > 0, -linear, linear)).sum()
        return float(deviance), outcome - mean, mean * (1.0 - mean)
    mean = np.exp(linear)
    deviance = 2.0 * (_y_log(outcome, outcome / mean) - (outcome - mean)).sum()
    return float(deviance), outcome - mean, mean


def _first(analysis: Glm, outcome: _Vector) -> tuple[_Vector, _Vector]:
    if analysis.family == "gaussian":
        return outcome, np.ones(len(outcome))
    if analysis.family == "binomial":
        mean = (outcome + 0.5) / 2.0
        weight = mean * (1.0 - mean)
        return weight * np.log(mean / (1.0 - mean)) + outcome - mean, weight
    mean = outcome + 0.1
    return mean * np.log(mean) + outcome - mean, mean


def _y_log(outcome: _Vector, ratio: _Vector) -> _Vector:
    return np.where(outcome > 0, outcome * np.log(np.where(outcome > 0, ratio, 1.0)), 0.0)


def _are_too_few(analysis: Glm, sums: Sequence[Fraction], contract: DataContract, least_count: int) -> bool:
    records, total = sums[0], sums[1]
    if records < max(least_count, len(analysis.columns) + 2):
        return True
    if analysis.family == "binomial" and (0 < total < least_count or 0 < records - total < least_count):
        return True
    if analysis.family == "poisson" and 0 < total < least_count:
        return True
    if analysis.family == "gaussian" and _is_crossed_rarely(analysis, sums, contract, least_count):
        return True
    return any(
        is_indicator(name, contract) and (0 < ones < least_count or 0 < records - ones < least_count)
        for name, ones in zip(analysis.columns, sums[_HEAD:], strict=False)
    )


def _is_crossed_rarely(analysis: Glm, sums: Sequence[Fraction], contract: DataContract, least_count: int) -> bool:
    """Whether X'X, which is public, tells a cell of few records of two indicators."""
    size = 1 + len(analysis.columns)
    upper = iter(sums[len(sums) - size * (size + 1) // 2 :])
    cross = {(row, column): next(upper) for row in range(size) for column in range(row, size)}
    places = [place for place, name in enumerate(analysis.columns, 1) if is_indicator(name, contract)]
    for row in places:
        for column in (place for place in places if place > row):
            both, one, other = cross[row, column], cross[row, row], cross[column, column]
            cells = (both, one - both, other - both, cross[0, 0] - one - other + both)
            if any(0 < cell < least_count for cell in cells):
                return True
    return False


def _null_deviance(analysis: Glm, sums: Sequence[Fraction]) -> float:
    records, total, saturated = sums[:3]
    if analysis.family == "gaussian":
        return max(float(saturated - total * total / records), 0.0)
    if analysis.family == "binomial":
        classes = [float(count) for count in (total, records - total) if count > 0]
        return -2.0 * sum(count * math.log(count / float(records)) for count in classes)
    return max(2.0 * float(saturated - total * Fraction(math.log(total / records))), 0.0) if total > 0 else 0.0


def _scales(information: _Vector) -> _Vector:
    # Standard deviations of the columns; the intercept is judged by them alone.
    means = information[0] / information[0, 0]
    variances: _Vector = np.clip(np.diag(information) / information[0, 0] - np.square(means), 0.0, None)
    return np.sqrt(variances)


def _events(analysis: Glm, fit: Fit, least_count: int) -> int | None:
    if analysis.family != "binomial" or fit.total < least_count:
        return None
    return int(fit.total)
