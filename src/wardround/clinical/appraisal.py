"""How far a model may be trusted, from numbers that add up over sites, so that only their sum need be seen.

Binary: records of either outcome, probabilities and logits summed in cells of the logit: 200 from -10 to 10, parted
further at the thresholds and calibration bins; 50 in a subgroup. From the cells:

    auc        pairs of one cell count one half: off by at most `resolution` = sum(P_c N_c) / (2 P N); DeLong's interval
    calibration  mean probability against the share of positives, with Wilson's interval; slope and intercept
               fitted to the cells' mean logits, with Wald's interval
    decision   net benefit TP / n - FP / n * t / (1 - t) of treating where p >= t, of treating all, of none
    accuracy   at p >= 1/2, with Wilson's interval

Means (brier, log_loss, mae, rmse) have sums of squares and normal intervals, r2 the delta method's. Survival: pairs
within each site only; the C-index is their ratio, its variance ``sum(pairs**2 * var) / sum(pairs)**2`` with each site's
bootstrap variance. All intervals are 95 %, and take records as independent and the sites as given.

A site with a NaN, or a number that cannot be added exactly (an infinite prediction of a number, a fourth power of
2**62), has no defined records: it sends zeros, and `records` lacks its own. Logits are cut off at ±500.

What comes from fewer than `least_count` records is None, and so is the next smallest where the whole minus the rest
would give it away; so are subgroups whose complement is. Curves show cuts that differ in as many records, or in none.
Hazard: a rate over enough records is shown even where few of them are positive; nothing here is differential privacy.

References:
    DeLong et al. Comparing the areas under two or more correlated ROC curves. Biometrics, 1988.
    Wilson. Probable inference, the law of succession, and statistical inference. JASA, 1927.
    Vickers, Elkin. Decision curve analysis. Medical Decision Making, 2006.
    Van Calster et al. A calibration hierarchy for risk models was defined. J Clin Epidemiol, 2016.
    Harrell et al. Evaluating the yield of medical tests. JAMA, 1982.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import contract as data_contract
from wardround.clinical.contract import METRICS, DataContract
from wardround.errors import CodecError

__all__ = ["Appraisal", "check", "length", "results", "site_intervals", "site_sums"]

_Vector = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]
_Records = npt.NDArray[np.floating]
_Interval = dict[str, float | None]
_Measure = Callable[[_Records, _Records], Mapping[str, float | None]]
_Z = 1.959963984540054
_MAX_NUMBERS = 20_000
_LARGEST_LOGIT = 500.0
_LARGEST_SUM = 2.0**62
_ITERATIONS = 50
_BLOCK = 2_000_000
"""Weights of resampled records held at a time."""


class Appraisal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is asked about the held-out records; part of the plan, and public.

    Each of `subgroups` is an indicator among the contract's features and parts the records into those with and
    those without. `thresholds` are the probabilities of the decision curve. `bins` are the calibration curve's, of
    equal width. `resamples` is of the bootstrap at a site. `scale` is what the errors and labels of a number outcome
    are divided by before they are added, in the label's unit: about their spread.
    """

    subgroups: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    bins: int = 10
    resamples: int = 200
    scale: float = 1.0


def check(appraisal: Appraisal, contract: DataContract) -> None:
    """Refuse an appraisal that the contract's columns cannot give.

    Raises:
        CodecError: Names the field.
    """
    kinds = zip(data_contract.feature_names(contract), data_contract.numeric_features(contract), strict=True)
    indicators = {name for name, numeric in kinds if not numeric}
    if len(set(appraisal.subgroups)) != len(appraisal.subgroups) or not set(appraisal.subgroups) <= indicators:
        raise CodecError("subgroups: boolean columns or name=value of category columns of the contract, each once")
    cuts = (0.0, *appraisal.thresholds, 1.0)
    if not all(low < high for low, high in zip(cuts, cuts[1:], strict=False)):
        raise CodecError("thresholds: probabilities above 0 and below 1, rising")
    if not 2 <= appraisal.bins <= 100:
        raise CodecError("bins: 2 to 100")
    if not 20 <= appraisal.resamples <= 10_000:
        raise CodecError("resamples: 20 to 10,000")
    if not (0.0 < appraisal.scale < math.inf):
        raise CodecError("scale: positive and finite")
    if length(appraisal, contract) > _MAX_NUMBERS:
        raise CodecError(f"subgroups, thresholds: the appraisal has more than {_MAX_NUMBERS:,} numbers")


def length(appraisal: Appraisal, contract: DataContract) -> int:
    """How many numbers a site sends."""
    whole, part = (_size(appraisal, contract, fine=fine) for fine in (True, False))
    return whole + 2 * len(appraisal.subgroups) * part


def site_sums(
    appraisal: Appraisal,
    contract: DataContract,
    labels: _Records,
    predictions: _Records,
    features: _Records,
    seed: int,
) -> _Vector:
    """One site's numbers over its held-out records, to be added over sites.

    Args:
        appraisal: What is asked.
        contract: The study's.
        labels: ``(records,)``, or ``(records, 2)`` for survival: time and event.
        predictions: What the model puts out: ``(records,)`` or ``(records, k)``; see `wardround.training.metrics`.
        features: ``(records, width)``; a NaN in a subgroup's column puts the record in neither half.
        seed: Of the bootstrap; only survival draws.

    Returns:
        float64, shape=(length(appraisal, contract),), finite.

    Raises:
        ValueError: The arrays differ in their records, or the features are not the contract's.
    """
    if not len(labels) == len(predictions) == len(features) or features.shape[1:] != (data_contract.width(contract),):
        raise ValueError("labels, predictions and features need one row for each record, and the contract's columns")
    truth, guess = np.asarray(labels, np.float64), np.asarray(predictions, np.float64)
    nothing = np.zeros(length(appraisal, contract))
    if not len(truth) or not np.isfinite(truth).all() or np.isnan(guess).any():
        return nothing
    names = data_contract.feature_names(contract)
    columns = [features[:, names.index(name)] for name in appraisal.subgroups]
    halves = [half for column in columns for half in (column == 1, column == 0)]
    with np.errstate(all="ignore"):  # what overflows is no defined record, below
        parts = [_sums(appraisal, contract, truth, guess, seed, fine=True)]
        parts += [_sums(appraisal, contract, truth[half], guess[half], seed, fine=False) for half in halves]
    found = np.concatenate(parts)
    return found if (np.abs(found) < _LARGEST_SUM).all() else nothing


def results(
    appraisal: Appraisal, contract: DataContract, sums: Sequence[Fraction] | _Vector, *, least_count: int
) -> dict[str, object]:
    """What the numbers added over all sites say; JSON-able, with None for what is undefined or from too few records.

    Returns:
        `records`; `metrics`: for each name `value`, `low` and `high`, for the auc its `resolution` too. For a binary
        outcome `observed`, `predicted`, `calibration`, `decision` and `roc`; for multiclass `classes`; for survival
        `events` and `pairs`. `subgroups`: for each name None, or `with` and `without`, the same on these records.

    Raises:
        CodecError: The sums are not as many as the appraisal's, or not finite.
    """
    if len(sums) != length(appraisal, contract):
        raise CodecError(f"expected {length(appraisal, contract)} sums of the appraisal, found {len(sums)}")
    try:
        numbers = [Fraction(number) for number in sums]
    except (ValueError, OverflowError) as error:
        raise CodecError("the sums of the appraisal are not finite") from error
    whole, part = (_size(appraisal, contract, fine=fine) for fine in (True, False))
    halves = [numbers[start : start + part] for start in range(whole, len(numbers), part)]
    pairs = dict(zip(appraisal.subgroups, zip(halves[::2], halves[1::2], strict=True), strict=True))
    with np.errstate(all="ignore"):
        found = _shown(appraisal, contract, numbers[:whole], least_count)
        total = _records(contract, numbers[:whole])
        counts = {name: [_records(contract, half) for half in pair] for name, pair in pairs.items()}
        open_ones = _open_subgroups(contract, counts, total, least_count)
        subgroups = {
            name: {side: _shown(appraisal, contract, half, least_count) for side, half in named.items()}
            if name in open_ones
            else None
            for name, pair in pairs.items()
            for named in [dict(zip(("with", "without"), pair, strict=True))]
        }
        if contract.label.outcome == "binary":
            found |= _curves(appraisal, _cells(numbers[:whole]), least_count)
        if contract.label.outcome == "multiclass":
            found["classes"] = _classes(contract, numbers[:whole], least_count)
    return found | {"subgroups": subgroups}


def site_intervals(
    contract: DataContract, labels: _Records, predictions: _Records, seed: int, resamples: int, measure: _Measure
) -> dict[str, _Interval]:
    """Each metric at one site, with the bootstrap's 95 % percentile interval.

    Args:
        contract: Its outcome says which metrics.
        labels: As in `site_sums`.
        predictions: As in `site_sums`.
        seed: Of the bootstrap.
        resamples: How often records are drawn anew.
        measure: From labels and predictions to the metrics by name; None where one is undefined.

    Returns:
        For each metric `value`, `low` and `high`; the bounds are None where most resamples are undefined.
    """
    values = dict(measure(labels, predictions))
    drawn: dict[str, list[float]] = {name: [] for name in METRICS[contract.label.outcome]}
    generator = np.random.default_rng(seed)  # noqa: TID251, the seed is passed
    for _ in range(resamples if any(_number(value) is not None for value in values.values()) else 0):
        places = generator.integers(0, len(labels), len(labels))
        for name, value in measure(labels[places], predictions[places]).items():
            if name in drawn and _number(value) is not None:
                drawn[name].append(float(value or 0.0))
    found: dict[str, _Interval] = {}
    for name, seen in drawn.items():
        value = _number(values.get(name))
        enough = value is not None and seen and 2 * len(seen) >= resamples
        low, high = (float(bound) for bound in np.percentile(seen, [2.5, 97.5])) if enough else (None, None)
        found[name] = {"value": value, "low": low, "high": high}
    return found


def _size(appraisal: Appraisal, contract: DataContract, *, fine: bool) -> int:
    match contract.label.outcome:
        case "binary":
            return 4 * (len(_edges(appraisal, fine=fine)) + 1) + 4
        case "multiclass":
            return 2 * len(contract.label.classes) + 2
        case "number":
            return 10
        case "survival":
            return 5


def _edges(appraisal: Appraisal, *, fine: bool) -> _Vector:
    if not fine:
        return (np.arange(1, 50) - 25) * 0.4
    # Equal edges stay: the cell between them is empty, and the length hangs on nothing but the appraisal.
    cuts = [_logit(cut) for cut in (*appraisal.thresholds, *_bin_edges(appraisal))]
    return np.sort(np.concatenate([(np.arange(1, 200) - 100) / 10, cuts]))


def _bin_edges(appraisal: Appraisal) -> list[float]:
    return [place / appraisal.bins for place in range(1, appraisal.bins)]


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _sums(
    appraisal: Appraisal, contract: DataContract, labels: _Vector, guess: _Vector, seed: int, *, fine: bool
) -> _Vector:
    match contract.label.outcome:
        case "binary":
            return _binary_sums(_edges(appraisal, fine=fine), labels > 0.5, guess)
        case "multiclass":
            return _multiclass_sums(len(contract.label.classes), labels.astype(np.intp), guess)
        case "number":
            truth = labels / appraisal.scale
            error = guess / appraisal.scale - truth
            powers = [np.abs(error), error**2, error**4, truth, truth**2, truth**3, truth**4]
            powers += [error**2 * truth, error**2 * truth**2]
            return np.array([len(truth), *(power.sum() for power in powers)])
        case "survival":
            return _survival_sums(labels[:, 0], labels[:, 1] > 0.5, guess, appraisal.resamples, seed)


def _binary_sums(edges: _Vector, positive: _Mask, guess: _Vector) -> _Vector:
    logits = np.clip(guess, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    risks = np.exp(-np.logaddexp(0.0, -logits))
    cells = np.searchsorted(edges, logits, side="right")
    rows = [np.bincount(cells, row, len(edges) + 1) for row in (positive, ~positive, risks, logits)]
    brier = (risks - positive) ** 2
    loss = np.logaddexp(0.0, np.where(positive, -logits, logits))
    return np.concatenate([*rows, [brier.sum(), (brier**2).sum(), loss.sum(), (loss**2).sum()]])


def _multiclass_sums(classes: int, labels: npt.NDArray[np.intp], guess: _Vector) -> _Vector:
    right = labels[np.argmax(guess, axis=1) == labels]
    logits = np.clip(guess, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    loss = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(labels)), labels]
    counts = [np.bincount(places, minlength=classes) for places in (labels, right)]
    return np.concatenate([*counts, [loss.sum(), (loss**2).sum()]])


def _survival_sums(times: _Vector, events: _Mask, risks: _Vector, resamples: int, seed: int) -> _Vector:
    count = len(times)
    if not count:
        return np.zeros(5)
    pairs, won = (float(one[0]) for one in _pairs(times, events, risks, np.ones((1, count))))
    generator = np.random.default_rng(seed)  # noqa: TID251, the seed is passed
    ratios, at_once = [], max(1, _BLOCK // count)
    for start in range(0, resamples if pairs else 0, at_once):
        weights = generator.multinomial(count, np.full(count, 1 / count), min(at_once, resamples - start))
        drawn, drawn_won = _pairs(times, events, risks, weights.astype(np.float64))
        ratios.extend((drawn_won[drawn > 0] / drawn[drawn > 0]).tolist())
    # Where most resamples have no pair: the largest variance that a ratio between 0 and 1 can have.
    variance = float(np.var(ratios, ddof=1)) if 2 * len(ratios) >= resamples else 0.25
    return np.array([count, events.sum(), pairs, won, pairs**2 * variance])


def _pairs(times: _Vector, events: _Mask, risks: _Vector, weights: _Vector) -> tuple[_Vector, _Vector]:
    # Comparable pairs, and those won with ties as half, for each row of `weights`: how often a record was drawn.
    order, happened = np.lexsort((~events, times)), np.sort(times[events])
    seen = np.searchsorted(happened, times[events], "right") - np.searchsorted(happened, times[events])
    after = np.searchsorted(times[order], times[events]) + seen
    running = _running(weights[:, order])
    pairs = (weights[:, events] * (running[:, -1:] - running[:, after])).sum(axis=1)
    lower, higher = (_pairs_below(times, events, signed, weights) for signed in (risks, -risks))
    return pairs, lower + (pairs - lower - higher) / 2


def _pairs_below(times: _Vector, events: _Mask, risks: _Vector, weights: _Vector) -> _Vector:
    # Weight of pairs of an event and a later record of lower risk, as `wardround.training.metrics` counts them.
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


def _cells(numbers: Sequence[Fraction]) -> _Vector:
    cells = np.array([float(number) for number in numbers[:-4]]).reshape(4, -1)
    cells[:3] = np.maximum(cells[:3], 0.0)
    return cells


def _records(contract: DataContract, numbers: Sequence[Fraction]) -> int:
    match contract.label.outcome:
        case "binary":
            return int(_cells(numbers)[:2].sum())
        case "multiclass":
            return int(sum(numbers[: len(contract.label.classes)]))
        case _:
            return int(numbers[0])
