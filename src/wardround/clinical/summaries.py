"""What a study may ask about the records beside a model: counts, moments and histograms.

Each summary is a row of numbers per site that adds up over sites, so that only the sum need be seen:

    counts      records in each category of a column (or class of the label)
    moments     per column: values, their sum and sum of squares  ──▶ count, mean, variance
    histogram   values in each of the bins between the edges, below the first and from the last on

All take every usable record of a site, held out or not; a record that lacks a value is left out of what
needs it. In the results a count below `least_count` is None, and so is what was computed from it.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from wardround.clinical import contract as data_contract
from wardround.clinical.contract import DataContract
from wardround.clinical.table import StudyTable
from wardround.errors import CodecError

__all__ = ["Counts", "Histogram", "Moments", "Summary", "check", "length", "results", "site_sums"]

_Vector = npt.NDArray[np.float64]
_MAX_NUMBERS = 20_000


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="counts"):
    """Records in each category of a category or boolean column, or of the label."""

    column: str


class Moments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="moments"):
    """Count, mean and variance of number columns."""

    columns: tuple[str, ...]


class Histogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="histogram"):
    """Values below the first of the rising `edges`, between each two, and from the last on."""

    column: str
    edges: tuple[float, ...]


Summary: TypeAlias = Counts | Moments | Histogram


def check(summaries: Sequence[Summary], contract: DataContract) -> None:
    """Refuse summaries that the contract's columns cannot give.

    Raises:
        CodecError: Says which.
    """
    numbers = {column.name for column in contract.columns if column.kind == "number"}
    categories = {column.name for column in contract.columns if column.kind != "number"}
    if contract.label.outcome in {"binary", "multiclass"}:
        categories.add(contract.label.name)
    for summary in summaries:
        named = summary.columns if isinstance(summary, Moments) else (summary.column,)
        known = categories if isinstance(summary, Counts) else numbers
        if not named or len(set(named)) != len(named) or not set(named) <= known:
            raise CodecError(f"a {_kind(summary)} needs columns of the contract that fit it, each once")
        if isinstance(summary, Histogram) and (
            not summary.edges or any(low >= high for low, high in zip(summary.edges, summary.edges[1:], strict=False))
        ):
            raise CodecError(f"the edges of the histogram of {summary.column!r} must rise")
    if sum(length(summary, contract) for summary in summaries) > _MAX_NUMBERS:
        raise CodecError(f"the summaries have more than {_MAX_NUMBERS:,} numbers")


def length(summary: Summary, contract: DataContract) -> int:
    """How many numbers a summary is."""
    match summary:
        case Counts():
            return len(_categories(summary.column, contract))
        case Moments():
            return 3 * len(summary.columns)
        case Histogram():
            return len(summary.edges) + 1


def site_sums(summaries: Sequence[Summary], table: StudyTable, contract: DataContract) -> _Vector:
    """One site's numbers, summary after summary: float64, to be added over sites."""
    parts = [_sums(summary, table, contract) for summary in summaries]
    return np.concatenate(parts) if parts else np.empty(0)


def results(
    summaries: Sequence[Summary], sums: Sequence[Fraction], contract: DataContract, *, least_count: int
) -> list[dict[str, object]]:
    """What the numbers added over all sites say; a count below `least_count` and what hangs on it is None."""
    found, start = [], 0
    for summary in summaries:
        stop = start + length(summary, contract)
        found.append(_result(summary, sums[start:stop], contract, least_count))
        start = stop
    return found


def _kind(summary: Summary) -> str:
    return type(summary).__name__.lower()


def _categories(column: str, contract: DataContract) -> tuple[str, ...]:
    if column == contract.label.name:
        return contract.label.classes or ("0", "1")
    found = next(one for one in contract.columns if one.name == column)
    return found.categories or ("0", "1")


def _values(column: str, table: StudyTable, contract: DataContract) -> _Vector:
    place = data_contract.feature_names(contract).index(column)
    return table.features[:, place].astype(np.float64)


def _sums(summary: Summary, table: StudyTable, contract: DataContract) -> _Vector:
    match summary:
        case Counts():
            return _counts(summary, table, contract)
        case Moments():
            columns = [_values(name, table, contract) for name in summary.columns]
            kept = [values[~np.isnan(values)] for values in columns]
            return np.array([number for part in kept for number in (part.size, part.sum(), np.square(part).sum())])
        case Histogram():
            values = _values(summary.column, table, contract)
            bins = np.searchsorted(summary.edges, values[~np.isnan(values)], side="right")
            return np.bincount(bins, minlength=len(summary.edges) + 1).astype(np.float64)


def _counts(summary: Counts, table: StudyTable, contract: DataContract) -> _Vector:
    categories = _categories(summary.column, contract)
    if summary.column == contract.label.name:
        return np.bincount(table.labels.astype(np.int64), minlength=len(categories)).astype(np.float64)
    names = data_contract.feature_names(contract)
    if summary.column in names:
        values = _values(summary.column, table, contract)
        return np.array([(values == 0).sum(), (values == 1).sum()], np.float64)
    places = [names.index(f"{summary.column}={category}") for category in categories]
    found: _Vector = (table.features[:, places] == 1).sum(axis=0).astype(np.float64)
    return found


def _result(summary: Summary, sums: Sequence[Fraction], contract: DataContract, least_count: int) -> dict[str, object]:
    match summary:
        case Counts():
            counts = [_shown(value, least_count) for value in sums]
            return {"kind": "counts", "column": summary.column, "counts": _named(summary.column, counts, contract)}
        case Histogram():
            counts = [_shown(value, least_count) for value in sums]
            return {"kind": "histogram", "column": summary.column, "edges": list(summary.edges), "counts": counts}
        case Moments():
            found = {}
            for place, name in enumerate(summary.columns):
                found[name] = _moments(*sums[3 * place : 3 * place + 3], least_count=least_count)
            return {"kind": "moments", "columns": found}


def _shown(value: Fraction, least_count: int) -> int | None:
    return int(value) if value >= least_count else None


def _named(column: str, counts: list[int | None], contract: DataContract) -> dict[str, int | None]:
    return dict(zip(_categories(column, contract), counts, strict=True))


def _moments(count: Fraction, total: Fraction, squares: Fraction, *, least_count: int) -> dict[str, float | int | None]:
    if count < max(least_count, 2):
        return {"count": None, "mean": None, "variance": None}
    variance = (squares - total * total / count) / (count - 1)
    return {"count": int(count), "mean": float(total / count), "variance": max(float(variance), 0.0)}
