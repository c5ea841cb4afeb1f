"""Estimates with their 95 % intervals, from sums over records alone.

An estimate is a mapping of `value`, `low` and `high`; what is undefined or not finite is None. Records are taken as
independent, so a mean over sites that differ has a wider truth than its interval.

    mean          value ± 1.96 standard errors, from the sum and the sum of squares
    share         Wilson's interval
    auc           DeLong's variance, ties (records of one cell of scores) as half; at 0 and 1 no interval
    explained     1 - mean(e²) / var(y), by the delta method
    recalibration logit P(y = 1) = a + b x by maximum likelihood over cells, Wald's interval
    concordance   within one site: comparable pairs, those won, and pairs² times the ratio's bootstrap variance

References:
    DeLong et al. Comparing the areas under two or more correlated ROC curves. Biometrics, 1988.
    Wilson. Probable inference, the law of succession, and statistical inference. JASA, 1927.
    Cox. Two further applications of a model for binary regression. Biometrika, 1958 (recalibration).
    Harrell et al. Evaluating the yield of medical tests. JAMA, 1982.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

__all__ = [
    "Estimate",
    "auc",
    "concordance",
    "explained",
    "intercept",
    "interval",
    "mean",
    "number",
    "share",
    "slope",
]

Estimate = dict[str, float | None]
"""`value`, `low` and `high`."""

_Vector = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]
_Z = 1.959963984540054
_ITERATIONS = 50
_BLOCK = 2_000_000
"""Weights of resampled records held at a time."""


def number(value: float | None) -> float | None:
    """The value where it is finite, else None."""
    return float(value) if value is not None and math.isfinite(value) else None


def interval(
    value: float | None, error: float | None = None, *, least: float = -math.inf, most: float = math.inf
) -> Estimate:
    """The value with the normal interval of its standard error, kept within `least` and `most`."""
    shown = number(value)
    if shown is None or error is None or not math.isfinite(error):
        return {"value": shown, "low": None, "high": None}
    low, high = max(shown - _Z * error, least), min(shown + _Z * error, most)
    return {"value": shown, "low": number(low), "high": number(high)}


def mean(count: Fraction, total: Fraction, squares: Fraction, *, least: float = 0.0) -> Estimate:
    """The mean of records of which the count, the sum and the sum of squares are known."""
    if count <= 0:
        return interval(None)
    if count < 2:
        return interval(float(total / count))
    variance = max(float((squares - total * total / count) / (count - 1)), 0.0)
    return interval(float(total / count), math.sqrt(variance / float(count)), least=least)


def share(hits: float, count: float) -> Estimate:
    """Hits among the count, with Wilson's interval: it is never empty."""
    if count <= 0:
        return interval(None)
    rate = min(max(hits / count, 0.0), 1.0)
    weight = 1 + _Z**2 / count
    middle = (rate + _Z**2 / (2 * count)) / weight
    reach = _Z / weight * math.sqrt(rate * (1 - rate) / count + _Z**2 / (4 * count**2))
    return {"value": rate, "low": max(middle - reach, 0.0), "high": min(middle + reach, 1.0)}


def explained(sums: Sequence[Fraction]) -> Estimate:
    """R² from the records and their sums of e², e⁴, y, y², y³, y⁴, e²y and e²y²; None where y does not vary."""
    count = sums[0]
    if count < 2:
        return interval(None)
    squared, fourth, middle, y2, y3, y4, cross, cross2 = (one / count for one in sums[1:])
    spread = y2 - middle**2
    # What rounding at the sites leaves of labels that are all the same.
    if spread <= y2 / 10**12:
        return interval(None)
    around = y4 - 4 * middle * y3 + 6 * middle**2 * y2 - 3 * middle**4 - spread**2
    together = cross2 - 2 * middle * cross + middle**2 * squared - squared * spread
    variance = (fourth - squared**2) / spread**2 + squared**2 * around / spread**4
    variance -= 2 * squared * together / spread**3
    return interval(float(1 - squared / spread), math.sqrt(max(float(variance / count), 0.0)), most=1.0)


def auc(positives: _Vector, negatives: _Vector) -> Estimate:
    """Chance that a positive is ranked above a negative, and `resolution`: the most that the cells make it off.

    Args:
        positives: In each cell of the score, lowest first; shape=(cells,).
        negatives: The same.
    """
    many, others = float(positives.sum()), float(negatives.sum())
    if many <= 0 or others <= 0:
        return interval(None) | {"resolution": None}
    wins = (np.cumsum(negatives) - negatives / 2) / others
    losses = 1 - (np.cumsum(positives) - positives / 2) / many
    value = float(positives @ wins / many)
    error = None
    if many > 1 and others > 1 and 0.0 < value < 1.0:
        first = float(positives @ (wins - value) ** 2) / (many - 1) / many
        error = math.sqrt(first + float(negatives @ (losses - value) ** 2) / (others - 1) / others)
    resolution = number(float(positives @ negatives) / (2 * many * others))
    return interval(value, error, least=0.0, most=1.0) | {"resolution": resolution}


def intercept(positives: _Vector, negatives: _Vector, scores: _Vector) -> Estimate:
    """What to add to every score so that the mean probability is the observed share.

    Args:
        positives: In each cell of the score; shape=(cells,).
        negatives: The same.
        scores: The sum of the scores of each cell's records.
    """
    ones, many, middles = _used(positives, negatives, scores)
    if not 0 < ones.sum() < many.sum():
        return interval(None)
    start = math.log(ones.sum() / (many - ones).sum()) - float(many @ middles / many.sum())
    fitted = _logistic(np.ones((len(many), 1)), middles + start, ones, many)
    return interval(None) if fitted is None else interval(fitted[0] + start, fitted[1])


def slope(positives: _Vector, negatives: _Vector, scores: _Vector) -> Estimate:
    """How much to stretch the scores; arguments as for `intercept`, None where a cut separates the outcomes."""
    ones, many, middles = _used(positives, negatives, scores)
    high, low = np.flatnonzero(ones > 0), np.flatnonzero(many > ones)
    if not high.size or not low.size or low[-1] <= high[0] or high[-1] <= low[0]:
        return interval(None)
    center = float(many @ middles / many.sum())
    spread = math.sqrt(float(many @ (middles - center) ** 2 / many.sum()))
    if not spread > 0:
        return interval(None)
    inputs = np.column_stack([np.ones(len(many)), (middles - center) / spread])
    fitted = _logistic(inputs, np.zeros(len(many)), ones, many)
    return interval(None) if fitted is None else interval(fitted[0] / spread, fitted[1] / spread)


def concordance(times: _Vector, events: _Mask, risks: _Vector, resamples: int, seed: int) -> tuple[float, float, float]:
    """Harrell's comparable pairs of one site, those won (ties half), and pairs² times the bootstrap variance.

    A pair is comparable when the earlier time is an event's; a record censored at the time of an event counts as
    later, two events at one time are no pair. Where most resamples have no pair the variance is taken for 1/4, the
    largest that a ratio can have.

    Args:
        times: shape=(records,).
        events: shape=(records,).
        risks: Higher means earlier; shape=(records,).
        resamples: How often records are drawn anew.
        seed: Of the drawing.
    """
    count = len(times)
    if not count:
        return 0.0, 0.0, 0.0
    pairs, won = (float(one[0]) for one in _pairs(times, events, risks, np.ones((1, count))))
    generator = np.random.default_rng(seed)  # noqa: TID251, the seed is passed
    at_once = max(1, _BLOCK // count)
    ratios: list[float] = []
    for start in range(0, resamples if pairs else 0, at_once):
        weights = generator.multinomial(count, np.full(count, 1 / count), min(at_once, resamples - start))
        drawn, drawn_won = _pairs(times, events, risks, weights.astype(np.float64))
        ratios.extend((drawn_won[drawn > 0] / drawn[drawn > 0]).tolist())
    variance = float(np.var(ratios, ddof=1)) if len(ratios) > max(1, resamples // 2) else 0.25
    return pairs, won, pairs**2 * variance


def _used(positives: _Vector, negatives: _Vector, scores: _Vector) -> tuple[_Vector, _Vector, _Vector]:
    many = positives + negatives
    used = many > 0
    return positives[used], many[used], scores[used] / many[used]


def _logistic(inputs: _Vector, offset: _Vector, ones: _Vector, many: _Vector) -> tuple[float, float] | None:
    # The last coefficient and its standard error; by Newton's method, a step halved until the loss does not rise.
    def loss(at: _Vector) -> float:
        linear = offset + inputs @ at
        return float(many @ np.logaddexp(0.0, linear) - ones @ linear)

    coefficients = np.zeros(inputs.shape[1])
    for _ in range(_ITERATIONS):
        rates = np.exp(-np.logaddexp(0.0, -(offset + inputs @ coefficients)))
        curvature = (inputs * (many * rates * (1 - rates))[:, None]).T @ inputs
        try:
            inverse = np.linalg.inv(curvature)
        except np.linalg.LinAlgError:
            return None
        step = inverse @ (inputs.T @ (ones - many * rates))
        if not np.isfinite(step).all():
            return None
        before = loss(coefficients)
        for _ in range(_ITERATIONS):
            if loss(coefficients + step) <= before + 1e-12 * abs(before):
                break
            step = step / 2
        coefficients = coefficients + step
        if np.abs(step).max() <= 1e-9 * (1 + np.abs(coefficients).max()):
            return float(coefficients[-1]), math.sqrt(max(float(inverse[-1, -1]), 0.0))
    return None


def _pairs(times: _Vector, events: _Mask, risks: _Vector, weights: _Vector) -> tuple[_Vector, _Vector]:
    # Comparable pairs, and those won, for each row of `weights`: how often each record was drawn.
    order, happened = np.lexsort((~events, times)), np.sort(times[events])
    together = np.searchsorted(happened, times[events], "right") - np.searchsorted(happened, times[events])
    after = np.searchsorted(times[order], times[events]) + together
    running = _running(weights[:, order])
    pairs = (weights[:, events] * (running[:, -1:] - running[:, after])).sum(axis=1)
    lower, higher = (_pairs_below(times, events, signed, weights) for signed in (risks, -risks))
    return pairs, lower + (pairs - lower - higher) / 2


def _pairs_below(times: _Vector, events: _Mask, risks: _Vector, weights: _Vector) -> _Vector:
    # Weight of pairs of an event and a later record of lower risk: inversions, counted by merge sort with all blocks
    # of a level merged at once. Events before censored records of their time, and among each other by rising risk.
    order = np.lexsort((np.where(events, risks, 0.0), ~events, times))
    _, ranks = np.unique(risks[order], return_inverse=True)
    counts, weights, places = events[order], weights[:, order], np.arange(len(order))
    found, half = np.zeros(len(weights)), 1
    while half < len(order):
        merged = np.lexsort((places // half % 2, ranks, places // (2 * half)))
        right = places[merged] // half % 2 == 1
        passed = _running(np.where(right, weights[:, merged], 0.0))
        left = np.flatnonzero(~right & counts[merged])
        below = passed[:, left] - passed[:, left // (2 * half) * (2 * half)]
        found += (weights[:, merged[left]] * below).sum(axis=1)
        half *= 2
    return found


def _running(weights: _Vector) -> _Vector:
    return np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights, axis=1)], axis=1)
