"""Aggregation rules that a minority of hostile sites cannot bend far.

A rule looks at the `Geometry` of a round's updates and gives a `Recipe`: a small matrix ``R`` that mixes
the updates, and what is then done with each column of ``R @ updates``.

    rule               n at least   R                                        per column     weights n_i/N
    mean               1            the weights                              sum            yes
    norm-bound         1            weights, long updates shortened          sum            yes
    trust              2            agreement with one trusted update        sum            no
    geometric-median   2f + 1       weights found by Weiszfeld's iteration   sum            yes, capped
    centred-clipping   2f + 1       weights found by clipping differences    sum            yes, capped
    median             2f + 1       nothing is mixed                         median         no
    trimmed-mean       2f + 1       nothing is mixed                         mean of n - 2f in the middle   no
    krum               2f + 3       one update                               sum            no
    multi-krum         2f + 3       the n - f best of them                   sum            yes, capped
    bulyan             4f + 3       the n - 2f best of them                  mean of n - 4f near the median   no

``f`` is the number of hostile sites that are allowed for: they may collude and send anything. With fewer
participants than the second column a rule refuses. `mean`, `norm-bound` and `trust` tolerate no number of
hostile sites by themselves: the first none at all, the second bounds what each can do, the third trusts its
reference alone. Where weights survive, the claims are capped (`capped_shares`), or else a liar about its
number of records would outweigh the rest.

Two steps can go before any rule. *Bucketing* averages random groups of s updates, which makes unequal
hospitals more alike, and leaves ``n / s`` of which f may be spoilt. *Nearest-neighbour mixing* replaces each
update by the mean of the n - f nearest to it. Neither keeps the weights.

References:
    Yin et al. Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates. ICML 2018 (median, trimmed).
    Blanchard et al. Machine Learning with Adversaries. NIPS 2017 (Krum, multi-Krum).
    El Mhamdi et al. The Hidden Vulnerability of Distributed Learning in Byzantium. ICML 2018 (Bulyan).
    Pillutla, Kakade, Harchaoui. Robust Aggregation for Federated Learning. arXiv:1912.13445 (smoothed Weiszfeld).
    Karimireddy, He, Jaggi. Learning from History for Byzantine Robust Optimization. ICML 2021 (centred clipping).
    Karimireddy, He, Jaggi. Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing. ICLR 2022.
    Allouah et al. Fixing by Mixing. AISTATS 2023 (nearest-neighbour mixing).
    Sun et al. Can You Really Backdoor Federated Learning? arXiv:1911.07963 (norm bounding).
    Cao et al. FLTrust: Byzantine-Robust Federated Learning via Trust Bootstrapping. NDSS 2021.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from wardround.aggregation import mean
from wardround.aggregation.geometry import Geometry
from wardround.crypto import prg

__all__ = ["Mixing", "Recipe", "Rule", "RuleName", "capped_shares", "least_participants", "mixing_rows", "recipe"]

RuleName = Literal[
    "mean",
    "norm-bound",
    "trust",
    "geometric-median",
    "centred-clipping",
    "median",
    "trimmed-mean",
    "krum",
    "multi-krum",
    "bulyan",
]
Mixing = Literal["none", "bucketing", "nearest-neighbours"]
Kernel = Literal["sum", "median", "trimmed", "closest"]

_Matrix: TypeAlias = npt.NDArray[np.float64]

_WEISZFELD_STEPS = 200
_CLIPPING_STEPS = 10
_LEAST_HOSTILE_SHARE = 1 / 3
_PER_COLUMN: dict[str, Kernel] = {"median": "median", "trimmed-mean": "trimmed", "bulyan": "closest"}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its settings.

    `hostile` is f. `bound` is the longest norm (norm-bound) or the clipping radius (centred-clipping), and 0
    stands for the median of what there is. `bucket_size` is s. `reference` is the place of the trusted update.
    """

    name: RuleName = "mean"
    hostile: int = 0
    mixing: Mixing = "none"
    bucket_size: int = 2
    bound: float = 0.0
    reference: int | None = None

    @property
    def needs_geometry(self) -> bool:
        """Whether the rule looks at distances, norms or angles, which takes a pass over the updates."""
        return self.mixing == "nearest-neighbours" or self.name not in {"mean", "median", "trimmed-mean"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done with every column: ``rows @ updates``, then `kernel`.

    `rows` is float64, shape=(m, n), or None where nothing is mixed. `keep` is how many values in the middle
    ("trimmed") or near the median ("closest") are averaged.
    """

    rows: _Matrix | None
    kernel: Kernel
    keep: int = 0


def least_participants(rule: Rule) -> int:
    """The fewest updates with which a rule withstands `hostile` of them.

    Raises:
        ValueError: There is no such rule, or a setting is out of range.
    """
    if rule.name not in get_args(RuleName) or rule.mixing not in get_args(Mixing):
        raise ValueError(f"no aggregation rule {rule.name!r} with mixing {rule.mixing!r}")
    if rule.hostile < 0 or not (math.isfinite(rule.bound) and rule.bound >= 0):
        raise ValueError("the number of hostile sites and the bound must not be negative")
    if rule.bucket_size < 1:
        raise ValueError("a bucket holds at least one update")
    rows = _least_rows(rule)
    if rule.mixing == "bucketing":
        return (rows - 1) * rule.bucket_size + 1
    return max(rows, 2 * rule.hostile + 1) if rule.mixing == "nearest-neighbours" else rows


def recipe(rule: Rule, geometry: Geometry | None, records: Sequence[int], seed: bytes) -> Recipe:
    """What to do with the columns of these updates.

    Args:
        rule: The rule.
        geometry: Of the updates; may be None where ``rule.needs_geometry`` is false.
        records: The claimed n_i, one per update.
        seed: 32 bytes that decide the buckets.

    Raises:
        ValueError: Too few updates for the rule, or no geometry where one is needed.
    """
    count, least = len(records), least_participants(rule)
    if count < least:
        raise ValueError(f"{rule.name} with {rule.hostile} hostile sites needs {least} updates, and has {count}")
    if rule.needs_geometry and (geometry is None or geometry.count != count):
        raise ValueError(f"{rule.name} needs the distances between all updates")
    if rule.mixing == "none":
        shares = capped_shares(records, 0 if rule.name in {"mean", "norm-bound"} else rule.hostile)
        return _found(rule, geometry, count, shares)
    rows = mixing_rows(rule, geometry, count, seed)
    mixed = geometry.mapped(rows) if geometry is not None else None
    found = _found(rule, mixed, len(rows), np.full(len(rows), 1.0 / len(rows)))
    return Recipe(rows if found.rows is None else found.rows @ rows, found.kernel, found.keep)


def mixing_rows(rule: Rule, geometry: Geometry | None, count: int, seed: bytes) -> _Matrix:
    """The matrix that buckets the updates or mixes each with its neighbours; float64, shape=(m, n)."""
    if rule.mixing == "bucketing":
        order = prg.shuffled(count, seed)
        buckets = [order[start : start + rule.bucket_size] for start in range(0, count, rule.bucket_size)]
        rows = np.zeros((len(buckets), count))
        for place, bucket in enumerate(buckets):
            rows[place, bucket] = 1.0 / len(bucket)
        return rows
    if geometry is None:
        raise ValueError("nearest-neighbour mixing needs the distances between all updates")
    nearest = np.argsort(geometry.squared_distances(), axis=1, kind="stable")[:, : count - rule.hostile]
    rows = np.zeros((count, count))
    np.put_along_axis(rows, nearest, 1.0 / (count - rule.hostile), axis=1)
    return rows


def capped_shares(records: Sequence[int], hostile: int) -> _Matrix:
    """Each update's share ``n_i / N``, where the largest claims are lowered to one level, if need be.

    Whoever claims most may lie. The level is the highest at which any `hostile` updates together hold
    at most a third of the weight, or what equal weights would give them, where that is more.

    Raises:
        ValueError: There is no record, or a negative number of them.
    """
    mean.weights(records)
    claims = np.array(records, dtype=np.float64)
    falling = np.sort(claims)[::-1]
    limit = max(_LEAST_HOSTILE_SHARE, hostile / len(claims))
    if falling[:hostile].sum() > limit * falling.sum():
        level = float(falling[-1])
        for capped in range(hostile, len(falling)):
            rest = float(falling[capped:].sum())
            spare = hostile - limit * capped
            # With `capped` updates at level c the suspects hold hostile * c of capped * c + rest.
            if spare > 0 and falling[capped] <= (found := limit * rest / spare) <= falling[capped - 1]:
                level = found
                break
        claims = np.minimum(claims, max(level, 1e-300))
    shares: _Matrix = claims / claims.sum()
    return shares


def _least_rows(rule: Rule) -> int:
    match rule.name:
        case "mean" | "norm-bound":
            return 1
        case "trust":
            return 2
        case "krum" | "multi-krum":
            return 2 * rule.hostile + 3
        case "bulyan":
            return 4 * rule.hostile + 3
        case _:
            return 2 * rule.hostile + 1


def _found(rule: Rule, geometry: Geometry | None, count: int, shares: _Matrix) -> Recipe:
    if rule.name == "trimmed-mean":
        return Recipe(None, "trimmed", count - 2 * rule.hostile)
    if rule.name == "median":
        return Recipe(None, "median")
    if geometry is None:
        return Recipe(shares[None, :], "sum")
    if rule.name == "bulyan":
        chosen = _bulyan(geometry.squared_distances(), rule.hostile)
        return Recipe(np.eye(count)[chosen], "closest", len(chosen) - 2 * rule.hostile)
    return Recipe(_coefficients(rule, geometry, shares)[None, :], "sum")


def _coefficients(rule: Rule, geometry: Geometry, shares: _Matrix) -> _Matrix:
    match rule.name:
        case "norm-bound":
            return shares * _shortened(geometry.norms(), rule.bound or float(np.median(geometry.norms())))
        case "trust":
            return _trust(geometry, rule.reference)
        case "geometric-median":
            return _weiszfeld(geometry.gram[:-1, :-1], _core(geometry.squared_distances()), shares)
        case "centred-clipping":
            return _centred_clipping(geometry, shares, rule.bound)
        case "krum":
            scores = _krum_scores(geometry.squared_distances(), rule.hostile)
            best: _Matrix = np.zeros(len(scores))
            best[int(np.argmin(scores))] = 1.0
            return best
        case "multi-krum":
            scores = _krum_scores(geometry.squared_distances(), rule.hostile)
            chosen = np.argsort(scores, kind="stable")[: len(scores) - rule.hostile]
            kept: _Matrix = np.zeros_like(shares)
            kept[chosen] = shares[chosen] if shares[chosen].any() else 1.0
            kept /= kept.sum()
            return kept
        case _:
            return shares


def _krum_scores(squares: _Matrix, hostile: int) -> _Matrix:
    """For each update the squared distances to its n - f - 2 nearest, added up."""
    others = np.sort(squares + np.diag(np.full(len(squares), np.inf)), axis=1)
    scores: _Matrix = others[:, : max(1, len(squares) - hostile - 2)].sum(axis=1)
    return scores


def _bulyan(squares: _Matrix, hostile: int) -> list[int]:
    left = list(range(len(squares)))
    chosen: list[int] = []
    while len(chosen) < len(squares) - 2 * hostile:
        if len(left) == 1:
            chosen.append(left.pop())
            continue
        scores = _krum_scores(squares[np.ix_(left, left)], hostile)
        chosen.append(left.pop(int(np.argmin(scores))))
    return sorted(chosen)


def _medoid(squares: _Matrix) -> _Matrix:
    """The update whose median distance to all is least, as coefficients: with f < n/2 it is near honest ones."""
    start = np.zeros(len(squares))
    start[int(np.argmin(np.median(squares, axis=1)))] = 1.0
    return start


def _core(squares: _Matrix) -> _Matrix:
    """The mean of the half of the updates nearest to the medoid, as coefficients."""
    medoid = int(np.argmax(_medoid(squares)))
    nearest = np.argsort(squares[medoid], kind="stable")[: len(squares) // 2 + 1]
    start = np.zeros(len(squares))
    start[nearest] = 1.0 / len(nearest)
    return start


def _distances_from(point: _Matrix, gram: _Matrix) -> _Matrix:
    """From ``point @ updates``, whose coefficients add up to 1, to every update."""
    squares = np.diagonal(gram) - 2.0 * (gram @ point) + point @ gram @ point
    return np.sqrt(np.maximum(squares, 0.0))


def _weiszfeld(gram: _Matrix, start: _Matrix, shares: _Matrix) -> _Matrix:
    point = start  # Not one of the updates, where the iteration would hardly move.
    scale = float(np.median(_distances_from(start, gram)))
    if scale == 0.0:
        return start  # At least half of the updates are the same.
    for _ in range(_WEISZFELD_STEPS):
        pull = shares / np.maximum(_distances_from(point, gram), 1e-8 * scale)
        following: _Matrix = pull / pull.sum()
        if np.abs(following - point).max() < 1e-12:
            return following
        point = following
    return point


def _centred_clipping(geometry: Geometry, shares: _Matrix, bound: float) -> _Matrix:
    gram = geometry.gram[:-1, :-1]
    point = _medoid(geometry.squared_distances())
    radius = bound or float(np.median(_distances_from(point, gram)))
    for _ in range(_CLIPPING_STEPS):
        pull = shares * _shortened(_distances_from(point, gram), radius)
        point = pull + (1.0 - pull.sum()) * point
    return point


def _trust(geometry: Geometry, reference: int | None) -> _Matrix:
    if reference is None or not 0 <= reference < geometry.count:
        raise ValueError("trust needs the reference's own update")
    norms = geometry.norms()
    scores = np.maximum(geometry.cosines()[reference], 0.0)
    scores[reference] = 0.0
    coefficients = np.zeros(geometry.count)
    if scores.sum() > 0:
        np.divide(scores * norms[reference], norms * scores.sum(), out=coefficients, where=norms > 0)
    else:
        coefficients[reference] = 1.0  # Nobody agrees with it.
    return coefficients


def _shortened(lengths: _Matrix, longest: float) -> _Matrix:
    """What each length is multiplied by so that it is at most `longest`."""
    return np.minimum(1.0, np.divide(longest, lengths, out=np.ones_like(lengths), where=lengths > 0))
