"""Statistics with noise: what a patient adds to a round's sums is bounded, and the sums leave a site as noisy integers.

    statistics    moments of each number, for the standardization, then the plan's summaries
    analysis      counts of quantiles and of Kaplan-Meier curves

Every part of a round is one of these, so a patient with one record moves it by at most 1 in each of so many numbers:

    moments       3 a column     1, u and u**2 with u in [-1, 1]: the place within the column's plausible range
    counts        1              one category
    histogram     1              one bin
    quantiles     1 a bracket    below, in a bin of, or above it
    Kaplan-Meier  1              an event or a censoring in one interval, or neither

A patient with more records adds their mean. So with m such numbers the first norm is at most m and the second
``sqrt(m)``: this is what the noise covers, and nothing is clipped. Sites send whole numbers of a grid
(`wardround.privacy.noising`), which add up exactly, and the hub makes sums of them. From then on it is
post-processing: counts are rounded and cut at 0, which makes small counts a little too large on average.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from wardround import analysis
from wardround.aggregation import standardization
from wardround.analysis import KaplanMeier, Quantiles, State
from wardround.clinical import contract as data_contract
from wardround.clinical import summaries
from wardround.clinical.contract import Column, DataContract
from wardround.clinical.summaries import Moments
from wardround.clinical.table import StudyTable
from wardround.privacy.noising import Grid, NoisySum
from wardround.protocol import private
from wardround.protocol.messages import Kind
from wardround.protocol.plan import Plan
from wardround.protocol.secure import statistics_values

__all__ = ["decoded", "is_private", "site_sums"]

_Vector = npt.NDArray[np.float64]
_PIECE = 128
_LEAST_VARIANCE = Fraction(1, 10_000)
"""Of a place within the plausible range: what noise may leave of a variance."""


def is_private(plan: Plan, kind: str) -> bool:
    """Whether a round's sums are noisy integers."""
    return plan.privacy is not None and kind in {"statistics", "analysis"}


def site_sums(plan: Plan, kind: Kind, table: StudyTable, known: Sequence[State], seed: bytes) -> _Vector:
    """One site's noisy sums: float64, whole numbers of a grid that `decoded` knows.

    Args:
        plan: With privacy and a noise for statistics.
        kind: "statistics" or "analysis".
        table: The site's records.
        known: What the analyses have come to.
        seed: 32 bytes of the node's own, of this round alone.
    """
    numbers = _numbers(plan, kind, known)
    grid = _grid(plan, kind)
    summed, piece, held = NoisySum(grid), np.zeros(grid.columns), 0
    for rows in _patients(table.patients):
        piece += numbers(_of(table, rows)) / len(rows)
        held += 1
        if held == _PIECE:
            summed.add(piece)
            piece[:], held = 0.0, 0
    summed.add(piece)
    noisy: _Vector = np.rint(summed.release(seed) * grid.scale)
    return noisy


def decoded(plan: Plan, kind: str, totals: Sequence[Fraction]) -> list[Fraction]:
    """The sums that the noisy integers of all sites stand for, in the contract's units."""
    grid = _grid(plan, kind)
    values = [total / Fraction(grid.scale) for total in totals]
    if kind == "analysis":
        return [_count(value) for value in values]
    width, found = data_contract.width(plan.data), []
    if plan.data.scaling == "federated":
        columns = _feature_columns(plan.data)
        moments = [_unscaled(columns[place], *values[place : 3 * width : width]) for place in range(width)]
        found += [moment[part] for part in range(3) for moment in moments]
    else:
        found += [Fraction(0)] * (3 * width)
    place = 3 * width
    named = {column.name: column for column in plan.data.columns}
    for summary in plan.summaries:
        part = values[place : place + summaries.length(summary, plan.data)]
        place += len(part)
        if isinstance(summary, Moments):
            for index, name in enumerate(summary.columns):
                found += _unscaled(named[name], *part[3 * index : 3 * index + 3])
        else:
            found += [_count(value) for value in part]
    return found


def _grid(plan: Plan, kind: str) -> Grid:
    """Noise and whole numbers of a round's sums at one site."""
    privacy = plan.privacy
    if privacy is None:
        raise ValueError("a plan without privacy has no noisy sums")
    parts = _parts(plan, kind)
    is_laplace = privacy.distribution == "laplace"
    noise = privacy.statistics_noise
    if privacy.noise == "shared":
        noise /= math.sqrt(private.honest_share(plan))
    # A hundredth for what rounding may add to bounds that are exact.
    clip = 1.01 * (parts if is_laplace else math.sqrt(parts))
    return Grid(clip, noise, _length(plan, kind), distribution=privacy.distribution)


def _length(plan: Plan, kind: str) -> int:
    if kind == "analysis":
        return analysis.length(plan.analyses, plan.data)
    asked = sum(summaries.length(summary, plan.data) for summary in plan.summaries)
    return 3 * data_contract.width(plan.data) + asked


def _parts(plan: Plan, kind: str) -> int:
    """In how many numbers a patient counts, each by at most 1."""
    if kind == "analysis":
        found = 0
        for one in plan.analyses:
            match one:
                case Quantiles():
                    found += len(one.columns) * len(one.probabilities)
                case KaplanMeier():
                    found += 1
                case _:
                    raise ValueError("such an analysis cannot be private")
        return found
    moments = 3 * sum(data_contract.numeric_features(plan.data)) if plan.data.scaling == "federated" else 0
    return moments + sum(3 * len(one.columns) if isinstance(one, Moments) else 1 for one in plan.summaries)


def _numbers(plan: Plan, kind: Kind, known: Sequence[State]) -> Callable[[StudyTable], _Vector]:
    """What some records add up to, in the units in which each counts by at most 1."""
    contract = plan.data
    if kind == "analysis":
        return lambda records: analysis.site_sums(plan.analyses, known, records, contract)
    numeric = data_contract.numeric_features(contract)
    wanted = numeric if contract.scaling == "federated" else (False,) * len(numeric)
    centre, half = _ranges(contract)

    def numbers(records: StudyTable) -> _Vector:
        features = np.clip((records.features - centre) / half, -1, 1).astype(np.float32)
        scaled = StudyTable(features, records.labels, records.held_out, records.report)
        parts = [statistics_values(standardization.site_sums(scaled.features[~scaled.held_out], wanted))]
        for summary in plan.summaries:
            source = scaled if isinstance(summary, Moments) else records
            parts.append(summaries.site_sums([summary], source, contract))
        return np.concatenate(parts)

    return numbers


def _ranges(contract: DataContract) -> tuple[_Vector, _Vector]:
    pairs = [_range(column) for column in _feature_columns(contract)]
    centre, half = np.array(pairs).T
    return centre, half


def _range(column: Column | None) -> tuple[float, float]:
    """Middle and half of a number column's plausible range; 0 and 1 of an indicator."""
    if column is None or column.minimum is None or column.maximum is None:
        return 0.0, 1.0
    return (column.minimum + column.maximum) / 2, (column.maximum - column.minimum) / 2


def _feature_columns(contract: DataContract) -> list[Column | None]:
    """For each feature the number column that it is, or None."""
    return [
        column if column.kind == "number" and name == column.name else None
        for column in contract.columns
        for name in data_contract.column_features(column)
    ]


def _unscaled(column: Column | None, count: Fraction, total: Fraction, squares: Fraction) -> list[Fraction]:
    """Moments in the column's unit, of records that there could be; zeros of an indicator."""
    if column is None or count < 1:
        return [Fraction(0)] * 3
    mean = min(max(total / count, Fraction(-1)), Fraction(1))
    square = min(max(squares / count, mean * mean + _LEAST_VARIANCE), Fraction(1) + _LEAST_VARIANCE)
    total, squares = mean * count, square * count
    centre, half = map(Fraction, _range(column))
    return [
        count,
        half * total + centre * count,
        half * half * squares + 2 * centre * half * total + centre * centre * count,
    ]


def _count(value: Fraction) -> Fraction:
    return Fraction(max(0, round(value)))


def _of(table: StudyTable, rows: npt.NDArray[np.intp]) -> StudyTable:
    return StudyTable(table.features[rows], table.labels[rows], table.held_out[rows], table.report)


def _patients(patients: npt.NDArray[np.int32]) -> Iterable[npt.NDArray[np.intp]]:
    order = np.argsort(patients, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(patients[order])) + 1) if len(order) else []
