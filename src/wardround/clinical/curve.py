"""Calibration, decision and ROC curves of a binary outcome, from counts in cells of the logit.

The cells nest in what the curves cut: 1,000 of width 0.02 from -10 to 10, the outer ones open, parted further at the
thresholds of the decision curve and at the edges of the calibration bins. A record lies in cell c when c edges are at
or below its logit, so that a threshold is met from the cell after its edge on.

A cell of the calibration curve is hidden by `wardround.clinical.suppression.hidden`. A threshold, and then a point of
the ROC curve, is shown where it parts off enough records, or none, from every cut shown before, in all three curves.

References:
    Vickers, Elkin. Decision curve analysis. Medical Decision Making, 2006.
    Van Calster et al. A calibration hierarchy for risk models was defined. J Clin Epidemiol, 2016.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from wardround.clinical import estimate, suppression

__all__ = ["COARSE", "curves", "edges", "place"]

_Vector = npt.NDArray[np.float64]

COARSE: _Vector = (np.arange(1, 200) - 100) * np.float64(0.1)
"""Edges of the 200 cells of a subgroup."""


def edges(thresholds: Sequence[float], bins: int) -> _Vector:
    """Edges of the cells of all records; shape=(999 + len(thresholds) + bins - 1,)."""
    # Equal edges stay: the cell between them is empty, and the length hangs on nothing but the numbers of cuts.
    cuts = [_logit(cut) for cut in (*thresholds, *_bin_edges(bins))]
    return np.sort(np.concatenate([(np.arange(1, 1000) - 500) / 50, cuts]))


def place(cells_edges: _Vector, probability: float) -> int:
    """The first cell of the records of at least this probability, which is one of the edges."""
    return int(np.searchsorted(cells_edges, _logit(probability))) + 1


def curves(cells: _Vector, thresholds: Sequence[float], bins: int, least_count: int) -> dict[str, object]:
    """`calibration`, `decision` and `roc`, JSON-able.

    Args:
        cells: Positives, negatives and probabilities summed in each cell; shape=(3, cells).
        thresholds: Of the decision curve.
        bins: Of the calibration curve.
        least_count: The fewest records that are shown.
    """
    (positives, negatives, _), at = cells, edges(thresholds, bins)
    many, others = float(positives.sum()), float(negatives.sum())
    if many + others < max(least_count, 1):
        return {"calibration": [None] * bins, "decision": [], "roc": []}
    starts = [0, *(place(at, cut) for cut in _bin_edges(bins)), cells.shape[1]]
    parts = [cells[:, low:high].sum(axis=1) for low, high in pairwise(starts)]
    flags = suppression.hidden([float(part[0] + part[1]) for part in parts], least_count)
    # Records of either outcome from each cell on.
    true, false = (np.append(np.cumsum(one[::-1])[::-1], 0.0) for one in (positives, negatives))
    above = true + false
    taken = {0.0, many + others}
    for flag, cuts in zip(flags, pairwise(starts), strict=True):
        taken |= set() if flag else set(above[list(cuts)].tolist())
    places = [place(at, threshold) for threshold in thresholds]
    seen = suppression.shown_cuts(above[places].tolist(), taken, least_count)
    taken |= {float(above[cut]) for cut, shown in zip(places, seen, strict=True) if shown}
    seen_points = suppression.shown_cuts(above.tolist(), taken, least_count)
    roc = {(float(false[cut] / others), float(true[cut] / many)) for cut, shown in enumerate(seen_points) if shown}
    return {
        "calibration": [None if flag else _bin(*part.tolist()) for part, flag in zip(parts, flags, strict=True)],
        "decision": [
            {
                "threshold": threshold,
                "model": _benefit(true[cut], false[cut], many + others, threshold) if shown else None,
                "all": _benefit(many, others, many + others, threshold),
                "none": 0.0,
            }
            for threshold, cut, shown in zip(thresholds, places, seen, strict=True)
        ],
        "roc": [list(point) for point in sorted(roc)] if min(many, others) >= max(least_count, 1) else [],
    }


def _bin_edges(bins: int) -> list[float]:
    return [number / bins for number in range(1, bins)]


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _benefit(true: float, false: float, count: float, threshold: float) -> float | None:
    return estimate.number((true - false * threshold / (1 - threshold)) / count)


def _bin(positives: float, negatives: float, risks: float) -> dict[str, float | int | None] | None:
    count = positives + negatives
    if count <= 0:
        return None
    rate = estimate.share(positives, count)
    shown = {"predicted": estimate.number(risks / count), "observed": rate["value"]}
    return {"n": int(count)} | shown | {"low": rate["low"], "high": rate["high"]}
