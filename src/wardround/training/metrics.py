"""How well predictions fit: the metrics of an evaluation.

What a model puts out is what is measured: for a binary outcome the logit, for a multiclass outcome k
logits, for a number the number, for survival the log-risk (higher means an earlier event).

A metric that is undefined (the area under a curve with one class, anything of no records) is None,
never a number, and so is one whose value is not finite or whose predictions hold NaN.

Calibration of a binary outcome, with ``p = sigmoid(logit)``:

    calibration_slope b       logit P(y = 1) = a + b * logit(p)     1 is right, below 1 is overconfident
    calibration_intercept a   logit P(y = 1) = a + logit(p)         0 is right, calibration in the large

References:
    Hanley, McNeil. The meaning and use of the area under a ROC curve. Radiology, 1982.
    Van Calster et al. A calibration hierarchy for risk models was defined. J Clin Epidemiol, 2016.
    Harrell et al. Evaluating the yield of medical tests. JAMA, 1982.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = [
    "NAMES",
    "Metric",
    "accuracy",
    "auc",
    "bootstrap_interval",
    "brier",
    "c_index",
    "calibration_intercept",
    "calibration_slope",
    "evaluate",
    "log_loss",
    "mae",
    "multiclass_accuracy",
    "multiclass_log_loss",
    "r2",
    "rmse",
]

Array = npt.NDArray[np.floating]
Metric = Callable[[Array, Array], float | None]
"""From labels and predictions, one row per record, to a number, or None where it is undefined."""

_ITERATIONS = 50


def auc(labels: Array, logits: Array) -> float | None:
    """Chance that a positive record is ranked above a negative one; ties count one half."""
    positive = labels > 0.5
    many, others = int(positive.sum()), int((~positive).sum())
    if not many or not others:
        return None
    _, place, ties = np.unique(logits, return_inverse=True, return_counts=True)
    ranks = np.cumsum(ties) - (ties - 1) / 2
    wins = ranks[place][positive].sum() - many * (many + 1) / 2
    return float(wins / (many * others))


def accuracy(labels: Array, logits: Array) -> float | None:
    """Share of records on the right side of probability 0.5; exactly 0.5 is taken for a 1."""
    return float(np.mean((logits >= 0) == (labels > 0.5))) if len(labels) else None


def brier(labels: Array, logits: Array) -> float | None:
    """Mean squared difference between probability and outcome."""
    return float(np.mean(np.square(_sigmoid(logits) - labels))) if len(labels) else None


def log_loss(labels: Array, logits: Array) -> float | None:
    """Mean negative log-likelihood, exact for extreme logits too."""
    if not len(labels):
        return None
    return float(np.mean(np.logaddexp(0.0, np.where(labels > 0.5, -1.0, 1.0) * logits)))


def calibration_slope(labels: Array, logits: Array) -> float | None:
    """How much to stretch the logits; None where the outcome is perfectly separated or the logits are constant."""
    ones, zeros = logits[labels > 0.5], logits[labels <= 0.5]
    if not len(ones) or not len(zeros) or not np.isfinite(logits).all():
        return None
    # In one dimension the likelihood has no maximum exactly where a cut separates the classes.
    if zeros.max() <= ones.min() or ones.max() <= zeros.min():
        return None
    center, spread = float(logits.mean()), float(logits.std())
    inputs = np.column_stack([np.ones(len(logits)), (logits - center) / spread])
    fitted = _logistic(inputs, labels, np.zeros_like(logits))
    return None if fitted is None else float(fitted[1] / spread)


def calibration_intercept(labels: Array, logits: Array) -> float | None:
    """How much to add to every logit so that the mean probability is the observed share."""
    if not len(labels) or not 0.0 < labels.mean() < 1.0 or not np.isfinite(logits).all():
        return None
    # Newton starts where the mean logit is that of the observed share: near the answer, however far off the model.
    share = float(labels.mean())
    start = math.log(share / (1 - share)) - float(logits.mean())
    fitted = _logistic(np.ones((len(logits), 1)), labels, logits + start)
    return None if fitted is None else float(fitted[0]) + start


def multiclass_accuracy(labels: Array, logits: Array) -> float | None:
    """Share of records whose largest logit is their class; `logits` is ``(records, k)``."""
    return float(np.mean(np.argmax(logits, axis=1) == labels)) if len(labels) else None


def multiclass_log_loss(labels: Array, logits: Array) -> float | None:
    """Mean negative log-likelihood; `logits` is ``(records, k)``."""
    if not len(labels):
        return None
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels.astype(np.intp)]
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - chosen))


def rmse(labels: Array, predictions: Array) -> float | None:
    """Root of the mean squared error."""
    return math.sqrt(float(np.mean(np.square(labels - predictions)))) if len(labels) else None


def mae(labels: Array, predictions: Array) -> float | None:
    """Mean absolute error."""
    return float(np.mean(np.abs(labels - predictions))) if len(labels) else None


def r2(labels: Array, predictions: Array) -> float | None:
    """Share of the labels' variance that is explained; None where they do not vary."""
    if len(labels) < 2 or np.all(labels == labels[0]):
        return None
    variance = float(np.square(labels - labels.mean()).sum())
    return 1.0 - float(np.square(labels - predictions).sum()) / variance


def c_index(labels: Array, risks: Array) -> float | None:
    """Harrell's concordance: share of comparable pairs in which the earlier event has the higher risk.

    A pair is comparable when the earlier time is an event's; a record censored at the time of an
    event counts as later, two events at one time are no pair. Tied risks count one half.

    Args:
        labels: ``(records, 2)``: time and event.
        risks: ``(records,)``.
    """
    times, events = labels[:, 0], labels[:, 1] > 0.5
    ordered = np.sort(times)
    later = len(times) - np.searchsorted(ordered, times[events], side="right")
    censored = np.sort(times[~events])
    together = np.searchsorted(censored, times[events], side="right") - np.searchsorted(censored, times[events])
    pairs = int(later.sum() + together.sum())
    if not pairs:
        return None
    concordant, discordant = _pairs_below(times, events, risks), _pairs_below(times, events, -risks)
    return (concordant + 0.5 * (pairs - concordant - discordant)) / pairs


_METRICS: dict[str, dict[str, Metric]] = {
    "binary": {
        "auc": auc,
        "accuracy": accuracy,
        "brier": brier,
        "calibration_slope": calibration_slope,
        "calibration_intercept": calibration_intercept,
        "log_loss": log_loss,
    },
    "multiclass": {"accuracy": multiclass_accuracy, "log_loss": multiclass_log_loss},
    "number": {"rmse": rmse, "mae": mae, "r2": r2},
    "survival": {"c_index": c_index},
}

NAMES: dict[str, frozenset[str]] = {outcome: frozenset(metrics) for outcome, metrics in _METRICS.items()}
"""Names of the metrics of each outcome."""


def evaluate(outcome: str, labels: Array, predictions: Array) -> dict[str, float | None]:
    """All metrics of an outcome (see `clinical.contract.Label`), computed in float64.

    Raises:
        KeyError: There is no such outcome.
    """
    chosen = _METRICS[outcome]
    if not len(labels) or np.isnan(predictions).any():
        return dict.fromkeys(chosen)
    truth, guess = labels.astype(np.float64), predictions.astype(np.float64)
    with np.errstate(all="ignore"):  # an overflow ends as infinity, and so as None
        found = {name: metric(truth, guess) for name, metric in chosen.items()}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}


def bootstrap_interval(
    metric: Metric, labels: Array, predictions: Array, seed: int, *, resamples: int = 1000
) -> tuple[float, float] | None:
    """95 % percentile interval over resampled records.

    Resamples in which the metric is undefined are left out; None where that is most of them, or where
    the metric is undefined to begin with.
    """
    if metric(labels, predictions) is None:
        return None
    generator = np.random.default_rng(seed)  # noqa: TID251, the seed is passed
    values: list[float] = []
    for _ in range(resamples):
        drawn = generator.integers(0, len(labels), len(labels))
        value = metric(labels[drawn], predictions[drawn])
        if value is not None and math.isfinite(value):
            values.append(value)
    if 2 * len(values) < max(resamples, 1):
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _sigmoid(logits: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -logits))


def _logistic(inputs: Array, labels: Array, offset: Array) -> Array | None:
    # Maximum likelihood by Newton's method, a step halved until the likelihood does not fall.
    coefficients = np.zeros(inputs.shape[1])
    loss = log_loss(labels, offset)
    for _ in range(_ITERATIONS):
        probabilities = _sigmoid(offset + inputs @ coefficients)
        curvature = (inputs * (probabilities * (1 - probabilities))[:, None]).T @ inputs
        try:
            step = np.linalg.solve(curvature, inputs.T @ (labels - probabilities))
        except np.linalg.LinAlgError:
            return None
        if not np.isfinite(step).all():
            return None
        for _ in range(_ITERATIONS):
            after = log_loss(labels, offset + inputs @ (coefficients + step))
            if after is None or loss is None or after <= loss + 1e-12:
                break
            step = step / 2
        coefficients, loss = coefficients + step, after
        if np.abs(step).max() <= 1e-9 * (1 + np.abs(coefficients).max()):
            return coefficients
    return None


def _pairs_below(times: Array, events: npt.NDArray[np.bool_], risks: Array) -> int:
    # Pairs of an event and a later record with a lower risk: inversions, counted by merge sort with
    # all blocks of a level merged at once. Events before censored records of the same time; events of
    # one time by rising risk, so that no two of them are an inversion.
    order = np.lexsort((np.where(events, risks, 0.0), ~events, times))
    _, ranks = np.unique(risks[order], return_inverse=True)
    counts = events[order]
    places = np.arange(len(order))
    found, half = 0, 1
    while half < len(order):
        merged = np.lexsort((places // half % 2, ranks, places // (2 * half)))
        right = places[merged] // half % 2 == 1
        before = np.cumsum(right)
        # `before` counts right-hand records of all earlier blocks too: those are full, `half` each.
        lower = before - places[merged] // (2 * half) * half
        found += int(lower[~right & counts[merged]].sum())
        half *= 2
    return found
