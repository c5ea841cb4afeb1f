"""Quantiles of number columns by histograms that become finer: a bracket around each, a little narrower each round.

The quantile of probability p of n values is the value of rank ceil(p n), the smallest first (inverted
distribution function; type 1 of Hyndman and Fan). It begins in the whole plausible range of its column. Each
round cuts its bracket into equal bins, and sites count, for every column and probability,

    values below the bracket | in each bin | above it

From the sums the hub picks the bin that holds the rank. Without disclosure control the bracket is
range / bins**k wide after k rounds. With it, a bin of fewer than the least count takes in neighbours, the
fuller side first, until it has enough: a bracket never holds fewer records than that, and no count of one is
kept. A bracket that cannot shrink is final.

Each round counts everything afresh, so that a site that leaves in between does no harm: a bracket that
no longer holds its rank stays as it is, and is final.

Hazard: a value outside the plausible bounds counts as missing. Columns are float32, and a bracket narrower than
the distance of two such numbers tells no more than a wider one.

References:
    Hyndman, Fan. Sample Quantiles in Statistical Packages. The American Statistician, 1996.
    Munro, Paterson. Selection and sorting with limited storage. Theoretical Computer Science, 1980 (by passes).
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import contract as data_contract
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.errors import CodecError

__all__ = [
    "Bracket",
    "QuantileState",
    "Quantiles",
    "check_offence",
    "length",
    "result",
    "rounds",
    "site_sums",
    "start",
    "step",
]

_Vector = npt.NDArray[np.float64]
_MAX_ROUNDS = 20
_MAX_BINS = 1000
_MAX_NUMBERS = 20_000
_WORDS = {
    "running": "The analysis is not finished.",
    "done": "Every bracket is as narrow as it may become.",
    "too few records": "No column has enough values to show a result.",
}


class Quantiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="quantiles", kw_only=True):
    """Quantiles of `columns`, number columns of the contract, at rising `probabilities` between 0 and 1.

    `rounds` is the most rounds it may take, and `bins` are those of one bracket in one round.
    """

    columns: tuple[str, ...]
    probabilities: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
    rounds: int = 4
    bins: int = 64


class Bracket(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a quantile lies, ``low <= value < high`` in the column's unit; a column's maximum belongs to its bracket.

    `is_final` says that it becomes no narrower.
    """

    low: float
    high: float
    is_final: bool = False


class QuantileState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="quantiles", kw_only=True):
    """The public state: what sites need for the next round, and the hub for the result.

    Attributes:
        iteration: Rounds of sums taken in so far.
        is_done: No further round is wanted.
        status: How it stands.
        brackets: One per column and probability, column by column.
        records: Values of each column in the last round that could be used; 0 where they are too few.
    """

    iteration: int = 0
    is_done: bool = False
    status: Literal["running", "done", "too few records"] = "running"
    brackets: tuple[Bracket, ...] = ()
    records: tuple[int, ...] = ()


def check_offence(analysis: Quantiles, contract: DataContract) -> str:
    """What is wrong with the analysis under this contract, in words; empty if nothing is."""
    if not 1 <= analysis.rounds <= _MAX_ROUNDS:
        return f"rounds must be 1 to {_MAX_ROUNDS}, not {analysis.rounds}"
    if not 2 <= analysis.bins <= _MAX_BINS:
        return f"bins must be 2 to {_MAX_BINS:,}, not {analysis.bins}"
    marks = (0.0, *analysis.probabilities, 1.0)
    if len(marks) == 2 or not all(low < high for low, high in itertools.pairwise(marks)):
        return "its probabilities must lie between 0 and 1, and rise"
    if not analysis.columns or len(set(analysis.columns)) != len(analysis.columns):
        return "it needs at least one column, and each once"
    for name in analysis.columns:
        if offence := _column_offence(name, contract):
            return offence
    if length(analysis, contract) > _MAX_NUMBERS:
        return f"it has {length(analysis, contract):,} numbers in a round, more than {_MAX_NUMBERS:,}"
    return ""


def rounds(analysis: Quantiles) -> int:
    """The most rounds that it may take."""
    return analysis.rounds


def start(analysis: Quantiles, contract: DataContract) -> QuantileState:
    """The state before the first round: every bracket is the plausible range of its column."""
    brackets = tuple(
        Bracket(low=low, high=high)
        for low, high in (_bounds(name, contract) for name in analysis.columns)
        for _ in analysis.probabilities
    )
    return QuantileState(brackets=brackets, records=(0,) * len(analysis.columns))


def length(analysis: Quantiles, contract: DataContract) -> int:  # noqa: ARG001 - each analysis is asked alike
    """How many numbers a site sends in each round: two and the bins, per column and probability."""
    return len(analysis.columns) * len(analysis.probabilities) * (analysis.bins + 2)


def site_sums(analysis: Quantiles, state: QuantileState, table: StudyTable, contract: DataContract) -> _Vector:
    """One site's counts below, in the bins of, and above each bracket: float64 ``(length,)``, whole numbers.

    Raises:
        CodecError: The state is none of this analysis.
    """
    per_column = len(analysis.probabilities)
    if len(state.brackets) != len(analysis.columns) * per_column or not all(map(_is_sound, state.brackets)):
        raise CodecError("the state of the quantiles has a bracket for each column and probability")
    names = data_contract.feature_names(contract)
    counts = np.zeros((len(state.brackets), analysis.bins + 2))
    for place, name in enumerate(analysis.columns):
        low, high = _bounds(name, contract)
        values = table.features[:, names.index(name)].astype(np.float64)
        # A value that is missing is in no range.
        values = np.sort(values[(values >= low) & (values <= high)])
        for row in range(place * per_column, (place + 1) * per_column):
            counts[row] = _counts(values, state.brackets[row], analysis.bins, high)
    return counts.ravel()


def step(
    analysis: Quantiles, state: QuantileState, sums: Sequence[Fraction], contract: DataContract, *, least_count: int
) -> QuantileState:
    """The next state, from the counts over all sites; the same counts always give the same state.

    Raises:
        CodecError: There are not as many sums as the analysis has numbers.
        ValueError: The analysis is done.
    """
    if state.is_done:
        raise ValueError("an analysis that is done takes no further sums")
    if len(sums) != length(analysis, contract):
        raise CodecError(f"the analysis has {length(analysis, contract):,} sums, not {len(sums):,}")
    size, least = analysis.bins + 2, max(least_count, 1)
    rows = [[int(count) for count in sums[place : place + size]] for place in range(0, len(sums), size)]
    marks = analysis.probabilities * len(analysis.columns)
    brackets = tuple(
        _narrowed(bracket, row, mark, least) for bracket, row, mark in zip(state.brackets, rows, marks, strict=True)
    )
    totals = [sum(row) for row in rows[:: len(analysis.probabilities)]]
    records = tuple(total if total >= least else 0 for total in totals)
    is_done = state.iteration + 1 >= analysis.rounds or all(bracket.is_final for bracket in brackets)
    status: Literal["running", "done", "too few records"] = "running"
    if is_done:
        status = "done" if any(records) else "too few records"
    return QuantileState(
        iteration=state.iteration + 1, is_done=is_done, status=status, brackets=brackets, records=records
    )


def result(analysis: Quantiles, state: QuantileState, contract: DataContract, *, least_count: int) -> dict[str, object]:
    """What the brackets say, JSON-able: per column and probability the middle, the bracket, and half its width.

    The quantile is no farther than `resolution`, in the column's unit, from `value`. All are None where a
    column has fewer values than `least_count`.
    """
    per_column = len(analysis.probabilities)
    units = {column.name: column.unit for column in contract.columns}
    columns = []
    for place, name in enumerate(analysis.columns):
        is_shown = state.records[place] >= max(least_count, 1)
        own = state.brackets[place * per_column : (place + 1) * per_column]
        columns.append(
            {
                "name": name,
                "unit": units[name],
                "records": state.records[place] if is_shown else None,
                "quantiles": [
                    _quantile(mark, bracket if is_shown else None)
                    for mark, bracket in zip(analysis.probabilities, own, strict=True)
                ],
            }
        )
    return {
        "kind": "quantiles",
        "status": state.status,
        "detail": _WORDS[state.status],
        "iterations": state.iteration,
        "columns": columns,
    }


def _column_offence(name: str, contract: DataContract) -> str:
    found = [column for column in contract.columns if column.name == name and column.kind == "number"]
    if not found:
        return f"the contract has no number column {name!r}"
    low, high = found[0].minimum, found[0].maximum
    if low is None or high is None:
        return f"column {name!r} needs a plausible minimum and maximum in the contract"
    if not (low < high and math.isfinite(high - low)):
        return f"column {name!r} needs a finite plausible minimum below its maximum"
    return ""


def _bounds(name: str, contract: DataContract) -> tuple[float, float]:
    (column,) = (column for column in contract.columns if column.name == name)
    if column.minimum is None or column.maximum is None:
        raise CodecError(f"column {name!r} has no plausible bounds")
    return float(column.minimum), float(column.maximum)


def _is_sound(bracket: Bracket) -> bool:
    return bracket.low <= bracket.high and math.isfinite(bracket.high - bracket.low)


def _edges(bracket: Bracket, bins: int) -> _Vector:
    # Every site and the hub must cut at the same numbers to the bit: plain sums and products are alike everywhere.
    edges = bracket.low + (bracket.high - bracket.low) * (np.arange(bins + 1) / bins)
    edges[-1] = bracket.high
    return edges


def _counts(ordered: _Vector, bracket: Bracket, bins: int, maximum: float) -> _Vector:
    before = np.searchsorted(ordered, _edges(bracket, bins), side="left")
    if bracket.high >= maximum:
        before[-1] = ordered.size
    return np.diff(before, prepend=0, append=ordered.size).astype(np.float64)


def _narrowed(bracket: Bracket, row: Sequence[int], probability: float, least: int) -> Bracket:
    below, inside = row[0], row[1:-1]
    # The number that a reader sees, 0.05 as one twentieth, decides where a rank is whole.
    rank = max(math.ceil(Fraction(str(probability)) * sum(row)), 1)
    is_stuck = bracket.is_final or sum(row) < least or sum(inside) < least
    if is_stuck or not below < rank <= below + sum(inside):
        return msgspec.structs.replace(bracket, is_final=True)
    first, reached = 0, below + inside[0]
    while reached < rank:
        first += 1
        reached += inside[first]
    first, stop = _widened(inside, first, least)
    edges = _edges(bracket, len(inside))
    low, high = float(edges[first]), float(edges[stop])
    return Bracket(low=low, high=high, is_final=(low, high) == (bracket.low, bracket.high))


def _widened(counts: Sequence[int], first: int, least: int) -> tuple[int, int]:
    stop = first + 1
    total = counts[first]
    while total < least:
        # A site that lies may send less than nothing, and even then a bracket stays within the one before.
        left = counts[first - 1] if first > 0 else -math.inf
        right = counts[stop] if stop < len(counts) else -math.inf
        if left >= right:
            first -= 1
            total += counts[first]
        else:
            total += counts[stop]
            stop += 1
    return first, stop


def _quantile(probability: float, bracket: Bracket | None) -> dict[str, float | None]:
    if bracket is None:
        return {"probability": probability, "value": None, "low": None, "high": None, "resolution": None}
    half = (bracket.high - bracket.low) / 2.0
    return {
        "probability": probability,
        "value": bracket.low + half,
        "low": bracket.low,
        "high": bracket.high,
        "resolution": half,
    }
