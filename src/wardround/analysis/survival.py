"""Survival curves and the log-rank test from counts on a public grid of times.

With edges e1 < e2 < ... < em a site counts, per group, events and censored in [0, e1], (e1, e2], ..., (.., em],
and the records beyond em, which are censored at em. From the sums over sites the hub computes as if every time
had been rounded up to the grid, events before censored:

    S(t) = product over grid times <= t of (1 - d / n),    n at risk, d events

Exact at the grid's times where every event lies on it, or nobody is censored between two; otherwise a censored
record counts as at risk to its interval's end. An event is dated by its interval's end, so no curve falls too early,
and a median is the end of the interval in which it lies. Times are compared as float32, as labels are.

Disclosure control comes before any computation. A curve ends where fewer than the least count are at
risk. Events fewer than that wait for those of the following intervals and are dated by the last of these;
where the curve ends before they are enough, it ends before the first of them. The log-rank statistic
takes all counts: it is one number, and is shown only when both groups and the events are enough.

A group too small to be shown hides the other. Hazard: another analysis, of all records or of other groups, can
give it away by a difference; ask for one grouping. How many were censored between two shown times is not
controlled; the numbers at risk tell it.

References:
    Kaplan, Meier. Nonparametric Estimation from Incomplete Observations. JASA, 1958. Greenwood. The Natural
    Duration of Cancer. 1926. Kalbfleisch, Prentice. The Statistical Analysis of Failure Time Data. 2002 (log-log
    interval). Brookmeyer, Crowley. A Confidence Interval for the Median Survival Time. Biometrics, 1982.
    Mantel. Evaluation of Survival Data. Cancer Chemotherapy Reports, 1966.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wardround.analysis import newton
from wardround.analysis.terms import Curve, Fit, KaplanMeier, usable_records
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.errors import CodecError

__all__ = ["result", "site_sums", "start", "step"]

_Vector = npt.NDArray[np.float64]
_HALF_TOLERANCE = 1e-9
_LARGEST_COUNT = 2**53
_Counts = tuple[list[int], list[int], list[int]]
"""Per interval: at risk at its start, events, censored."""


def start() -> Fit:
    """The state before the one round."""
    return Fit()


def site_sums(analysis: KaplanMeier, table: StudyTable, contract: DataContract) -> _Vector:
    """One site's counts: per group events, then censored of each interval, then the records beyond the last edge."""
    values, labels = usable_records((analysis.group,) if analysis.group else (), table, contract)
    values, labels = values[labels[:, 0] >= 0], labels[labels[:, 0] >= 0]
    count = len(analysis.edges)
    # An interval holds its upper edge.
    place = np.searchsorted(np.array(analysis.edges, np.float32), labels[:, 0], side="left")
    is_event = labels[:, 1] > 0
    members = [values[:, 0] == 0, values[:, 0] != 0] if analysis.group else [np.ones(len(labels), np.bool_)]
    parts = []
    for group in members:
        parts.append(np.bincount(place[group & is_event], minlength=count + 1)[:count])
        parts.append(np.bincount(place[group & ~is_event], minlength=count + 1)[:count])
        parts.append(np.array([np.sum(place[group] == count)]))
    return np.concatenate(parts).astype(np.float64)


def step(analysis: KaplanMeier, fit: Fit, sums: Sequence[Fraction], *, least_count: int) -> Fit:
    """The final state, from the sums over all sites."""
    size = 2 * len(analysis.edges) + 1
    groups = [_counts(sums[place : place + size]) for place in range(0, len(sums), size)]
    if any(number < 0 or number > _LARGEST_COUNT for number in sums):
        raise CodecError("a number of records is negative, or larger than all there are")
    curves = tuple(_controlled(analysis, counts, least_count) for counts in groups)
    if any(not curve.records and risk[0] for curve, (risk, _, _) in zip(curves, groups, strict=True)):
        curves = (Curve(),) * len(curves)  # the whole less the other group would give it away
    if not any(curve.records for curve in curves):
        return Fit(iteration=fit.iteration + 1, is_done=True, status="too few records")
    shown = [sum(events) for (_, events, _), curve in zip(groups, curves, strict=True) if curve.records]
    return Fit(
        iteration=fit.iteration + 1,
        is_done=True,
        status="done" if any(shown) else "no events",
        curves=curves,
        log_rank=_log_rank(groups, least_count) if len(shown) == 2 else None,
    )


def result(analysis: KaplanMeier, fit: Fit) -> dict[str, object]:
    """What the counts say: curves with intervals, medians, restricted means up to a common time, log-rank test.

    Each point is ``[time, at risk, events, survival, lower, upper]`` by name; a limit is None where Greenwood's
    variance is undefined, and a median where the curve does not reach one half.
    """
    names = [f"{analysis.group}: {value}" for value in ("no", "yes")] if analysis.group else ["all"]
    curves = fit.curves or (Curve(),) * len(names)
    horizon = min((curve.until for curve in curves if curve.records), default=None)
    statistic = fit.log_rank
    return {
        "kind": "kaplan-meier",
        "status": fit.status,
        "detail": newton.explain(fit),
        "group": analysis.group or None,
        "curves": [_curve_result(name, curve, horizon) for name, curve in zip(names, curves, strict=True)],
        "log_rank_test": {
            "statistic": statistic,
            "degrees": 1,
            "p": None if statistic is None else newton.chi_square_tail(statistic, 1),
        },
    }


def _counts(sums: Sequence[Fraction]) -> _Counts:
    numbers = [int(value) for value in sums]
    half = len(numbers) // 2
    events, censored = numbers[:half], numbers[half:-1]
    total = sum(numbers)
    leaving = [one + other for one, other in zip(events, censored, strict=True)]
    at_risk = [total - gone for gone in itertools.accumulate(leaving[:-1], initial=0)]
    return at_risk, events, censored


def _controlled(analysis: KaplanMeier, counts: _Counts, least_count: int) -> Curve:
    at_risk, events, _ = counts
    starts = (0.0, *analysis.edges)
    least = max(least_count, 1)
    if at_risk[0] < least:
        return Curve()
    rows: list[tuple[float, int, int]] = []
    first: int | None = None
    until = len(events)
    waiting = 0
    for place in range(len(events)):
        if at_risk[place] < least:
            until = place
            break
        if events[place]:
            first = place if first is None else first
            waiting += events[place]
        if first is not None and waiting >= least:
            # Those at risk are counted at the first of the merged intervals: none of the waiting events has left.
            rows.append((analysis.edges[place], at_risk[first], waiting))
            first, waiting = None, 0
    until = until if first is None else first
    times, exposed, seen = zip(*rows, strict=True) if rows else ((), (), ())
    return Curve(records=at_risk[0], times=times, at_risk=exposed, events=seen, until=starts[until])


def _log_rank(groups: Sequence[_Counts], least_count: int) -> float | None:
    (risk_0, events_0, _), (risk_1, events_1, _) = groups
    if min(risk_0[0], risk_1[0]) < least_count or sum(events_0) + sum(events_1) < least_count:
        return None
    difference, variance = 0.0, 0.0
    for n_0, d_0, n_1, d_1 in zip(risk_0, events_0, risk_1, events_1, strict=True):
        n, d = n_0 + n_1, d_0 + d_1
        if d == 0:
            continue
        difference += d_1 - d * n_1 / n
        if n > 1:
            variance += d * (n - d) / (n - 1) * (n_1 / n) * (n_0 / n)
    return difference**2 / variance if variance > 0 else None


def _curve_result(name: str, curve: Curve, horizon: float | None) -> dict[str, object]:
    points = _points(curve)
    is_known = curve.records > 0
    mean = _restricted_mean(curve, points, horizon) if is_known and horizon is not None else (None, None)
    median = _first_half(points, "survival")
    return {
        "name": name,
        "records": curve.records or None,
        "until": curve.until if is_known else None,
        "points": points,
        "median": median,
        "median_lower": _first_half(points, "lower"),
        "median_upper": _first_half(points, "upper"),
        "restricted_mean": mean[0],
        "restricted_mean_error": mean[1],
        "restricted_mean_until": horizon if is_known else None,
    }


def _points(curve: Curve) -> list[dict[str, float | None]]:
    survival, hazard_variance = 1.0, 0.0
    points: list[dict[str, float | None]] = []
    for time, n, d in zip(curve.times, curve.at_risk, curve.events, strict=True):
        survival *= 1.0 - d / n
        lower: float | None = None
        upper: float | None = None
        error: float | None = None
        if d < n:
            hazard_variance += d / (n * (n - d))
            spread = newton.Z_95 * math.sqrt(hazard_variance) / abs(math.log(survival))
            lower, upper = survival ** math.exp(spread), survival ** math.exp(-spread)
            error = survival * math.sqrt(hazard_variance)
        point = {"time": time, "at_risk": n, "events": d, "survival": survival, "standard_error": error}
        points.append(point | {"lower": lower, "upper": upper})
    return points


def _first_half(points: Sequence[dict[str, float | None]], key: str) -> float | None:
    for point in points:
        value = point[key]
        # A product of shares that is one half rarely is so to the last bit.
        if value is not None and value <= 0.5 + _HALF_TOLERANCE:
            return point["time"]
    return None


def _restricted_mean(
    curve: Curve, points: Sequence[dict[str, float | None]], horizon: float
) -> tuple[float | None, float | None]:
    # The area under the steps up to the horizon, and its Greenwood variance from the areas after each step.
    times = [time for time in curve.times if time < horizon]
    heights = [1.0, *(float(point["survival"] or 0.0) for point in points[: len(times)])]
    bounds = [0.0, *times, horizon]
    areas = [height * (end - begin) for height, begin, end in zip(heights, bounds, bounds[1:], strict=False)]
    variance = 0.0
    for place, (n, d) in enumerate(zip(curve.at_risk[: len(times)], curve.events[: len(times)], strict=True)):
        if d < n:
            variance += sum(areas[place + 1 :]) ** 2 * d / (n * (n - d))
    return sum(areas), math.sqrt(variance)
