"""How anonymous records are among one another: k-anonymity, l-diversity, t-closeness, and whom to leave out for them.

Records that agree in all quasi-identifiers (age, sex, region: what an outsider may know) form a group.

    k   every group has at least k patients
    l   every group has at least l different labels; by entropy: exp(entropy of its labels) >= l
    t   the labels of every group lie within t of all labels: total variation ``sum |p - q| / 2`` between labels
        without an order, the earth mover's ``sum |P - Q| / (m - 1)`` over m ordered ones (P, Q cumulated)

Groups that fail are left out, which moves the labels of all; so the rest is looked at again, until nothing fails. This
is not the least that could be left out. Only the pairs of group and label that occur are held, so that memory and time
grow with the records and not with groups times labels.

Hazard: all three are statements about a table that is shown, against an outsider who knows quasi-identifiers and
nothing else. They say nothing of two tables, and are not differential privacy.

References:
    Sweeney. k-anonymity. IJUFKS, 2002. Machanavajjhala et al. l-diversity. TKDD, 2007.
    Li, Li, Venkatasubramanian. t-closeness. ICDE, 2007.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wardround.clinical import cells
from wardround.errors import ColumnTypeError

__all__ = [
    "Demand",
    "Sensitive",
    "bands",
    "distances",
    "diversities",
    "entropy_diversities",
    "finest",
    "groups",
    "leading",
    "left_out",
    "sizes",
]

_Codes = npt.NDArray[np.int64]
_Vector = npt.NDArray[np.float64]
_MOST_PASSES = 1_000
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What every group must hold; 1 (and for `t`: 1.0) asks nothing."""

    k: int = 1
    l: int = 1  # noqa: E741, the literature's word
    t: float = 1.0


@dataclass(frozen=True, slots=True, repr=False)
class Sensitive:
    """One label of every record, which nobody shall learn of a person.

    Attributes:
        values: ``(records,)``, of any type that sorts.
        ordered: How far apart two labels are is told by their order; else any two differ alike.
        diverse: Whether l is asked of it. Of a number hardly two are equal, so that l says little.
    """

    values: npt.NDArray[Any]
    ordered: bool = False
    diverse: bool = True


def groups(columns: Sequence[npt.NDArray[Any]], records: int) -> _Codes:
    """For each record the number of its group, from 0 without a gap; without columns all are one group.

    A missing value (NaN) is a value like any other.

    Raises:
        ColumnTypeError: A cell is a container.
        ValueError: The columns are not of so many records.
    """
    codes = np.zeros(records, dtype=np.int64)
    count = 1
    for column in columns:
        if len(column) != records:
            raise ValueError(f"a column has {len(column)} cells and {records} were expected")
        found = cells.distinct(column)
        if found is None:
            raise ColumnTypeError("a quasi-identifier holds containers: have numbers or texts there")
        values, places = found
        codes, count = _renumbered(codes * max(len(values), 1) + places, count * max(len(values), 1))
    return codes


def sizes(of: _Codes, patients: npt.NDArray[np.integer[Any]] | None = None) -> _Codes:
    """For each group how many patients it has; left out, every record is a patient of its own."""
    if patients is None:
        return np.bincount(of)
    pairs, _ = _pairs(of, _ranked(patients))
    return np.bincount(pairs[0])


def diversities(of: _Codes, labels: npt.NDArray[Any]) -> _Codes:
    """For each group how many different labels it has."""
    pairs, _ = _pairs(of, _ranked(labels))
    return np.bincount(pairs[0])


def entropy_diversities(of: _Codes, labels: npt.NDArray[Any]) -> _Vector:
    """For each group the number of equally frequent labels that would have its labels' entropy."""
    (group, _), counts = _pairs(of, _ranked(labels))
    shares = counts / np.bincount(of)[group]
    return np.asarray(np.exp(-np.bincount(group, weights=shares * np.log(shares))))


def distances(of: _Codes, label: Sensitive) -> _Vector:
    """For each group how far its labels lie from all labels, from 0 to 1."""
    ranks = _ranked(label.values)
    shares = np.bincount(ranks) / max(len(ranks), 1)
    (group, rank), counts = _pairs(of, ranks)
    of_group = counts / np.bincount(of)[group]
    return _earth_moved(group, rank, of_group, shares) if label.ordered else _varied(group, rank, of_group, shares)


def left_out(
    of: _Codes, labels: Sequence[Sensitive], demand: Demand, patients: npt.NDArray[np.integer[Any]] | None = None
) -> npt.NDArray[np.bool_]:
    """The records to leave out so that every group of the rest holds `demand`."""
    keep = np.ones(len(of), dtype=np.bool_)
    for _ in range(_MOST_PASSES):
        if not keep.any():
            break
        codes, _ = _renumbered(of[keep], int(of.max()) + 1)
        rest = [Sensitive(label.values[keep], label.ordered, label.diverse) for label in labels]
        failing = _failing(codes, rest, demand, None if patients is None else patients[keep])
        if not failing.any():
            return ~keep
        keep[keep] = ~failing[codes]
    # Nothing is left, or no end is in sight: then nobody is shown.
    return np.ones(len(of), dtype=np.bool_)


def finest(
    ladder: Sequence[Sequence[npt.NDArray[Any]]],
    labels: Sequence[Sensitive],
    demand: Demand,
    most: float,
    patients: npt.NDArray[np.integer[Any]] | None = None,
) -> int | None:
    """The first rung of a ladder that holds `demand` with at most the share `most` of the records left out.

    Args:
        ladder: For each rung the quasi-identifiers' columns, the finest first (ages, then five years, then ten).
        labels: See `left_out`.
        demand: See `left_out`.
        most: From 0 to 1.
        patients: See `sizes`.

    Returns:
        The rung's place, or None where no rung is coarse enough.
    """
    for place, columns in enumerate(ladder):
        records = len(columns[0]) if columns else max((len(label.values) for label in labels), default=0)
        outside = left_out(groups(columns, records), labels, demand, patients)
        if not records or outside.sum() / records <= most:
            return place
    return None


def bands(values: npt.NDArray[Any], width: float, *, top: float = np.inf) -> _Vector:
    """Numbers in bands of `width`, each as the band's lower end; all from `top` on are one; NaN stays."""
    if not width > 0:
        raise ValueError(f"a band is wider than 0, got {width}")
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(numbers >= top, top, np.floor(numbers / width) * width)


def leading(texts: Sequence[str], characters: int) -> npt.NDArray[np.str_]:
    """The first characters of texts: three of a postal code, the category of an ICD-10 code."""
    if characters < 0:
        raise ValueError(f"a text begins with 0 characters or more, got {characters}")
    return np.array([text[:characters] for text in texts], dtype=np.str_)


def _failing(
    of: _Codes, labels: Sequence[Sensitive], demand: Demand, patients: npt.NDArray[np.integer[Any]] | None
) -> npt.NDArray[np.bool_]:
    failing = sizes(of, patients) < demand.k
    for label in labels:
        if demand.l > 1 and label.diverse:
            failing |= diversities(of, label.values) < demand.l
        if demand.t < 1.0:
            failing |= distances(of, label) > demand.t + _ROUNDING
    return failing


def _varied(group: _Codes, rank: _Codes, of_group: _Vector, shares: _Vector) -> _Vector:
    # Shares of both sides add up to one, so half of the differences are where the group has more.
    return np.asarray(np.bincount(group, weights=np.maximum(of_group - shares[rank], 0.0)))


def _earth_moved(group: _Codes, rank: _Codes, of_group: _Vector, shares: _Vector) -> _Vector:
    # Between two labels that a group has, its cumulated share P is constant and Q only grows: where Q passes P is
    # found by bisection, and the sums of |P - Q| on either side follow from the sums of Q.
    labels = len(shares)
    if labels < 2:
        return np.zeros(len(np.unique(group)))
    reached = np.cumsum(shares)
    sums = np.concatenate([[0.0], np.cumsum(reached)])
    is_first = np.concatenate([[True], group[1:] != group[:-1]])
    stop = np.append(rank[1:], labels)
    stop[:-1][is_first[1:]] = labels
    cumulated = np.cumsum(of_group)
    level = cumulated - (cumulated - of_group)[is_first][group]
    passed = np.clip(np.searchsorted(reached, level), rank, stop)
    moved = level * (passed - rank) - (sums[passed] - sums[rank])
    moved += (sums[stop] - sums[passed]) - level * (stop - passed)
    moved += np.where(is_first, sums[rank], 0.0)
    return np.asarray(np.bincount(group, weights=moved) / (labels - 1))


def _ranked(values: npt.NDArray[Any]) -> _Codes:
    if values.dtype.kind in "iu" and len(values) and values.min() >= 0 and values.max() < 4 * len(values):
        return _renumbered(values.astype(np.int64), int(values.max()) + 1)[0]
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.int64)


def _renumbered(codes: _Codes, bound: int) -> tuple[_Codes, int]:
    """The codes without gaps, their order kept, and how many there are; all are below `bound`."""
    if bound <= 4 * len(codes) + 1024:
        places = np.cumsum(np.bincount(codes, minlength=1) > 0) - 1
        return places[codes], int(places[-1]) + 1
    found, places = np.unique(codes, return_inverse=True)
    return places, len(found)


def _pairs(of: _Codes, ranks: _Codes) -> tuple[tuple[_Codes, _Codes], _Codes]:
    """The pairs of group and label that occur, sorted, and how often each does."""
    labels = int(ranks.max()) + 1 if len(ranks) else 1
    combined = of * labels + ranks
    if len(of) and (int(of.max()) + 1) * labels <= 4 * len(of) + 1024:
        counts = np.bincount(combined)
        found = np.flatnonzero(counts)
        counts = counts[found]
    else:
        found, counts = np.unique(combined, return_counts=True)
    return (found // labels, found % labels), counts
