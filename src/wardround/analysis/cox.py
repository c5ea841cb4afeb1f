"""A Cox model stratified by site, by Newton's method over sums: exact, for a partial likelihood adds up over strata.

A site's numbers, at the trial point and of its own risk sets only:

    records, events, -2 log partial likelihood | per column: values other than 0 | score | information, upper triangle

With r = exp(x'b), a time with d events and denominators phi_l = S0 - (l/d) D0 for l = 0 .. d-1 (Efron; for
Breslow every l is 0), where S sums over the risk set and D over the events:

    score        sum of x over events  -  sum over (time, l) of z,   z = (S1 - (l/d) D1) / phi_l
    information  sum over (time, l) of (S2 - (l/d) D2) / phi_l  -  z z'

S2 is never formed: the first sum is X'VX with v_i = r_i (sum of 1/phi_l over times up to its own, less
sum of (l/d)/phi_l at its own where it is an event). Time O(n p^2 + n log n), memory O(n p).
A site without events adds nothing but its records. Columns are centred per site, which changes nothing
in the likelihood and saves digits.

Hazard: sites differ in their baseline hazards, so an effect that only differs between sites cannot be seen.

References:
    Cox. Regression Models and Life-Tables. JRSS B, 1972. Breslow. Covariance Analysis of Censored Survival
    Data. Biometrics, 1974. Efron. The Efficiency of Cox's Likelihood Function for Censored Data. JASA, 1977.
    Lu et al. WebDISCO: a web service for distributed Cox model learning. JAMIA, 2015 (Cox models over sites).
"""

from collections.abc import Sequence
from fractions import Fraction

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.analysis import newton
from wardround.analysis.newton import Point
from wardround.analysis.terms import Cox, Fit, is_indicator, usable_records
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.errors import CodecError

__all__ = ["result", "site_sums", "start", "step"]

_Vector = npt.NDArray[np.float64]
_LEAST_RATE = -300.0
_HEAD = 3


def start(analysis: Cox) -> Fit:
    """The state before the first round."""
    return Fit(coefficients=(0.0,) * len(analysis.columns))


def site_sums(analysis: Cox, fit: Fit, table: StudyTable, contract: DataContract) -> _Vector:
    """One site's numbers at ``fit.coefficients``: float64, always finite."""
    values, labels = usable_records(analysis.columns, table, contract)
    values, labels = values[labels[:, 0] >= 0], labels[labels[:, 0] >= 0]
    time, is_event = labels[:, 0], labels[:, 1] > 0
    others = (values != 0).sum(axis=0)
    size = values.shape[1]
    deviance, score, information = 0.0, np.zeros(size), np.zeros((size, size))
    with np.errstate(all="ignore"):
        if is_event.any():
            deviance, score, information = _stratum(analysis, np.array(fit.coefficients), values, time, is_event)
        head = [len(time), is_event.sum(), deviance]
        return newton.bounded(np.concatenate([head, others, score, newton.upper_triangle(information)]))


def step(analysis: Cox, fit: Fit, sums: Sequence[Fraction], contract: DataContract, *, least_count: int) -> Fit:
    """The next state, from the sums over all sites."""
    records, events, deviance = sums[:_HEAD]
    if not 0 <= events <= records:
        raise CodecError("there are more events than records, or fewer than none")
    if records < least_count or 0 < events < least_count or _is_rare(analysis, sums, contract, least_count):
        return newton.finish(fit, "too few records")
    # Where other sites answered than in the last round, deviances are of different records and tell nothing.
    known = fit.deviance if records == fit.records else None
    null = float(deviance) if fit.iteration == 0 else fit.null_deviance
    fit = msgspec.structs.replace(fit, records=int(records), total=float(events), deviance=known, null_deviance=null)
    if events == 0:
        return newton.finish(fit, "no events")
    here = None
    if not newton.is_too_large(sums):
        size = len(analysis.columns)
        score, information = newton.score_and_information(sums[_HEAD + size :], size)
        scales = np.sqrt(np.clip(np.diag(information), 0.0, None) / float(events))
        here = Point(float(deviance), score, information, scales)
    return newton.step(fit, here, analysis.columns, iterations=analysis.iterations, least_deviance=newton.OVERLAP)


def result(analysis: Cox, fit: Fit, *, least_count: int) -> dict[str, object]:
    """What the fit says; estimates are None unless it has converged."""
    is_fitted = fit.status == "converged"
    test: dict[str, object] = {"statistic": None, "degrees": len(analysis.columns), "p": None}
    if is_fitted and fit.deviance is not None and fit.null_deviance is not None:
        statistic = max(fit.null_deviance - fit.deviance, 0.0)
        test |= {"statistic": statistic, "p": newton.chi_square_tail(statistic, len(analysis.columns))}
    return {
        "kind": "cox",
        "ties": analysis.ties,
        "status": fit.status,
        "detail": newton.explain(fit),
        "iterations": fit.iteration,
        "records": fit.records if fit.records >= least_count else None,
        "events": int(fit.total) if fit.total >= least_count else None,
        "log_likelihood": -fit.deviance / 2.0 if is_fitted and fit.deviance is not None else None,
        "null_log_likelihood": -fit.null_deviance / 2.0 if is_fitted and fit.null_deviance is not None else None,
        "likelihood_ratio_test": test,
        "ratio": "hazard ratio",
        "terms": newton.wald_table(analysis.columns, fit),
    }


def _is_rare(analysis: Cox, sums: Sequence[Fraction], contract: DataContract, least_count: int) -> bool:
    return any(
        is_indicator(name, contract) and (0 < ones < least_count or 0 < sums[0] - ones < least_count)
        for name, ones in zip(analysis.columns, sums[_HEAD:], strict=False)
    )


def _stratum(
    analysis: Cox,
    coefficients: _Vector,
    values: _Vector,
    time: npt.NDArray[np.float32],
    is_event: npt.NDArray[np.bool_],
) -> tuple[float, _Vector, _Vector]:
    order = np.argsort(time, kind="stable")
    # A constant column less its first value is exactly 0.
    values = values[order] - values[order[0]]
    values -= values.mean(axis=0)
    time, is_event = time[order], is_event[order]
    linear = values @ coefficients
    # A record whose rate is so far below the largest counts for nothing; it only would underflow.
    linear = np.clip(linear - linear.max(), _LEAST_RATE, None)
    rate = np.exp(linear)

    _, first, place = np.unique(time, return_index=True, return_inverse=True)
    where = place[is_event]
    tied = np.bincount(where, minlength=len(first))
    share = np.zeros(len(where))
    if analysis.ties == "efron":
        rank = np.arange(len(where)) - (np.cumsum(tied) - tied)[where]
        share = rank / tied[where]
    own = rate[:, None] * values
    at_risk, weighted = _suffix_sums(rate)[first], _suffix_sums(own)[first]
    dying = np.bincount(where, rate[is_event], minlength=len(first))
    dying_weighted = np.zeros_like(weighted)
    np.add.at(dying_weighted, where, own[is_event])

    denominator = at_risk[where] - share * dying[where]
    mean = (weighted[where] - share[:, None] * dying_weighted[where]) / denominator[:, None]
    per_time = np.bincount(where, 1.0 / denominator, minlength=len(first))
    less = np.bincount(where, share / denominator, minlength=len(first))
    weight = rate * (np.cumsum(per_time)[place] - np.where(is_event, less[place], 0.0))

    deviance = -2.0 * (linear[is_event].sum() - np.log(denominator).sum())
    score = (values[is_event] - mean).sum(axis=0)
    information = (values * weight[:, None]).T @ values - mean.T @ mean
    return float(deviance), score, information


def _suffix_sums(numbers: _Vector) -> _Vector:
    return np.cumsum(numbers[::-1], axis=0)[::-1]
