"""How far a model may be trusted, from numbers that add up over sites, so that only their sum need be seen.

Binary: records of either outcome, probabilities and logits summed in cells of the logit: 1,000 from -10 to 10, parted
further at the thresholds and calibration bins; 200 in a subgroup. From the cells:

    auc          pairs of one cell count one half: off by at most `resolution` = sum(P_c N_c) / (2 P N)
    calibration  in bins of equal width, mean probability against the share of positives
    calibration_slope, calibration_intercept   fitted to the cells' mean logits; see `wardround.training.metrics`
    decision     net benefit TP / n - FP / n * t / (1 - t) of treating where p >= t, of treating all, of none
    accuracy     at p >= 1/2

Means (brier, log_loss, mae, rmse) come with sums of squares, r2 with the powers of its delta method. Survival: pairs
within each site only; the C-index is their ratio, its variance ``sum(pairs**2 * var) / sum(pairs)**2`` with each
site's bootstrap variance. `wardround.clinical.estimate` says which interval is which; all are 95 %.

A site with a NaN, or a number that cannot be added exactly (an infinite prediction of a number, a sum of 2**62), has
no defined records: it sends zeros, and `records` lacks its own. Logits are cut off at ±500.

What comes from fewer than `least_count` records is None, and what would give it away (`clinical.suppression`): so are
subgroups whose complement is. Hazard: a rate over enough records is shown even where few of them are positive.

References:
    Vickers, Elkin. Decision curve analysis. Medical Decision Making, 2006.
    Van Calster et al. A calibration hierarchy for risk models was defined. J Clin Epidemiol, 2016.
    Steyerberg et al. Assessing the performance of prediction models. Epidemiology, 2010.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import contract as data_contract
from wardround.clinical import curve, estimate, suppression
from wardround.clinical.contract import METRICS, DataContract
from wardround.clinical.estimate import Estimate
from wardround.errors import CodecError

__all__ = ["Appraisal", "check", "length", "results", "site_intervals", "site_sums"]

_Vector = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]
_Records = npt.NDArray[np.floating]
_Measure = Callable[[_Records, _Records], Mapping[str, float | None]]
_MAX_NUMBERS = 20_000
_LARGEST_LOGIT = 500.0
_LARGEST_SUM = 2.0**62
_LARGEST_TOTAL = 2**95


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
    if not all(low < high for low, high in pairwise(cuts)):
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
        CodecError: The sums are not as many as the appraisal's, not finite, or too large.
    """
    if len(sums) != length(appraisal, contract):
        raise CodecError(f"expected {length(appraisal, contract)} sums of the appraisal, found {len(sums)}")
    try:
        numbers = [Fraction(number) for number in sums]
    except (ValueError, OverflowError) as error:
        raise CodecError("the sums of the appraisal are not finite") from error
    if any(abs(number) > _LARGEST_TOTAL for number in numbers):
        raise CodecError("a sum of the appraisal is larger than sites can have sent")
    whole, part = (_size(appraisal, contract, fine=fine) for fine in (True, False))
    everyone, halves = numbers[:whole], [numbers[at : at + part] for at in range(whole, len(numbers), part)]
    named = {name: (halves[2 * at], halves[2 * at + 1]) for at, name in enumerate(appraisal.subgroups)}
    with np.errstate(all="ignore"):
        found = _shown(appraisal, contract, everyone, least_count, fine=True)
        if contract.label.outcome == "binary":
            found |= curve.curves(_cells(everyone)[:3], appraisal.thresholds, appraisal.bins, least_count)
        if contract.label.outcome == "multiclass":
            found["classes"] = _classes(contract, everyone, least_count)
        shown = _shown_subgroups(contract, everyone, named, least_count)
        found["subgroups"] = {
            name: {
                "with": _shown(appraisal, contract, having, least_count, fine=False),
                "without": _shown(appraisal, contract, lacking, least_count, fine=False),
            }
            if name in shown
            else None
            for name, (having, lacking) in named.items()
        }
    return found


def site_intervals(
    contract: DataContract, labels: _Records, predictions: _Records, seed: int, resamples: int, measure: _Measure
) -> dict[str, Estimate]:
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
    for _ in range(resamples if any(estimate.number(value) is not None for value in values.values()) else 0):
        places = generator.integers(0, len(labels), len(labels))
        for name, value in measure(labels[places], predictions[places]).items():
            if name in drawn and estimate.number(value) is not None:
                drawn[name].append(float(value or 0.0))
    found: dict[str, Estimate] = {}
    for name, seen in drawn.items():
        value = estimate.number(values.get(name))
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
    return curve.edges(appraisal.thresholds, appraisal.bins) if fine else curve.COARSE


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
            events = labels[:, 1] > 0.5
            pairs = estimate.concordance(labels[:, 0], events, guess, appraisal.resamples, seed)
            return np.array([len(events), events.sum(), *pairs])


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


def _shown(
    appraisal: Appraisal, contract: DataContract, numbers: Sequence[Fraction], least_count: int, *, fine: bool
) -> dict[str, object]:
    # Records and metrics of everyone, or of one half of a subgroup.
    count = _records(contract, numbers)
    enough = count >= max(least_count, 1)
    found: dict[str, object] = {"records": count if enough else None}
    metrics: dict[str, Estimate] = {}
    match contract.label.outcome:
        case "binary":
            cells = _cells(numbers)
            positives, negatives, risks, _ = cells.sum(axis=1)
            found["observed"] = estimate.number(positives / count) if enough else None
            found["predicted"] = estimate.number(risks / count) if enough else None
            if enough:
                metrics = _binary_metrics(cells, numbers[-4:], curve.place(_edges(appraisal, fine=fine), 0.5))
            if min(positives, negatives) < least_count:
                # What compares the outcomes would point at the few.
                metrics = {name: one for name, one in metrics.items() if name not in {"auc", "calibration_slope"}}
        case "multiclass" if enough:
            classes = len(contract.label.classes)
            metrics["accuracy"] = estimate.share(float(sum(numbers[classes : 2 * classes])), count)
            metrics["log_loss"] = estimate.mean(Fraction(count), *numbers[-2:])
        case "number" if enough:
            metrics = _number_metrics(appraisal.scale, numbers)
        case "survival":
            found |= {"events": None, "pairs": None}
            if enough and numbers[1] >= least_count:
                found |= {"events": int(numbers[1]), "pairs": int(numbers[2])}
                metrics["c_index"] = _ratio(*numbers[2:])
        case _:
            pass
    return found | {
        "metrics": {name: metrics.get(name, estimate.interval(None)) for name in METRICS[contract.label.outcome]}
    }


def _binary_metrics(cells: _Vector, means: Sequence[Fraction], middle: int) -> dict[str, Estimate]:
    positives, negatives, _, logits = cells
    count = float(positives.sum() + negatives.sum())
    return {
        "accuracy": estimate.share(float(positives[middle:].sum() + negatives[:middle].sum()), count),
        "auc": estimate.auc(positives, negatives),
        "brier": estimate.mean(Fraction(count), *means[:2]),
        "calibration_intercept": estimate.intercept(positives, negatives, logits),
        "calibration_slope": estimate.slope(positives, negatives, logits),
        "log_loss": estimate.mean(Fraction(count), *means[2:]),
    }


def _number_metrics(scale: float, numbers: Sequence[Fraction]) -> dict[str, Estimate]:
    count, absolute, squares, fourths = numbers[:4]
    squared = estimate.mean(count, squares, fourths)
    return {
        "mae": _each(estimate.mean(count, absolute, squares), lambda value: value * scale),
        "r2": estimate.explained([count, squares, *numbers[3:]]),
        "rmse": _each(squared, lambda value: math.sqrt(max(value, 0.0)) * scale),
    }


def _each(found: Estimate, change: Callable[[float], float]) -> Estimate:
    return {name: None if value is None else estimate.number(change(value)) for name, value in found.items()}


def _ratio(pairs: Fraction, won: Fraction, spread: Fraction) -> Estimate:
    if pairs <= 0:
        return estimate.interval(None)
    return estimate.interval(float(won / pairs), math.sqrt(max(float(spread), 0.0)) / float(pairs), least=0.0, most=1.0)


def _shown_subgroups(
    contract: DataContract,
    everyone: Sequence[Fraction],
    named: Mapping[str, tuple[Sequence[Fraction], Sequence[Fraction]]],
    least_count: int,
) -> set[str]:
    total, shown = _records(contract, everyone), set[str]()
    counts = {name: (_records(contract, pair[0]), _records(contract, pair[1])) for name, pair in named.items()}
    for column in contract.columns:
        # The categories of one column part the records, so that the others' counts give the last one's away.
        names = data_contract.column_features(column)
        asked = [name for name in names if name in counts]
        having = [counts[name][0] for name in asked]
        flags = suppression.hidden([*having, total - sum(having)], least_count) if asked else []
        for name, flag in zip(asked, flags, strict=False):
            rest = total - sum(counts[name])
            if not flag and counts[name][1] >= least_count and (rest == 0 or rest >= least_count):
                shown.add(name)
    return shown


def _classes(contract: DataContract, numbers: Sequence[Fraction], least_count: int) -> dict[str, object]:
    names = contract.label.classes
    counts, right = ([float(one) for one in numbers[at : at + len(names)]] for at in (0, len(names)))
    flags = suppression.hidden(counts, least_count)
    return {
        name: None if flag else {"records": int(count), "accuracy": estimate.share(hits, count)}
        for name, count, hits, flag in zip(names, counts, right, flags, strict=True)
    }
